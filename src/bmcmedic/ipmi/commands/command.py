"""The base of every command module: the `Command` class and the checks of lengths and values.

A command is a request `…Req`, which is a `Command`, and a response `…Rsp`, which is a
`ResponseBody`. Their `encode` and `decode` are documented here, and in a command module only where
they do more. A class's docstring gives the section of the specification and the shape of its data.
"""

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
    """The data of a response, without its completion code."""

    def encode(self) -> bytes:
        """Return the response data as the managed system sends it."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode response data.

        Raises: RemoteProtocolError for a wrong length or a value that the specification reserves.
        """


R_co = TypeVar("R_co", covariant=True)
E = TypeVar("E", bound=IntEnum)


class Command(Generic[R_co]):
    """The base class of every `…Req`.

    A subclass is a frozen dataclass: its class attributes identify the command, and its fields are
    the request data. A command without request data defines only the class attributes. `R_co` is
    the type of the response, which `exchange()` returns.
    """

    __slots__ = ()

    section: ClassVar[str]
    netfn: ClassVar[NetFn]
    command: ClassVar[int]
    response: ClassVar[type[Any]]
    privilege: ClassVar[PrivilegeLevel] = PrivilegeLevel.USER
    """Lowest privilege level that may send the command (appendix G)."""
    sessionless: ClassVar[bool] = False
    """Whether the command is also allowed outside of a session (appendix G)."""
    idempotent: ClassVar[bool] = True
    """Whether the request may be sent again when no answer came; a cold reset must not."""
    completion_codes: ClassVar[Mapping[int, str]] = {}
    """The command-specific completion codes, 0x80 to 0xBE, with their meanings."""

    def encode(self) -> bytes:
        """Return the request data."""
        return b""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode request data.

        Raises: RemoteProtocolError for a wrong length; InvalidDataField, which is one, for a value
        that the command does not define.
        """
        check_length(data, 0, section=cls.section)
        return cls()

    @classmethod
    def decode_response(cls, completion_code: int, data: bytes) -> R_co:
        """Return the decoded body of a response.

        Raises: CompletionCodeError for a completion code other than 0; RemoteProtocolError for data
        that cannot be decoded.
        """
        if completion_code:
            raise cls.completion_code_error(completion_code)
        body: R_co = cls.response.decode(data)
        return body

    @classmethod
    def completion_code_error(cls, code: int) -> CompletionCodeError:
        """Return the error that stands for a completion code of this command."""
        meaning = cls.completion_codes.get(code) or completion_code_text(code)
        return CompletionCodeError(
            cls.__name__.removesuffix("Req"),
            code,
            meaning,
            is_temporary=completion_code_is_temporary(code),
        )


@dataclass(frozen=True, slots=True)
class EmptyRsp:
    """A response without data, only a completion code.

    Field: some BMCs pad it with a byte or two, which are ignored.
    """

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, data: bytes) -> EmptyRsp:
        check_length(data, 0, PADDING_BYTES_MAX, section="5.2")
        return cls()


PADDING_BYTES_MAX = 4
"""Most bytes that a response may carry beyond the specification's length and still be accepted."""


def check_length(data: bytes, minimum: int, maximum: int | None = None, *, section: str) -> None:
    """Raise RemoteProtocolError unless `minimum <= len(data) <= maximum`.

    `maximum` defaults to `minimum`. A response that may carry more data than is read passes its own
    maximum.
    """
    limit = minimum if maximum is None else maximum
    if minimum <= len(data) <= limit:
        return
    wanted = f"{minimum}" if limit == minimum else f"{minimum} to {limit}"
    raise RemoteProtocolError(
        f"expected {wanted} bytes, got {len(data)}", section=section, raw=data
    )


def read_enum(kind: type[E], value: int, *, section: str, raw: bytes) -> E:
    """Return the member of `kind` for a field's value.

    Raises: InvalidDataField for a value that `kind` does not have.
    """
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
