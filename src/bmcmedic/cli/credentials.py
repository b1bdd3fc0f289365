"""Reads the credentials of a BMC from options, environment and systemd.

No password is an argument on the command line, because every user of the machine can read that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.credentials import Credentials

SECRET_FILE_BYTES_MAX = 4096
"""How much of a file with a secret is read, in bytes."""


def read_credentials(
    user: str | None, password_file: Path | None, kg_file: Path | None
) -> Credentials:
    """Return the credentials from options, environment and systemd, in this order.

    Raises ConfigurationError if the user or the password is missing or empty, or a file
    cannot be read.
    """
    if user is None:
        raise ConfigurationError("no user: give --user or set BMCMEDIC_USER")
    if not user.strip():
        raise ConfigurationError("the user name is empty: give --user or set BMCMEDIC_USER")
    password = _secret(password_file, "BMCMEDIC_PASSWORD", "bmcmedic-password")
    if password is None:
        raise ConfigurationError(
            "no password: set BMCMEDIC_PASSWORD, give --password-file, "
            "or pass systemd's credential bmcmedic-password"
        )
    if not password.strip(b"\0"):
        raise ConfigurationError(
            "the password is empty: check --password-file, BMCMEDIC_PASSWORD, or systemd's"
            " credential bmcmedic-password"
        )
    kg = _secret(kg_file, "BMCMEDIC_KG", "bmcmedic-kg") or b""
    if kg_file is not None and not kg:
        raise ConfigurationError(f"{kg_file} is empty: leave --kg-file out if there is no K_g")
    return Credentials(user, password, _kg_bytes(kg))


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
    """Return the content of a file without its final line break; None if there is no such file."""
    try:
        with path.open("rb") as file:
            secret = file.read(SECRET_FILE_BYTES_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    from bmcmedic.service.secret_files import exposed

    warning = exposed(path)
    if warning is not None:
        print(f"bmcmedic: warning: {warning}", file=sys.stderr)
    return secret.rstrip(b"\r\n")


def _kg_bytes(kg: bytes) -> bytes:
    if not kg.lower().startswith(b"0x"):
        return kg
    try:
        return bytes.fromhex(kg[2:].decode())
    except ValueError:
        raise ConfigurationError("K_g starts with 0x but is not hexadecimal") from None
