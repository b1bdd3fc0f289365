"""The BMC's watchdog timer (chapter 27).

Set Watchdog Timer without `dont_stop` stops the timer; Reset Watchdog Timer starts it. The BMC
answers a Reset Watchdog Timer with 0x80 until the first Set Watchdog Timer since it started.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import KEEP, IntEnum, IntFlag
from typing import ClassVar, TypeVar

from bmcmedic.errors import InvalidDataField, LocalProtocolError
from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    Command,
    EmptyRsp,
    check_length,
    read_enum,
    require_range,
)
from bmcmedic.ipmi.constants import NetFn, PrivilegeLevel

COUNTDOWN_S_MAX = 6553.5
"""Longest countdown, in seconds: 16 bits of 100 ms."""

PRETIMEOUT_INTERVAL_S_MAX = 255
"""Longest pretimeout interval, in seconds."""

UNINITIALIZED = 0x80
"""Completion code of Reset Watchdog Timer before any Set Watchdog Timer (27.5)."""

_TICKS_PER_S = 10

_E = TypeVar("_E", bound=IntEnum)


class TimerUse(IntEnum):
    """The purpose for which the timer runs (27.6, byte 1)."""

    UNSPECIFIED = 0
    """Reserved; a BMC reports it before its timer is set for the first time."""
    BIOS_FRB2 = 1
    BIOS_POST = 2
    OS_LOAD = 3
    SMS_OS = 4
    OEM = 5


class TimeoutAction(IntEnum):
    """What the BMC does to the host when the timer expires (27.6, byte 2)."""

    NONE = 0
    HARD_RESET = 1
    POWER_DOWN = 2
    POWER_CYCLE = 3

    @property
    def text(self) -> str:
        """The action as the documented JSON spells it, such as `hard reset`."""
        return self.name.lower().replace("_", " ")


class PretimeoutInterrupt(IntEnum):
    """How the BMC warns the host `pretimeout_interval_s` before the expiry (27.6, byte 2)."""

    NONE = 0
    SMI = 1
    NMI = 2
    MESSAGING = 3


class ExpirationFlags(IntFlag, boundary=KEEP):
    """The uses for which the timer has expired since the flags were cleared (27.6, byte 4)."""

    BIOS_FRB2 = 0x02
    BIOS_POST = 0x04
    OS_LOAD = 0x08
    SMS_OS = 0x10
    OEM = 0x20


_NO_FLAGS = ExpirationFlags(0)


def _encode_countdown(seconds: float) -> bytes:
    return round(seconds * _TICKS_PER_S).to_bytes(2, "little")


def _decode_countdown(ticks: bytes) -> float:
    return int.from_bytes(ticks, "little") / _TICKS_PER_S


@dataclass(frozen=True, slots=True)
class ResetWatchdogTimerReq(Command[EmptyRsp]):
    """Reset Watchdog Timer (27.5): start the timer or restart its countdown; a pat sends it.

    It must not be sent over LAN to find out whether the BMC restarted: if the BMC did not, this
    command *arms* the timer.
    """

    section = "27.5"
    netfn = NetFn.APP
    command = 0x22
    response = EmptyRsp
    privilege = PrivilegeLevel.OPERATOR
    completion_codes: ClassVar = {UNINITIALIZED: "watchdog timer was never set since the BMC start"}


@dataclass(frozen=True, slots=True)
class SetWatchdogTimerReq(Command[EmptyRsp]):
    """Set Watchdog Timer (27.6).

    Shape: 6 bytes, countdown LSB first. Units: countdown in 100 ms, pretimeout in s.
    Raises: LocalProtocolError when built with values that no BMC can accept.
    """

    use: TimerUse
    action: TimeoutAction
    initial_countdown_s: float
    pretimeout_interrupt: PretimeoutInterrupt = PretimeoutInterrupt.NONE
    pretimeout_interval_s: int = 0
    dont_log: bool = False
    dont_stop: bool = False
    """Whether a running timer keeps running; otherwise the command stops it."""
    clear_expiration_flags: ExpirationFlags = _NO_FLAGS

    section = "27.6"
    netfn = NetFn.APP
    command = 0x24
    response = EmptyRsp
    privilege = PrivilegeLevel.OPERATOR

    def __post_init__(self) -> None:
        if self.use is TimerUse.UNSPECIFIED:
            raise LocalProtocolError("timer use 0 is reserved")
        if not 0 <= self.initial_countdown_s <= COUNTDOWN_S_MAX:
            raise LocalProtocolError(
                f"the countdown is 0 to {COUNTDOWN_S_MAX} s: {self.initial_countdown_s}"
            )
        require_range("pretimeout", self.pretimeout_interval_s, PRETIMEOUT_INTERVAL_S_MAX)
        if self.pretimeout_interval_s and self.pretimeout_interval_s >= self.initial_countdown_s:
            raise LocalProtocolError(
                f"a pretimeout of {self.pretimeout_interval_s} s does not fit into "
                f"a countdown of {self.initial_countdown_s} s"
            )

    def encode(self) -> bytes:
        return bytes(
            (
                self.dont_log << 7 | self.dont_stop << 6 | self.use,
                self.pretimeout_interrupt << 4 | self.action,
                self.pretimeout_interval_s,
                self.clear_expiration_flags,
            )
        ) + _encode_countdown(self.initial_countdown_s)

    @classmethod
    def decode(cls, data: bytes) -> SetWatchdogTimerReq:
        """Decode request data; raises RemoteProtocolError, also for a reserved timer use."""
        check_length(data, 6, section=cls.section)
        use, action, interrupt = _decode_timer_bytes(data, cls.section)
        try:
            return cls(
                use=use,
                action=action,
                initial_countdown_s=_decode_countdown(data[4:6]),
                pretimeout_interrupt=interrupt,
                pretimeout_interval_s=data[2],
                dont_log=bool(data[0] & 0x80),
                dont_stop=bool(data[0] & 0x40),
                clear_expiration_flags=ExpirationFlags(data[3]),
            )
        except LocalProtocolError as error:
            raise InvalidDataField(str(error), section=cls.section, raw=data) from None


@dataclass(frozen=True, slots=True)
class GetWatchdogTimerRsp:
    """The present settings and countdown of the timer.

    Spec: 27.7. Shape: 8 bytes, LSB first. Units: countdowns in 100 ms, pretimeout in s.
    Field: a BMC whose timer was never set reports use 0. While the timer is stopped, some BMCs
    report the present countdown at which it was stopped, others the initial countdown. OpenIPMI's
    ipmi_sim leaves the present countdown out (6 bytes); the initial one then takes its place here.
    """

    running: bool
    use: TimerUse
    action: TimeoutAction
    initial_countdown_s: float
    present_countdown_s: float
    pretimeout_interrupt: PretimeoutInterrupt = PretimeoutInterrupt.NONE
    pretimeout_interval_s: int = 0
    dont_log: bool = False
    expiration_flags: ExpirationFlags = _NO_FLAGS

    def encode(self) -> bytes:
        return (
            bytes(
                (
                    self.dont_log << 7 | self.running << 6 | self.use,
                    self.pretimeout_interrupt << 4 | self.action,
                    self.pretimeout_interval_s,
                    self.expiration_flags,
                )
            )
            + _encode_countdown(self.initial_countdown_s)
            + _encode_countdown(self.present_countdown_s)
        )

    @classmethod
    def decode(cls, data: bytes) -> GetWatchdogTimerRsp:
        if len(data) == _WITHOUT_PRESENT_BYTES and not data[0] & 0x40:
            data += data[4:6]
        check_length(data, 8, 8 + PADDING_BYTES_MAX, section="27.7")
        use, action, interrupt = _decode_timer_bytes(data, "27.7")
        return cls(
            running=bool(data[0] & 0x40),
            use=use,
            action=action,
            initial_countdown_s=_decode_countdown(data[4:6]),
            present_countdown_s=_decode_countdown(data[6:8]),
            pretimeout_interrupt=interrupt,
            pretimeout_interval_s=data[2],
            dont_log=bool(data[0] & 0x80),
            expiration_flags=ExpirationFlags(data[3]),
        )

    @property
    def has_reserved_values(self) -> bool:
        """Whether a field has a value that Set Watchdog Timer must not carry."""
        return (
            self.use is TimerUse.UNSPECIFIED
            or self.use not in list(TimerUse)
            or self.action not in list(TimeoutAction)
            or self.pretimeout_interrupt not in list(PretimeoutInterrupt)
        )

    def set_request(
        self,
        *,
        initial_countdown_s: float | None = None,
        action: TimeoutAction | None = None,
        dont_stop: bool = False,
    ) -> SetWatchdogTimerReq:
        """Return the request that sets the timer as reported here, except for the arguments given.

        The request can always be built, whatever the BMC reported: a pretimeout that does not fit
        into the countdown becomes 0, and the reserved use 0 becomes SMS/OS.
        """
        countdown_s = initial_countdown_s
        if countdown_s is None:
            countdown_s = self.initial_countdown_s
        fits = self.pretimeout_interval_s < countdown_s
        return SetWatchdogTimerReq(
            use=self.use if self.use is not TimerUse.UNSPECIFIED else TimerUse.SMS_OS,
            action=self.action if action is None else action,
            initial_countdown_s=countdown_s,
            pretimeout_interrupt=self.pretimeout_interrupt,
            pretimeout_interval_s=self.pretimeout_interval_s if fits else 0,
            dont_log=self.dont_log,
            dont_stop=dont_stop,
        )


@dataclass(frozen=True, slots=True)
class SalvagedTimer:
    """What a malformed response to Get Watchdog Timer still shows."""

    timer: GetWatchdogTimerRsp
    """The timer as far as it was read; its running bit is always the BMC's own."""
    settings_known: bool
    """Whether use, action, pretimeout and initial countdown were all there."""
    countdown_known: bool
    """Whether the present countdown was there; otherwise the initial one takes its place."""


def salvage_timer(data: bytes) -> SalvagedTimer | None:
    """Read a response that `GetWatchdogTimerRsp.decode` refuses; None where it is empty.

    A field that is missing or reserved never hides the running bit. Missing bytes count as 0, but a
    missing action counts as a hard reset. A reserved value is kept, so that Set Watchdog Timer can
    send it back.
    """
    if not data:
        return None
    settings_known = len(data) >= _WITHOUT_PRESENT_BYTES
    known = data + bytes((TimeoutAction.HARD_RESET,)) if len(data) == 1 else data
    known = known.ljust(_WITHOUT_PRESENT_BYTES, b"\0")
    initial_countdown_s = _decode_countdown(known[4:6])
    countdown_known = len(data) >= _WHOLE_BYTES
    timer = GetWatchdogTimerRsp(
        running=bool(known[0] & 0x40),
        use=_any_member(TimerUse, known[0] & 0x07),
        action=_any_member(TimeoutAction, known[1] & 0x07),
        initial_countdown_s=initial_countdown_s,
        present_countdown_s=(
            _decode_countdown(known[6:8]) if countdown_known else initial_countdown_s
        ),
        pretimeout_interrupt=_any_member(PretimeoutInterrupt, known[1] >> 4 & 0x07),
        pretimeout_interval_s=known[2],
        dont_log=bool(known[0] & 0x80),
        expiration_flags=ExpirationFlags(known[3]),
    )
    return SalvagedTimer(timer, settings_known, countdown_known)


def _any_member(kind: type[_E], value: int) -> _E:
    """Return the member for a value; a reserved value becomes one that `kind` does not list.

    It is an integer like every other member, and no member of the list is identical to it.
    """
    try:
        return kind(value)
    except ValueError:
        member = int.__new__(kind, value)
        member._name_ = f"RESERVED_{value}"
        member._value_ = value
        return member


@dataclass(frozen=True, slots=True)
class GetWatchdogTimerReq(Command[GetWatchdogTimerRsp]):
    """Get Watchdog Timer (27.7)."""

    section = "27.7"
    netfn = NetFn.APP
    command = 0x25
    response = GetWatchdogTimerRsp


_WHOLE_BYTES = 8
"""Length of a response with both countdowns."""

_WITHOUT_PRESENT_BYTES = 6
"""Length of a response without the present countdown; only a stopped timer may leave it out."""


def _decode_timer_bytes(
    data: bytes, section: str
) -> tuple[TimerUse, TimeoutAction, PretimeoutInterrupt]:
    return (
        read_enum(TimerUse, data[0] & 0x07, section=section, raw=data),
        read_enum(TimeoutAction, data[1] & 0x07, section=section, raw=data),
        read_enum(PretimeoutInterrupt, data[1] >> 4 & 0x07, section=section, raw=data),
    )
