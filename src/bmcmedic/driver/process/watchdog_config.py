"""The watchdog's settings from the configuration, and the contradictions between them."""

from __future__ import annotations

from collections.abc import Iterator

from bmcmedic.driver.process.config import CheckConfig, DriverProgramConfig
from bmcmedic.driver.watchdog.settings import CheckSettings, ShutdownPolicy, WatchdogSettings
from bmcmedic.ipmi.commands.watchdog import PretimeoutInterrupt, TimeoutAction
from bmcmedic.service.settings_conflicts import ConflictingSettings, SettingsConflict

ACTIONS = {
    "none": TimeoutAction.NONE,
    "hard-reset": TimeoutAction.HARD_RESET,
    "power-down": TimeoutAction.POWER_DOWN,
    "power-cycle": TimeoutAction.POWER_CYCLE,
}
INTERRUPTS = {
    "none": PretimeoutInterrupt.NONE,
    "smi": PretimeoutInterrupt.SMI,
    "nmi": PretimeoutInterrupt.NMI,
    "messaging": PretimeoutInterrupt.MESSAGING,
}
EXCHANGES_S_MAX = {"port-io": 10.2, "dev-ipmi": 60.0, "kernel": 56.0}
"""Longest exchange by kind of interface, in seconds. The interfaces' own modules define the same
numbers, but importing them would take longer than everything else that a wrong file needs."""

_NAMES = {
    "check": "check.deadline_s",
    "pretimeout_limit_s": "pretimeout.limit_s",
}


def watchdog_settings(config: DriverProgramConfig, exchange_s_max: float) -> WatchdogSettings:
    """Return the watchdog's settings.

    Raises: ConflictingSettings, with the configuration's names.
    """
    watchdog = config.watchdog
    try:
        return WatchdogSettings.for_interface(
            exchange_s_max,
            timeout_s=watchdog.timeout_s,
            action=ACTIONS[watchdog.action],
            pretimeout_s=watchdog.pretimeout_s,
            pretimeout_interrupt=INTERRUPTS[watchdog.pretimeout_interrupt],
            pat_period_s=watchdog.pat_period_s,
            pretimeout_limit_s=config.pretimeout.limit_s,
            shutdown=ShutdownPolicy.parse(watchdog.shutdown),
            check=_check_settings(config.check),
        )
    except ConflictingSettings as error:
        raise ConflictingSettings(map(_named, error.conflicts)) from None


def conflicts(config: DriverProgramConfig) -> Iterator[SettingsConflict]:
    """Yield the contradictions that hold on every interface that may be found."""
    kind = "kernel" if config.watchdog.mode == "kernel" else config.interface.kind
    kinds = ("port-io", "dev-ipmi") if kind == "auto" else (kind,)
    found = [_found(config, EXCHANGES_S_MAX[each]) for each in kinds]
    yield from min(found, key=len)


def _found(config: DriverProgramConfig, exchange_s_max: float) -> tuple[SettingsConflict, ...]:
    try:
        watchdog_settings(config, exchange_s_max)
    except ConflictingSettings as error:
        return error.conflicts
    return ()


def _named(conflict: SettingsConflict) -> SettingsConflict:
    names = (_NAMES.get(name, f"watchdog.{name}") for name in conflict.names)
    return conflict._replace(names=tuple(names))


def _check_settings(check: CheckConfig) -> CheckSettings | None:
    if not check.command:
        return None
    return CheckSettings(check.command, period_s=check.period_s, deadline_s=check.deadline_s)
