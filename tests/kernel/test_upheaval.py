"""Driver and agent killed at random, upgraded and rolled back, under an armed watchdog.

The short form is drawn from one seed; the long one (`make test-long`) from many, with every kind of
strike. A failure shows its seed, and BMCMEDIC_UPHEAVAL_SEED repeats it.
"""

from __future__ import annotations

import random

import pytest

from bmcmedic import __version__
from bmcmedic.lab.guest.kernel_files import Kernel
from tests.support import upheaval_plan as plans
from tests.support.upheaval_host import Upheaval, upheaval

NEXT_VERSION = f"{__version__}+next"
SHORT_SEED = 4711
LONG_SEEDS = range(1, 7)
WELL_STRIKES = 16
HUNG_STRIKES = 4
"""Number of strikes in a hang; each takes seconds, and the hang must end before a running timer."""


def end_and_check(host: Upheaval) -> None:
    """Stop both services; check that the timer is as `keep` leaves it, and all else is undone."""
    host.end()
    host.assert_host_untouched()
    host.assert_nothing_is_left()


def kill_in_a_hang(host: Upheaval, plan: list[plans.Strike], *, timer_runs: bool) -> None:
    """Strike in a hang; stuck clients still have to be ended, and all changes to be undone."""
    host.add_stuck_client()
    host.hang(timer_runs=timer_runs)
    host.strike(plan)
    if not host.watch.has_healed:
        host.wait_until(
            lambda: "client" not in host.last_scan["processes"], "the stuck client's end"
        )
        lefts = {end.get("kipmid_left", host.kipmid_before) for end in host.events_of("ended")}
        assert lefts != {host.kipmid_before}, "no agent was killed that had throttled kipmi0"
    host.recover()
    host.wait_until_well()
    host.wait_until(
        lambda: host.last_scan["kipmid"] == host.kipmid_before, "kipmid's setting as before"
    )


@pytest.mark.parametrize("seed", plans.seeds([SHORT_SEED]))
def test_after_kills_all_is_patted_served_and_put_back(kernel: Kernel, seed: int) -> None:
    dice = random.Random(seed)
    with upheaval(kernel, "dev-ipmi", seed) as host:
        host.begin()
        plan = [
            plans.exchanging(dice, "driver", "agent"),
            plans.starting(dice, "driver"),
            plans.running(dice, "agent"),
        ]
        host.strike(plan)
        host.wait_until_well()
        plan = [plans.acting(dice), plans.having_throttled(dice)]
        kill_in_a_hang(host, plan, timer_runs=False)
        end_and_check(host)


@pytest.mark.parametrize("seed", plans.seeds([SHORT_SEED]))
def test_an_upgrade_and_a_roll_back_lose_no_pat(kernel: Kernel, seed: int) -> None:
    with upheaval(kernel, "port-io", seed) as host:
        host.add_version("/opt", NEXT_VERSION)
        host.begin(loaded=False)
        host.switch_version("/opt", NEXT_VERSION)
        host.switch_version("", __version__)
        end_and_check(host)


@pytest.mark.parametrize("seed", plans.seeds([SHORT_SEED]))
def test_an_upgrade_while_the_bmc_hangs_lets_no_timer_run_out(kernel: Kernel, seed: int) -> None:
    """Upgrade while no pat gets through, neither the last one nor the first, and the timer runs."""
    with upheaval(kernel, "dev-ipmi", seed) as host:
        host.add_version("/opt", NEXT_VERSION)
        host.begin(loaded=False)
        host.hang(timer_runs=True)
        host.switch_version_in_a_hang("/opt", NEXT_VERSION)
        host.recover(loaded=False)
        host.wait_until_well()
        end_and_check(host)


@pytest.mark.long
@pytest.mark.parametrize("seed", plans.seeds(LONG_SEEDS))
def test_any_strike_at_any_moment(kernel: Kernel, seed: int) -> None:
    dice = random.Random(seed)
    kind = dice.choice(["dev-ipmi", "port-io"])
    with upheaval(kernel, kind, seed, all_endpoints=True) as host:
        host.add_version("/opt", NEXT_VERSION)
        host.begin()
        host.strike(plans.well_plan(dice, WELL_STRIKES))
        host.wait_until_well()
        if kind == "dev-ipmi":
            plan = plans.hung_plan(dice, HUNG_STRIKES)
            kill_in_a_hang(host, plan, timer_runs=dice.random() < 0.5)
        host.switch_version("/opt", NEXT_VERSION)
        host.strike(plans.well_plan(dice, WELL_STRIKES // 4))
        host.wait_until_well()
        host.switch_version("", __version__)
        end_and_check(host)
