"""Both sides of KCS wired together: healthy, sick in every known way, and disturbed at random."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from bmcmedic.ipmi import kcs, kcs_bmc, kcs_host
from bmcmedic.ipmi.kcs import STATUS_IBF, STATUS_OBF, TRANSITIONS, ErrorCode, KcsPhase, KcsTrigger
from bmcmedic.ipmi.kcs_bmc import BmcKcs
from bmcmedic.ipmi.kcs_errors import KcsAborted, KcsFault, KcsTimeout, KcsViolation, NothingThere
from bmcmedic.ipmi.kcs_host import HostKcs, KcsAction, KcsLimits
from tests.support.kcs_pair import LIMITS, NEVER, Pair, answer_to, play

EXCHANGES = int(os.environ.get("KCS_EXCHANGES", "50000"))
"""How many the seeded run plays; KCS_EXCHANGES=5000000 is a good night's work."""
SEED = int(os.environ.get("KCS_SEED", "1"))

GET_DEVICE_ID = b"\x18\x01"
COLD_RESET = b"\x18\x02"

BMCS = pytest.mark.parametrize(
    ("dummy", "holds_ibf"), [(True, False), (False, False), (True, True), (False, True)]
)


@BMCS
def test_requests_of_every_length(dummy: bool, holds_ibf: bool) -> None:
    pair = Pair(bmc=BmcKcs(sends_dummy_byte=dummy, holds_ibf=holds_ibf))
    for length in range(2, kcs.MESSAGE_BYTES_MAX):
        request = (b"\x18\x01" + bytes(range(256)) * 2)[:length]
        outcome = pair.exchange(request)
        assert outcome.response == answer_to(request)
        assert outcome.took_s < 0.01
    assert pair.host.recoveries == 0


@BMCS
def test_a_bmc_that_takes_its_time(dummy: bool, holds_ibf: bool) -> None:
    pair = Pair(bmc=BmcKcs(sends_dummy_byte=dummy, holds_ibf=holds_ibf), execute_s=4.5)
    outcome = pair.exchange(GET_DEVICE_ID)
    assert outcome.response == answer_to(GET_DEVICE_ID)
    assert 4.5 <= outcome.took_s < 5.1


# ------------------------------------------------------------------------------------- sick BMCs


@pytest.mark.parametrize(
    ("stuck", "clear", "fault"),
    [
        (STATUS_IBF, 0, KcsFault.IBF_STUCK),
        (STATUS_OBF, 0, KcsFault.OBF_STUCK),
        (0, STATUS_OBF, KcsFault.OBF_MISSING),
        (0xC0, 0, KcsFault.WRONG_STATE),
    ],
)
def test_bits_stuck_for_good_fail_in_time_and_for_a_while_heal(
    stuck: int, clear: int, fault: KcsFault
) -> None:
    pair = Pair(bits_set=stuck, bits_clear=clear, bits_until=NEVER)
    outcome = pair.exchange(GET_DEVICE_ID)
    assert isinstance(outcome.error, KcsTimeout | KcsViolation)
    assert outcome.error.evidence.fault is fault
    assert outcome.error.evidence.recoveries == LIMITS.recoveries_max + 1
    assert outcome.took_s < LIMITS.exchange_s
    pair.bits_until = pair.now + 7
    if fault is KcsFault.WRONG_STATE:
        pair.bits_until = pair.now + 0.25
    healed = pair.exchange(GET_DEVICE_ID)
    assert healed.response == answer_to(GET_DEVICE_ID)
    assert healed.took_s > 0.2


def test_a_hung_bmc_and_its_return() -> None:
    pair = Pair(firmware_back_at=NEVER)
    outcome = pair.exchange(GET_DEVICE_ID)
    assert isinstance(outcome.error, KcsTimeout)
    assert outcome.error.evidence.fault is KcsFault.IBF_STUCK
    assert not outcome.error.evidence.may_have_run
    pair.firmware_back_at = 0.0
    assert pair.exchange(GET_DEVICE_ID).response == answer_to(GET_DEVICE_ID)


def test_a_bmc_that_boots_is_named_so_and_answers_afterwards() -> None:
    pair = Pair(bits_set=0xFF, bits_until=30.0, firmware_back_at=30.0)
    outcome = pair.exchange(GET_DEVICE_ID)
    assert isinstance(outcome.error, NothingThere)
    assert outcome.took_s == pytest.approx(LIMITS.absent_s, abs=0.001)
    pair.now = 31.0
    assert pair.exchange(GET_DEVICE_ID).response == answer_to(GET_DEVICE_ID)


def test_a_bmc_in_the_error_state_for_ever() -> None:
    pair = Pair()
    pair.disturb_in = 1

    def fails(pair: Pair) -> None:
        pair.bmc.fail(ErrorCode.LENGTH)
        pair.disturb_in = 15  # enough for a recovery, too little for the request

    pair.disturb = fails
    outcome = pair.exchange(GET_DEVICE_ID)
    assert isinstance(outcome.error, KcsViolation)
    assert outcome.error.evidence.fault is KcsFault.WRONG_STATE
    pair.disturb_in = 0
    assert pair.exchange(GET_DEVICE_ID).response == answer_to(GET_DEVICE_ID)


def test_the_answer_that_comes_after_its_request_was_given_up_goes_nowhere() -> None:
    pair = Pair(execute_s=3.0)
    gone = pair.exchange(b"\x18\x01old", deadline=2.0)
    assert isinstance(gone.error, KcsTimeout)
    assert gone.error.evidence.fault is KcsFault.EXCHANGE_LIMIT
    assert pair.exchange(b"\x18\x01new").response == b"\x1c\x01\x00new"
    assert pair.executed[b"\x18\x01old"] == 1


def test_a_cold_reset_whose_answer_is_lost_is_sent_once() -> None:
    pair = Pair(respond=lambda _: None)
    outcome = pair.exchange(COLD_RESET, idempotent=False)
    assert isinstance(outcome.error, KcsTimeout)
    assert outcome.error.evidence.may_have_run
    assert outcome.error.evidence.error_code == ErrorCode.ABORTED
    assert outcome.took_s < 6
    assert pair.executed[COLD_RESET] == 1
    assert pair.bmc.phase is KcsPhase.IDLE, "the interface was brought back all the same"
    pair.calm()
    again = pair.exchange(GET_DEVICE_ID)
    assert again.response == answer_to(GET_DEVICE_ID)
    assert again.took_s < 0.01


# ---------------------------------------------------------------------------------------- aborts


def test_a_pat_takes_over_at_every_access_of_an_exchange_and_of_its_recovery() -> None:
    whole = Pair(bmc=BmcKcs())
    whole.bmc.fail()
    accesses = whole.exchange(b"\x18\x01slow").accesses
    assert accesses > 40
    for at in range(1, accesses + 1):
        pair = Pair(bmc=BmcKcs(), disturb_in=at, disturb=lambda pair: pair.host.abort())
        pair.bmc.fail()
        outcome = pair.exchange(b"\x18\x01slow")
        assert isinstance(outcome.error, KcsAborted), at
        pat = pair.exchange(b"\x18\x22pat")
        assert pat.response == b"\x1c\x22\x00pat", at
        assert pat.took_s < 0.01
        assert pair.host.recoveries <= 1


def test_another_host_machine_can_take_over_in_the_middle() -> None:
    pair = Pair()
    accesses = pair.exchange(b"\x18\x01old").accesses
    for at in range(1, accesses):
        pair = Pair()
        action = pair.host.start(b"\x18\x01old", pair.now, idempotent=True)
        pair.disturb_in = at
        pair.disturb = lambda pair: pair.host.abort()
        pair.finish(action, pair.now)
        pair.host = HostKcs(LIMITS)
        assert pair.exchange(b"\x18\x22pat").response == b"\x1c\x22\x00pat"


# ------------------------------------------------------------------------------------- the table


class Recorded(dict[tuple[KcsPhase, KcsTrigger], KcsPhase]):
    """The table, and which of its entries were asked for."""

    def __init__(self, table: Mapping[tuple[KcsPhase, KcsTrigger], KcsPhase]) -> None:
        super().__init__(table)
        self.asked: set[tuple[KcsPhase, KcsTrigger]] = set()

    def __getitem__(self, key: tuple[KcsPhase, KcsTrigger]) -> KcsPhase:
        self.asked.add(key)
        return super().__getitem__(key)


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> tuple[Recorded, Recorded]:
    host, bmc = Recorded(TRANSITIONS), Recorded(TRANSITIONS)
    monkeypatch.setattr(kcs_host, "TRANSITIONS", host)
    monkeypatch.setattr(kcs_bmc, "TRANSITIONS", bmc)
    return host, bmc


def test_both_sides_move_by_the_table_and_the_host_takes_its_part_of_it(
    sides: tuple[Recorded, Recorded],
) -> None:
    host, bmc = sides
    play(7, 4000)
    # A stranger on the ports takes it almost everywhere; its own test takes all of it.
    assert len(bmc.asked) >= len(TRANSITIONS) - 4
    # A host begins where nothing is under way, sends no request of one byte, gives up only where
    # it waits for something, and takes for a restart only an idle interface without a code.
    others = {
        *((phase, KcsTrigger.WRITE_START) for phase in KcsPhase if phase is not KcsPhase.IDLE),
        *((phase, KcsTrigger.GET_STATUS) for phase in KcsPhase if phase is not KcsPhase.ERROR),
        *((phase, KcsTrigger.RESTART) for phase in KcsPhase if phase is not KcsPhase.ABORT_STATUS),
        (KcsPhase.WRITE_START, KcsTrigger.WRITE_END),
        (KcsPhase.ERROR, KcsTrigger.VIOLATION),
    }
    assert host.asked == set(TRANSITIONS) - others


# ------------------------------------------------------------------------------------ at random


def test_disturbed_exchanges_end_in_an_answer_or_an_error_in_time() -> None:
    came_to = play(SEED, EXCHANGES)
    faults = {fault.name for fault in KcsFault if fault is not KcsFault.NONE}
    assert faults <= set(came_to), "a fault that this run never meets"
    assert came_to["ANSWERED"] > EXCHANGES / 4
    assert sum(came_to[name] for name in faults | {"ANSWERED"}) == EXCHANGES


def test_the_default_limits_are_those_of_linux() -> None:
    pair = Pair(host=HostKcs(KcsLimits(poll_s_max=0.5)), firmware_back_at=NEVER)
    outcome = pair.exchange(GET_DEVICE_ID)
    assert outcome.took_s == pytest.approx(55.9, abs=0.1)
    assert pair.host.next_action is KcsAction.FAILED
