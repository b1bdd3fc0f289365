"""The watchdog timer: invalid requests, reports that must decode, and setting it again."""

from __future__ import annotations

import pytest

from bmcmedic.errors import (
    CompletionCodeError,
    InvalidDataField,
    LocalProtocolError,
    RemoteProtocolError,
)
from bmcmedic.ipmi.commands.watchdog import (
    COUNTDOWN_S_MAX,
    UNINITIALIZED,
    ExpirationFlags,
    GetWatchdogTimerRsp,
    PretimeoutInterrupt,
    ResetWatchdogTimerReq,
    SetWatchdogTimerReq,
    TimeoutAction,
    TimerUse,
    salvage_timer,
)
from bmcmedic.ipmi.constants import PrivilegeLevel


def setting(countdown_s: float, pretimeout_s: int = 0) -> SetWatchdogTimerReq:
    return SetWatchdogTimerReq(
        use=TimerUse.SMS_OS,
        action=TimeoutAction.HARD_RESET,
        initial_countdown_s=countdown_s,
        pretimeout_interrupt=PretimeoutInterrupt.NMI,
        pretimeout_interval_s=pretimeout_s,
    )


def test_the_longest_countdown_is_all_ones() -> None:
    assert setting(COUNTDOWN_S_MAX).encode()[4:] == b"\xff\xff"
    assert setting(0.0).encode()[4:] == b"\x00\x00"


def test_the_countdown_is_rounded_to_tenths() -> None:
    assert setting(0.26).encode()[4:] == b"\x03\x00"


@pytest.mark.parametrize("countdown_s", [-0.1, 6553.6, 10_000.0, float("nan"), float("inf")])
def test_a_countdown_that_does_not_fit_is_a_local_error(countdown_s: float) -> None:
    with pytest.raises(LocalProtocolError, match="countdown is 0 to"):
        setting(countdown_s)


@pytest.mark.parametrize(("countdown_s", "pretimeout_s"), [(60.0, 60), (60.0, 61), (0.0, 1)])
def test_a_pretimeout_fits_into_the_countdown(countdown_s: float, pretimeout_s: int) -> None:
    with pytest.raises(LocalProtocolError, match="does not fit"):
        setting(countdown_s, pretimeout_s)
    assert setting(countdown_s, 0).pretimeout_interval_s == 0


def test_a_pretimeout_has_a_byte() -> None:
    with pytest.raises(LocalProtocolError, match="0 to 255"):
        setting(600.0, 256)


def test_the_reserved_use_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="reserved"):
        SetWatchdogTimerReq(TimerUse.UNSPECIFIED, TimeoutAction.NONE, 60.0)


@pytest.mark.parametrize(
    "raw",
    [
        "000100005802",  # use 0
        "060100005802",  # use 6
        "040500005802",  # action 5
        "044100005802",  # pretimeout interrupt 4
        "0401ff00b400",  # pretimeout of 255 s in a countdown of 18 s
    ],
)
def test_an_impossible_request_of_a_peer_is_a_remote_error(raw: str) -> None:
    with pytest.raises(InvalidDataField) as broken:
        SetWatchdogTimerReq.decode(bytes.fromhex(raw))
    assert broken.value.section == "27.6"


@pytest.mark.parametrize("length", [0, 5, 7])
def test_a_set_request_has_6_bytes(length: int) -> None:
    with pytest.raises(RemoteProtocolError, match="expected 6 bytes") as broken:
        SetWatchdogTimerReq.decode(bytes(length))
    assert not isinstance(broken.value, InvalidDataField)


def test_a_timer_that_was_never_set_can_be_decoded() -> None:
    timer = GetWatchdogTimerRsp.decode(bytes(8))
    assert not timer.running
    assert timer.use is TimerUse.UNSPECIFIED
    assert timer.expiration_flags == ExpirationFlags(0)


def test_a_stopped_timer_may_lack_its_present_countdown() -> None:
    timer = GetWatchdogTimerRsp.decode(bytes.fromhex("040105005802"))
    assert not timer.running
    assert timer.action is TimeoutAction.HARD_RESET
    assert (timer.initial_countdown_s, timer.present_countdown_s) == (60.0, 60.0)


def test_a_running_timer_must_have_a_present_countdown() -> None:
    with pytest.raises(RemoteProtocolError, match="expected 8 to 12 bytes, got 6"):
        GetWatchdogTimerRsp.decode(bytes.fromhex("440105005802"))
    with pytest.raises(RemoteProtocolError, match="expected 8 to 12 bytes, got 7"):
        GetWatchdogTimerRsp.decode(bytes.fromhex("04010500580200"))


def test_a_timer_is_set_again_as_it_was_reported() -> None:
    timer = GetWatchdogTimerRsp.decode(bytes.fromhex("c4310a10580219 02".replace(" ", "")))
    assert timer.running
    request = timer.set_request()
    # Stopped, because "don't stop" is left out; the expiration flags are not cleared.
    assert request.encode().hex() == "84310a005802"
    assert timer.set_request(dont_stop=True).encode().hex() == "c4310a005802"


def test_a_timer_is_lengthened_or_disarmed() -> None:
    timer = GetWatchdogTimerRsp.decode(bytes.fromhex("44010a0058021902"))
    lengthened = timer.set_request(initial_countdown_s=900.0, dont_stop=True)
    assert lengthened.initial_countdown_s == 900.0
    assert lengthened.action is TimeoutAction.HARD_RESET
    assert lengthened.pretimeout_interval_s == 10
    disarmed = timer.set_request(action=TimeoutAction.NONE)
    assert disarmed.action is TimeoutAction.NONE
    assert not disarmed.dont_stop


def test_a_timer_with_impossible_values_can_still_be_set_again() -> None:
    # Use 0, and a pretimeout of 255 s in a countdown of 60 s.
    timer = GetWatchdogTimerRsp.decode(bytes.fromhex("4021ff0058025802"))
    request = timer.set_request()
    assert request.use is TimerUse.SMS_OS
    assert request.pretimeout_interval_s == 0
    assert request.pretimeout_interrupt is timer.pretimeout_interrupt is PretimeoutInterrupt.NMI
    assert request.initial_countdown_s == 60.0


def test_a_reset_before_any_set_has_a_completion_code_of_its_own() -> None:
    with pytest.raises(CompletionCodeError, match="never set") as refusal:
        ResetWatchdogTimerReq.decode_response(UNINITIALIZED, b"")
    assert refusal.value.code == 0x80
    assert not refusal.value.is_temporary


def test_setting_and_starting_require_operator_level() -> None:
    assert SetWatchdogTimerReq.privilege is PrivilegeLevel.OPERATOR
    assert ResetWatchdogTimerReq.privilege is PrivilegeLevel.OPERATOR


def test_actions_are_named_as_the_output_names_them() -> None:
    assert [action.text for action in TimeoutAction] == [
        "none",
        "hard reset",
        "power down",
        "power cycle",
    ]


RUNNING = bytes.fromhex("4431050058021902")


@pytest.mark.parametrize("length", range(1, 20))
@pytest.mark.parametrize("running", [True, False])
def test_the_running_bit_is_read_from_a_response_of_any_length(length: int, running: bool) -> None:
    data = (RUNNING + bytes(12))[:length]
    data = bytes((data[0] if running else data[0] & ~0x40,)) + data[1:]
    salvaged = salvage_timer(data)
    assert salvaged is not None
    assert salvaged.timer.running is running
    assert salvaged.settings_known is (length >= 6)
    assert salvaged.countdown_known is (length >= 8)
    assert salvaged.timer.action is TimeoutAction.HARD_RESET
    assert salvaged.timer.set_request(initial_countdown_s=600.0).encode()[4:] == b"\x70\x17"
    if length >= 6:
        assert salvaged.timer.set_request(dont_stop=True).encode().hex() == "443105005802"


def test_an_empty_response_shows_nothing() -> None:
    assert salvage_timer(b"") is None


@pytest.mark.parametrize("use", range(8))
@pytest.mark.parametrize("action", [*range(8), 0x40, 0x55, 0x72])
def test_reserved_values_never_hide_the_running_bit(use: int, action: int) -> None:
    data = bytes((0x40 | use, action)) + RUNNING[2:]
    salvaged = salvage_timer(data)
    assert salvaged is not None
    assert salvaged.timer.running
    assert salvaged.timer.encode() == data
    sent = salvaged.timer.set_request(initial_countdown_s=600.0).encode()
    assert sent[:2] == bytes((use or TimerUse.SMS_OS, action))
    assert (salvaged.timer.action in list(TimeoutAction)) is (action & 7 <= 3)
    assert salvaged.timer.action.text


def test_whole_responses_are_salvaged_as_they_are_decoded() -> None:
    salvaged = salvage_timer(RUNNING)
    assert salvaged is not None
    assert salvaged.timer == GetWatchdogTimerRsp.decode(RUNNING)
