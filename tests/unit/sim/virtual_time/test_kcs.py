from __future__ import annotations

import uuid
from collections.abc import Callable
from itertools import pairwise

import pytest

from bmcmedic.errors import BmcmedicError, Refused
from bmcmedic.ipmi.kcs_errors import KcsFault, KcsTimeout, KcsViolation, NothingThere
from bmcmedic.ipmi.kcs_host import HostKcs, KcsLimits
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.profile import server_profile
from bmcmedic.sim.virtual_time.kcs import CLAIM_S_MAX, WorldKcs
from bmcmedic.sim.virtual_time.world import World
from bmcmedic.transport.in_band import Interrupted, Ipmb
from tests.support.kcs_pair import NEVER, Pair

GET_DEVICE_ID = b"\x18\x01"
LIMITS = KcsLimits(ibf_s=5.0, obf_s=5.0, recoveries_max=3, exchange_s=60.0, absent_s=0.5)


class Claim:
    """An interface claim that a test can lose."""

    def __init__(self) -> None:
        self.lost = False
        self.lost_in_recovery = False
        self.asked_at: list[float] = []
        self.now: Callable[[], float] = lambda: 0.0

    def must_stop(self, *, recovering: bool) -> bool:
        self.asked_at.append(self.now())
        return self.lost or (recovering and self.lost_in_recovery)


class KcsHost:
    """A BMC behind its KCS interface, and one exchange with it."""

    def __init__(self, *faults: str, limits: KcsLimits = LIMITS, spins: bool = False) -> None:
        self.world = World()
        self.bmc = SimBmc(
            "bmc1",
            server_profile(0),
            now=0.0,
            epoch_offset_s=0.0,
            host_uuid=uuid.UUID(int=1),
            faults=FaultSet.parse(faults),
        )
        self.kcs = WorldKcs(self.world, self.bmc, limits, spins=spins)
        self.claim = Claim()
        self.claim.now = lambda: self.world.now
        self.response: bytes | None = None
        self.error: BmcmedicError | None = None
        self.ended_at = 0.0

    def exchange(
        self,
        request: bytes = GET_DEVICE_ID,
        *,
        start_at: float = 0.0,
        deadline: float = NEVER,
        idempotent: bool = True,
    ) -> float:
        """Perform an exchange; return how long it took, in seconds."""

        begun_at = self.world.now + start_at

        def body() -> None:
            self.world.sleep(start_at)
            try:
                self.response = self.kcs.attempt(
                    request, deadline, self.claim, idempotent=idempotent
                )
            except BmcmedicError as error:
                self.error = error
            self.ended_at = self.world.now

        self.world.spawn(body, "host")
        self.world.run(begun_at + 1000.0)
        return self.ended_at - begun_at

    def fault(self) -> KcsFault:
        assert isinstance(self.error, KcsTimeout | KcsViolation)
        return self.error.evidence.fault


def test_a_well_bmc_answers_within_milliseconds() -> None:
    host = KcsHost()
    assert 0.001 < host.exchange() < 0.01
    assert host.response is not None
    assert host.response[:3] == b"\x1c\x01\x00"
    assert host.bmc.requests == {0x0601: 1}


@pytest.mark.parametrize("spins", [False, True])
def test_a_slow_one_takes_its_time(spins: bool) -> None:
    host = KcsHost("slow:2", spins=spins)
    assert 2.0 < host.exchange() < 2.5
    assert host.response is not None


def test_one_that_is_too_slow_is_asked_again_and_given_up() -> None:
    host = KcsHost("slow:6")
    assert 4 * LIMITS.obf_s < host.exchange() < 4 * LIMITS.obf_s + 2
    assert host.fault() is KcsFault.OBF_MISSING
    assert host.bmc.requests == {0x0601: 4}


def test_what_must_not_run_twice_is_not_sent_again() -> None:
    host = KcsHost("slow:6")
    assert host.exchange(b"\x28\x42", idempotent=False) < LIMITS.obf_s + 1
    assert host.bmc.requests == {0x0A42: 1}


def test_a_wedged_one_takes_as_long_as_it_takes_the_real_machine() -> None:
    limits = KcsLimits(poll_s_max=0.5)
    pair = Pair(host=HostKcs(limits), firmware_back_at=NEVER)
    real_s = pair.exchange(GET_DEVICE_ID).took_s
    host = KcsHost("kcs-stuck:ibf", limits=limits)
    assert host.exchange() == pytest.approx(real_s, abs=0.2)
    assert host.fault() is KcsFault.IBF_STUCK


def test_an_exchange_ends_by_its_limit_and_by_its_deadline() -> None:
    host = KcsHost("kcs-stuck:ibf", limits=KcsLimits(exchange_s=10.0))
    assert host.exchange() == pytest.approx(10.0)
    assert host.fault() is KcsFault.EXCHANGE_LIMIT
    assert host.kcs.exchange_s_max >= 10.0
    host = KcsHost("slow:4")
    assert host.exchange(deadline=3.0) == pytest.approx(3.0)


def test_a_bmc_that_boots_is_not_there() -> None:
    host = KcsHost("boot:30")
    host.bmc.schedule_restart(0.0, cold=True)
    host.kcs.arm_timer()
    assert host.exchange(start_at=1.0) == pytest.approx(LIMITS.absent_s)
    assert isinstance(host.error, NothingThere)


def test_a_bmc_that_is_just_back_is_waited_for() -> None:
    host = KcsHost("boot:30")
    host.bmc.schedule_restart(0.0, cold=True)
    host.kcs.arm_timer()
    assert 0.2 < host.exchange(start_at=29.8) < 0.4
    assert host.response is not None


def test_a_bmc_whose_memory_ends_in_the_middle_is_gone_half_a_second_later() -> None:
    host = KcsHost("slow:4", "port80-flood:1000000", "boot:30")
    gone_at = host.bmc.timer
    assert gone_at is not None
    assert host.exchange(start_at=gone_at - 1.0) == pytest.approx(1.0 + LIMITS.absent_s, abs=0.1)
    assert isinstance(host.error, NothingThere)
    assert host.bmc.own_watchdog_reboots >= 1


@pytest.mark.parametrize("spins", [False, True])
def test_a_lost_claim_ends_the_exchange_at_the_next_poll(spins: bool) -> None:
    host = KcsHost("slow:4", spins=spins)

    def lose(_: object) -> None:
        host.claim.lost = True

    host.world.at(1.5, lose)
    assert host.exchange() == pytest.approx(1.5, abs=0.01)
    assert isinstance(host.error, Interrupted)
    assert host.error.may_have_run


def test_a_claim_lost_only_in_recovery_does_not_stop_an_exchange() -> None:
    host = KcsHost("slow:4")
    host.claim.lost_in_recovery = True
    assert host.exchange() > 4.0
    assert host.response is not None
    host = KcsHost("slow:6")
    host.claim.lost_in_recovery = True
    assert host.exchange() == pytest.approx(LIMITS.obf_s, abs=0.1)
    assert isinstance(host.error, Interrupted)


def test_the_claim_is_asked_now_and_then_though_nothing_happens() -> None:
    host = KcsHost("kcs-stuck:ibf")
    host.exchange()
    asked = host.claim.asked_at
    assert max(b - a for a, b in pairwise(asked)) <= CLAIM_S_MAX + 1e-9


def test_the_bmcs_watchdog_runs_in_the_worlds_time() -> None:
    host = KcsHost()
    host.exchange(b"\x18\x24\x04\x01\x00\x00\x64\x00")  # 10 s, hard reset
    host.exchange(b"\x18\x22")
    assert host.bmc.host.boots == 1


def test_no_controller_behind_the_bmc_is_reached() -> None:
    host = KcsHost()
    with pytest.raises(Refused, match="0x2c"):
        host.kcs.send_bridged(b"\x18\x01", Ipmb(6, 0x2C), 1.0, host.claim, lambda _: None)
