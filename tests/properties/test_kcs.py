"""KCS: whatever the registers return, an exchange ends, and the BMC stays in its table."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from bmcmedic.errors import LocalProtocolError, RemoteProtocolError, TransportError
from bmcmedic.ipmi.kcs import (
    INTERFACE_STATE,
    STATUS_IBF,
    STATUS_OBF,
    STATUS_STATE,
    TRANSITIONS,
    ErrorCode,
    KcsPhase,
)
from bmcmedic.ipmi.kcs_bmc import BmcKcs
from bmcmedic.ipmi.kcs_host import HostKcs, KcsAction, KcsLimits
from tests.support.kcs_pair import Pair, Run, answer_to

U8 = st.integers(0, 255)
REQUESTS = st.binary(max_size=270).map(lambda data: b"\x18\x01" + data)
LIMITS = st.builds(
    KcsLimits,
    ibf_s=st.floats(0.001, 5),
    obf_s=st.floats(0.001, 5),
    recoveries_max=st.integers(0, 5),
    exchange_s=st.floats(0.001, 60),
    absent_s=st.floats(0.001, 5),
    recovery_pause_s=st.floats(0, 1),
    poll_s_min=st.just(1e-3),
    poll_s_max=st.floats(0.01, 0.5),
)


@given(st.integers(0, 2**32))
@settings(max_examples=200)
def test_any_seed_of_disturbances(seed: int) -> None:
    Run(seed).play(12)


@given(REQUESTS, st.booleans(), st.booleans(), st.floats(0, 4.9))
def test_any_request_gets_its_answer(
    request_: bytes, dummy: bool, holds_ibf: bool, execute_s: float
) -> None:
    bmc = BmcKcs(sends_dummy_byte=dummy, holds_ibf=holds_ibf)
    # The answer is a byte longer than the request.
    request_ = request_[:271]
    assert Pair(bmc=bmc, execute_s=execute_s).exchange(request_).response == answer_to(request_)


@given(LIMITS, st.binary(min_size=1, max_size=60), st.booleans())
@settings(max_examples=300)
def test_an_exchange_with_any_registers_ends_in_time(
    limits: KcsLimits, registers: bytes, idempotent: bool
) -> None:
    """The registers return these bytes over and over, whatever is written to them."""
    host = HostKcs(limits)
    now, reads, accesses = 5.0, 0, 0
    action = host.start(b"\x18\x01", now, idempotent=idempotent)
    while action is not KcsAction.DONE and action is not KcsAction.FAILED:
        now += 1e-4
        accesses += 1
        if action is KcsAction.WAIT:
            assert host.not_before <= 5.0 + limits.exchange_s
            now = max(now, host.not_before)
            action = host.step(now)
        elif action is KcsAction.READ_STATUS or action is KcsAction.READ_DATA:
            action = host.step(now, registers[reads % len(registers)])
            reads += 1
        else:
            action = host.step(now)
    assert now - 5.0 <= limits.exchange_s + 5e-4
    assert host.recoveries <= limits.recoveries_max + 1
    if action is KcsAction.DONE:
        assert host.response()[:2] in {bytes((0x1C | lun, 1)) for lun in range(4)}
    else:
        assert isinstance(host.error(), RemoteProtocolError | TransportError)


HOST_ACTS = st.one_of(
    st.tuples(st.just("command"), st.sampled_from((0x60, 0x61, 0x62)) | U8),
    st.tuples(st.just("data"), st.sampled_from((0x00, 0x68)) | U8),
    st.tuples(st.just("read"), st.just(0)),
)
BMC_ACTS = st.tuples(st.sampled_from(("service", "respond", "restart", "fail")), st.just(0))


@given(st.lists(st.one_of(HOST_ACTS, BMC_ACTS, BMC_ACTS), max_size=80), st.booleans())
@settings(max_examples=500)
def test_no_order_of_accesses_takes_a_bmc_out_of_its_table(
    acts: list[tuple[str, int]], holds_ibf: bool
) -> None:
    bmc = BmcKcs(holds_ibf=holds_ibf)
    for act, value in acts:
        before = bmc.phase
        match act:
            case "command":
                bmc.write_command(value)
            case "data":
                bmc.write_data(value)
            case "read":
                bmc.read_data()
                assert not bmc.read_status() & STATUS_OBF
            case "service":
                bmc.service()
            case "respond":
                taken = bmc.respond(bmc.request_number, b"\x1c\x01\x00")
                assert taken == (before is KcsPhase.EXECUTING and bmc.phase is KcsPhase.READ)
            case "restart":
                bmc.restart()
            case _:
                bmc.fail(ErrorCode.LENGTH)
        followers = {after for (phase, _), after in TRANSITIONS.items() if phase is before}
        assert bmc.phase is before or bmc.phase in followers
        assert bmc.read_status() & STATUS_STATE == INTERFACE_STATE[bmc.phase]
    bmc.service()
    assert bmc.phase is KcsPhase.EXECUTING or not bmc.read_status() & STATUS_IBF
    # Whatever came before, an exchange that starts now is answered.
    assert Pair(bmc=bmc).exchange(b"\x18\x01abc").response == b"\x1c\x01\x00abc"


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(-5, 300)), max_size=60))
def test_no_order_of_steps_raises_but_for_our_own_errors(steps: list[tuple[float, int]]) -> None:
    host = HostKcs()
    for now, value in steps:
        if not host.is_busy:
            host.start(b"\x18\x01", now, idempotent=True)
        with contextlib.suppress(LocalProtocolError):
            host.step(now, value)
        if value == 0:
            host.abort()
            assert not host.is_busy
