"""The shape of a command: lengths, completion codes and required privilege levels."""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import iter_modules

import pytest

from bmcmedic.errors import CompletionCodeError, LocalProtocolError, RemoteProtocolError
from bmcmedic.ipmi import commands
from bmcmedic.ipmi.commands.chassis import GetChassisStatusReq
from bmcmedic.ipmi.commands.command import (
    PADDING_BYTES_MAX,
    EmptyRsp,
    check_length,
    require_length,
    require_range,
)
from bmcmedic.ipmi.commands.device import ColdResetReq, GetDeviceIdReq, WarmResetReq
from bmcmedic.ipmi.commands.registry import COMMANDS
from bmcmedic.ipmi.constants import CompletionCode, PrivilegeLevel


def test_a_refusal_names_the_command_its_code_and_its_meaning() -> None:
    with pytest.raises(CompletionCodeError) as refusal:
        ColdResetReq.decode_response(CompletionCode.INSUFFICIENT_PRIVILEGE, b"")
    assert str(refusal.value) == "ColdReset: insufficient privilege level (completion code 0xd4)"
    assert not refusal.value.is_temporary


def test_busy_is_temporary() -> None:
    assert GetDeviceIdReq.completion_code_error(CompletionCode.NODE_BUSY).is_temporary


def test_data_after_an_error_code_is_not_decoded() -> None:
    with pytest.raises(CompletionCodeError):
        GetChassisStatusReq.decode_response(0xC1, b"\xff" * 40)


def test_a_wrong_length_is_reported_with_the_expected_one() -> None:
    with pytest.raises(RemoteProtocolError, match=r"expected 3 bytes, got 2 \(.*20\.1; 01 02\)"):
        check_length(b"\x01\x02", 3, section="20.1")
    with pytest.raises(RemoteProtocolError, match="expected 0 to 1 bytes, got 2"):
        check_length(b"\x01\x02", 0, 1, section="20.1")
    check_length(b"\x01\x02", 0, 2, section="20.1")


def test_a_request_without_data_takes_none() -> None:
    assert GetDeviceIdReq.decode(b"") == GetDeviceIdReq()
    with pytest.raises(RemoteProtocolError, match="expected 0 bytes, got 1"):
        GetDeviceIdReq.decode(b"\x00")


def test_an_empty_response_may_be_padded() -> None:
    assert EmptyRsp.decode(bytes(PADDING_BYTES_MAX)) == EmptyRsp()
    with pytest.raises(RemoteProtocolError):
        EmptyRsp.decode(bytes(PADDING_BYTES_MAX + 1))


def test_values_of_an_outgoing_message_are_checked() -> None:
    require_range("a nibble", 15, 15)
    require_length("a pair", b"ab", 2, 2)
    with pytest.raises(LocalProtocolError, match="a nibble is 0 to 15: 16"):
        require_range("a nibble", 16, 15)
    with pytest.raises(LocalProtocolError, match="a pair has 2 to 2 bytes: 1"):
        require_length("a pair", b"a", 2, 2)


def test_commands_that_must_not_be_repeated_are_not_idempotent() -> None:
    not_idempotent = {command.__name__ for command in COMMANDS.values() if not command.idempotent}
    assert not_idempotent == {
        "AddSelEntryReq",
        "ChassisControlReq",
        "ClearSelReq",
        "ColdResetReq",
        "GetMessageReq",
        "SendMessageReq",
        "WarmResetReq",
    }


def test_only_commands_that_prepare_a_session_are_sessionless() -> None:
    sessionless = {command.__name__ for command in COMMANDS.values() if command.sessionless}
    assert sessionless == {
        "GetChannelAuthenticationCapabilitiesReq",
        "GetChannelCipherSuitesReq",
        "GetSystemGuidReq",
    }


def test_user_level_may_read_but_not_change() -> None:
    assert GetChassisStatusReq.privilege is PrivilegeLevel.USER
    assert GetDeviceIdReq.privilege is PrivilegeLevel.USER
    assert ColdResetReq.privilege is PrivilegeLevel.ADMINISTRATOR
    assert WarmResetReq.privilege is PrivilegeLevel.ADMINISTRATOR
    changing = ("Set", "Clear", "Add", "Cold", "Warm", "ChassisControl", "ResetWatchdog")
    for command in COMMANDS.values():
        if command.__name__.startswith(changing) and "SessionPrivilege" not in command.__name__:
            assert command.privilege >= PrivilegeLevel.OPERATOR, command.__name__


def test_public_methods_other_than_encode_and_decode_have_docstrings() -> None:
    undocumented = []
    for module in iter_modules(commands.__path__, f"{commands.__name__}."):
        for owner in vars(import_module(module.name)).values():
            if not inspect.isclass(owner) or owner.__module__ != module.name:
                continue
            for name, member in vars(owner).items():
                function = getattr(member, "__func__", getattr(member, "fget", member))
                is_public_method = inspect.isfunction(function) and not name.startswith("_")
                if is_public_method and name not in {"encode", "decode"} and not function.__doc__:
                    undocumented.append(f"{owner.__qualname__}.{name}")
    assert not undocumented
