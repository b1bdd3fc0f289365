"""An armed watchdog timer is known before a reset, however the BMC answers Get Watchdog Timer.

The host cannot pat the timer while the BMC hangs, and the timer has 5 s left in most tests.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bmcmedic.fleet.journal import SilentJournal
from bmcmedic.fleet.plan import ResetTimes
from bmcmedic.fleet.remediation import Remediation, RemediationCase
from bmcmedic.model.heal import BmcDiagnosis, HealVerdict, Remedy, RemedyPlan
from tests.support.virtual_bmc import VirtualBmc

SICK_FOR_S = 45.0
"""The timer of 60 s was patted last 10 s before the hang began, in virtual time."""
UNKNOWN = "it is not known whether"


async def yes(diagnosis: BmcDiagnosis, plan: RemedyPlan) -> str | None:
    assert diagnosis.evidence
    assert plan.steps
    return None


def sick(*faults: str, sick_for_s: float = SICK_FOR_S, armed: bool = True) -> VirtualBmc:
    virtual = VirtualBmc(watchdog_armed_s=60.0) if armed else VirtualBmc()
    virtual.passes(100.0)
    virtual.falls_sick("hang:timer")
    virtual.passes(sick_for_s)
    virtual.falls_sick("hang:timer", *faults)
    assert virtual.bmc.host.boots == 0
    return virtual


def case(virtual: VirtualBmc, *, unknown_ok: bool = False) -> RemediationCase:
    return RemediationCase(
        virtual.link,
        virtual.time,
        SilentJournal(),
        yes,
        in_band_hung=True,
        watchdog_unknown_ok=unknown_ok,
    )


def heal(virtual: VirtualBmc, *, unknown_ok: bool = False) -> HealVerdict:
    return asyncio.run(Remediation(case(virtual, unknown_ok=unknown_ok)).heal())


def reset(virtual: VirtualBmc, *, unknown_ok: bool = False) -> HealVerdict:
    remediation = Remediation(case(virtual, unknown_ok=unknown_ok))
    return asyncio.run(remediation.reset(Remedy.COLD_RESET))


def outcomes(verdict: HealVerdict) -> dict[str, str]:
    return {step.name: step.outcome for step in verdict.steps}


def refused(virtual: VirtualBmc, verdict: HealVerdict) -> bool:
    return (
        verdict.verdict == "refused"
        and verdict.resets_sent == 0
        and "06/02" not in virtual.requests
        and any(line.startswith("watchdog-armed: ") for line in verdict.evidence)
    )


def host_lives(virtual: VirtualBmc) -> bool:
    virtual.passes(1000.0)
    return virtual.bmc.host.boots == 0 and virtual.bmc.host.power_changes == 0


def left_s(virtual: VirtualBmc) -> float:
    assert virtual.bmc.watchdog is not None
    return virtual.bmc.watchdog.present_countdown_s(virtual.time.now)


def test_the_timer_of_these_tests_has_few_seconds_left() -> None:
    virtual = sick()
    assert 4.0 < left_s(virtual) < 6.0
    virtual.passes(6.0)
    assert virtual.bmc.host.boots == 1


@pytest.mark.parametrize("code", [0xC0, 0xC3, 0xCE, 0xD2, 0xFF, 0xC4, 0xCC, 0xD5])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_refusal_that_passes_is_asked_again(code: int, times: int) -> None:
    virtual = sick(f"refuse:06/25:{code:#x}:{times}")
    verdict = heal(virtual)
    assert outcomes(verdict)["watchdog"] == "held"
    assert verdict.verdict == "healed-lan-only"
    assert host_lives(virtual)


@pytest.mark.parametrize("length", range(8))
@pytest.mark.parametrize("times", [1, 2])
def test_a_short_answer_is_asked_again(length: int, times: int) -> None:
    virtual = sick(f"cut:06/25:{length}:{times}")
    verdict = heal(virtual)
    assert outcomes(verdict)["watchdog"] == "held"
    assert verdict.verdict == "healed-lan-only"
    assert host_lives(virtual)


def test_silence_that_passes_is_asked_again() -> None:
    virtual = sick("silent:06/25:2", sick_for_s=30.0)
    assert outcomes(heal(virtual))["watchdog"] == "held"
    assert host_lives(virtual)


@pytest.mark.parametrize("length", range(1, 8))
def test_a_short_answer_for_ever_never_hides_the_running_bit(length: int) -> None:
    virtual = sick(f"cut:06/25:{length}")
    virtual.bmc.daemon_gives_up()
    verdict = heal(virtual)
    assert outcomes(verdict)["watchdog"] == "held"
    assert verdict.resets_sent == 1
    if length < 6:
        assert any("could not be read before" in line for line in verdict.evidence)
    else:
        assert outcomes(verdict)["watchdog-restore"] in ("running", "armed by the host", "stopped")
    assert host_lives(virtual)


@pytest.mark.parametrize("flip", [f"0:{mask:#x}" for mask in (0x02, 0x03, 0x04)])
@pytest.mark.parametrize("other", ["", "1:0x04", "1:0x05", "1:0x40", "1:0x74"])
def test_reserved_values_never_hide_the_running_bit(flip: str, other: str) -> None:
    # Use 4 becomes 6, 7 and 0; the action and the pretimeout interrupt become reserved ones.
    faults = [f"flip:06/25:{flip}"] if not other else [f"flip:06/25:{other}"]
    virtual = sick(*faults)
    verdict = heal(virtual)
    assert outcomes(verdict)["watchdog"] == "held"
    assert verdict.resets_sent == 1
    assert host_lives(virtual)


@pytest.mark.parametrize("fault", ["refuse:06/24:0xcc", "refuse:06/24:0xff"])
def test_a_malformed_answer_of_a_timer_that_cannot_be_stopped_is_refused(fault: str) -> None:
    virtual = sick("cut:06/25:6", fault)
    assert refused(virtual, heal(virtual, unknown_ok=True))


@pytest.mark.parametrize(
    "fault",
    [
        *(f"refuse:06/25:{code:#x}" for code in (0xC0, 0xC3, 0xCE, 0xD2, 0xFF, 0xCC, 0xD4, 0xD6)),
        "cut:06/25:0",
        "silent:06/25",
    ],
)
@pytest.mark.parametrize("command", [heal, reset])
def test_while_it_is_unknown_whether_the_timer_runs_nothing_is_reset(
    fault: str,
    command: object,
) -> None:
    virtual = sick(fault, armed=False)
    verdict = reset(virtual) if command is reset else heal(virtual)
    assert refused(virtual, verdict)
    assert UNKNOWN in verdict.reason
    assert "--watchdog-unknown-ok" in verdict.reason


@pytest.mark.parametrize("fault", ["refuse:06/25:0xff", "cut:06/25:0"])
def test_the_operators_word_about_an_unknown_timer_is_recorded(fault: str) -> None:
    virtual = sick(fault, armed=False)
    verdict = heal(virtual, unknown_ok=True)
    assert verdict.verdict == "healed-lan-only"
    assert outcomes(verdict)["watchdog"] == "overridden"
    assert any("--watchdog-unknown-ok" in line for line in verdict.evidence)
    assert "06/24" not in virtual.requests


def test_the_operators_word_does_not_count_for_a_timer_that_was_seen_running() -> None:
    virtual = sick()

    async def then_unreadable(diagnosis: BmcDiagnosis, plan: RemedyPlan) -> str | None:
        virtual.falls_sick("hang:timer", "refuse:06/25:0xff")
        return await yes(diagnosis, plan)

    given = replace(case(virtual, unknown_ok=True), confirm=then_unreadable)
    verdict = asyncio.run(Remediation(given).heal())
    assert refused(virtual, verdict)
    assert "ran when it was last read" in verdict.reason


def test_a_bmc_without_a_timer_is_reset() -> None:
    virtual = sick("refuse:06/25:0xc1", armed=False)
    verdict = heal(virtual)
    assert verdict.verdict == "healed-lan-only"
    assert outcomes(verdict)["watchdog"] == "untouched"


def test_a_timer_that_is_gone_after_it_was_seen_running_is_refused() -> None:
    virtual = sick()

    async def then_gone(diagnosis: BmcDiagnosis, plan: RemedyPlan) -> str | None:
        virtual.falls_sick("hang:timer", "refuse:06/25:0xc1")
        return await yes(diagnosis, plan)

    given = replace(case(virtual), confirm=then_gone, times=ResetTimes(quiet_s=5.0))
    assert refused(virtual, asyncio.run(Remediation(given).heal()))


def test_a_timer_that_runs_out_while_the_bmc_does_not_stop_it_is_reported() -> None:
    virtual = sick("silent:06/24")
    verdict = heal(virtual)
    assert virtual.bmc.host.boots == 1
    assert verdict.verdict == "needs-repair"
    assert verdict.host_untouched is False


def test_a_refusal_to_stop_that_passes_is_asked_again() -> None:
    virtual = sick("refuse:06/24:0xc0:2")
    verdict = heal(virtual)
    assert outcomes(verdict)["watchdog"] == "held"
    assert host_lives(virtual)
