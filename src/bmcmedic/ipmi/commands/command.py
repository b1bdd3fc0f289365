"""What every command module builds on: the shape of a command and the checks of its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from bmcmedic.errors import (
    CompletionCodeError,
    InvalidDataField,
    LocalProtocolError,
    RemoteProtocolError,
)
from bmcmedic.ipmi.constants import (
    NetFn,
    PrivilegeLevel,
    completion_code_is_temporary,
    completion_code_text,
)


class ResponseBody(Protocol):
    """The data of a response, after its completion code."""

    def encode(self) -> bytes:
        """The bytes as the managed system sends them."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read them as the remote console does; raises RemoteProtocolError."""


R_co = TypeVar("R_co", covariant=True)
E = TypeVar("E", bound=IntEnum)


class Command(Generic[R_co]):
    """Base of every `…Req`: its numbers are class attributes, its fields the request's data.

    Subclasses are frozen dataclasses; a command without request data needs only the class
    attributes. `R_co` is the response's type, for `exchange()` to return.
    """

    __slots__ = ()

    section: ClassVar[str]
    netfn: ClassVar[NetFn]
    command: ClassVar[int]
    response: ClassVar[type[Any]]
    privilege: ClassVar[PrivilegeLevel] = PrivilegeLevel.USER
    """The lowest level that may send it (appendix G)."""
    sessionless: ClassVar[bool] = False
    """Whether it may also come outside of a session (appendix G)."""
    idempotent: ClassVar[bool] = True
    """Whether it may be sent again when no answer came; a cold reset may not."""
    completion_codes: ClassVar[Mapping[int, str]] = {}
    """Command-specific completion codes, 0x80 to 0xBE."""

    def encode(self) -> bytes:
        """The request's data bytes."""
        return b""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the request's data; raises RemoteProtocolError."""
        check_length(data, 0, section=cls.section)
        return cls()

    @classmethod
    def decode_response(cls, completion_code: int, data: bytes) -> R_co:
        """Read a response: its body, or CompletionCodeError, or RemoteProtocolError."""
        if completion_code:
            raise cls.completion_code_error(completion_code)
        body: R_co = cls.response.decode(data)
        return body

    @classmethod
    def completion_code_error(cls, code: int) -> CompletionCodeError:
        """The error that a completion code means for this command."""
        meaning = cls.completion_codes.get(code) or completion_code_text(code)
        return CompletionCodeError(
            cls.__name__.removesuffix("Req"),
            code,
            meaning,
            is_temporary=completion_code_is_temporary(code),
        )


@dataclass(frozen=True, slots=True)
class EmptyRsp:
    """A response that is its completion code alone.

    Field: some BMCs pad it with a byte or two, which are ignored.
    """

    def encode(self) -> bytes:
        """No data."""
        return b""

    @classmethod
    def decode(cls, data: bytes) -> EmptyRsp:
        """Read the data bytes; raises RemoteProtocolError."""
        check_length(data, 0, PADDING_BYTES_MAX, section="5.2")
        return cls()


PADDING_BYTES_MAX = 4
"""How many bytes more than the specification's a response may carry before it is called broken."""


def check_length(data: bytes, minimum: int, maximum: int | None = None, *, section: str) -> None:
    """Raise RemoteProtocolError unless `minimum <= len(data) <= maximum`.

    `maximum` defaults to `minimum`; a response that may carry more than is read passes its own.
    """
    limit = minimum if maximum is None else maximum
    if minimum <= len(data) <= limit:
        return
    wanted = f"{minimum}" if limit == minimum else f"{minimum} to {limit}"
    raise RemoteProtocolError(
        f"expected {wanted} bytes, got {len(data)}", section=section, raw=data
    )


def read_enum(kind: type[E], value: int, *, section: str, raw: bytes) -> E:
    """The member of `kind` that a field holds; raises InvalidDataField for a reserved value."""
    try:
        return kind(value)
    except ValueError:
        raise InvalidDataField(
            f"{kind.__name__} has no value {value:#x}", section=section, raw=raw
        ) from None


def require_range(name: str, value: int, maximum: int, minimum: int = 0) -> None:
    """Raise LocalProtocolError unless `minimum <= value <= maximum`."""
    if not minimum <= value <= maximum:
        raise LocalProtocolError(f"{name} is {minimum} to {maximum}: {value}")


def require_length(name: str, value: bytes, maximum: int, minimum: int = 0) -> None:
    """Raise LocalProtocolError unless `value` has `minimum` to `maximum` bytes."""
    if not minimum <= len(value) <= maximum:
        raise LocalProtocolError(f"{name} has {minimum} to {maximum} bytes: {len(value)}")
