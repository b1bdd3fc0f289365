"""KCS: each side alone, against registers that the test simulates."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterable

import pytest

from bmcmedic.errors import LocalProtocolError, NoAnswer, RemoteProtocolError, TransportError
from bmcmedic.ipmi.kcs import (
    INTERFACE_STATE,
    MESSAGE_BYTES_MAX,
    STATUS_IBF,
    STATUS_OBF,
    STATUS_SMS_ATN,
    STATUS_STATE,
    TRANSITIONS,
    ErrorCode,
    InterfaceState,
    KcsControlCode,
    KcsPhase,
    KcsRegisters,
    KcsTrigger,
)
from bmcmedic.ipmi.kcs_bmc import BmcKcs, KcsEvent
from bmcmedic.ipmi.kcs_errors import KcsAborted, KcsFault, KcsTimeout, KcsViolation, NothingThere
from bmcmedic.ipmi.kcs_host import HostKcs, KcsAction, KcsLimits

GET_DEVICE_ID = b"\x18\x01"
ANSWER = b"\x1c\x01\x00\x20\x81"
IDLE, READ, WRITE, ERROR = (int(state) for state in InterfaceState)


# ------------------------------------------------------------------------------------- the table


def test_the_table_is_complete() -> None:
    assert set(INTERFACE_STATE) == set(KcsPhase)
    assert {phase for phase, _ in TRANSITIONS} == set(KcsPhase)
    assert set(TRANSITIONS.values()) == set(KcsPhase)
    assert {trigger for _, trigger in TRANSITIONS} == set(KcsTrigger)
    assert len(TRANSITIONS) == 10 + 4 * len(KcsPhase)


def test_the_host_can_always_start_over() -> None:
    for phase in KcsPhase:
        assert TRANSITIONS[phase, KcsTrigger.WRITE_START] is KcsPhase.WRITE_START
        assert TRANSITIONS[phase, KcsTrigger.GET_STATUS] is KcsPhase.ABORT_REQUESTED


# ------------------------------------------------------------------------- the host, line by line


class Script:
    """Plays a dialogue: the host's actions, each with the byte that it reads or writes."""

    def __init__(self, host: HostKcs, action: KcsAction) -> None:
        self.host, self.action, self.now = host, action, 0.0

    @property
    def failed(self) -> bool:
        return self.action is KcsAction.FAILED

    def plays(self, *lines: tuple[KcsAction, int]) -> Script:
        for number, (action, value) in enumerate(lines):
            self.now += 1e-6
            while self.action is KcsAction.WAIT:
                self.now = self.host.not_before
                self.action = self.host.step(self.now)
            assert self.action is action, (
                f"line {number}: {self.action.name} at {self.host.phase.name}"
            )
            if action in {KcsAction.READ_STATUS, KcsAction.READ_DATA}:
                self.action = self.host.step(self.now, value)
            else:
                assert self.host.byte == value, f"line {number}"
                self.action = self.host.step(self.now)
        return self

    def reads_status_until_failed(self, status: int) -> float:
        """Answer status reads with `status`, data reads with 0; return the time of the failure."""
        while not self.failed:
            self.now += 1e-6
            if self.action is KcsAction.WAIT:
                self.now = self.host.not_before
                self.action = self.host.step(self.now)
            elif self.action is KcsAction.READ_STATUS:
                self.action = self.host.step(self.now, status)
            elif self.action is KcsAction.READ_DATA:
                self.action = self.host.step(self.now, 0)
            else:
                self.action = self.host.step(self.now)
        return self.now


def started(
    request: bytes = GET_DEVICE_ID, *, idempotent: bool = True, limits: KcsLimits | None = None
) -> Script:
    host = HostKcs(limits or KcsLimits(poll_s_max=0.5))
    return Script(host, host.start(request, 0.0, idempotent=idempotent))


def status(value: int) -> tuple[KcsAction, int]:
    return KcsAction.READ_STATUS, value


def data(value: int) -> tuple[KcsAction, int]:
    return KcsAction.READ_DATA, value


def byte(value: int) -> tuple[KcsAction, int]:
    return KcsAction.WRITE_DATA, value


def command(value: int) -> tuple[KcsAction, int]:
    return KcsAction.WRITE_COMMAND, value


WRITTEN = (
    status(IDLE), command(0x61), status(WRITE), byte(0x18), status(WRITE),
    command(0x62), status(WRITE), byte(0x01),
)  # fmt: skip
FIRST_BYTES = (
    status(READ | STATUS_OBF), data(0x1C), byte(0x68),
    status(READ | STATUS_OBF), data(0x01), byte(0x68),
    status(READ | STATUS_OBF), data(0x00), byte(0x68),
)  # fmt: skip
RECOVERED = (
    command(0x60), status(WRITE), byte(0x00), status(READ | STATUS_OBF), data(0x02), byte(0x68),
)  # fmt: skip


def test_an_exchange_byte_by_byte() -> None:
    script = started().plays(*WRITTEN, *FIRST_BYTES, status(IDLE | STATUS_OBF), data(0x00))
    assert script.action is KcsAction.DONE
    assert script.host.response() == b"\x1c\x01\x00"
    assert script.now < 1e-4


def test_a_dummy_byte_that_never_comes_is_not_waited_for() -> None:
    script = started().plays(*WRITTEN, *FIRST_BYTES, status(IDLE))
    assert script.action is KcsAction.DONE
    assert script.now < 1e-4


def test_a_dummy_byte_that_comes_late_is_no_part_of_the_next_response() -> None:
    script = started().plays(*WRITTEN, *FIRST_BYTES, status(IDLE))
    script.action = script.host.start(GET_DEVICE_ID, script.now, idempotent=True)
    script.plays(
        status(STATUS_OBF), data(0xAA), *WRITTEN[:2], status(WRITE | STATUS_OBF), data(0xAA),
        *WRITTEN[2:], *FIRST_BYTES, status(IDLE),
    )  # fmt: skip
    assert script.host.response() == b"\x1c\x01\x00"


def test_it_waits_for_ibf_and_obf_ever_longer() -> None:
    limits = KcsLimits(poll_s_min=0.001, poll_s_max=0.004)
    host = HostKcs(limits)
    host.start(GET_DEVICE_ID, 10.0, idempotent=True)
    waits = []
    now = 10.0
    for _ in range(4):
        assert host.step(now, STATUS_IBF) is KcsAction.WAIT
        assert host.step(now) is KcsAction.WAIT, "called too early"
        waits.append(host.not_before - now)
        now = host.not_before
        assert host.step(now) is KcsAction.READ_STATUS
    assert waits == pytest.approx([0.001, 0.002, 0.004, 0.004])


def test_ibf_stuck_ends_after_eleven_waits_with_evidence() -> None:
    script = started()
    took_s = script.reads_status_until_failed(WRITE | STATUS_IBF)
    assert took_s == pytest.approx(55.9, abs=0.01)
    error = script.host.error()
    assert isinstance(error, NoAnswer)
    assert isinstance(error, KcsTimeout)
    assert error.evidence.fault is KcsFault.IBF_STUCK
    assert error.evidence.status == WRITE | STATUS_IBF
    assert error.evidence.recoveries == 11
    assert not error.evidence.may_have_run
    assert "IBF stays set, while waiting for GET_STATUS/ABORT to be taken (status 0x82;" in str(
        error
    )


def test_ibf_stuck_is_cured_by_writing_in_any_case() -> None:
    script = started().plays(*WRITTEN[:2])
    while script.host.phase is not KcsPhase.ABORT_REQUESTED:
        script.plays(status(STATUS_IBF))
        assert script.now < 6
        if script.action is KcsAction.WRITE_COMMAND:
            break
    assert script.now == pytest.approx(5.0, abs=0.01)
    # The byte has woken the BMC: the request is sent again from the start, and answered.
    script.plays(*RECOVERED, *WRITTEN, *FIRST_BYTES, status(IDLE))
    assert script.action is KcsAction.DONE
    assert script.host.error_code == ErrorCode.ILLEGAL_CONTROL_CODE


def test_obf_stuck_is_read_until_its_limit_and_reported() -> None:
    script = started(limits=KcsLimits(recoveries_max=0, poll_s_max=0.5))
    assert script.reads_status_until_failed(IDLE | STATUS_OBF) == pytest.approx(5.0, abs=0.01)
    error = script.host.error()
    assert isinstance(error, KcsTimeout)
    assert error.evidence.fault is KcsFault.OBF_STUCK


def test_no_response_ends_after_its_time_and_may_have_run() -> None:
    script = started(limits=KcsLimits(recoveries_max=0, poll_s_max=0.5)).plays(*WRITTEN)
    assert script.reads_status_until_failed(READ) == pytest.approx(5.0, abs=0.01)
    error = script.host.error()
    assert isinstance(error, KcsTimeout)
    assert error.evidence.fault is KcsFault.OBF_MISSING
    assert error.evidence.waited_for == "the response"
    assert error.evidence.may_have_run


def test_ibf_that_comes_and_goes_does_not_wind_the_time_back() -> None:
    script = started(limits=KcsLimits(recoveries_max=0, poll_s_max=0.5)).plays(*WRITTEN)
    while not script.failed:
        script.plays(status(READ))
        if not script.failed:
            script.plays(status(READ | STATUS_IBF))
        assert script.now < 10.1
    assert script.host.fault in {KcsFault.OBF_MISSING, KcsFault.IBF_STUCK}


@pytest.mark.parametrize("phase", ["start", "middle"])
def test_nothing_is_written_to_an_absent_bmc(phase: str) -> None:
    script = started()
    if phase == "middle":
        script.plays(*WRITTEN[:3], byte(0x18))
    assert script.reads_status_until_failed(0xFF) == pytest.approx(0.5, abs=0.01)
    error = script.host.error()
    assert isinstance(error, NothingThere)
    assert error.evidence.status == 0xFF
    assert not script.host.wants_attention


def test_nothing_is_written_to_an_absent_bmc_even_after_the_ibf_limit() -> None:
    script = started()
    while script.host.phase is not KcsPhase.ERROR:
        script.plays(status(STATUS_IBF))
    assert script.now >= 5.0
    found_at = script.now
    while not script.failed:
        script.plays(status(0xFF))
    assert script.now - found_at == pytest.approx(0.5, abs=0.01)
    assert isinstance(script.host.error(), NothingThere)


def test_0xff_for_a_moment_at_the_start_is_waited_out() -> None:
    script = started().plays(
        status(0xFF), status(0xFF), *WRITTEN, *FIRST_BYTES, status(IDLE)
    )  # fmt: skip
    assert script.action is KcsAction.DONE


def test_a_restart_in_the_middle_is_not_the_end_of_the_response() -> None:
    script = started().plays(*WRITTEN, *FIRST_BYTES, status(0xFF), status(IDLE))
    assert script.host.fault is KcsFault.RESTARTED
    script.plays(status(IDLE), *RECOVERED[:2], byte(0), status(IDLE))
    script.plays(*WRITTEN[1:], *FIRST_BYTES, status(IDLE))
    assert script.action is KcsAction.DONE


@pytest.mark.parametrize("found", [READ, WRITE, ERROR])
def test_an_interface_that_is_not_idle_is_recovered_first(found: int) -> None:
    script = started().plays(status(found), status(found), *RECOVERED, *WRITTEN, *FIRST_BYTES)
    script.plays(status(IDLE))
    assert script.action is KcsAction.DONE
    assert script.host.recoveries == 1


def test_the_error_state_in_every_phase_is_recovered() -> None:
    whole = (*WRITTEN, *FIRST_BYTES)
    status_reads = [at for at, (action, _) in enumerate(whole) if action is KcsAction.READ_STATUS]
    assert len(status_reads) == 7
    for at in status_reads:
        script = started().plays(*whole[:at], status(ERROR | STATUS_OBF), status(ERROR))
        script.plays(*RECOVERED, *whole, status(IDLE))
        assert script.action is KcsAction.DONE, at


def test_a_request_that_may_have_run_is_not_sent_again() -> None:
    script = started(idempotent=False).plays(*WRITTEN, status(ERROR), status(ERROR), *RECOVERED)
    script.plays(status(IDLE))
    assert script.action is KcsAction.FAILED
    error = script.host.error()
    assert isinstance(error, KcsViolation)
    assert error.evidence.fault is KcsFault.WRONG_STATE
    assert error.evidence.phase is KcsPhase.EXECUTING
    assert error.evidence.status == ERROR
    assert error.evidence.error_code == ErrorCode.ILLEGAL_CONTROL_CODE
    assert error.evidence.may_have_run


def test_a_request_that_cannot_have_run_is_sent_again() -> None:
    script = started(idempotent=False).plays(*WRITTEN[:6], status(ERROR), status(ERROR))
    script.plays(*RECOVERED, *WRITTEN, *FIRST_BYTES, status(IDLE))
    assert script.action is KcsAction.DONE


def test_a_fault_within_a_successful_recovery_is_not_reported() -> None:
    script = started(idempotent=False).plays(*WRITTEN, status(ERROR), status(ERROR))
    script.plays(command(0x60), status(WRITE), byte(0x00), status(ERROR), status(ERROR))
    script.plays(*RECOVERED, status(IDLE))
    error = script.host.error()
    assert isinstance(error, KcsViolation)
    assert error.evidence.phase is KcsPhase.EXECUTING
    assert error.evidence.recoveries == 2


def answered(answer: Iterable[int]) -> HostKcs:
    """Return a host that got this answer and may not try again."""
    script = started(limits=KcsLimits(recoveries_max=0)).plays(*WRITTEN)
    for each in answer:
        script.plays(status(READ | STATUS_OBF), data(each))
        if script.failed:
            return script.host
        script.plays(byte(0x68))
    script.plays(status(IDLE))
    return script.host


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"", KcsFault.TOO_SHORT),
        (b"\x1c\x01", KcsFault.TOO_SHORT),
        (b"\x1c\x01\x00" + bytes(270), KcsFault.TOO_LONG),
        (b"\x1c\x02\x00", KcsFault.NOT_OURS),
        (b"\x18\x01\x00", KcsFault.NOT_OURS),
        (b"\x24\x01\x00", KcsFault.NOT_OURS),
    ],
)
def test_bad_answers_are_violations_with_their_bytes(answer: bytes, fault: KcsFault) -> None:
    error = answered(answer).error()
    assert isinstance(error, RemoteProtocolError)
    assert isinstance(error, KcsViolation)
    assert error.evidence.fault is fault
    assert error.raw == answer[:64]
    assert "may have run" in str(error)


@pytest.mark.parametrize("answer", [b"\x1c\x01\x00" + bytes(269), b"\x1f\x01\x00"])
def test_the_longest_answer_and_another_lun_are_taken(answer: bytes) -> None:
    assert answered(answer).response() == answer


def test_the_deadline_ends_an_exchange_in_every_phase() -> None:
    host = HostKcs()
    script = Script(host, host.start(GET_DEVICE_ID, 0.0, idempotent=True, deadline=0.25))
    script.plays(*WRITTEN)
    assert script.reads_status_until_failed(READ | STATUS_IBF) == pytest.approx(0.25, abs=1e-5)
    assert host.fault is KcsFault.EXCHANGE_LIMIT
    assert isinstance(host.error(), KcsTimeout)


def test_a_bmc_slow_at_every_byte_reaches_the_limit_of_the_exchange() -> None:
    script = started(bytes(200), limits=KcsLimits(poll_s_max=0.5))
    while not script.failed:
        script.now += 4.0  # within IBF's limit, each time
        script.plays(status(WRITE if script.host.phase is not KcsPhase.IDLE else IDLE))
        if not script.failed:
            script.action = script.host.step(script.now)
    assert script.host.fault is KcsFault.EXCHANGE_LIMIT
    assert 60 <= script.now < 65


def test_ibf_time_goes_on_from_one_short_exchange_to_the_next() -> None:
    host = HostKcs(KcsLimits(poll_s_max=0.2))
    for attempt in range(12):
        now = attempt * 1.0
        host.start(GET_DEVICE_ID, now, idempotent=True, deadline=now + 0.9)
        script = Script(host, host.next_action)
        script.now = now
        while not script.failed:
            script.plays(status(READ | STATUS_IBF))
            if script.action is KcsAction.WRITE_COMMAND:
                assert host.byte == KcsControlCode.GET_STATUS
                assert 5.0 <= script.now < 6.0
                return
    pytest.fail("never recovered")


def test_ibf_that_was_clear_has_its_whole_time_again() -> None:
    script = started().plays(*WRITTEN, status(READ))
    script.host.abort()
    script.now = 100.0
    script.action = script.host.start(GET_DEVICE_ID, script.now, idempotent=True)
    script.plays(status(READ | STATUS_IBF), status(READ | STATUS_IBF))
    assert script.host.fault is KcsFault.NONE
    script.plays(status(IDLE), *WRITTEN[1:], *FIRST_BYTES, status(IDLE))
    assert script.action is KcsAction.DONE
    assert script.host.recoveries == 0


def test_each_exchange_waits_again_for_a_bmc_to_appear() -> None:
    script = started()
    ended = script.reads_status_until_failed(0xFF)
    script.action = script.host.start(GET_DEVICE_ID, ended, idempotent=True)
    assert script.reads_status_until_failed(0xFF) - ended == pytest.approx(0.5, abs=0.01)
    script.action = script.host.start(GET_DEVICE_ID, script.now, idempotent=True)
    script.plays(status(0xFF), *WRITTEN, *FIRST_BYTES, status(IDLE))
    assert script.action is KcsAction.DONE


# ------------------------------------------------------------------------------- out of turn


def test_abort_before_every_action_leads_to_a_defined_state() -> None:
    whole = (status(ERROR), status(ERROR), *RECOVERED, *WRITTEN, *FIRST_BYTES)
    for at in range(len(whole) + 1):
        script = started().plays(*whole[:at])
        phase = script.host.phase
        script.host.abort()
        assert script.host.next_action is KcsAction.FAILED
        error = script.host.error()
        assert isinstance(error, TransportError)
        assert isinstance(error, KcsAborted)
        assert error.evidence.phase is phase
        assert error.evidence.may_have_run == (at >= 2 + len(RECOVERED) + len(WRITTEN) - 1)
        script.action = script.host.start(GET_DEVICE_ID, script.now, idempotent=True)
        script.plays(*WRITTEN, *FIRST_BYTES, status(IDLE))
        assert script.action is KcsAction.DONE


def test_abort_without_an_exchange_changes_nothing() -> None:
    host = HostKcs()
    host.abort()
    assert host.next_action is KcsAction.START
    script = started().plays(*WRITTEN, *FIRST_BYTES, status(IDLE))
    script.host.abort()
    assert script.host.response() == b"\x1c\x01\x00"


@pytest.mark.parametrize("request_", [b"", b"\x18", bytes(MESSAGE_BYTES_MAX + 1)])
def test_a_request_that_kcs_cannot_carry(request_: bytes) -> None:
    with pytest.raises(LocalProtocolError, match=f"{len(request_)} bytes"):
        HostKcs().start(request_, 0.0, idempotent=True)


def test_a_call_in_the_wrong_state_is_a_local_error() -> None:
    host = HostKcs()
    with pytest.raises(LocalProtocolError, match="no exchange"):
        host.step(0.0)
    with pytest.raises(LocalProtocolError, match="the exchange has not failed"):
        host.error()
    host.start(GET_DEVICE_ID, 0.0, idempotent=True)
    with pytest.raises(LocalProtocolError, match="in progress"):
        host.start(GET_DEVICE_ID, 0.0, idempotent=True)
    with pytest.raises(LocalProtocolError, match="no response"):
        host.response()
    for value in (-1, 256):
        with pytest.raises(LocalProtocolError, match=f"not {value}"):
            host.step(0.0, value)


def test_attention_is_reported() -> None:
    script = started().plays(status(IDLE | STATUS_SMS_ATN))
    assert script.host.wants_attention
    script.plays(command(0x61), status(WRITE))
    assert not script.host.wants_attention


def test_an_exchange_needs_no_more_memory() -> None:
    script = started()
    whole = (*WRITTEN, *FIRST_BYTES, status(IDLE))
    host, now = script.host, 0.0

    def exchange() -> None:
        action = host.next_action
        for _, value in whole:
            reads = action is KcsAction.READ_STATUS or action is KcsAction.READ_DATA
            action = host.step(now, value if reads else -1)
        assert action is KcsAction.DONE
        host.start(GET_DEVICE_ID, now, idempotent=True)

    exchange()
    gc.collect()
    tracemalloc.start()
    try:
        exchange()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(100):
            exchange()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 512
    assert peak - before < 2048


# ------------------------------------------------------------------------------------ the BMC


def served(bmc: BmcKcs, *written: tuple[str, int]) -> KcsEvent:
    """Write these bytes, each served before the next, and return the last event."""
    event = KcsEvent.NOTHING
    for kind, value in written:
        (bmc.write_command if kind == "command" else bmc.write_data)(value)
        assert bmc.read_status() & STATUS_IBF
        event = bmc.service()
    return event


REQUEST = (("command", 0x61), ("data", 0x18), ("command", 0x62), ("data", 0x01))


def taken(bmc: BmcKcs) -> tuple[int, int]:
    """Return the interface state and the byte in data-out."""
    state = bmc.read_status() & STATUS_STATE
    assert bmc.read_status() & STATUS_OBF
    return state, bmc.read_data()


def test_the_registers_of_a_bmc() -> None:
    bmc = BmcKcs()
    registers: KcsRegisters = bmc
    assert registers.read_status() == IDLE
    registers.write_command(0x61)
    assert registers.read_status() == IDLE | STATUS_IBF | 0x08
    assert bmc.service() is KcsEvent.NOTHING
    assert registers.read_status() == WRITE | 0x08
    registers.write_data(0x18)
    assert registers.read_status() == WRITE | STATUS_IBF
    assert bmc.service() is KcsEvent.NOTHING
    assert bmc.service() is KcsEvent.NOTHING
    assert registers.read_status() == WRITE


def test_a_bmc_takes_a_request_and_gives_its_response() -> None:
    bmc = BmcKcs()
    assert served(bmc, *REQUEST) is KcsEvent.REQUEST
    assert bmc.request == GET_DEVICE_ID
    assert bmc.read_status() == READ
    assert bmc.respond(bmc.request_number, ANSWER)
    for each in ANSWER:
        assert taken(bmc) == (READ, each)
        assert not bmc.read_status() & STATUS_OBF
        served(bmc, ("data", 0x68))
    assert taken(bmc) == (IDLE, 0)
    assert bmc.phase is KcsPhase.IDLE


def test_a_bmc_that_holds_ibf_while_it_works() -> None:
    bmc = BmcKcs(holds_ibf=True)
    assert served(bmc, *REQUEST) is KcsEvent.REQUEST
    assert bmc.read_status() & STATUS_IBF
    assert bmc.service() is KcsEvent.NOTHING
    assert bmc.respond(bmc.request_number, ANSWER)
    assert bmc.read_status() == READ | STATUS_OBF
    served(bmc, *REQUEST)
    bmc.fail()
    assert bmc.read_status() == ERROR | STATUS_OBF


@pytest.mark.parametrize("code", [0x60, 0x61])
def test_the_response_to_a_request_that_was_given_up_is_dropped(code: int) -> None:
    bmc = BmcKcs()
    served(bmc, *REQUEST)
    first = bmc.request_number
    bmc.write_command(code)
    assert not bmc.respond(first, ANSWER), "written over, though not yet served"
    assert bmc.service() is KcsEvent.CANCELLED
    assert not bmc.respond(first, ANSWER)
    assert served(bmc, *REQUEST) is KcsEvent.REQUEST
    assert not bmc.respond(first, ANSWER)
    assert bmc.respond(bmc.request_number, ANSWER)
    assert not bmc.respond(bmc.request_number, ANSWER), "twice"


def error_code_of(bmc: BmcKcs) -> int:
    """Read the error code as a host does."""
    served(bmc, ("command", 0x60))
    bmc.read_data()
    served(bmc, ("data", 0x00))
    state, code = taken(bmc)
    assert state == READ
    served(bmc, ("data", 0x68))
    assert taken(bmc) == (IDLE, 0)
    return code


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ([("data", 0x18)], ErrorCode.UNSPECIFIED),
        ([("command", 0x62)], ErrorCode.ILLEGAL_CONTROL_CODE),
        ([("command", 0x68)], ErrorCode.ILLEGAL_CONTROL_CODE),
        ([("command", 0x00)], ErrorCode.ILLEGAL_CONTROL_CODE),
        ([("command", 0x61), ("command", 0x62), ("data", 0x18)], ErrorCode.LENGTH),
        ([("command", 0x61), *[("data", 1)] * 273], ErrorCode.LENGTH),
        ([*REQUEST, ("data", 0x00)], ErrorCode.UNSPECIFIED),
        ([*REQUEST, ("command", 0x62)], ErrorCode.ILLEGAL_CONTROL_CODE),
        ([("command", 0x60), ("data", 0x00), ("data", 0x69)], ErrorCode.ILLEGAL_CONTROL_CODE),
    ],
)
def test_a_protocol_violation_gives_the_error_state_and_its_code(
    written: list[tuple[str, int]], code: ErrorCode
) -> None:
    bmc = BmcKcs()
    assert served(bmc, *written) is KcsEvent.VIOLATION
    assert bmc.read_status() & STATUS_STATE == ERROR
    assert not bmc.respond(bmc.request_number, ANSWER)
    assert error_code_of(bmc) == code
    assert error_code_of(bmc) == ErrorCode.NONE, "asked for once, it is forgotten"


def test_an_abort_is_reported_as_such() -> None:
    bmc = BmcKcs()
    served(bmc, *REQUEST[:2])
    assert error_code_of(bmc) == ErrorCode.ABORTED


def test_a_new_request_after_an_error_needs_no_abort() -> None:
    bmc = BmcKcs()
    bmc.fail(ErrorCode.LENGTH)
    assert served(bmc, *REQUEST) is KcsEvent.REQUEST
    assert bmc.error_code is ErrorCode.NONE


def test_attention_stays_through_an_exchange() -> None:
    bmc = BmcKcs()
    bmc.set_attention(True)
    served(bmc, *REQUEST)
    bmc.respond(bmc.request_number, ANSWER)
    assert bmc.read_status() & STATUS_SMS_ATN
    bmc.set_attention(False)
    assert bmc.read_status() == READ | STATUS_OBF


def test_a_restart_forgets_everything() -> None:
    bmc = BmcKcs()
    served(bmc, *REQUEST)
    bmc.write_command(0x60)
    bmc.restart()
    assert bmc.read_status() == IDLE
    assert bmc.service() is KcsEvent.NOTHING
    assert not bmc.respond(bmc.request_number, ANSWER)


def test_an_empty_response_is_a_local_error() -> None:
    bmc = BmcKcs()
    served(bmc, *REQUEST)
    with pytest.raises(LocalProtocolError):
        bmc.respond(bmc.request_number, b"")


WAYS: dict[KcsPhase, list[tuple[str, int]]] = {
    KcsPhase.IDLE: [],
    KcsPhase.WRITE_START: [("command", 0x61)],
    KcsPhase.WRITE_DATA: [("command", 0x61), ("data", 1)],
    KcsPhase.WRITE_END: [("command", 0x61), ("data", 1), ("command", 0x62)],
    KcsPhase.EXECUTING: [*REQUEST],
    KcsPhase.READ: [*REQUEST],
    KcsPhase.ABORT_REQUESTED: [("command", 0x60)],
    KcsPhase.ABORT_STATUS: [("command", 0x60), ("data", 0)],
    KcsPhase.ERROR: [("data", 0x55)],
}


def bmc_in(phase: KcsPhase, answer: bytes = ANSWER) -> BmcKcs:
    bmc = BmcKcs()
    served(bmc, *WAYS[phase])
    if phase is KcsPhase.READ:
        bmc.respond(bmc.request_number, answer)
    assert bmc.phase is phase
    return bmc


def pull(bmc: BmcKcs, trigger: KcsTrigger) -> None:
    match trigger:
        case KcsTrigger.WRITE_START | KcsTrigger.WRITE_END | KcsTrigger.GET_STATUS:
            served(bmc, ("command", KcsControlCode[trigger.name]))
        case KcsTrigger.BYTE:
            served(bmc, ("data", 0x02))
        case KcsTrigger.RESPONSE:
            assert bmc.respond(bmc.request_number, ANSWER)
        case KcsTrigger.READ_NEXT | KcsTrigger.READ_END:
            served(bmc, ("data", 0x68))
        case KcsTrigger.VIOLATION:
            served(bmc, ("command", 0x77))
        case KcsTrigger.RESTART:
            bmc.restart()


@pytest.mark.parametrize(("phase", "trigger"), TRANSITIONS, ids=lambda each: str(each.name))
def test_the_bmc_takes_every_transition(phase: KcsPhase, trigger: KcsTrigger) -> None:
    bmc = bmc_in(phase, b"!" if trigger is KcsTrigger.READ_END else ANSWER)
    pull(bmc, trigger)
    assert bmc.phase is TRANSITIONS[phase, trigger]
    assert bmc.read_status() & STATUS_STATE == INTERFACE_STATE[bmc.phase]
