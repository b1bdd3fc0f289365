"""Session commands: cipher suite records and the forms of a request."""

from __future__ import annotations

import pytest

from bmcmedic.errors import (
    InvalidDataField,
    LocalProtocolError,
    RemoteProtocolError,
)
from bmcmedic.ipmi.commands.session import (
    CipherSuiteRecord,
    CloseSessionReq,
    GetChannelAuthenticationCapabilitiesRsp,
    GetChannelCipherSuitesReq,
    GetSessionInfoReq,
    GetSessionInfoRsp,
    SessionDetail,
    SetSessionPrivilegeLevelReq,
    decode_cipher_suite_records,
    encode_cipher_suite_records,
)
from bmcmedic.ipmi.constants import PrivilegeLevel
from tests.support.vectors import vector

SUITE_3 = CipherSuiteRecord(3, 0x01, (0x01,), (0x01,))
SUITE_17 = CipherSuiteRecord(17, 0x03, (0x04,), (0x01,))


def test_suites_3_and_17() -> None:
    raw = vector("commands", "cipher_suite_records_3_and_17")
    assert decode_cipher_suite_records(raw) == (SUITE_3, SUITE_17)
    assert encode_cipher_suite_records((SUITE_3, SUITE_17)) == raw


def test_a_vendors_suite() -> None:
    raw = vector("commands", "cipher_suite_record_of_a_vendor")
    assert decode_cipher_suite_records(raw) == (CipherSuiteRecord(0x80, 0x01, oem_iana=10876),)


@pytest.mark.parametrize(
    "raw",
    ["03014181", "c0", "c003", "c0034181", "c003010241", "c1807c2a00", "c203014181"],
    ids=["no start", "cut", "no algorithm", "no authentication", "two", "cut vendor", "tag"],
)
def test_broken_cipher_suite_records(raw: str) -> None:
    with pytest.raises(RemoteProtocolError) as broken:
        decode_cipher_suite_records(bytes.fromhex(raw))
    assert broken.value.section == "22.15.1"


def test_a_channel_may_have_no_suites() -> None:
    assert decode_cipher_suite_records(b"") == ()


@pytest.mark.parametrize("length", [8, 9, 12])
def test_capabilities_may_be_padded(length: int) -> None:
    raw = vector("commands", "get_channel_authentication_capabilities_rsp")
    padded = raw.ljust(length, b"\0")
    decode = GetChannelAuthenticationCapabilitiesRsp.decode
    assert decode(padded) == decode(raw)
    with pytest.raises(RemoteProtocolError):
        decode(raw[:7])


def test_an_unknown_level_is_an_invalid_data_field() -> None:
    with pytest.raises(InvalidDataField, match="PrivilegeLevel has no value 0x6"):
        SetSessionPrivilegeLevelReq.decode(b"\x06")
    with pytest.raises(RemoteProtocolError, match="expected 1 bytes, got 2"):
        SetSessionPrivilegeLevelReq.decode(b"\x04\x00")


def test_a_session_is_closed_by_id_or_by_handle() -> None:
    assert CloseSessionReq(0, 5).encode() == b"\0\0\0\0\x05"
    assert CloseSessionReq.decode(b"\0\0\0\0\x05") == CloseSessionReq(0, 5)
    # A handle after an id other than 0 is ignored.
    assert CloseSessionReq.decode(b"\x01\0\0\0\x05") == CloseSessionReq(1)
    with pytest.raises(LocalProtocolError, match="a session handle needs session id 0"):
        CloseSessionReq(1, 5)


def test_three_ways_to_ask_for_a_session() -> None:
    assert GetSessionInfoReq().encode() == b"\0"
    assert GetSessionInfoReq(0xFE, session_handle=7).encode() == b"\xfe\x07"
    assert GetSessionInfoReq(0xFF, session_id=0x01020304).encode() == b"\xff\x04\x03\x02\x01"
    for raw in (b"\xfe", b"\xff\x01", b"\x00\x01", b""):
        with pytest.raises(RemoteProtocolError):
            GetSessionInfoReq.decode(raw)
    for index, handle, session_id in ((0xFE, None, None), (0xFF, None, None), (0, 7, None)):
        with pytest.raises(LocalProtocolError):
            GetSessionInfoReq(index, handle, session_id)
    with pytest.raises(LocalProtocolError):
        GetSessionInfoReq(0, session_id=7)


def test_a_session_over_lan() -> None:
    raw = bytes.fromhex("0110020204110a00000102001122334455" + "6f02")
    info = GetSessionInfoRsp.decode(raw)
    assert info == GetSessionInfoRsp(
        session_handle=1,
        sessions_possible=16,
        sessions_active=2,
        session=SessionDetail(
            user_id=2,
            privilege_level=PrivilegeLevel.ADMINISTRATOR,
            channel=1,
            protocol=1,
            channel_data=bytes.fromhex("0a000001020011223344556f02"),
        ),
    )
    assert info.encode() == raw
    assert GetSessionInfoRsp.decode(raw[:3]).session is None


def test_values_that_do_not_fit_are_local_errors() -> None:
    for index, channel in ((64, 0), (0, 16)):
        with pytest.raises(LocalProtocolError):
            GetChannelCipherSuitesReq(index, channel)
    for suite_id, authentication in ((3, 0x40), (256, 1)):
        with pytest.raises(LocalProtocolError):
            CipherSuiteRecord(suite_id, authentication)
    with pytest.raises(LocalProtocolError):
        CloseSessionReq(1 << 32)
