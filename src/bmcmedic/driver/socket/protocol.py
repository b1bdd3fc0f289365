"""The lines on the driver's socket: one JSON object each. Pure: bytes in, frames out.

The contract is `docs/reference/driver-socket.md`; a line that breaks it raises `BadLine`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NoReturn, TypeAlias

from bmcmedic.driver.parking import PARK_S_DEFAULT, PARK_S_MAX, PARK_S_MIN
from bmcmedic.driver.socket.errors import MESSAGE_CHARS_MAX, ErrorKind
from bmcmedic.errors import BmcmedicError
from bmcmedic.ipmi.kcs import MESSAGE_BYTES_MAX, REQUEST_BYTES_MIN
from bmcmedic.transport.in_band import Ipmb

LINE_BYTES_MAX = 4096
"""Longest line of a request with its newline, in bytes."""

ANSWER_LINE_BYTES_MAX = 16_384
"""Longest line of an answer with its newline, in bytes; only a status comes near it."""

DATA_BYTES_MAX = MESSAGE_BYTES_MAX - REQUEST_BYTES_MIN

ID_MAX = 2**53 - 1
"""The largest integer that every JSON reader preserves exactly."""

DEADLINE_S_DEFAULT = 15.0
DEADLINE_S_MAX = 300.0
SECONDS_MAX = 6553.5
"""The longest countdown of a BMC's watchdog timer, in seconds."""

SECONDS_SHOWN_MAX = 1e12
"""Largest age that is reported, in seconds: JSON has no infinity."""

Object: TypeAlias = "dict[str, Any]"


class BadLine(BmcmedicError):
    """A line that is not a valid frame; `frame_id` is its id, where one can be read."""

    def __init__(self, message: str, frame_id: int | None = None) -> None:
        super().__init__(message)
        self.frame_id = frame_id


class LineTooLong(BmcmedicError):
    """A line has more bytes than allowed, and no newline."""


# -------------------------------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class RequestFrame:
    """An IPMI request to the BMC, or to a controller behind it."""

    frame_id: int
    netfn: int
    command: int
    data: bytes = b""
    lun: int = 0
    bridge: Ipmb | None = None
    deadline_s: float = DEADLINE_S_DEFAULT
    accept_old: bool = False
    """Whether the client accepts a cached answer while the BMC does not answer."""

    @property
    def message(self) -> bytes:
        """The request as the interface carries it."""
        return bytes((self.netfn << 2 | self.lun, self.command)) + self.data


@dataclass(frozen=True, slots=True)
class StatusFrame:
    """A request for the driver's status."""

    frame_id: int


class WatchdogAction(Enum):
    """What a client can ask of the driver's watchdog."""

    GET = "get"
    LENGTHEN = "lengthen"
    """Give the BMC's timer `seconds` as its time-out, and keep patting."""
    DISARM = "disarm"
    """Stop the timer and the pats, until RESUME."""
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class WatchdogFrame:
    """A question or an order to the driver's watchdog."""

    frame_id: int
    action: WatchdogAction = WatchdogAction.GET
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class CancelFrame:
    """A request to give up another request of the same connection."""

    frame_id: int
    cancelled_id: int


@dataclass(frozen=True, slots=True)
class ParkFrame:
    """An order to send nothing and let the interface go for `seconds`; None ends it (`resume`)."""

    frame_id: int
    seconds: float | None = PARK_S_DEFAULT


ClientFrame: TypeAlias = RequestFrame | StatusFrame | WatchdogFrame | CancelFrame | ParkFrame


def encode_question(frame: ClientFrame) -> bytes:
    """Return the frame's line, with its newline."""
    fields: Object = {"id": frame.frame_id}
    match frame:
        case RequestFrame():
            fields |= {"netfn": frame.netfn, "command": frame.command, "data": frame.data.hex()}
            fields |= {"lun": frame.lun, "deadline_s": frame.deadline_s}
            fields["accept_old"] = frame.accept_old
            if frame.bridge is not None:
                to = frame.bridge
                fields["bridge"] = {"channel": to.channel, "address": to.address, "lun": to.lun}
        case StatusFrame():
            fields["op"] = "status"
        case WatchdogFrame():
            fields |= {"op": "watchdog", "action": frame.action.value}
            if frame.seconds is not None:
                fields["seconds"] = frame.seconds
        case CancelFrame():
            fields |= {"op": "cancel", "cancel": frame.cancelled_id}
        case ParkFrame(seconds=None):
            fields["op"] = "resume"
        case ParkFrame():
            fields |= {"op": "park", "seconds": frame.seconds}
    return _line(fields)


def decode_question(line: bytes) -> ClientFrame:
    """Decode a client's line; raises BadLine."""
    fields = _Fields(_object(line))
    frame_id = fields.integer("id", ID_MAX)
    fields.frame_id = frame_id
    operation = fields.text("op", "request")
    frame: ClientFrame
    match operation:
        case "request":
            frame = _request(frame_id, fields)
        case "status":
            frame = StatusFrame(frame_id)
        case "watchdog":
            frame = _watchdog(frame_id, fields)
        case "cancel":
            frame = CancelFrame(frame_id, fields.integer("cancel", ID_MAX))
        case "park":
            seconds = fields.seconds("seconds", PARK_S_MAX, PARK_S_DEFAULT)
            if seconds < PARK_S_MIN:
                fields.fail(
                    f"seconds must be {PARK_S_MIN:g} to {PARK_S_MAX:g}; op resume ends a park"
                )
            frame = ParkFrame(frame_id, seconds)
        case "resume":
            frame = ParkFrame(frame_id, None)
        case _:
            operations = "request, status, watchdog, cancel, park or resume"
            fields.fail(f"op must be {operations}, not {operation[:32]!r}")
    fields.end()
    return frame


def _request(frame_id: int, fields: _Fields) -> RequestFrame:
    netfn = fields.integer("netfn", 0x3E)
    if netfn & 1:
        fields.fail(f"the netfn of a request must be even, not {netfn}")
    return RequestFrame(
        frame_id,
        netfn,
        fields.integer("command", 0xFF),
        fields.octets("data", DATA_BYTES_MAX),
        fields.integer("lun", 3, 0),
        _bridge(fields),
        fields.seconds("deadline_s", DEADLINE_S_MAX, DEADLINE_S_DEFAULT),
        fields.flag("accept_old"),
    )


def _bridge(fields: _Fields) -> Ipmb | None:
    value = fields.take("bridge", None)
    if value is None:
        return None
    if not isinstance(value, dict):
        fields.fail('bridge must be an object, such as {"channel": 6, "address": 44}')
    inner = _Fields(value, fields.frame_id, "bridge.")
    target = Ipmb(
        inner.integer("channel", 0x0F), inner.integer("address", 0xFF), inner.integer("lun", 3, 0)
    )
    inner.end()
    return target


def _watchdog(frame_id: int, fields: _Fields) -> WatchdogFrame:
    name = fields.text("action", "get")
    try:
        action = WatchdogAction(name)
    except ValueError:
        fields.fail(f"action must be get, lengthen, disarm or resume, not {name[:32]!r}")
    if action is not WatchdogAction.LENGTHEN:
        return WatchdogFrame(frame_id, action)
    return WatchdogFrame(frame_id, action, fields.seconds("seconds", SECONDS_MAX))


# --------------------------------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True)
class AnswerFrame:
    """The answer to an IPMI request."""

    frame_id: int
    completion_code: int
    data: bytes = b""
    age_s: float | None = None
    """Age of the answer in seconds; None when the BMC gave it for this request."""
    reason: str | None = None
    """Why the driver refused; None when the completion code is the BMC's own."""


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """The driver's status."""

    frame_id: int
    status: Object


@dataclass(frozen=True, slots=True)
class WatchdogAnswer:
    """The status of the driver's watchdog."""

    frame_id: int
    watchdog: Object


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """Whether there was a request to give up."""

    frame_id: int
    cancelled: bool


@dataclass(frozen=True, slots=True)
class ErrorFrame:
    """An error; an id of None means the connection, or a line whose id cannot be read."""

    frame_id: int | None
    kind: ErrorKind
    message: str
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ParkAnswer:
    """The state of the park; None: the interface is not parked."""

    frame_id: int
    parked: Object | None


ServerFrame: TypeAlias = (
    AnswerFrame | StatusAnswer | WatchdogAnswer | CancelAnswer | ParkAnswer | ErrorFrame
)


def encode_answer(frame: ServerFrame) -> bytes:
    """Return the frame's line, with its newline; raises LineTooLong."""
    fields: Object = {"id": frame.frame_id}
    match frame:
        case AnswerFrame():
            fields |= {"completion_code": frame.completion_code, "data": frame.data.hex()}
            fields["age_s"] = frame.age_s
            if frame.reason is not None:
                fields["reason"] = frame.reason[:MESSAGE_CHARS_MAX]
        case StatusAnswer():
            fields["status"] = frame.status
        case WatchdogAnswer():
            fields["watchdog"] = frame.watchdog
        case CancelAnswer():
            fields["cancelled"] = frame.cancelled
        case ParkAnswer():
            fields["parked"] = frame.parked
        case ErrorFrame():
            message = frame.message[:MESSAGE_CHARS_MAX]
            fields["error"] = {
                "kind": frame.kind.value,
                "message": message,
                **(frame.details or {}),
            }
    line = _line(fields)
    if len(line) > ANSWER_LINE_BYTES_MAX:
        raise LineTooLong(f"an answer may have at most {ANSWER_LINE_BYTES_MAX} bytes: {len(line)}")
    return line


def decode_answer(line: bytes) -> ServerFrame:
    """Decode the driver's line, and ignore unknown keys. Raises BadLine."""
    fields = _Fields(_object(line))
    frame_id = None if fields.content.get("id", 0) is None else fields.integer("id", ID_MAX)
    fields.frame_id = frame_id
    if "error" in fields.content:
        return _error(frame_id, fields)
    if frame_id is None:
        fields.fail("an answer without an id")
    if "status" in fields.content:
        return StatusAnswer(frame_id, fields.object("status"))
    if "watchdog" in fields.content:
        return WatchdogAnswer(frame_id, fields.object("watchdog"))
    if "cancelled" in fields.content:
        return CancelAnswer(frame_id, fields.flag("cancelled"))
    if "parked" in fields.content:
        parked = fields.content["parked"]
        return ParkAnswer(frame_id, None if parked is None else fields.object("parked"))
    age_s = None
    if fields.content.get("age_s") is not None:
        age_s = fields.seconds("age_s", SECONDS_SHOWN_MAX)
    reason = None if fields.content.get("reason") is None else fields.text("reason")
    code = fields.integer("completion_code", 0xFF)
    return AnswerFrame(frame_id, code, fields.octets("data", MESSAGE_BYTES_MAX), age_s, reason)


def _error(frame_id: int | None, fields: _Fields) -> ErrorFrame:
    inner = _Fields(fields.object("error"), frame_id, "error.")
    name, message = inner.text("kind"), inner.text("message")
    try:
        kind = ErrorKind(name)
    except ValueError:
        kind = ErrorKind.FAILED
    details = {key: value for key, value in inner.content.items() if key not in inner.used}
    return ErrorFrame(frame_id, kind, message, details or None)


# ----------------------------------------------------------------------------------------- lines


class LineReader:
    """Splits input into lines; holds at most one line and one read."""

    __slots__ = ("line_bytes_max", "_held", "_searched")

    def __init__(self, line_bytes_max: int) -> None:
        self.line_bytes_max = line_bytes_max
        self._held = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """Add bytes that were read."""
        self._held += data

    @property
    def has_line(self) -> bool:
        """Whether `next_line` can return a line, or raises."""
        if self._held.find(b"\n", self._searched) >= 0:
            return True
        self._searched = len(self._held)
        return self._searched >= self.line_bytes_max

    @property
    def held_bytes(self) -> int:
        """Number of bytes that were added and not taken out."""
        return len(self._held)

    def next_line(self) -> bytes | None:
        """Return the next line without its newline, or None; raises LineTooLong from then on."""
        end = self._held.find(b"\n", self._searched)
        if end >= self.line_bytes_max or (end < 0 and len(self._held) >= self.line_bytes_max):
            raise LineTooLong(f"a line may have at most {self.line_bytes_max} bytes")
        if end < 0:
            self._searched = len(self._held)
            return None
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        self._searched = 0
        return line


# ------------------------------------------------------------------------------------------ JSON


def _line(fields: Object) -> bytes:
    text = json.dumps(fields, separators=(",", ":"), allow_nan=False, default=str)
    return text.encode("ascii") + b"\n"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(line: bytes) -> Object:
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise BadLine("the line is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are subclasses
        raise BadLine(f"the line is not JSON: {error}"[:MESSAGE_CHARS_MAX]) from None
    if not isinstance(value, dict):
        raise BadLine("a line must be one JSON object")
    return value


_MISSING: Final = object()


class _Fields:
    """Takes the values out of an object and remembers which were taken."""

    __slots__ = ("content", "frame_id", "prefix", "used")

    def __init__(self, content: Object, frame_id: int | None = None, prefix: str = "") -> None:
        self.content = content
        self.frame_id = frame_id
        self.prefix = prefix
        self.used: set[str] = set()

    def fail(self, message: str) -> NoReturn:
        raise BadLine(message, self.frame_id)

    def take(self, key: str, default: object = _MISSING) -> object:
        self.used.add(key)
        value = self.content.get(key, default)
        if value is _MISSING:
            self.fail(f"{self.prefix}{key} is missing")
        return value

    def end(self) -> None:
        """Refuse other keys: a misspelt one must not be ignored silently."""
        for key in self.content:
            if key not in self.used:
                self.fail(f"there is no key {self.prefix}{key[:32]!s} in this frame")

    def integer(self, key: str, maximum: int, default: object = _MISSING) -> int:
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
            self.fail(f"{self.prefix}{key} must be an integer from 0 to {maximum}")
        return value

    def seconds(self, key: str, maximum: float, default: object = _MISSING) -> float:
        value = self.take(key, default)
        # Compared before the conversion: an integer can be too large for a float.
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value <= maximum
        ):
            self.fail(f"{self.prefix}{key} must be a number of seconds up to {maximum:g}")
        return float(value)

    def octets(self, key: str, maximum: int) -> bytes:
        value = self.take(key, "")
        try:
            if not isinstance(value, str):
                raise TypeError
            data = bytes.fromhex(value)
        except (ValueError, TypeError):
            self.fail(f"{self.prefix}{key} must be text of hexadecimal digits")
        if len(data) > maximum:
            self.fail(f"{self.prefix}{key} may have at most {maximum} bytes")
        return data

    def flag(self, key: str) -> bool:
        value = self.take(key, default=False)
        if not isinstance(value, bool):
            self.fail(f"{self.prefix}{key} must be true or false")
        return value

    def text(self, key: str, default: object = _MISSING) -> str:
        value = self.take(key, default)
        if not isinstance(value, str):
            self.fail(f"{self.prefix}{key} must be text")
        return value

    def object(self, key: str) -> Object:
        value = self.take(key)
        if not isinstance(value, dict):
            self.fail(f"{self.prefix}{key} must be an object")
        return value
