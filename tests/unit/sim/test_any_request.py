"""The BMC's answer to any request, in any order and state, is one that the specification allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.ipmi.commands.messaging import SendMessageReq
from bmcmedic.ipmi.commands.registry import COMMANDS
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.handler_call import Interface
from bmcmedic.sim.handlers.table import HANDLERS
from tests.support.sim import START, sim_bmc

NUMBERS = st.one_of(
    st.sampled_from(sorted(HANDLERS)),
    st.tuples(st.integers(0, 0x1F).map(lambda half: 2 * half), st.integers(0, 0xFF)),
)
REQUESTS = st.builds(
    lambda numbers, data: RequestMessage(numbers[0], numbers[1], data),
    NUMBERS,
    st.binary(max_size=20),
)
FAULTS = st.lists(
    st.sampled_from(
        [
            "port80-flood:1000000",
            "slow:0.5",
            "hang",
            "hang:timer",
            "dead",
            "kcs-stuck:ibf",
            "reset-ignored",
            "reset-reboots-host",
            "reset-lost-reply",
            "boot:0",
            "boot:3",
            "sessions:0",
        ]
    ),
    max_size=4,
    unique_by=lambda spec: spec.split(":")[0],
)
STEPS = st.lists(
    st.one_of(st.tuples(REQUESTS, st.sampled_from(Interface)), FAULTS, st.floats(0, 100)),
    max_size=25,
)


@given(FAULTS, STEPS)
def test_any_sequence_of_requests_faults_and_waiting_goes_well(
    faults: list[str], steps: list[object]
) -> None:
    bmc = sim_bmc(*faults)
    now = START
    for step in steps:
        if isinstance(step, float):
            now += step
            bmc.handle_timer(now)
        elif isinstance(step, list):
            bmc.set_faults(FaultSet.parse(step), now)
        else:
            assert isinstance(step, tuple)
            message, interface = step
            answer = execute(bmc, message, interface, now)
            if answer is None:
                continue
            assert 0 <= answer.completion_code <= 0xFF
            assert answer.service_time_s >= 0
            command = COMMANDS.get((message.netfn, message.command))
            if answer.completion_code == 0 and command is not None:
                command.decode_response(0, answer.data)
        assert bmc.timer is None or bmc.timer > now
        described = bmc.describe(now)
        assert described["state"] in ("up", "booting", "hung", "dead")
        assert 0 <= described["memory_free_fraction"] <= 1
        bmc.triage(now)


def test_every_handler_is_a_command_that_the_client_knows() -> None:
    assert set(HANDLERS) <= set(COMMANDS)
    assert (SendMessageReq.netfn, SendMessageReq.command) in HANDLERS
