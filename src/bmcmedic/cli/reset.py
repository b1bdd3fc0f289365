"""`bmcmedic reset`: restart one BMC because an operator orders it, with every check of `heal`."""

from __future__ import annotations

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
from bmcmedic.errors import ConfigurationError
from bmcmedic.fleet.inventory import parse_target
from bmcmedic.model.heal import Remedy


def register(app: typer.Typer) -> None:
    """Add `reset` to the program."""
    app.command("reset")(reset)


def reset(
    target: TargetArgument,
    cold: Annotated[bool, typer.Option("--cold", help="Cold reset: the BMC boots anew.")] = False,
    warm: Annotated[
        bool, typer.Option("--warm", help="Warm reset; many BMCs do not support it.")
    ] = False,
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
    """Restart one BMC over lanplus, once, and verify that it comes back and its host stays up.

    Exit status: 0 reset and verified back; 1 not back, or the host changed;
    2 usage; 3 refused.
    """
    if cold == warm:
        raise ConfigurationError("give exactly one of --cold and --warm")
    kind = Remedy.COLD_RESET if cold else Remedy.WARM_RESET
    one = parse_target(target)
    waits = times(quiet_time, return_time, steady_time)
    order = RunOrder.of(operator, reference)
    credentials = read_credentials(user, password_file, kg_file)
    status = run_remediation(
        one,
        credentials,
        tuple(cipher_suites(cipher_suite)),
        lambda remediation: remediation.reset(kind),
        order=order,
        waits=waits,
        as_json=as_json,
        yes=yes,
        watchdog_unknown_ok=watchdog_unknown_ok,
    )
    raise typer.Exit(status)
