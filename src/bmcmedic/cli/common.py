"""What the commands share: options for credentials and sessions, and how secrets are read.

A password never stands on the command line, where every user of the machine can read it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.cipher_suites import DEFAULT_CIPHER_SUITES, cipher_suite
from bmcmedic.ipmi.credentials import Credentials

SECRET_FILE_BYTES_MAX = 4096

UserOption = Annotated[
    str | None,
    typer.Option("--user", "-u", envvar="BMCMEDIC_USER", help="User on the BMC."),
]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        help="File with the password; else BMCMEDIC_PASSWORD, "
        "else systemd's credential bmcmedic-password.",
    ),
]
KgFileOption = Annotated[
    Path | None,
    typer.Option(
        "--kg-file",
        help="File with the BMC key K_g, as text or 0x and hex digits; else BMCMEDIC_KG, "
        "else systemd's credential bmcmedic-kg; most BMCs have none.",
    ),
]
CipherSuiteOption = Annotated[
    int | None,
    typer.Option("--cipher-suite", "-C", help="1, 2, 3, 15, 16, 17, or 0; without it 17, then 3."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a target and line.")]


def read_credentials(
    user: str | None, password_file: Path | None, kg_file: Path | None
) -> Credentials:
    """The credentials from options, environment and systemd, in this order.

    Raises ConfigurationError when the user or the password is missing, or a file cannot be read.
    """
    if user is None:
        raise ConfigurationError("no user: give --user or set BMCMEDIC_USER")
    password = _secret(password_file, "BMCMEDIC_PASSWORD", "bmcmedic-password")
    if password is None:
        raise ConfigurationError(
            "no password: set BMCMEDIC_PASSWORD, give --password-file, "
            "or pass systemd's credential bmcmedic-password"
        )
    kg = _secret(kg_file, "BMCMEDIC_KG", "bmcmedic-kg") or b""
    return Credentials(user, password, _kg_bytes(kg))


def cipher_suites(suite_id: int | None) -> Sequence[int]:
    """The suites to propose, in order; raises ConfigurationError for one that is not spoken."""
    if suite_id is None:
        return DEFAULT_CIPHER_SUITES
    return (cipher_suite(suite_id).id,)


def positive(name: str, value: float) -> float:
    """`value`, or ConfigurationError where it is not above zero and finite."""
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"{name} must be a positive number, not {value:g}")
    return value


def need_module(module: str, what: str) -> None:
    """Raises: ConfigurationError when something of the extra `lab` is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ConfigurationError(
            f"{what} needs {module}, which is not installed: run `make setup` in a clone, else "
            "pip install 'bmcmedic[lab]'"
        )


def need_writable(path: Path) -> None:
    """Raises: ConfigurationError when a file cannot be written there, before anything is run."""
    folder = path.parent
    if path.is_dir():
        raise ConfigurationError(f"cannot write {path}: it is a directory")
    if not folder.is_dir():
        raise ConfigurationError(f"cannot write {path}: there is no directory {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigurationError(f"cannot write {path}: no right to")


def _secret(path: Path | None, variable: str, credential: str) -> bytes | None:
    if path is not None:
        secret = _read(path)
        if secret is None:
            raise ConfigurationError(f"cannot read {path}: no such file")
        return secret
    value = os.environ.get(variable)
    if value is not None:
        return os.fsencode(value)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return None if directory is None else _read(Path(directory) / credential)


def _read(path: Path) -> bytes | None:
    """What stands in the file, without its line's end; None where there is no such file."""
    try:
        with path.open("rb") as file:
            secret = file.read(SECRET_FILE_BYTES_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    return secret.rstrip(b"\r\n")


def _kg_bytes(kg: bytes) -> bytes:
    if not kg.lower().startswith(b"0x"):
        return kg
    try:
        return bytes.fromhex(kg[2:].decode())
    except ValueError:
        raise ConfigurationError("K_g starts with 0x but is not hexadecimal") from None
