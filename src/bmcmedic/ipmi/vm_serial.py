"""The OpenIPMI VM protocol: how a virtual machine's KCS registers reach a BMC outside of it.

Shape: a message is sequence | netFn<<2 | LUN | command | [completion code] | data … | checksum,
then 0xA0; the bytes before 0xA0 add up to 0 modulo 256. A control message is a code and perhaps a
value, then 0xA1. The bytes 0xA0, 0xA1 and 0xAA inside of either travel as 0xAA and the byte with
bit 4 set; the checksum is over the bytes as they are without that, and may itself need it.

`VmBmc` is the BMC's end. `VmHost` is the machine's, with the habits of QEMU's `ipmi-bmc-extern`
that a BMC has to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

from bmcmedic.errors import LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.message import RequestMessage, checksum

PROTOCOL_VERSION = 1

END_OF_MESSAGE = 0xA0
END_OF_CONTROL = 0xA1
ESCAPE = 0xAA
ESCAPED_BIT = 0x10
SPECIAL_BYTES = frozenset((END_OF_MESSAGE, END_OF_CONTROL, ESCAPE))

FRAME_BYTES_MAX = 302
"""Longest frame without escapes, sequence number and checksum included; QEMU takes as many."""

ANSWER_TIMEOUT_S = 4.0
"""After which QEMU itself answers the machine, with completion code 0xC3."""

_REQUEST_BYTES_MIN = 4
_RESPONSE_BYTES_MIN = 5
_SECTION = "none: OpenIPMI's VM protocol"


class VmControlCode(IntEnum):
    """What a control message says; those of the machine are 0x04, 0x08 and 0xFF."""

    NO_ATTENTION = 0x00
    ATTENTION = 0x01
    ATTENTION_IRQ = 0x02
    POWER_OFF = 0x03
    RESET = 0x04
    """From the BMC: reset the machine. From the machine: its interface was reset."""
    ENABLE_IRQ = 0x05
    DISABLE_IRQ = 0x06
    NMI = 0x07
    CAPABILITIES = 0x08
    GRACEFUL_SHUTDOWN = 0x09
    VERSION = 0xFF


_CODES_WITH_VALUE = frozenset((VmControlCode.CAPABILITIES, VmControlCode.VERSION))


class VmCapability(IntFlag):
    """What the machine can be told to do."""

    POWER = 0x01
    RESET = 0x02
    IRQ = 0x04
    NMI = 0x08
    ATTENTION = 0x10
    GRACEFUL_SHUTDOWN = 0x20


ALL_CAPABILITIES = VmCapability(0x3F)

_NEEDED = {
    VmControlCode.NO_ATTENTION: VmCapability.ATTENTION,
    VmControlCode.ATTENTION: VmCapability.ATTENTION,
    VmControlCode.ATTENTION_IRQ: VmCapability.ATTENTION,
    VmControlCode.POWER_OFF: VmCapability.POWER,
    VmControlCode.RESET: VmCapability.RESET,
    VmControlCode.ENABLE_IRQ: VmCapability.IRQ,
    VmControlCode.DISABLE_IRQ: VmCapability.IRQ,
    VmControlCode.NMI: VmCapability.NMI,
    VmControlCode.GRACEFUL_SHUTDOWN: VmCapability.GRACEFUL_SHUTDOWN,
}


class VmRequest(NamedTuple):
    """A request of the machine; `netfn` is even."""

    sequence: int
    netfn: int
    command: int
    data: bytes = b""
    lun: int = 0

    def encode(self) -> bytes:
        """The frame; raises LocalProtocolError for a field out of range."""
        _check_fields((self.sequence, self.command), self.netfn, self.lun, is_response=False)
        head = bytes((self.sequence, self.netfn << 2 | self.lun, self.command))
        return _message_frame(head + self.data)

    @classmethod
    def decode(cls, payload: bytes) -> VmRequest:
        """Read what stood before 0xA0, without escapes; raises RemoteProtocolError."""
        _check_payload(payload, _REQUEST_BYTES_MIN, is_response=False)
        sequence, network, command = payload[:3]
        return cls(sequence, network >> 2, command, payload[3:-1], network & 3)

    def to_message(self) -> RequestMessage:
        """The request as the BMC's command handlers take it."""
        return RequestMessage(self.netfn, self.command, self.data, responder_lun=self.lun)


class VmResponse(NamedTuple):
    """An answer of the BMC; `netfn` is odd."""

    sequence: int
    netfn: int
    command: int
    completion_code: int
    data: bytes = b""
    lun: int = 0

    @classmethod
    def to(cls, request: VmRequest, completion_code: int, data: bytes = b"") -> VmResponse:
        """The answer to a request."""
        return cls(
            request.sequence,
            request.netfn | 1,
            request.command,
            completion_code,
            data,
            request.lun,
        )

    def encode(self) -> bytes:
        """The frame; raises LocalProtocolError for a field out of range."""
        numbers = (self.sequence, self.command, self.completion_code)
        _check_fields(numbers, self.netfn, self.lun, is_response=True)
        network = self.netfn << 2 | self.lun
        head = bytes((self.sequence, network, self.command, self.completion_code))
        return _message_frame(head + self.data)

    @classmethod
    def decode(cls, payload: bytes) -> VmResponse:
        """Read what stood before 0xA0, without escapes; raises RemoteProtocolError."""
        _check_payload(payload, _RESPONSE_BYTES_MIN, is_response=True)
        sequence, network, command, completion_code = payload[:4]
        return cls(sequence, network >> 2, command, completion_code, payload[4:-1], network & 3)


class ControlMessage(NamedTuple):
    """A control message; `value` is the version or the capabilities, None with other codes."""

    code: VmControlCode
    value: int | None = None

    def encode(self) -> bytes:
        """The frame; raises LocalProtocolError when the value is missing or too much."""
        if (self.value is not None) != (self.code in _CODES_WITH_VALUE):
            raise LocalProtocolError(f"{self.code.name} with value {self.value}")
        if self.value is not None and not 0 <= self.value <= 0xFF:
            raise LocalProtocolError(f"a value has 8 bits: {self.value}")
        payload = bytes((self.code,) if self.value is None else (self.code, self.value))
        return escape(payload) + bytes((END_OF_CONTROL,))

    @classmethod
    def decode(cls, payload: bytes) -> ControlMessage:
        """Read what stood before 0xA1, without escapes; raises RemoteProtocolError."""
        try:
            code = VmControlCode(payload[0])
        except (IndexError, ValueError):
            raise RemoteProtocolError("no known control code", section=_SECTION, raw=payload) from (
                None
            )
        expected = 2 if code in _CODES_WITH_VALUE else 1
        if len(payload) != expected:
            raise RemoteProtocolError(
                f"{code.name}: expected {expected} bytes, got {len(payload)}",
                section=_SECTION,
                raw=payload,
            )
        return cls(code, payload[1] if expected > 1 else None)


class DamagedFrame(NamedTuple):
    """A frame that could not be read, and was skipped."""

    error: RemoteProtocolError


def escape(payload: bytes) -> bytes:
    """The bytes as they travel, without the end mark."""
    escaped = bytearray()
    for byte in payload:
        if byte in SPECIAL_BYTES:
            escaped += bytes((ESCAPE, byte | ESCAPED_BIT))
        else:
            escaped.append(byte)
    return bytes(escaped)


class FrameReader:
    """Parts a stream of bytes into frames; holds one unfinished frame at most."""

    __slots__ = ("_fault", "_is_escaped", "_payload")

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._payload = bytearray()
        self._is_escaped = False
        self._fault = ""

    @property
    def buffered_bytes(self) -> int:
        """How much of an unfinished frame is held."""
        return len(self._payload)

    def receive(self, data: bytes) -> Iterator[tuple[int, bytes] | DamagedFrame]:
        """For each frame that ends in `data` its end mark and its bytes without escapes."""
        for byte in data:
            if byte in (END_OF_MESSAGE, END_OF_CONTROL):
                yield self._end(byte)
            elif byte == ESCAPE:
                if self._is_escaped:
                    self._fault = "an escape of an escape"
                self._is_escaped = True
            else:
                self._take(byte)

    def _take(self, byte: int) -> None:
        if self._is_escaped:
            self._is_escaped = False
            if byte & ~ESCAPED_BIT not in SPECIAL_BYTES:
                self._fault = f"an escape of 0x{byte:02x}"
            byte &= ~ESCAPED_BIT
        if len(self._payload) < FRAME_BYTES_MAX:
            self._payload.append(byte)
        else:
            self._fault = f"more than {FRAME_BYTES_MAX} bytes in a frame"

    def _end(self, mark: int) -> tuple[int, bytes] | DamagedFrame:
        fault = "the frame ends in an escape" if self._is_escaped else self._fault
        payload = bytes(self._payload)
        self._start()
        if fault:
            return DamagedFrame(RemoteProtocolError(fault, section=_SECTION, raw=payload))
        return mark, payload


class VmBmc:
    """The BMC's end of one machine, across all connections of that machine.

    A machine has one request at a time: with the next it has given up the one before.
    """

    __slots__ = ("_is_held", "_reader", "capabilities", "unanswered", "version")

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._is_held = False
        self.unanswered: VmRequest | None = None
        """What the machine may still wait for, even where the connection has been lost since."""
        self.version: int | None = None
        self.capabilities = VmCapability(0)

    def connected(self) -> bytes:
        """A connection was made; what to send first."""
        self._reader = FrameReader()
        self.version = None
        self.capabilities = VmCapability(0)
        return ControlMessage(VmControlCode.VERSION, PROTOCOL_VERSION).encode()

    def disconnected(self) -> None:
        """The connection is gone.

        QEMU then answers what is unanswered with 0xD2, but for a request that was held, and for one
        whose sequence number needs an escape: it looks up that number in the escaped frame.
        """
        self.capabilities = VmCapability(0)
        if not self._is_held and self.unanswered and self.unanswered.sequence not in SPECIAL_BYTES:
            self.unanswered = None

    def receive(self, data: bytes) -> Iterator[VmRequest | ControlMessage | DamagedFrame]:
        """What the machine says; each is taken in before it is given out."""
        for frame in self._reader.receive(data):
            if isinstance(frame, DamagedFrame):
                yield frame
                continue
            mark, payload = frame
            event: VmRequest | ControlMessage
            try:
                if mark == END_OF_MESSAGE:
                    event = self.unanswered = VmRequest.decode(payload)
                    self._is_held = False
                else:
                    event = ControlMessage.decode(payload)
            except RemoteProtocolError as error:
                yield DamagedFrame(error)
                continue
            if isinstance(event, ControlMessage):
                self._take_control(event)
            yield event

    def _take_control(self, message: ControlMessage) -> None:
        if message.code is VmControlCode.VERSION:
            self.version = message.value
        elif message.code is VmControlCode.CAPABILITIES:
            self.capabilities = VmCapability(message.value or 0)
        elif message.code is VmControlCode.RESET:
            self.unanswered = None

    def answer(self, request: VmRequest, completion_code: int, data: bytes = b"") -> bytes | None:
        """The answer as a frame; None when the machine no longer waits for it.

        A late answer would do harm: QEMU ignores it, and stops its timer for the request that the
        machine waits for now.
        """
        if request is not self.unanswered:
            return None
        self.unanswered = None
        return VmResponse.to(request, completion_code, data).encode()

    def hold(self) -> bytes | None:
        """What makes the machine wait for ever, with IBF set: an answer to another request.

        QEMU ignores it, but stops the timer with which it would answer by itself.
        """
        if self.unanswered is None or self._is_held:
            return None
        self._is_held = True
        other = self.unanswered._replace(sequence=self.unanswered.sequence ^ 0x80)
        return VmResponse.to(other, CompletionCode.TIMEOUT).encode()

    def release(self, completion_code: int) -> bytes | None:
        """The answer to what is unanswered, so that the machine's interface is free again."""
        if self.unanswered is None:
            return None
        return self.answer(self.unanswered, completion_code)

    def control(self, code: VmControlCode) -> bytes | None:
        """A control message; None when the machine cannot do it."""
        if not self.capabilities & _NEEDED[code]:
            return None
        return ControlMessage(code).encode()


class VmHost:
    """The machine's end as QEMU has it, with its interface behind it.

    The interface takes only the answer to its own request. The timer that answers in the BMC's
    place is apart from it, and any message of the BMC stops it, the right answer or not.
    """

    __slots__ = ("_reader", "capabilities", "sequence", "timer", "waiting")

    def __init__(self, capabilities: VmCapability = ALL_CAPABILITIES) -> None:
        self.capabilities = capabilities
        self.sequence = 0
        """Of the next request."""
        self.timer: float | None = None
        """When `handle_timer` is due."""
        self.waiting: VmRequest | None = None
        """The request that the interface has in hand: IBF is set."""
        self._reader = FrameReader()

    def connected(self) -> bytes:
        """A connection was made; what to send first."""
        self._reader = FrameReader()
        version = ControlMessage(VmControlCode.VERSION, PROTOCOL_VERSION)
        return (
            version.encode()
            + ControlMessage(VmControlCode.CAPABILITIES, self.capabilities).encode()
        )

    def disconnected(self) -> VmResponse | None:
        """The connection is gone; the answer that the interface gets from that."""
        return self._answer_itself(CompletionCode.INITIALIZING)

    def request(self, netfn: int, command: int, data: bytes, now: float, *, lun: int = 0) -> bytes:
        """A request as a frame; raises LocalProtocolError while another one waits."""
        if self.waiting is not None:
            raise LocalProtocolError("one request at a time")
        request = VmRequest(self.sequence, netfn, command, data, lun)
        frame = request.encode()
        self.sequence = (self.sequence + 1) & 0xFF
        self.waiting = request
        self.timer = now + ANSWER_TIMEOUT_S
        return frame

    def receive(self, data: bytes) -> Iterator[VmResponse | ControlMessage | DamagedFrame]:
        """What the BMC says; an answer to another request gives nothing."""
        for frame in self._reader.receive(data):
            if isinstance(frame, DamagedFrame):
                yield frame
                continue
            mark, payload = frame
            try:
                if mark == END_OF_CONTROL:
                    yield ControlMessage.decode(payload)
                    continue
                response = VmResponse.decode(payload)
            except RemoteProtocolError as error:
                yield DamagedFrame(error)
                continue
            self.timer = None
            if self.waiting is not None and response.sequence == self.waiting.sequence:
                self.waiting = None
                yield response

    def handle_timer(self, now: float) -> VmResponse | None:
        """The answer that the interface gets when the BMC took too long."""
        if self.timer is None or now < self.timer:
            return None
        return self._answer_itself(CompletionCode.TIMEOUT)

    def _answer_itself(self, completion_code: int) -> VmResponse | None:
        if self.timer is None or self.waiting is None:
            return None
        self.timer = None
        request = self.waiting
        if request.sequence in SPECIAL_BYTES:
            return None  # QEMU takes the escape for the number, and the interface ignores that
        self.waiting = None
        return VmResponse.to(request, completion_code)


def _check_fields(numbers: tuple[int, ...], netfn: int, lun: int, *, is_response: bool) -> None:
    if not all(0 <= number <= 0xFF for number in numbers):
        raise LocalProtocolError(f"sequence number, command and code have 8 bits: {numbers}")
    if not 0 <= netfn <= 0x3F or bool(netfn & 1) != is_response:
        raise LocalProtocolError(f"a netFn has 6 bits, even in requests: {netfn:#x}")
    if not 0 <= lun <= 3:
        raise LocalProtocolError(f"a LUN has 2 bits: {lun}")


def _message_frame(payload: bytes) -> bytes:
    if len(payload) + 1 > FRAME_BYTES_MAX:
        raise LocalProtocolError(f"a message of {len(payload)} bytes is too long")
    return escape(payload + bytes((checksum(payload),))) + bytes((END_OF_MESSAGE,))


def _check_payload(payload: bytes, bytes_min: int, *, is_response: bool) -> None:
    if len(payload) < bytes_min:
        raise RemoteProtocolError(
            f"expected {bytes_min} bytes or more, got {len(payload)}", section=_SECTION, raw=payload
        )
    if sum(payload) & 0xFF:
        raise RemoteProtocolError("wrong checksum", section=_SECTION, raw=payload)
    if bool(payload[1] & 0x04) != is_response:
        wrong, right = ("request", "response") if is_response else ("response", "request")
        raise RemoteProtocolError(
            f"a {wrong} where a {right} belongs", section=_SECTION, raw=payload
        )
