from __future__ import annotations

import pytest

from bmcmedic.ipmi.commands.device import ColdResetReq, GetDeviceIdReq
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.handler_call import HandlerAnswer, Interface
from tests.support.sim import START, sim_bmc

DEVICE_ID = RequestMessage(GetDeviceIdReq.netfn, GetDeviceIdReq.command)
COLD_RESET = RequestMessage(ColdResetReq.netfn, ColdResetReq.command)


def with_fault(*specs: str) -> SimBmc:
    bmc = sim_bmc()
    bmc.set_faults(FaultSet.parse(specs), START)
    return bmc


def ask(bmc: SimBmc, request: RequestMessage = DEVICE_ID) -> HandlerAnswer | None:
    return execute(bmc, request, Interface.LAN, START)


def data(bmc: SimBmc) -> bytes:
    answer = ask(bmc)
    assert answer is not None
    assert answer.completion_code == 0
    return answer.data


def test_a_refused_command_is_not_executed() -> None:
    bmc = with_fault("refuse:06/02:0xC0:2")
    for code in (0xC0, 0xC0, 0x00):
        assert bmc.cold_resets == 0
        answer = ask(bmc, COLD_RESET)
        assert answer is not None
        assert (answer.completion_code, answer.data) == (code, b"")
        bmc.handle_timer(START + 1.0)
    assert bmc.cold_resets == 1


def test_a_silent_command_is_not_executed_and_counts_as_a_request() -> None:
    bmc = with_fault("silent:06/02")
    assert ask(bmc, COLD_RESET) is None
    bmc.handle_timer(START + 1.0)
    assert bmc.cold_resets == 0
    assert bmc.requests == {0x0602: 1}
    assert data(bmc)


@pytest.mark.parametrize("length", [0, 1, 5])
def test_an_answer_is_cut(length: int) -> None:
    whole = data(sim_bmc())
    bmc = with_fault(f"cut:06/01:{length}:1")
    assert data(bmc) == whole[:length]
    assert data(bmc) == whole


def test_bits_of_an_answer_are_inverted() -> None:
    whole = data(sim_bmc())
    bmc = with_fault("flip:06/01:1:0xff")
    assert data(bmc) == whole[:1] + bytes((whole[1] ^ 0xFF,)) + whole[2:]
    assert data(with_fault("flip:06/01:200:1")) == whole


def test_faults_of_one_command_are_combined() -> None:
    whole = data(sim_bmc())
    bmc = with_fault("flip:06/01:0:1", "cut:06/01:2", "refuse:06/01:0xff:1")
    answer = ask(bmc)
    assert answer is not None
    assert (answer.completion_code, answer.data) == (0xFF, b"")
    assert data(bmc) == bytes((whole[0] ^ 1, whole[1]))


def test_faults_that_are_set_anew_count_anew() -> None:
    bmc = with_fault("silent:06/01:1")
    assert ask(bmc) is None
    assert data(bmc)
    bmc.set_faults(FaultSet.parse(["silent:06/01:1"]), START)
    assert ask(bmc) is None
