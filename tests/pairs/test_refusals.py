"""Refusals by a BMC, and the errors that report them to the operator."""

from __future__ import annotations

import pytest

from bmcmedic.errors import (
    AuthenticationFailed,
    BmcmedicError,
    ConfigurationError,
    NoAnswer,
    RmcpPlusStatusError,
)
from bmcmedic.ipmi.cipher_suites import CIPHER_SUITES
from bmcmedic.ipmi.constants import PrivilegeLevel, RmcpPlusStatus
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.events import ResponseReceived, SessionClosed, SessionFailed, SessionOpened
from bmcmedic.ipmi.managed_system import User
from bmcmedic.ipmi.packet import Packet, PayloadType, decode_datagram
from bmcmedic.ipmi.rakp import OpenSessionResponse, Rakp2, Rakp4
from tests.support.session_pair import PASSWORD, TO_BMC, Pair, make_pair


def failure(pair: Pair) -> BmcmedicError:
    """Return why the session could not be set up."""
    event = pair.open()
    assert isinstance(event, SessionFailed), event
    pair.settle()
    return event.error


def status(pair: Pair) -> tuple[str, int]:
    error = failure(pair)
    assert isinstance(error, RmcpPlusStatusError), error
    return error.message_name, error.status


@pytest.mark.parametrize("suite", [1, 2, 3, 15, 16, 17])
def test_a_wrong_password_is_reported_and_the_bmc_informed(suite: int) -> None:
    pair = make_pair(suites=(suite,), bmc_suites=(suite,), password=b"wrong")
    error = failure(pair)
    assert isinstance(error, AuthenticationFailed)
    assert "wrong password for user 'admin'" in str(error)
    assert pair.managed.session_count == 0, "RAKP 3 with a status frees the slot"


@pytest.mark.parametrize(("kg", "bmc_kg"), [(b"", b"k"), (b"k", b""), (b"k", b"other")])
@pytest.mark.parametrize("suite", [3, 17])
def test_a_wrong_kg_is_not_reported_as_a_wrong_password(
    suite: int, kg: bytes, bmc_kg: bytes
) -> None:
    error = failure(make_pair(suites=(suite,), kg=kg, bmc_kg=bmc_kg))
    assert isinstance(error, AuthenticationFailed)
    assert "password is right" in str(error)
    assert "K_g" in str(error)


def test_an_unknown_user() -> None:
    assert status(make_pair(user="nobody")) == ("RAKP 2", RmcpPlusStatus.UNAUTHORIZED_NAME)


def test_a_privilege_above_the_users_limit() -> None:
    users = (User(2, b"admin", PASSWORD, PrivilegeLevel.USER),)
    pair = make_pair(users=users, privilege=PrivilegeLevel.ADMINISTRATOR)
    assert status(pair) == ("RAKP 2", RmcpPlusStatus.UNAUTHORIZED_ROLE)
    assert pair.managed.session_count == 0


def test_privilege_selects_between_two_accounts_of_one_name_only_if_requested() -> None:
    users = (
        User(2, b"admin", b"for-users", PrivilegeLevel.USER),
        User(3, b"admin", b"for-admins", PrivilegeLevel.ADMINISTRATOR),
    )
    for privilege, password in (
        (PrivilegeLevel.USER, b"for-users"),
        (PrivilegeLevel.ADMINISTRATOR, b"for-admins"),
        (PrivilegeLevel.OPERATOR, b"for-admins"),
    ):
        pair = make_pair(
            users=users, privilege=privilege, password=password, name_only_lookup=False
        )
        assert isinstance(pair.open(), SessionOpened), privilege
    pair = make_pair(users=users, privilege=PrivilegeLevel.ADMINISTRATOR, password=b"for-admins")
    assert status(pair) == ("RAKP 2", RmcpPlusStatus.UNAUTHORIZED_ROLE)
    pair = make_pair(users=users, privilege=PrivilegeLevel.OEM, name_only_lookup=False)
    assert status(pair) == ("RAKP 2", RmcpPlusStatus.UNAUTHORIZED_NAME)


def test_no_free_slot_is_reported_with_advice() -> None:
    first = make_pair(slots=1)
    assert isinstance(first.open(), SessionOpened)
    second = make_pair(seed=2)
    second.managed = first.managed
    error = failure(second)
    assert isinstance(error, RmcpPlusStatusError)
    assert error.status == RmcpPlusStatus.INSUFFICIENT_RESOURCES
    assert "no free session slot" in str(error)
    assert first.close() == SessionClosed()
    third = make_pair(seed=3)
    third.managed = first.managed
    assert isinstance(third.open(), SessionOpened)


def test_a_suite_that_the_bmc_refuses_is_followed_by_the_next() -> None:
    pair = make_pair(bmc_suites=(3,))
    assert pair.open() == SessionOpened(CIPHER_SUITES[3])
    assert isinstance(pair.ask(), ResponseReceived)


def test_no_common_suite_is_reported() -> None:
    error = failure(make_pair(suites=(17, 3), bmc_suites=(1, 2)))
    assert isinstance(error, RmcpPlusStatusError)
    assert (error.message_name, error.status) == ("Open Session", 0x11)
    assert "cipher suite" in str(error)
    assert "--cipher-suite" in str(error)


@pytest.mark.parametrize("code", [0x04, 0x05, 0x06, 0x07, 0x10, 0x11, 0x03])
def test_the_next_suite_is_tried_after_every_kind_of_suite_refusal(code: int) -> None:
    pair = make_pair(bmc_suites=(3,))

    def change(way: str, data: bytes) -> list[bytes]:
        packet = decode_datagram(data)
        assert isinstance(packet, Packet)
        if way != TO_BMC and packet.payload_type == PayloadType.OPEN_SESSION_RESPONSE:
            response = OpenSessionResponse.decode(packet.payload)
            if response.status:
                # As ipmi_sim does: a short refusal with an id of zero.
                short = bytes((response.tag, code, 0, 0, 0, 0, 0, 0))
                return [packet._replace(payload=short).encode()]
        return [data]

    pair.change = change
    event = pair.open()
    if code == 0x03:
        # "Invalid payload type" does not mean that the suite is unsupported.
        assert isinstance(event, SessionFailed)
    else:
        assert event == SessionOpened(CIPHER_SUITES[3])


def test_a_bmc_that_chooses_another_suite_counts_as_a_refusal() -> None:
    pair = make_pair(suites=(17,), bmc_suites=(17, 3))

    def change(way: str, data: bytes) -> list[bytes]:
        packet = decode_datagram(data)
        assert isinstance(packet, Packet)
        if way != TO_BMC and packet.payload_type == PayloadType.OPEN_SESSION_RESPONSE:
            payload = bytearray(packet.payload)
            payload[16], payload[24], payload[32] = 1, 1, 1
            return [packet._replace(payload=bytes(payload)).encode()]
        return [data]

    pair.change = change
    error = failure(pair)
    assert isinstance(error, RmcpPlusStatusError)
    assert "--cipher-suite 3" in str(error)


@pytest.mark.parametrize("code", sorted(set(RmcpPlusStatus) - {RmcpPlusStatus.OK}))
@pytest.mark.parametrize("message", ["Open Session", "RAKP 2", "RAKP 4"])
def test_each_status_is_called_by_its_name(message: str, code: int) -> None:
    answer_type = {
        "Open Session": PayloadType.OPEN_SESSION_RESPONSE,
        "RAKP 2": PayloadType.RAKP_2,
        "RAKP 4": PayloadType.RAKP_4,
    }[message]

    def refusal(tag: int) -> bytes:
        if message == "Open Session":
            return OpenSessionResponse(tag, code, 0, 0).encode()
        return (Rakp2 if message == "RAKP 2" else Rakp4)(tag, code, 0).encode()

    pair = make_pair(suites=(17,))

    def change(way: str, data: bytes) -> list[bytes]:
        packet = decode_datagram(data)
        assert isinstance(packet, Packet)
        if way != TO_BMC and packet.payload_type == answer_type:
            return [packet._replace(payload=refusal(packet.payload[0])).encode()]
        return [data]

    pair.change = change
    error = failure(pair)
    assert isinstance(error, RmcpPlusStatusError)
    assert error.message_name == message
    assert str(error).startswith(f"{message}: ")
    assert f"0x{code:02x}" in str(error)
    assert "reserved" not in str(error)
    assert "\n" not in str(error)


def test_retransmission_slows_down_for_a_bmc_that_answers_a_repeated_rakp_1_afresh() -> None:
    pair = make_pair(suites=(17,))
    late: list[tuple[float, bytes]] = []
    delay_s = 0.4
    inner = pair._arrive_at_bmc

    def arrive(data: bytes) -> None:
        # The BMC keeps no copy of its earlier answer, so each RAKP 1 gets a new random number.
        for slot in pair.managed._slots:
            if slot.session is None:
                slot.rakp1 = None
        inner(data)

    def change(way: str, data: bytes) -> list[bytes]:
        if way == TO_BMC:
            return [data]
        late.append((pair.now + delay_s, data))
        return []

    pair._arrive_at_bmc = arrive  # type: ignore[method-assign]
    pair.change = change
    pair.console.open(pair.now, pair.now + 20)
    while not pair.events:
        timer = pair.console.get_timer()
        if late and (timer is None or late[0][0] <= timer) and not pair.in_flight:
            arrives_at, data = late.pop(0)
            pair.now = max(pair.now, arrives_at)
            event = pair.console.receive_datagram(data, pair.now)
            if event is not None:
                pair.events.append(event)
            for datagram in pair.console.datagrams_to_send():
                pair.put(TO_BMC, datagram)
            continue
        pair.step()
    assert isinstance(pair.events[-1], SessionOpened), pair.events


@pytest.mark.parametrize("code", [0x02, 0x08])
def test_a_lost_rakp_4_restarts_the_set_up(code: int) -> None:
    """RAKP 4 is lost; to a repeated RAKP 3 the BMC answers that it knows no such session."""
    pair = make_pair(suites=(17,))
    seen = 0

    def change(way: str, data: bytes) -> list[bytes]:
        nonlocal seen
        packet = decode_datagram(data)
        assert isinstance(packet, Packet)
        if way == TO_BMC or packet.payload_type != PayloadType.RAKP_4:
            return [data]
        seen += 1
        if seen == 1:
            return []
        if seen == 2:
            return [packet._replace(payload=Rakp4(packet.payload[0], code, 0).encode()).encode()]
        return [data]

    pair.change = change
    assert isinstance(pair.open(), SessionOpened)
    assert seen == 3
    assert isinstance(pair.ask(), ResponseReceived)


def test_a_timeout_reports_what_was_awaited() -> None:
    pair = make_pair()
    pair.change = lambda _way, _data: []
    started_at = pair.now
    error = failure(pair)
    assert isinstance(error, NoAnswer)
    assert "Open Session" in str(error)
    assert pair.now - started_at == pytest.approx(5.0)


def test_set_up_without_progress_gives_up_and_reports_where() -> None:
    pair = make_pair()

    def change(_way: str, data: bytes) -> list[bytes]:
        packet = decode_datagram(data)
        assert isinstance(packet, Packet)
        return [] if packet.payload_type == PayloadType.RAKP_2 else [data]

    pair.change = change
    pair.console.open(pair.now, pair.now + 1000)
    event = pair.run()
    assert isinstance(event, SessionFailed)
    assert "RAKP 1" in str(event.error) or "slot" in str(event.error)
    assert pair.now < 60


@pytest.mark.parametrize(
    ("user", "password", "kg", "message"),
    [
        ("seventeen-byte-na", b"", b"", "user name"),
        ("ä" * 9, b"", b"", "user name"),
        ("admin", b"x" * 21, b"", "password"),
        ("admin", b"", b"x" * 21, "K_g"),
    ],
)
def test_credentials_that_are_too_long_are_refused(
    user: str, password: bytes, kg: bytes, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        Credentials(user, password, kg)
    assert "xxx" not in str(raised.value)


def test_a_user_name_that_is_not_utf_8_is_sent_unchanged() -> None:
    assert Credentials(b"adm\xffn".decode(errors="surrogateescape"), b"").user_name == b"adm\xffn"
