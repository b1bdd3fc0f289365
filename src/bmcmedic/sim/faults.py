"""The fault models: each is a knob on a real peer, written as a short text such as `slow:2.5`.

`parse_fault` reads one fault. A `FaultSet` holds all faults of a BMC as the values that its code
needs. All models can be combined; each may be given once, and those of single commands (see
`command_faults`) once a command.

    port80-flood[:WRITES_PER_S]  the host floods port 0x80 and the BMC leaks memory (see `leak`)
    slow:SECONDS                 the BMC works that long on each answer, one after another
    hang[:timer]                 KCS silent, LAN alive; the watchdog timer is frozen, or runs on
    dead                         KCS and LAN silent
    kcs-stuck:ibf|obf|error      the KCS registers are wedged that way; LAN alive
    lan-loss:P                   a datagram is lost with probability P, in each direction
    garbage:P                    a datagram is damaged with probability P, in each direction
    reset-ignored                the BMC acknowledges a reset and does not perform it
    reset-reboots-host           the host loses power for a moment while the BMC boots
    reset-lost-reply             the BMC resets, but its answer is lost
    boot:SECONDS                 how long the BMC takes to come back (30 without it)
    sessions:N                   LAN session slots (16 without it)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from bmcmedic.errors import ConfigurationError
from bmcmedic.sim.command_faults import (
    CommandFault,
    Cut,
    Flip,
    Refuse,
    Silent,
    parse_command_fault,
)

FLOOD_WRITES_PER_S_DEFAULT = 10_000.0
FLOOD_WRITES_PER_S_MAX = 10_000_000.0
DELAY_S_MAX = 3_600.0
BOOT_S_DEFAULT = 30.0
SESSION_SLOTS_DEFAULT = 16
SESSION_SLOTS_MAX = 256
SPEC_CHARS_MAX = 64


def _text(value: float) -> str:
    """Format a number as a person writes it, with enough digits to be read again."""
    return f"{value:.12g}"


class KcsWedge(Enum):
    """How the KCS registers are stuck (chapter 9)."""

    IBF = "ibf"
    OBF = "obf"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Port80Flood:
    """The host writes to port 0x80 at this rate, and the BMC leaks memory with each write."""

    name: ClassVar[str] = "port80-flood"
    writes_per_s: float = FLOOD_WRITES_PER_S_DEFAULT

    def __str__(self) -> str:
        return f"{self.name}:{_text(self.writes_per_s)}"


@dataclass(frozen=True, slots=True)
class Slow:
    """The BMC works this long on each answer, one after another."""

    name: ClassVar[str] = "slow"
    seconds: float

    def __str__(self) -> str:
        return f"{self.name}:{_text(self.seconds)}"


@dataclass(frozen=True, slots=True)
class Hang:
    """The BMC no longer serves KCS; its LAN side still answers."""

    name: ClassVar[str] = "hang"
    timer_runs: bool = False

    def __str__(self) -> str:
        return f"{self.name}:timer" if self.timer_runs else self.name


@dataclass(frozen=True, slots=True)
class Dead:
    """The BMC answers neither over KCS nor over LAN."""

    name: ClassVar[str] = "dead"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class KcsStuck:
    """The KCS registers are wedged; the firmware behind them runs, and LAN still answers."""

    name: ClassVar[str] = "kcs-stuck"
    wedge: KcsWedge

    def __str__(self) -> str:
        return f"{self.name}:{self.wedge.value}"


@dataclass(frozen=True, slots=True)
class LanLoss:
    """A datagram is lost with this probability, in each direction."""

    name: ClassVar[str] = "lan-loss"
    probability: float

    def __str__(self) -> str:
        return f"{self.name}:{_text(self.probability)}"


@dataclass(frozen=True, slots=True)
class Garbage:
    """A datagram is damaged with this probability, in each direction."""

    name: ClassVar[str] = "garbage"
    probability: float

    def __str__(self) -> str:
        return f"{self.name}:{_text(self.probability)}"


@dataclass(frozen=True, slots=True)
class ResetIgnored:
    """The BMC answers a reset with 0x00 and does not perform it (lockdown mode)."""

    name: ClassVar[str] = "reset-ignored"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ResetRebootsHost:
    """A restart of the BMC takes the host's power away for a moment."""

    name: ClassVar[str] = "reset-reboots-host"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ResetLostReply:
    """The BMC performs a reset, but its answer is lost."""

    name: ClassVar[str] = "reset-lost-reply"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Boot:
    """How long the BMC boots after a cold reset, in seconds."""

    name: ClassVar[str] = "boot"
    seconds: float

    def __str__(self) -> str:
        return f"{self.name}:{_text(self.seconds)}"


@dataclass(frozen=True, slots=True)
class Sessions:
    """How many LAN sessions the BMC can have at once."""

    name: ClassVar[str] = "sessions"
    slots: int

    def __str__(self) -> str:
        return f"{self.name}:{self.slots}"


Fault = (
    Port80Flood
    | Slow
    | Hang
    | Dead
    | KcsStuck
    | LanLoss
    | Garbage
    | ResetIgnored
    | ResetRebootsHost
    | ResetLostReply
    | Boot
    | Sessions
    | Refuse
    | Silent
    | Cut
    | Flip
)


def _number(spec: str, text: str, low: float, high: float, what: str) -> float:
    try:
        value = float("nan" if "_" in text else text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ConfigurationError(f"fault {spec!r}: {what} must be {_text(low)} to {_text(high)}")
    return value


def _flood(spec: str, text: str | None) -> Fault:
    if text is None:
        return Port80Flood()
    return Port80Flood(_number(spec, text, 1, FLOOD_WRITES_PER_S_MAX, "writes a second"))


def _hang(spec: str, text: str | None) -> Fault:
    if text not in (None, "timer"):
        raise ConfigurationError(f"fault {spec!r}: write hang or hang:timer")
    return Hang(timer_runs=text == "timer")


def _needed(build: Callable[[str, str], Fault], example: str) -> Callable[[str, str | None], Fault]:
    def parse(spec: str, text: str | None) -> Fault:
        if not text:
            raise ConfigurationError(f"fault {spec!r} needs a value, such as {example}")
        return build(spec, text)

    return parse


def _plain(build: Callable[[], Fault]) -> Callable[[str, str | None], Fault]:
    def parse(spec: str, text: str | None) -> Fault:
        if text is not None:
            raise ConfigurationError(f"fault {spec!r} takes no value")
        return build()

    return parse


def _kcs_stuck(spec: str, text: str) -> Fault:
    try:
        return KcsStuck(KcsWedge(text))
    except ValueError:
        raise ConfigurationError(f"fault {spec!r}: write kcs-stuck:ibf, :obf or :error") from None


def _sessions(spec: str, text: str) -> Fault:
    if not (text.isascii() and text.isdigit()) or int(text[:9]) > SESSION_SLOTS_MAX:
        raise ConfigurationError(
            f"fault {spec!r}: the number of slots must be 0 to {SESSION_SLOTS_MAX}"
        )
    return Sessions(int(text[:9]))


_PARSERS: dict[str, Callable[[str, str | None], Fault]] = {
    "port80-flood": _flood,
    "slow": _needed(lambda s, t: Slow(_number(s, t, 0, DELAY_S_MAX, "seconds")), "slow:2.5"),
    "hang": _hang,
    "dead": _plain(Dead),
    "kcs-stuck": _needed(_kcs_stuck, "kcs-stuck:ibf"),
    "lan-loss": _needed(lambda s, t: LanLoss(_number(s, t, 0, 1, "P")), "lan-loss:0.2"),
    "garbage": _needed(lambda s, t: Garbage(_number(s, t, 0, 1, "P")), "garbage:0.1"),
    "reset-ignored": _plain(ResetIgnored),
    "reset-reboots-host": _plain(ResetRebootsHost),
    "reset-lost-reply": _plain(ResetLostReply),
    "boot": _needed(lambda s, t: Boot(_number(s, t, 0, DELAY_S_MAX, "seconds")), "boot:10"),
    "sessions": _needed(_sessions, "sessions:4"),
    "refuse": _needed(parse_command_fault, "refuse:06/25:0xC0"),
    "silent": _needed(parse_command_fault, "silent:06/25"),
    "cut": _needed(parse_command_fault, "cut:06/25:6"),
    "flip": _needed(parse_command_fault, "flip:06/25:0:0x03"),
}


def parse_fault(spec: str) -> Fault:
    """Parse one fault such as `slow:2.5`.

    Raises: ConfigurationError, which names the fault and the valid forms.
    """
    name, colon, text = spec.strip()[: SPEC_CHARS_MAX + 1].partition(":")
    parser = _PARSERS.get(name)
    if parser is None or len(spec) > SPEC_CHARS_MAX:
        raise ConfigurationError(
            f"unknown fault {spec[:SPEC_CHARS_MAX]!r}; the models are {', '.join(_PARSERS)}"
        )
    return parser(spec.strip(), text if colon else None)


@dataclass(frozen=True, slots=True)
class FaultSet:
    """All faults of one BMC, as the values that its code reads."""

    faults: tuple[Fault, ...] = ()
    flood_writes_per_s: float = 0.0
    slow_s: float = 0.0
    hang: bool = False
    hang_timer_runs: bool = False
    dead: bool = False
    kcs_wedge: KcsWedge | None = None
    lan_loss: float = 0.0
    garbage: float = 0.0
    reset_ignored: bool = False
    reset_reboots_host: bool = False
    reset_lost_reply: bool = False
    boot_s: float = BOOT_S_DEFAULT
    session_slots: int = SESSION_SLOTS_DEFAULT
    command_faults: tuple[CommandFault, ...] = ()

    @classmethod
    def of(cls, faults: Iterable[Fault]) -> FaultSet:
        """Combine faults.

        Raises: ConfigurationError when one model is given twice.
        """
        given = tuple(faults)
        knobs: dict[str, object] = {}
        seen: set[str] = set()
        for fault in given:
            name = fault.name
            if isinstance(fault, CommandFault):
                name += f":{fault.command}"
            else:
                knobs.update(_knobs(fault))
            if name in seen:
                raise ConfigurationError(f"fault {name} is given twice; once is enough")
            seen.add(name)
        if of_commands := tuple(fault for fault in given if isinstance(fault, CommandFault)):
            knobs["command_faults"] = of_commands
        return cls(faults=given, **knobs) if given else NO_FAULTS  # type: ignore[arg-type]

    @classmethod
    def parse(cls, specs: Iterable[str]) -> FaultSet:
        """Combine faults that are written as text.

        Raises: ConfigurationError.
        """
        return cls.of(parse_fault(spec) for spec in specs)

    def without(self, *kinds: type[Fault]) -> FaultSet:
        """Return these faults without those of the given kinds."""
        return FaultSet.of(fault for fault in self.faults if not isinstance(fault, kinds))

    @property
    def specs(self) -> list[str]:
        """The faults as text that `parse` reads."""
        return [str(fault) for fault in self.faults]

    @property
    def stops_watchdog_timer(self) -> bool:
        """Whether the BMC's watchdog timer is frozen."""
        return self.dead or (self.hang and not self.hang_timer_runs)

    @property
    def silences_kcs(self) -> bool:
        """Whether the BMC leaves its host without answers over KCS."""
        return self.dead or self.hang or self.kcs_wedge is not None


def _knobs(fault: Fault) -> dict[str, object]:
    match fault:
        case Port80Flood(writes_per_s):
            return {"flood_writes_per_s": writes_per_s}
        case Slow(seconds):
            return {"slow_s": seconds}
        case Hang(timer_runs):
            return {"hang": True, "hang_timer_runs": timer_runs}
        case KcsStuck(wedge):
            return {"kcs_wedge": wedge}
        case LanLoss(probability):
            return {"lan_loss": probability}
        case Garbage(probability):
            return {"garbage": probability}
        case Boot(seconds):
            return {"boot_s": seconds}
        case Sessions(slots):
            return {"session_slots": slots}
        case _:
            return {fault.name.replace("-", "_"): True}


NO_FAULTS = FaultSet()
