"""Runs one remediation for `reset` and `heal`: their common options, and the exit statuses."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from bmcmedic.cli import EXIT_INTERRUPTED
from bmcmedic.cli.progress import Progress
from bmcmedic.errors import ConfigurationError
from bmcmedic.fleet.inventory import Target
from bmcmedic.fleet.link import LanLink, SystemTimekeeper
from bmcmedic.fleet.plan import ResetTimes
from bmcmedic.fleet.remediation import HostSource, Remediation, RemediationCase
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.model.heal import HealVerdict, HostReport, VerdictName
from bmcmedic.service.number_text import plain_number

EXIT_STATUS: dict[VerdictName, int] = {
    VerdictName.HEALTHY: 0,
    VerdictName.HEALTHY_LAN_ONLY: 0,
    VerdictName.HEALED: 0,
    VerdictName.HEALED_LAN_ONLY: 0,
    VerdictName.NEEDS_REPAIR: 1,
    VerdictName.BACK: 0,
    VerdictName.BACK_HOST_CHANGED: 1,
    VerdictName.NOT_BACK: 1,
    VerdictName.REFUSED: 3,
}
"""The exit status of each verdict; 2 is a usage error."""

EXIT_TERMINATED = 143
"""The exit status after SIGTERM."""

WAIT_S_MIN = 1.0
"""Shortest time that each part may be given, in seconds.

A BMC answers its reset before it restarts. If it is asked at once, it seems not to have restarted.
"""
NOTE_CHARACTERS_MAX = 200
"""Longest name of an operator and longest reference, in characters."""
WAIT_S_MAX = 6 * 3600.0
"""Longest time that each part may be given, in seconds."""

TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="One BMC: host[:port] or \\[ipv6]:port.")
]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Act without asking; needed where stdin is not a terminal.")
]
QuietOption = Annotated[
    float,
    typer.Option(
        "--quiet-time", metavar="S", help="Leave the BMC alone this long after the reset."
    ),
]
ReturnOption = Annotated[
    float,
    typer.Option(
        "--return-time", metavar="S", help="Time from the reset until the BMC must answer."
    ),
]
WatchdogUnknownOption = Annotated[
    bool,
    typer.Option(
        "--watchdog-unknown-ok",
        help="Reset although the BMC does not report whether its watchdog timer runs; a timer that"
        " runs can then reboot the host.",
    ),
]
SteadyOption = Annotated[
    float,
    typer.Option("--steady-time", metavar="S", help="How long the BMC must stay well after that."),
]


OperatorOption = Annotated[
    str | None,
    typer.Option(
        "--operator", metavar="NAME", help="Who orders this, for the record; the login by default."
    ),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--reference", metavar="TICKET", help="A ticket or other reference, for the record."
    ),
]


@dataclass(frozen=True, slots=True)
class RunOrder:
    """Who orders a run, and for which ticket."""

    operator: str
    reference: str | None

    @classmethod
    def of(cls, operator: str | None, reference: str | None) -> RunOrder:
        """Check the two options; raises ConfigurationError."""
        for option, value in (("--operator", operator), ("--reference", reference)):
            if value is None:
                continue
            if not value.strip() or not value.isprintable() or len(value) > NOTE_CHARACTERS_MAX:
                raise ConfigurationError(
                    f"{option} is 1 to {NOTE_CHARACTERS_MAX} printable characters"
                )
        return cls(operator if operator is not None else _login(), reference)


def _login() -> str:
    """Return the name that the operator logged in with, also behind sudo."""
    try:
        return os.getlogin()
    except OSError:  # no terminal and no login, as in a job of cron
        pass
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def times(quiet_s: float, return_s: float, steady_s: float) -> ResetTimes:
    """Check the times of the options; raises ConfigurationError."""
    for option, value in (
        ("--quiet-time", quiet_s),
        ("--return-time", return_s),
        ("--steady-time", steady_s),
    ):
        if not WAIT_S_MIN <= value <= WAIT_S_MAX:
            raise ConfigurationError(
                f"{option} is {WAIT_S_MIN:g} to {WAIT_S_MAX:g} seconds, not {plain_number(value)}"
            )
    if return_s <= quiet_s:
        raise ConfigurationError(
            f"--return-time ({return_s:g} s, from the reset) must be longer than --quiet-time"
            f" ({quiet_s:g} s), in which the BMC is not asked"
        )
    return ResetTimes(quiet_s, return_s, steady_s)


def run_remediation(
    target: Target,
    credentials: Credentials,
    suites: tuple[int, ...],
    start: Callable[[Remediation], Awaitable[HealVerdict]],
    *,
    order: RunOrder,
    waits: ResetTimes,
    as_json: bool,
    yes: bool,
    report: HostReport | None = None,
    host: HostSource | None = None,
    in_band_hung: bool = False,
    watchdog_unknown_ok: bool = False,
) -> int:
    """Run one remediation to its verdict, print that, and return the exit status."""
    progress = Progress(target.name, as_json=as_json, assume_yes=yes)
    case = RemediationCase(
        link=LanLink(target.name, target.host, target.port, credentials, suites),
        time=SystemTimekeeper(),
        journal=progress,
        confirm=progress.confirm,
        times=waits,
        report=report,
        host=host,
        in_band_hung=in_band_hung,
        run_id=str(uuid.uuid4()),
        operator=order.operator,
        reference=order.reference,
        watchdog_unknown_ok=watchdog_unknown_ok,
    )
    remediation = Remediation(case)
    try:
        verdict = asyncio.run(_run(start(remediation)))
    except (KeyboardInterrupt, asyncio.CancelledError) as stop:
        progress.clear()
        print(f"\nbmcmedic: interrupted. {remediation.describe_state()}", file=sys.stderr)
        return EXIT_INTERRUPTED if isinstance(stop, KeyboardInterrupt) else EXIT_TERMINATED
    finally:
        progress.clear()
    progress.verdict(verdict)
    if as_json:
        print(json.dumps(verdict.to_json()), flush=True)
    return EXIT_STATUS[verdict.verdict]


async def _run(remediation: Awaitable[HealVerdict]) -> HealVerdict:
    """Await the verdict; SIGTERM ends it in order as Ctrl-C does, with a line about the state."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await remediation
