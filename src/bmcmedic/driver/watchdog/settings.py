"""The watchdog's settings; their numbers are checked before anything is armed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from bmcmedic.driver.watchdog.pretimeout import LIMIT_S_MIN, WAITING_S_MAX
from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.commands.watchdog import (
    COUNTDOWN_S_MAX,
    PRETIMEOUT_INTERVAL_S_MAX,
    PretimeoutInterrupt,
    SetWatchdogTimerReq,
    TimeoutAction,
    TimerUse,
)
from bmcmedic.service.settings_conflicts import ConflictingSettings, SettingsConflict

TIMEOUT_S_DEFAULT = 120.0
"""Shortest default time-out, in seconds; a slow interface gets a longer one."""
PAT_PERIOD_S_MAX = 30.0
PAT_PERIOD_S_MIN = 0.1
PAT_EXCHANGE_S = 5.0
"""Time that a pat itself may take once it is its turn, in seconds: one time limit of KCS."""
PATS_PER_TIMEOUT = 8
"""The time-out divided by this is the pat period, unless that is set."""
PRETIMEOUTS_PER_TIMEOUT = 4
"""The time-out divided by this is the BMC's pretimeout, where there is one: FreeBSD's quarter."""
CHECK_OUTPUT_BYTES_MAX = 4096


class ShutdownKind(Enum):
    """What happens to the BMC's timer when the driver ends in order."""

    DISARM = "disarm"
    KEEP = "keep"
    REARM = "rearm"


@dataclass(frozen=True, slots=True)
class ShutdownPolicy:
    """Stop the timer, leave it running, or start it once more with a longer time."""

    kind: ShutdownKind = ShutdownKind.DISARM
    countdown_s: float = 0.0
    """Countdown for REARM, in seconds."""

    def __post_init__(self) -> None:
        if self.kind is ShutdownKind.REARM and not 0 < self.countdown_s <= COUNTDOWN_S_MAX:
            raise ConfigurationError(
                f"the countdown after a shutdown must be above 0 and at most "
                f"{COUNTDOWN_S_MAX:g} s: {self.countdown_s:g} s"
            )

    @classmethod
    def parse(cls, text: str) -> ShutdownPolicy:
        """Parse `disarm`, `keep` or `rearm:SECONDS`; raises ConfigurationError."""
        word, colon, seconds = text.partition(":")
        if word == ShutdownKind.REARM.value and colon:
            try:
                return cls(ShutdownKind.REARM, float(seconds))
            except ValueError:
                pass
        elif text in (ShutdownKind.DISARM.value, ShutdownKind.KEEP.value):
            return cls(ShutdownKind(text))
        raise ConfigurationError(
            f"the shutdown policy is disarm, keep or rearm:SECONDS, not {text!r}"
        )


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """A command that exits with 0 in time if the host is well."""

    argv: tuple[str, ...]
    period_s: float = 10.0
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0].startswith("/"):
            raise ConfigurationError(
                "the check command must begin with an absolute path, because it runs without your "
                f"search path: {' '.join(self.argv) or 'nothing'}"
            )
        _require_above_zero("check period", self.period_s)
        _require_above_zero("check deadline", self.deadline_s)


@dataclass(frozen=True, slots=True)
class WatchdogSettings:
    """The BMC's timer, the pats, and the software pretimeout before it.

    Units: seconds.
    Raises: ConflictingSettings, with all numbers, when built with settings that cannot work.
    """

    timeout_s: float = TIMEOUT_S_DEFAULT
    action: TimeoutAction = TimeoutAction.HARD_RESET
    pretimeout_s: int = 0
    """The BMC's own warning comes this long before the time-out, in whole seconds."""
    pretimeout_interrupt: PretimeoutInterrupt = PretimeoutInterrupt.NONE
    pat_period_s: float = TIMEOUT_S_DEFAULT / PATS_PER_TIMEOUT
    pretimeout_limit_s: float = TIMEOUT_S_DEFAULT / 2
    """The software pretimeout fires when the host has not patted for longer than this."""
    verify_every_pats: int = 4
    """Before every n-th pat the BMC is asked whether its timer is still as it was set."""
    shutdown: ShutdownPolicy = ShutdownPolicy()
    check: CheckSettings | None = None

    def __post_init__(self) -> None:
        _require_timeout(self.timeout_s)
        if found := [*self._timer_conflicts(), *self._pat_conflicts(), *self._check_conflicts()]:
            raise ConflictingSettings(found)

    @classmethod
    def for_interface(
        cls,
        exchange_s_max: float,
        *,
        timeout_s: float | None = None,
        action: TimeoutAction = TimeoutAction.HARD_RESET,
        pretimeout_s: float | None = None,
        pretimeout_interrupt: PretimeoutInterrupt = PretimeoutInterrupt.NONE,
        pat_period_s: float | None = None,
        pretimeout_limit_s: float | None = None,
        shutdown: ShutdownPolicy = ShutdownPolicy(),
        check: CheckSettings | None = None,
    ) -> WatchdogSettings:
        """Return the given settings, and for the rest values that fit the interface.

        Units: seconds; `exchange_s_max` is how long one exchange can hold the interface.
        Raises: ConflictingSettings with all contradictions.
        """
        warns = pretimeout_interrupt is not PretimeoutInterrupt.NONE
        if timeout_s is None:
            least_s = (
                exchange_s_max + PAT_EXCHANGE_S + (pretimeout_s or 0.0) + (pat_period_s or 0.0)
            )
            share = 1.0
            if pat_period_s is None:
                share -= 1 / PATS_PER_TIMEOUT
            if warns and pretimeout_s is None:
                share -= 1 / PRETIMEOUTS_PER_TIMEOUT
            timeout_s = max(TIMEOUT_S_DEFAULT, float(math.ceil(least_s / share)))
        _require_timeout(timeout_s)
        if pretimeout_s is None:
            quarter_s = int(timeout_s) // PRETIMEOUTS_PER_TIMEOUT
            pretimeout_s = min(PRETIMEOUT_INTERVAL_S_MAX, quarter_s) if warns else 0
        if pat_period_s is None:
            pat_period_s = min(PAT_PERIOD_S_MAX, timeout_s / PATS_PER_TIMEOUT)
        has_limit = pretimeout_limit_s is not None
        if pretimeout_limit_s is None:
            checked_s = check.deadline_s if check is not None else 0.0
            pretimeout_limit_s = max(
                LIMIT_S_MIN, timeout_s / 2, pat_period_s + checked_s + WAITING_S_MAX
            )
        found: list[SettingsConflict] = []
        settings: WatchdogSettings | None = None
        if pretimeout_s != int(pretimeout_s):
            text = f"the BMC's pretimeout must be whole seconds: {pretimeout_s:g} s"
            found.append(SettingsConflict(text, ("pretimeout_s",)))
        found += _room_conflicts(timeout_s, pretimeout_s, pat_period_s, exchange_s_max)
        found += _shutdown_conflicts(shutdown, timeout_s)
        try:
            settings = cls(
                timeout_s=timeout_s,
                action=action,
                pretimeout_s=int(pretimeout_s),
                pretimeout_interrupt=pretimeout_interrupt,
                pat_period_s=pat_period_s,
                pretimeout_limit_s=pretimeout_limit_s,
                shutdown=shutdown,
                check=check,
            )
        except ConflictingSettings as error:
            found += error.conflicts
        if settings is None or found:
            raise ConflictingSettings(_without_derived_conflicts(found, has_limit=has_limit))
        return settings

    def require_room(self, exchange_s_max: float) -> None:
        """Refuse a countdown that a pat could miss although host and BMC are healthy.

        A pat can be due at the end of a period, find an exchange in flight, and need one of its
        own.
        Raises: ConflictingSettings with the numbers.
        """
        numbers = self.timeout_s, self.pretimeout_s, self.pat_period_s
        if found := [*_room_conflicts(*numbers, exchange_s_max)]:
            raise ConflictingSettings(found)

    def lengthened(self, timeout_s: float) -> WatchdogSettings:
        """Return the settings with a longer time-out.

        Raises ConfigurationError for a shorter one.
        """
        if timeout_s < self.timeout_s:
            raise ConfigurationError(
                f"the watchdog time-out of {self.timeout_s:g} s can be lengthened, "
                f"not shortened to {timeout_s:g} s"
            )
        return replace(self, timeout_s=timeout_s)

    @property
    def set_request(self) -> SetWatchdogTimerReq:
        """The request that sets the BMC's timer; a running timer keeps running, with the new time.

        So a driver that dies before the first pat does not leave the host unwatched.
        """
        return SetWatchdogTimerReq(
            dont_stop=True,
            use=TimerUse.SMS_OS,
            action=self.action,
            initial_countdown_s=self.timeout_s,
            pretimeout_interrupt=self.pretimeout_interrupt,
            pretimeout_interval_s=self.pretimeout_s,
        )

    @property
    def disarm_request(self) -> SetWatchdogTimerReq:
        """The request that stops the timer, as any set without `dont_stop` does.

        It keeps the countdown in case a late pat restarts the timer.
        """
        return SetWatchdogTimerReq(
            use=TimerUse.SMS_OS, action=TimeoutAction.NONE, initial_countdown_s=self.timeout_s
        )

    @property
    def rearm_s(self) -> float:
        """The countdown for a shutdown; never shorter than a time-out lengthened by order."""
        return max(self.shutdown.countdown_s, self.timeout_s)

    @property
    def rearm_request(self) -> SetWatchdogTimerReq:
        """The request that arms the timer for a shutdown; a host that is gone needs no warning."""
        action = self.action
        if action is TimeoutAction.NONE:
            action = TimeoutAction.POWER_CYCLE
        return SetWatchdogTimerReq(
            use=TimerUse.SMS_OS,
            action=action,
            initial_countdown_s=self.rearm_s,
            dont_stop=True,
        )

    def _timer_conflicts(self) -> Iterator[SettingsConflict]:
        if not 0 <= self.pretimeout_s <= PRETIMEOUT_INTERVAL_S_MAX:
            yield SettingsConflict(
                f"the BMC's pretimeout must be 0 to {PRETIMEOUT_INTERVAL_S_MAX} s: "
                f"{self.pretimeout_s} s",
                ("pretimeout_s",),
            )
        elif self.pretimeout_s >= self.timeout_s:
            yield SettingsConflict(
                f"a pretimeout of {self.pretimeout_s} s is not below the watchdog time-out of "
                f"{self.timeout_s:g} s",
                ("pretimeout_s", "timeout_s"),
            )
        if self.pretimeout_s > 0 and self.pretimeout_interrupt is PretimeoutInterrupt.NONE:
            yield SettingsConflict(
                f"a pretimeout of {self.pretimeout_s} s without a pretimeout interrupt warns "
                "nobody; name one (nmi, smi, messaging), or leave the pretimeout out",
                ("pretimeout_s", "pretimeout_interrupt"),
            )

    def _pat_conflicts(self) -> Iterator[SettingsConflict]:
        if not PAT_PERIOD_S_MIN <= self.pat_period_s < self.timeout_s:
            yield SettingsConflict(
                f"pats every {self.pat_period_s:g} s: the period is {PAT_PERIOD_S_MIN:g} s or more "
                f"and below the watchdog time-out of {self.timeout_s:g} s",
                ("pat_period_s", "timeout_s"),
            )
        least_s = max(LIMIT_S_MIN, self.pat_period_s + WAITING_S_MAX)
        if not least_s <= self.pretimeout_limit_s < self.timeout_s:
            yield SettingsConflict(
                f"the software pretimeout fires after {self.pretimeout_limit_s:g} s without a pat: "
                f"with one every {self.pat_period_s:g} s that is {least_s:g} s or more, and below "
                f"the watchdog time-out of {self.timeout_s:g} s",
                _LIMIT_NAMES,
            )
        if self.verify_every_pats < 1:
            yield SettingsConflict(
                f"the timer is read before every n-th pat, n from 1: {self.verify_every_pats}",
                ("verify_every_pats",),
            )

    def _check_conflicts(self) -> Iterator[SettingsConflict]:
        if self.check is None:
            return
        # While a check runs, the host counts as well only up to the check's start. A pat may be due
        # as late as a period after the check's end.
        longest_s = self.check.deadline_s + WAITING_S_MAX + self.pat_period_s
        if longest_s > self.pretimeout_limit_s:
            yield SettingsConflict(
                f"a check command that may take {self.check.deadline_s:g} s and pats every "
                f"{self.pat_period_s:g} s need a software pretimeout of {longest_s:g} s or more, "
                f"not {self.pretimeout_limit_s:g} s",
                ("check", "pretimeout_limit_s", "pat_period_s"),
            )


_LIMIT_NAMES = ("pretimeout_limit_s", "check", "pat_period_s", "timeout_s")


def _room_conflicts(
    timeout_s: float, pretimeout_s: float, pat_period_s: float, exchange_s_max: float
) -> Iterator[SettingsConflict]:
    """Yield a contradiction where a pat could miss the countdown; see `require_room`."""
    needed_s = pat_period_s + exchange_s_max + PAT_EXCHANGE_S
    if timeout_s - pretimeout_s >= needed_s:
        return
    less = f" less a pretimeout of {pretimeout_s:g} s" if pretimeout_s else ""
    least_s = math.ceil(needed_s + pretimeout_s)
    yield SettingsConflict(
        f"a watchdog time-out of {timeout_s:g} s{less} is too short: a pat is sent every "
        f"{pat_period_s:g} s, can find an exchange in flight that takes up to "
        f"{exchange_s_max:g} s here, and takes up to {PAT_EXCHANGE_S:g} s itself, together "
        f"{needed_s:g} s; make the time-out {least_s} s or more",
        ("timeout_s", "pat_period_s", "pretimeout_s"),
    )


def _shutdown_conflicts(shutdown: ShutdownPolicy, timeout_s: float) -> Iterator[SettingsConflict]:
    """Yield a contradiction where the countdown after a shutdown is shorter than the time-out."""
    after_s = shutdown.countdown_s
    if shutdown.kind is ShutdownKind.REARM and after_s < timeout_s:
        yield SettingsConflict(
            f"at shutdown the watchdog would have {after_s:g} s, less than its time-out of "
            f"{timeout_s:g} s; give rearm:{math.ceil(timeout_s)} or more",
            ("shutdown", "timeout_s"),
        )


def _without_derived_conflicts(
    found: list[SettingsConflict], *, has_limit: bool
) -> list[SettingsConflict]:
    """Drop the conflict of a derived limit that only follows from a refused period."""
    is_period_refused = any(each.names[0] == "pat_period_s" for each in found)
    if has_limit or not is_period_refused:
        return found
    return [each for each in found if each.names != _LIMIT_NAMES]


def _require_timeout(timeout_s: float) -> None:
    if not 0 < timeout_s <= COUNTDOWN_S_MAX:
        raise ConfigurationError(
            f"the watchdog time-out must be above 0 and at most {COUNTDOWN_S_MAX:g} s, all that a "
            f"BMC's timer holds: {timeout_s:g} s"
        )


def _require_above_zero(what: str, seconds: float) -> None:
    if not 0 < seconds < math.inf:
        raise ConfigurationError(f"the {what} must be above 0 s: {seconds:g} s")
