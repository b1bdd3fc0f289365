"""The options that several commands share, and the checks of their values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.cipher_suites import DEFAULT_CIPHER_SUITES, cipher_suite
from bmcmedic.service.number_text import plain_number

UserOption = Annotated[
    str | None,
    typer.Option("--user", "-u", envvar="BMCMEDIC_USER", help="User name on the BMC."),
]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        help="File with the password; without it BMCMEDIC_PASSWORD, "
        "then systemd's credential bmcmedic-password.",
    ),
]
KgFileOption = Annotated[
    Path | None,
    typer.Option(
        "--kg-file",
        help="File with the BMC key K_g, as text or as 0x and hex digits; without it BMCMEDIC_KG, "
        "then systemd's credential bmcmedic-kg. Most BMCs have no such key.",
    ),
]
CipherSuiteOption = Annotated[
    int | None,
    typer.Option("--cipher-suite", "-C", help="1, 2, 3, 15, 16, 17, or 0; without it 17, then 3."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per target and line.")
]


def cipher_suites(suite_id: int | None) -> Sequence[int]:
    """Return the suites to propose, in order; raises ConfigurationError for an unknown suite."""
    if suite_id is None:
        return DEFAULT_CIPHER_SUITES
    return (cipher_suite(suite_id).id,)


def positive(name: str, value: float) -> float:
    """Return `value`; raises ConfigurationError unless it is finite and above zero."""
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"{name} must be a positive number, not {plain_number(value)}")
    return value
