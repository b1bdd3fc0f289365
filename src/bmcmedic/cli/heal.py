"""`bmcmedic heal`: diagnose one BMC, cure it, and prove it well, or send it to repair."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bmcmedic.cli.credentials import read_credentials
from bmcmedic.cli.options import (
    CipherSuiteOption,
    JsonOption,
    KgFileOption,
    PasswordFileOption,
    UserOption,
    cipher_suites,
)
from bmcmedic.cli.remediation import (
    OperatorOption,
    QuietOption,
    ReferenceOption,
    ReturnOption,
    RunOrder,
    SteadyOption,
    TargetArgument,
    WatchdogUnknownOption,
    YesOption,
    run_remediation,
    times,
)
from bmcmedic.errors import ConfigurationError, reason_of
from bmcmedic.fleet.host_evidence.triage_command import TriageCommand
from bmcmedic.fleet.host_evidence.triage_document import REPORT_BYTES_MAX, parse_host_report
from bmcmedic.fleet.inventory import parse_target
from bmcmedic.fleet.remediation import Remediation
from bmcmedic.model.heal import HostReport


def register(app: typer.Typer) -> None:
    """Add `heal` to the program."""
    app.command("heal")(heal)


def heal(
    target: TargetArgument,
    symptoms: Annotated[
        str | None,
        typer.Option(
            "--symptoms",
            metavar="FILE|-",
            help="The host's symptoms: the output of `bmcmedic triage --json`; - is stdin.",
        ),
    ] = None,
    in_band_hung: Annotated[
        bool,
        typer.Option("--in-band-hung", help="State that the BMC hangs towards its host."),
    ] = False,
    triage_command: Annotated[
        str | None,
        typer.Option(
            "--triage-command",
            metavar="CMD",
            help="Command to run before and after the reset, such as `ssh host bmcmedic triage"
            " --json`: it proves that the host is at rest and kept running.",
        ),
    ] = None,
    yes: YesOption = False,
    quiet_time: QuietOption = 45.0,
    return_time: ReturnOption = 300.0,
    steady_time: SteadyOption = 30.0,
    watchdog_unknown_ok: WatchdogUnknownOption = False,
    operator: OperatorOption = None,
    reference: ReferenceOption = None,
    user: UserOption = None,
    password_file: PasswordFileOption = None,
    kg_file: KgFileOption = None,
    cipher_suite: CipherSuiteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Diagnose one BMC, heal it over lanplus if a cold reset can, and prove the result.

    Over LAN alone, a BMC that hangs towards its host looks well. So give the
    host's symptoms (--symptoms or --triage-command), or state that the BMC
    hangs (--in-band-hung).

    Exit status: 0 healthy or healed; 1 not healed, needs repair; 2 usage;
    3 refused.
    """
    one = parse_target(target)
    waits = times(quiet_time, return_time, steady_time)
    order = RunOrder.of(operator, reference)
    credentials = read_credentials(user, password_file, kg_file)
    host = None if triage_command is None else TriageCommand.parse(triage_command)
    report = None if symptoms is None else _read_symptoms(symptoms)
    status = run_remediation(
        one,
        credentials,
        tuple(cipher_suites(cipher_suite)),
        Remediation.heal,
        order=order,
        waits=waits,
        as_json=as_json,
        yes=yes,
        watchdog_unknown_ok=watchdog_unknown_ok,
        report=report,
        host=host,
        in_band_hung=in_band_hung,
    )
    raise typer.Exit(status)


def _read_symptoms(source: str) -> HostReport:
    if source == "-":
        return parse_host_report(sys.stdin.buffer.read(REPORT_BYTES_MAX + 1), source="--symptoms -")
    try:
        with Path(source).open("rb") as file:
            raw = file.read(REPORT_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise ConfigurationError(f"--symptoms {source}: {reason}") from None
    return parse_host_report(raw, source=f"--symptoms {source}")
