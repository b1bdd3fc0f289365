"""Whole remediations of a simulated BMC, with the default times, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TypedDict, Unpack

import pytest

from bmcmedic.errors import ConfigurationError
from bmcmedic.fleet.host_evidence.triage_command import TriageFailed
from bmcmedic.fleet.journal import Journal, SilentJournal
from bmcmedic.fleet.link import BmcLink
from bmcmedic.fleet.plan import ResetTimes
from bmcmedic.fleet.remediation import Confirm, HostSource, Remediation, RemediationCase
from bmcmedic.ipmi.commands.device import ColdResetReq
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.model.heal import BmcDiagnosis, HealVerdict, HostReport, Remedy, RemedyPlan, Step
from tests.support.sim import send_command
from tests.support.virtual_bmc import (
    Json,
    Override,
    VirtualBmc,
    VirtualHost,
    VirtualLink,
    report_of,
)

CHANGES_STATE = frozenset({"06/02", "06/03", "06/22", "06/24", "00/02"})


async def yes(diagnosis: BmcDiagnosis, plan: RemedyPlan) -> str | None:
    assert diagnosis.evidence
    assert plan.steps
    return None


async def no(diagnosis: BmcDiagnosis, plan: RemedyPlan) -> str | None:
    return f"not {plan.remedy} for {diagnosis.kind}"


class Given(TypedDict, total=False):
    """The fields of a case that a test sets; the others have defaults."""

    link: BmcLink
    journal: Journal
    confirm: Confirm
    times: ResetTimes
    report: HostReport | None
    host: HostSource | None
    in_band_hung: bool


class Made(TypedDict, total=False):
    """The options of a test's BMC."""

    watchdog_armed_s: float
    privilege: PrivilegeLevel


def sick(*faults: str, sick_for_s: float = 20.0, **made: Unpack[Made]) -> VirtualBmc:
    """Return a BMC that ran well for a while, and then fell sick."""
    virtual = VirtualBmc(**made)
    virtual.passes(100.0)
    virtual.falls_sick(*faults)
    virtual.passes(sick_for_s)
    return virtual


def case(virtual: VirtualBmc, **given: Unpack[Given]) -> RemediationCase:
    usual = RemediationCase(virtual.link, virtual.time, SilentJournal(), yes)
    return replace(usual, **given)


def heal(virtual: VirtualBmc, **given: Unpack[Given]) -> HealVerdict:
    return asyncio.run(Remediation(case(virtual, **given)).heal())


def heal_with_host(virtual: VirtualBmc, **given: Unpack[Given]) -> HealVerdict:
    given["host"] = VirtualHost(virtual)
    return heal(virtual, **given)


def outcomes(verdict: HealVerdict) -> dict[str, str]:
    return {step.name: step.outcome for step in verdict.steps}


def changed_nothing(virtual: VirtualBmc) -> bool:
    return CHANGES_STATE.isdisjoint(virtual.requests)


def test_a_healthy_bmc_is_left_alone() -> None:
    virtual = VirtualBmc()
    assert heal(virtual).verdict == "healthy-lan-only"
    assert heal_with_host(virtual).verdict == "healthy"
    assert changed_nothing(virtual)


def test_a_hang_is_healed_and_proven_on_both_sides() -> None:
    virtual = sick("hang")
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "healed"
    assert verdict.host_untouched is True
    assert (verdict.power_before, verdict.power_after) == ("on", "on")
    assert virtual.bmc.cold_resets == verdict.resets_sent == 1
    assert virtual.bmc.host.power_changes == 0
    assert [step.name for step in verdict.steps] == [
        "read-symptoms",
        "probe",
        "identity",
        "diagnose",
        "acting-session",
        "confirm",
        "watchdog",
        "power-before",
        "cold-reset",
        "quiet-time",
        "poll",
        "restart-evidence",
        "self-test",
        "power-after",
        "host",
        "steady",
        "verdict",
    ]
    assert virtual.managed.session_count <= 1  # the one that was open when the BMC restarted


def test_the_operators_word_heals_as_far_as_lan_shows() -> None:
    virtual = sick("hang")
    verdict = heal(virtual, in_band_hung=True)
    assert verdict.verdict == "healed-lan-only"
    assert verdict.host_untouched is None
    assert virtual.bmc.cold_resets == 1


def test_symptoms_from_a_file_heal_as_far_as_lan_shows() -> None:
    virtual = sick("hang")
    assert heal(virtual, report=report_of(virtual)).verdict == "healed-lan-only"


@pytest.mark.parametrize("fault", ["kcs-stuck:ibf", "kcs-stuck:obf", "kcs-stuck:error", "hang"])
def test_every_wedge_is_healed(fault: str) -> None:
    virtual = sick(fault)
    assert heal_with_host(virtual).verdict == "healed"
    assert virtual.bmc.cold_resets == 1


def test_an_armed_watchdog_reboots_no_host_and_is_armed_again() -> None:
    virtual = sick("hang:timer", watchdog_armed_s=60.0)
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "healed"
    assert outcomes(verdict)["watchdog"] == "held"
    assert outcomes(verdict)["watchdog-restore"] == "armed by the host"
    assert virtual.bmc.host.power_changes == 0
    assert virtual.bmc.host.boots == 0
    assert virtual.bmc.watchdog is not None
    assert virtual.bmc.watchdog.running
    assert virtual.bmc.watchdog.settings.initial_countdown_s == 60.0


@pytest.mark.parametrize("sick_for_s", [0.0, 5.0])
def test_a_slow_bmcs_watchdog_is_held_before_it_expires(sick_for_s: float) -> None:
    virtual = sick("hang:timer", "slow:2", sick_for_s=sick_for_s, watchdog_armed_s=60.0)
    verdict = heal(virtual, in_band_hung=True)
    assert outcomes(verdict)["watchdog"] == "held"
    assert verdict.verdict == "healed-lan-only"
    assert virtual.bmc.host.boots == 0


def test_a_watchdog_that_expired_before_it_could_be_held_is_reported() -> None:
    virtual = sick("hang:timer", watchdog_armed_s=60.0)

    async def after_lunch(diagnosis: BmcDiagnosis, plan: RemedyPlan) -> str | None:
        virtual.passes(100.0)
        return await yes(diagnosis, plan)

    verdict = heal(virtual, in_band_hung=True, confirm=after_lunch)
    assert virtual.bmc.host.boots == 1
    assert verdict.verdict == "needs-repair"
    assert verdict.host_untouched is False
    assert any("ran out before it could be held" in line for line in verdict.evidence)


def test_without_the_hold_the_watchdog_would_have_rebooted_the_host() -> None:
    virtual = sick("hang:timer", watchdog_armed_s=60.0)
    virtual.passes(60.0)
    assert virtual.bmc.host.boots == 1


def test_a_watchdog_without_pats_is_put_back_stopped() -> None:
    virtual = sick("hang", watchdog_armed_s=60.0)
    virtual.bmc.daemon_gives_up()  # as FreeIPMI's does
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "healed"
    assert outcomes(verdict)["watchdog-restore"] == "stopped"
    virtual.passes(7000.0)
    assert virtual.bmc.host.boots == 0
    assert virtual.bmc.watchdog is not None
    assert virtual.bmc.watchdog.settings.initial_countdown_s == 60.0
    assert virtual.bmc.watchdog.settings.timeout_action == 1
    assert any("watchdog" in line.lower() for line in verdict.evidence)


def test_an_ignored_reset_is_detected_and_leaves_the_watchdog_held() -> None:
    virtual = sick("hang:timer", "reset-ignored", watchdog_armed_s=60.0)
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "needs-repair"
    assert outcomes(verdict)["restart-evidence"] == "disproven"
    assert verdict.host_untouched is True
    assert virtual.bmc.cold_resets == 0
    assert virtual.requests["06/02"] == 1
    assert any(line.startswith("WATCHDOG") for line in verdict.evidence)
    virtual.passes(7000.0)
    assert virtual.bmc.host.boots == 0


def test_a_reset_whose_answer_is_lost_is_observed_and_never_repeated() -> None:
    virtual = sick("hang", "reset-lost-reply")
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "healed"
    assert outcomes(verdict)["cold-reset"] == "unknown"
    assert virtual.requests["06/02"] == virtual.bmc.cold_resets == 1


@pytest.mark.parametrize("with_host", [True, False])
def test_a_host_that_restarts_with_its_bmc_is_never_called_healed(with_host: bool) -> None:
    virtual = sick("hang", "reset-reboots-host")
    verdict = heal_with_host(virtual) if with_host else heal(virtual, in_band_hung=True)
    assert verdict.verdict == "needs-repair"
    assert verdict.host_untouched is False
    assert (verdict.power_before, verdict.power_after) == ("on", "on")
    assert virtual.bmc.host.power_changes == 2


def test_a_dead_bmc_is_for_repair_and_gets_nothing() -> None:
    virtual = sick("dead")
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "needs-repair"
    assert changed_nothing(virtual)
    assert any("tried a session" in line for line in verdict.evidence)


def test_a_bmc_that_boots_too_long_is_for_repair() -> None:
    virtual = sick("hang", "boot:400")
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "needs-repair"
    assert outcomes(verdict)["poll"] == "not-back"
    assert verdict.power_after is None
    assert virtual.bmc.cold_resets == 1


def test_a_slow_boot_is_proven_by_its_gap_though_the_old_session_is_too_old() -> None:
    virtual = sick("hang", "boot:120")
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "healed"
    assert any("silent for" in line for line in verdict.evidence)


@pytest.mark.parametrize("quiet_s", [1.0, 60.0, 120.0])
def test_other_quiet_times_prove_the_restart_too(quiet_s: float) -> None:
    virtual = sick("hang")
    assert heal_with_host(virtual, times=ResetTimes(quiet_s=quiet_s)).verdict == "healed"


def test_a_slow_bmc_is_waited_for_and_judged_by_its_host() -> None:
    virtual = sick("hang", "slow:1.5")
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "needs-repair"  # it is as slow after the reset as before
    assert virtual.bmc.cold_resets == 1
    assert "not at rest" in verdict.reason


def test_a_leak_is_healed_while_the_bmc_still_answers() -> None:
    virtual = sick("port80-flood", sick_for_s=140.0)
    assert virtual.bmc.answer_latency_s(virtual.time.now) > 0.1
    report = replace(report_of(virtual), symptoms=("bmc-slow",))
    verdict = heal(virtual, report=report)
    assert outcomes(verdict)["diagnose"] == "in-band-slow"
    assert verdict.verdict == "healed-lan-only"
    assert virtual.bmc.own_watchdog_reboots == 0


def test_a_single_session_slot_is_enough() -> None:
    virtual = sick("hang", "sessions:1")
    assert heal_with_host(virtual).verdict == "healed"


def test_no_session_slot_at_all_is_for_repair() -> None:
    virtual = sick("hang", "sessions:0")
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "needs-repair"
    assert changed_nothing(virtual)


@pytest.mark.parametrize("seed", range(20))
def test_losses_on_the_network_change_nothing(seed: int) -> None:
    virtual = sick("hang:timer", "lan-loss:0.3", watchdog_armed_s=60.0)
    virtual.rng.seed(seed)
    verdict = heal(virtual, in_band_hung=True)
    assert outcomes(verdict)["acting-session"] == "open"  # a lost datagram is no sickness
    sent = virtual.requests.get("06/02", 0)
    assert virtual.bmc.cold_resets == sent <= verdict.resets_sent == 1
    assert verdict.verdict == ("healed-lan-only" if sent else "needs-repair")
    assert ("lost on the way" in verdict.reason) is not bool(sent)
    virtual.passes(7000.0)
    assert virtual.bmc.host.boots == 0


@pytest.mark.parametrize("seed", range(20))
def test_losses_never_pass_for_a_restart(seed: int) -> None:
    virtual = sick("hang", "reset-ignored", "lan-loss:0.3")
    virtual.rng.seed(seed)
    verdict = heal(virtual, in_band_hung=True)
    assert outcomes(verdict)["restart-evidence"] == "disproven"
    assert verdict.verdict == "needs-repair"


# ---------------------------------------------------------------------------- what is refused


def refused(virtual: VirtualBmc, verdict: HealVerdict, rule: str) -> bool:
    return (
        verdict.verdict == "refused"
        and verdict.resets_sent == 0
        and changed_nothing(virtual)
        and any(line.startswith(f"{rule}: ") for line in verdict.evidence)
    )


def test_symptoms_of_another_host_are_refused() -> None:
    virtual = sick("hang", watchdog_armed_s=60.0)
    before = dict(virtual.requests)
    other = replace(report_of(virtual), product_uuid="11111111-2222-3333-4444-555555555555")
    for word in (True, False):
        verdict = heal(virtual, report=other, in_band_hung=word)
        assert verdict.verdict == "refused"
        assert verdict.evidence[-1].startswith("other-host: ")
    assert all(virtual.requests.get(k, 0) == before.get(k, 0) for k in CHANGES_STATE)


@pytest.mark.parametrize("age_s", [301.0, -61.0])
def test_symptoms_of_another_time_are_refused(age_s: float) -> None:
    virtual = sick("hang")
    report = replace(report_of(virtual), captured_at=virtual.time.epoch() - age_s)
    assert refused(virtual, heal(virtual, report=report), "symptoms-too-old")


def test_symptoms_that_age_while_the_operator_decides_are_refused() -> None:
    virtual = sick("hang")

    async def after_lunch(diagnosis: BmcDiagnosis, plan: RemedyPlan) -> str | None:
        virtual.passes(3600.0)
        return await yes(diagnosis, plan)

    verdict = heal(virtual, report=report_of(virtual), confirm=after_lunch)
    assert refused(virtual, verdict, "symptoms-too-old")


def test_a_slow_yes_of_the_operator_still_gets_a_session() -> None:
    virtual = sick("hang")

    async def after_coffee(diagnosis: BmcDiagnosis, plan: RemedyPlan) -> str | None:
        virtual.passes(200.0)
        return await yes(diagnosis, plan)

    assert heal_with_host(virtual, confirm=after_coffee).verdict == "healed"


def test_an_identity_that_cannot_be_proven_needs_the_operators_word() -> None:
    virtual = sick("hang")
    nobody = replace(report_of(virtual), product_uuid=None)
    verdict = heal(virtual, report=nobody)
    assert refused(virtual, verdict, "identity-not-proven")
    assert "as root" in verdict.reason
    assert heal(virtual, report=nobody, in_band_hung=True).verdict == "healed-lan-only"


def test_nothing_is_sent_without_permission() -> None:
    virtual = sick("hang")
    verdict = heal_with_host(virtual, confirm=no)
    assert refused(virtual, verdict, "not-confirmed")
    assert "not cold-reset for in-band-hung" in verdict.reason


def test_a_bmc_that_another_run_acts_on_is_refused() -> None:
    virtual = sick("hang")
    link = virtual.link
    link.is_locked = True
    assert refused(virtual, heal(virtual, link=link, in_band_hung=True), "in-other-hands")
    assert refused(virtual, reset(virtual, Remedy.COLD_RESET, link=link), "in-other-hands")
    virtual.falls_sick("dead")  # as it looks while another run restarts it
    assert refused(virtual, heal(virtual, link=link), "in-other-hands")
    virtual.falls_sick()
    assert heal(virtual, link=link).verdict == "healthy-lan-only"


def test_a_user_who_may_not_act_is_refused() -> None:
    virtual = sick("hang", privilege=PrivilegeLevel.OPERATOR)
    assert refused(virtual, heal_with_host(virtual), "no-right-to-act")


def test_wrong_credentials_are_refused_without_their_text() -> None:
    virtual = sick("hang")
    verdict = heal(virtual, link=VirtualLink(virtual, b"hunter2"), in_band_hung=True)
    assert verdict.verdict == "refused"
    assert "hunter2" not in str(verdict.to_json())
    assert "hunter2" not in repr(verdict)


def answers(key: tuple[int, int], code: int, data: bytes = b"") -> Override:
    def override(message: RequestMessage) -> tuple[int, bytes] | None:
        return (code, data) if (message.netfn, message.command) == key else None

    return override


@pytest.mark.parametrize("key", [(0x06, 0x01), (0x06, 0x04), (0x06, 0x25)])
def test_a_bmc_that_is_updating_is_left_alone(key: tuple[int, int]) -> None:
    virtual = sick("hang")
    virtual.override = answers(key, 0xD1)
    assert refused(virtual, heal_with_host(virtual), "bmc-updating")


def test_an_unknown_power_state_needs_a_host_that_can_be_asked() -> None:
    virtual = sick("hang")
    virtual.override = answers((0x00, 0x01), 0xC1)
    assert refused(virtual, heal(virtual, in_band_hung=True), "power-unknown")
    assert heal_with_host(virtual).verdict == "healed"


def test_a_watchdog_that_cannot_be_held_forbids_the_reset() -> None:
    virtual = sick("hang", watchdog_armed_s=60.0)
    virtual.override = answers((0x06, 0x24), 0xD5)
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "refused"
    assert "06/02" not in virtual.requests
    assert any(line.startswith("watchdog-armed: ") for line in verdict.evidence)


def test_symptoms_that_do_not_point_to_the_bmc_are_refused() -> None:
    virtual = VirtualBmc()
    report = replace(report_of(virtual), symptoms=("disk-full",))
    verdict = heal(virtual, report=report)
    assert verdict.verdict == "refused"
    assert changed_nothing(virtual)


# ------------------------------------------------------------------ BMCs that refuse questions


def refuses(code: int, *commands: str, times: int | None = None) -> list[str]:
    suffix = "" if times is None else f":{times}"
    return [f"refuse:{command}:{code:#x}{suffix}" for command in commands]


@pytest.mark.parametrize("code", [0xFF, 0xC0, 0xC3, 0xCE])
@pytest.mark.parametrize("commands", [("06/01",), ("00/01",), ("06/01", "00/01")])
def test_a_bmc_that_fails_a_mandatory_command_is_sick(code: int, commands: list[str]) -> None:
    virtual = VirtualBmc(*refuses(code, *commands))
    verdict = heal(virtual)
    assert outcomes(verdict)["diagnose"] == "lan-sick"
    assert any("mandatory question" in line for line in verdict.evidence)
    assert verdict.verdict not in ("healthy", "healthy-lan-only", "healed")
    if "00/01" in commands:
        assert refused(virtual, verdict, "power-unknown")


@pytest.mark.parametrize("code", [0xFF, 0xC0, 0xC3, 0xCE, 0xD2])
@pytest.mark.parametrize("times", [1, 2])
def test_a_mandatory_command_that_fails_for_once_is_asked_again(code: int, times: int) -> None:
    virtual = VirtualBmc(*refuses(code, "06/01", "00/01", "06/04", times=times))
    assert heal(virtual).verdict == "healthy-lan-only"
    assert virtual.requests["06/01"] == virtual.requests["00/01"] == times + 1
    assert changed_nothing(virtual)


@pytest.mark.parametrize("code", [0xFF, 0xC0, 0xC1, 0xC3, 0xCE, 0xCC, 0xD5])
def test_a_bmc_that_refuses_everything_is_not_healthy(code: int) -> None:
    virtual = VirtualBmc()
    virtual.override = lambda message: None if message.command == 0x3B else (code, b"")
    verdict = heal(virtual)
    assert outcomes(verdict)["diagnose"] == "lan-sick"
    assert verdict.verdict == "refused"
    assert verdict.resets_sent == 0


def test_a_user_who_may_ask_nothing_is_no_sickness_of_the_bmc() -> None:
    virtual = VirtualBmc()
    virtual.override = lambda message: None if message.command == 0x3B else (0xD4, b"")
    verdict = heal(virtual)
    assert outcomes(verdict)["diagnose"] == "credentials-refused"
    assert verdict.verdict == "refused"


def test_optional_questions_that_fail_are_no_sickness() -> None:
    virtual = VirtualBmc(*refuses(0xFF, "06/04", "06/37", "06/08", "06/25"))
    assert heal(virtual).verdict == "healthy-lan-only"


def test_a_bmc_that_is_still_initializing_is_waited_for() -> None:
    virtual = VirtualBmc(*refuses(0xD2, "06/01", times=10))
    verdict = heal(virtual)
    assert verdict.verdict == "healthy-lan-only"
    assert outcomes(verdict)["look-again"] == "back"
    assert changed_nothing(virtual)


@pytest.mark.parametrize("fault", ["cut:06/01:4", "cut:06/01:0", "refuse:06/01:0xcc"])
def test_a_device_id_that_was_unusable_before_the_reset_may_be_so_after_it(fault: str) -> None:
    verdict = heal_with_host(sick("hang", fault))
    assert outcomes(verdict)["poll"] == "back"
    assert verdict.verdict == "healed"


@pytest.mark.parametrize("fault", ["cut:06/04:1", "cut:06/04:0", "refuse:06/04:0xff"])
def test_a_self_test_that_was_unusable_before_the_reset_may_be_so_after_it(fault: str) -> None:
    verdict = heal_with_host(sick("hang", fault))
    assert outcomes(verdict)["self-test"] == "passed"
    assert verdict.verdict == "healed"


@pytest.mark.parametrize(
    "answer", [(0xCC, b""), (0xFF, b""), (0xC1, b""), (0, bytes(7)), (0, bytes(16)), None]
)
def test_any_answer_without_a_session_shows_that_the_bmc_is_back(
    answer: tuple[int, bytes] | None,
) -> None:
    virtual = sick("hang")
    virtual.sessionless = lambda: answer
    verdict = heal_with_host(virtual)
    assert outcomes(verdict)["poll"] == "back"
    assert verdict.verdict == "healed"


# ---------------------------------------------------------------------- unusual BMCs and hosts


def test_a_bmc_that_refuses_to_restart_is_for_repair() -> None:
    virtual = sick("hang")
    virtual.override = answers((0x06, 0x02), 0xC1)
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "needs-repair"
    assert outcomes(verdict)["cold-reset"] == "denied"
    assert "quiet-time" not in outcomes(verdict)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_reset_that_a_busy_bmc_did_not_do_is_sent_again(times: int) -> None:
    virtual = sick("hang", *refuses(0xC0, "06/02", times=times))
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "healed"
    assert verdict.resets_sent == virtual.requests["06/02"] == times + 1
    assert virtual.bmc.cold_resets == 1


@pytest.mark.parametrize("remedy", [Remedy.COLD_RESET, Remedy.WARM_RESET])
def test_a_bmc_that_stays_busy_is_no_case_for_repair(remedy: Remedy) -> None:
    virtual = VirtualBmc(*refuses(0xC0, "06/02", "06/03"))
    verdict = reset(virtual, remedy)
    assert verdict.verdict == "refused"
    assert outcomes(verdict)[str(remedy)] == "denied"
    assert "try again" in verdict.reason
    command = "06/02" if remedy is Remedy.COLD_RESET else "06/03"
    assert verdict.resets_sent == virtual.requests[command] == 4
    assert (virtual.bmc.cold_resets, virtual.bmc.warm_resets) == (0, 0)
    assert heal(sick("hang", *refuses(0xC0, "06/02")), in_band_hung=True).verdict == "refused"


@pytest.mark.parametrize("code", [0xC1, 0xC2, 0xCC, 0xD5, 0xD6])
def test_a_warm_reset_that_is_refused_names_the_cold_one(code: int) -> None:
    virtual = VirtualBmc(*refuses(code, "06/03"))
    verdict = reset(virtual, Remedy.WARM_RESET)
    assert verdict.verdict == "refused"
    assert "--cold" in verdict.reason
    assert "on-site" not in verdict.reason
    assert verdict.resets_sent == virtual.requests["06/03"] == 1
    assert "06/02" not in virtual.requests


@pytest.mark.parametrize("code", [0xD1, 0xD2, 0xD4])
def test_a_cold_reset_that_is_refused_for_now_is_no_case_for_repair(code: int) -> None:
    virtual = sick("hang", *refuses(code, "06/02"))
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "refused"
    assert verdict.resets_sent == virtual.requests["06/02"] == 1


def test_a_reset_that_is_lost_after_the_answer_busy_is_observed() -> None:
    virtual = sick("hang", "reset-lost-reply", *refuses(0xC0, "06/02", times=1))
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "healed"
    assert outcomes(verdict)["cold-reset"] == "unknown"
    assert verdict.resets_sent == virtual.requests["06/02"] == 2
    assert virtual.bmc.cold_resets == 1


@pytest.mark.parametrize("code", [0xC3, 0xCE, 0xFF])
def test_a_reset_that_may_have_happened_is_observed(code: int) -> None:
    virtual = sick("hang")
    virtual.override = answers((0x06, 0x02), code)
    verdict = heal_with_host(virtual)
    assert outcomes(verdict)["cold-reset"] == "unknown"
    assert outcomes(verdict)["restart-evidence"] == "disproven"
    assert verdict.verdict == "needs-repair"


def test_a_bmc_that_supports_nothing_optional_is_healed() -> None:
    virtual = sick("hang")

    def override(message: RequestMessage) -> tuple[int, bytes] | None:
        needed = {(0x06, 0x01), (0x06, 0x02), (0x00, 0x01), (0x06, 0x37)}
        return None if (message.netfn, message.command) in needed else (0xC1, b"")

    virtual.override = override
    assert heal_with_host(virtual).verdict == "healed"


def test_a_failing_self_test_after_the_restart_is_for_repair() -> None:
    virtual = sick("hang")
    restarted = answers((0x06, 0x04), 0x00, b"\x58\x00")

    def override(message: RequestMessage) -> tuple[int, bytes] | None:
        return restarted(message) if virtual.bmc.cold_resets else None

    virtual.override = override
    verdict = heal_with_host(virtual)
    assert verdict.verdict == "needs-repair"
    assert "self-test" in verdict.reason


def test_a_bmc_that_falls_silent_in_the_steady_time_is_for_repair() -> None:
    virtual = sick("hang")
    host = VirtualHost(virtual)

    @dataclass
    class DiesAfterwards:
        runs: int = 0

        async def run(self) -> HostReport:
            self.runs += 1
            report = await host.run()
            if self.runs == 2:
                virtual.falls_sick("dead")
            return report

    verdict = heal(virtual, host=DiesAfterwards())
    assert verdict.verdict == "needs-repair"
    assert outcomes(verdict)["steady"] == "lost"


def test_a_host_that_never_comes_to_rest_is_for_repair() -> None:
    virtual = sick("hang")
    busy = VirtualHost(
        virtual, lambda seen: seen | {"kipmi": [{"name": "kipmi0", "cpu_percent": 12.0}]}
    )
    verdict = heal(virtual, host=busy)
    assert verdict.verdict == "needs-repair"
    assert verdict.host_untouched is True
    assert "12 %" in verdict.reason


def test_clients_left_over_from_the_hang_need_no_repair_of_the_bmc() -> None:
    virtual = sick("hang")

    def left_over(seen: Json) -> Json:
        if seen["symptoms"]:
            return seen
        stuck = [{"pid": 1}, {"pid": 2}]
        return seen | {
            "symptoms": ["stuck-clients"],
            "kipmi": [{"name": "kipmi0", "cpu_percent": 0.0}],
            "stuck": stuck,
        }

    verdict = heal(virtual, host=VirtualHost(virtual, left_over))
    assert verdict.verdict == "healed"
    assert verdict.host_untouched is True
    assert any("2 stuck clients are left over" in line for line in verdict.evidence)


def test_clients_that_still_wait_for_the_bmc_are_not_left_over() -> None:
    virtual = sick("hang")
    waits = VirtualHost(
        virtual,
        lambda seen: (
            seen
            | {"symptoms": ["stuck-clients"], "stuck": [{"pid": 1}], "hung_since": virtual.time.now}
        ),
    )
    verdict = heal(virtual, host=waits)
    assert verdict.verdict == "needs-repair"


def test_a_host_without_a_boot_id_is_healed_as_far_as_lan_shows() -> None:
    virtual = sick("hang")

    def anonymous(seen: Json) -> Json:
        return seen | {"host_id": seen["host_id"] | {"boot_id": None}}

    verdict = heal(virtual, host=VirtualHost(virtual, anonymous))
    assert verdict.verdict == "healed-lan-only"
    assert verdict.host_untouched is None


def test_a_triage_command_that_fails_before_is_refused_and_after_is_for_repair() -> None:
    @dataclass
    class FailsFrom:
        first_failure: int
        virtual: VirtualBmc
        runs: int = 0

        async def run(self) -> HostReport:
            self.runs += 1
            if self.runs >= self.first_failure:
                raise TriageFailed("ssh: connection refused")
            return report_of(self.virtual)

    virtual = sick("hang")
    verdict = heal(virtual, host=FailsFrom(1, virtual))
    assert verdict.verdict == "refused"
    assert changed_nothing(virtual)
    verdict = heal(virtual, host=FailsFrom(2, virtual))
    assert verdict.verdict == "needs-repair"
    assert verdict.host_untouched is None
    assert "ssh: connection refused" in verdict.reason


def test_a_host_that_is_well_now_outweighs_symptoms_from_a_file() -> None:
    virtual = sick("hang")
    symptoms = report_of(virtual)
    virtual.falls_sick()
    verdict = heal_with_host(virtual, report=symptoms)
    assert verdict.verdict == "healthy"
    assert "--in-band-hung" in verdict.reason
    assert changed_nothing(virtual)


@pytest.mark.parametrize(("unknown_for_s", "ending"), [(1e9, "needs-repair"), (20.0, "healed")])
def test_power_that_cannot_be_read_afterwards_is_never_called_healed(
    unknown_for_s: float, ending: str
) -> None:
    virtual = sick("hang")
    unknown = answers((0x00, 0x01), 0xD5)

    def override(message: RequestMessage) -> tuple[int, bytes] | None:
        until_s = 1120.0 + 30.0 + unknown_for_s
        back = virtual.bmc.cold_resets and virtual.time.now < until_s
        return unknown(message) if back else None

    virtual.override = override
    verdict = heal(virtual, in_band_hung=True)
    assert verdict.verdict.startswith(ending)
    assert verdict.power_after == ("on" if ending == "healed" else None)
    virtual = sick("hang")
    virtual.override = override
    assert heal_with_host(virtual).verdict == "healed"  # the boot id proves it


def restarts_itself_at(virtual: VirtualBmc, key: tuple[int, int]) -> Override:
    """Let the BMC restart by itself instead of answering this request."""

    def override(message: RequestMessage) -> tuple[int, bytes] | None:
        if (message.netfn, message.command) == key and not virtual.bmc.cold_resets:
            send_command(virtual.bmc, ColdResetReq(), virtual.time.now)
            virtual.passes(1.0)
        return None

    return override


@pytest.mark.parametrize("key", [(0x06, 0x04), (0x06, 0x08)])
@pytest.mark.parametrize("source", ["nobody", "host", "word", "file"])
def test_a_bmc_that_restarts_by_itself_gets_no_reset(key: tuple[int, int], source: str) -> None:
    virtual = VirtualBmc() if source == "nobody" else sick("hang")
    report = None if source == "nobody" else report_of(virtual)
    virtual.override = restarts_itself_at(virtual, key)
    if source in ("nobody", "host"):
        verdict = heal(virtual, host=VirtualHost(virtual) if source == "host" else None)
        assert verdict.verdict == ("healthy" if source == "host" else "healthy-lan-only")
    elif source == "file":
        verdict = heal(virtual, report=report)
        assert verdict.verdict == "refused"
    else:
        verdict = heal(virtual, in_band_hung=True)
        assert verdict.verdict == "refused"
    assert verdict.resets_sent == 0
    assert outcomes(verdict)["look-again"] == "back"
    assert virtual.bmc.cold_resets == 1


# ------------------------------------------------------------------- the timer after failures


def refuses_set(virtual: VirtualBmc, trial: bool) -> Override:
    """Let the BMC refuse Set Watchdog Timer after the restart, from the trial on or after it."""
    seen: list[bytes] = []

    def override(message: RequestMessage) -> tuple[int, bytes] | None:
        if (message.netfn, message.command) != (0x06, 0x24) or not virtual.bmc.cold_resets:
            return None
        seen.append(message.data)
        return (0xD5, b"") if len(seen) > (1 if trial else 2) else None

    return override


def test_a_timer_that_keeps_its_action_is_not_started_on_trial() -> None:
    virtual = sick("hang", watchdog_armed_s=600.0)
    virtual.bmc.daemon_gives_up()  # as FreeIPMI's does
    virtual.override = refuses_set(virtual, trial=True)
    pats = virtual.requests.get("06/22", 0)
    verdict = heal_with_host(virtual)
    assert virtual.requests.get("06/22", 0) == pats
    assert any(line.startswith("WATCHDOG") or "stopped" in line for line in verdict.evidence)
    virtual.passes(7000.0)
    assert virtual.bmc.host.boots == 0


def test_a_timer_without_its_action_is_not_reported_as_restored() -> None:
    virtual = sick("hang", watchdog_armed_s=600.0)
    virtual.bmc.daemon_gives_up()  # as FreeIPMI's does
    virtual.override = refuses_set(virtual, trial=False)
    verdict = heal_with_host(virtual)
    assert outcomes(verdict)["watchdog-restore"] == "failed"
    assert any(line.startswith("WATCHDOG") for line in verdict.evidence)


@pytest.mark.parametrize("fault", ["reset-ignored", "denied"])
def test_an_ordered_reset_that_does_not_happen_restores_the_timer(fault: str) -> None:
    virtual = VirtualBmc(watchdog_armed_s=60.0)
    virtual.passes(100.0)
    if fault == "denied":
        virtual.override = answers((0x06, 0x02), 0xC1)
    else:
        virtual.falls_sick(fault)
    verdict = reset(virtual, Remedy.COLD_RESET)
    assert verdict.verdict == "not-back"
    assert outcomes(verdict)["watchdog-restore"] in ("running", "stopped")
    assert virtual.managed.session_count == 0
    virtual.passes(20.0)
    assert virtual.bmc.watchdog is not None
    assert virtual.bmc.watchdog.running
    assert virtual.bmc.watchdog.settings.initial_countdown_s == 60.0


def test_a_reset_interrupted_before_it_is_sent_restores_the_timer() -> None:
    virtual = VirtualBmc(watchdog_armed_s=60.0)
    virtual.passes(100.0)
    stop = Interrupts(virtual, "cold-reset")
    remediation = Remediation(case(virtual, journal=stop))
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(remediation.reset(Remedy.COLD_RESET))
    assert "No reset was sent." in remediation.describe_state()
    assert "put back" in remediation.describe_state()
    assert virtual.bmc.watchdog is not None
    assert virtual.bmc.watchdog.settings.initial_countdown_s == 60.0


def test_an_interrupt_while_the_timer_is_stopped_is_reported() -> None:
    virtual = sick("hang", watchdog_armed_s=60.0)

    def override(message: RequestMessage) -> tuple[int, bytes] | None:
        if (message.netfn, message.command) == (0x06, 0x24):
            raise KeyboardInterrupt
        return None

    virtual.override = override
    remediation = Remediation(case(virtual, in_band_hung=True))
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(remediation.heal())
    assert "WATCHDOG" in remediation.describe_state()
    assert "the result is not known" in remediation.describe_state()


# ------------------------------------------------------------------ reset, and the order of steps


def reset(virtual: VirtualBmc, remedy: Remedy, **given: Unpack[Given]) -> HealVerdict:
    return asyncio.run(Remediation(case(virtual, **given)).reset(remedy))


def test_an_ordered_reset_comes_back() -> None:
    virtual = VirtualBmc()
    assert reset(virtual, Remedy.COLD_RESET).verdict == "back"
    assert reset(virtual, Remedy.WARM_RESET).verdict == "back"
    assert (virtual.bmc.cold_resets, virtual.bmc.warm_resets) == (1, 1)


@pytest.mark.parametrize(
    ("faults", "verdict"),
    [
        (("reset-ignored",), "not-back"),
        (("boot:400",), "not-back"),
        (("reset-reboots-host",), "back-host-changed"),
        (("dead",), "not-back"),
        (("reset-lost-reply",), "back"),
    ],
)
def test_ordered_resets_of_sick_bmcs(faults: tuple[str, ...], verdict: str) -> None:
    virtual = sick(*faults)
    assert reset(virtual, Remedy.COLD_RESET).verdict == verdict
    assert virtual.requests.get("06/02", 0) <= 1


def test_an_ordered_reset_needs_permission_too() -> None:
    virtual = VirtualBmc()
    assert refused(virtual, reset(virtual, Remedy.COLD_RESET, confirm=no), "not-confirmed")


@dataclass
class Recorder:
    """A journal that notes how many resets the BMC had received at each intent."""

    virtual: VirtualBmc
    seen: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    async def record_intent(self, name: str, text: str) -> None:
        assert text
        self.seen[name] = self.virtual.requests.get("06/02", 0)

    async def record_step(self, step: Step) -> None:
        self.steps.append(step)

    def show_wait(self, name: str, left_s: float, text: str) -> None:
        assert name
        assert text
        assert left_s > -60


class Interrupts(Recorder):
    """A journal that raises KeyboardInterrupt when a step begins."""

    def __init__(self, virtual: VirtualBmc, step: str) -> None:
        super().__init__(virtual)
        self.step = step

    async def record_intent(self, name: str, text: str) -> None:
        await super().record_intent(name, text)
        if name == self.step:
            raise KeyboardInterrupt


def test_the_intent_is_recorded_before_the_act() -> None:
    virtual = sick("hang")
    recorder = Recorder(virtual)
    verdict = heal_with_host(virtual, journal=recorder)
    assert recorder.seen["cold-reset"] == 0
    assert recorder.seen["quiet-time"] == 1
    assert tuple(recorder.steps) == verdict.steps


def test_an_interrupted_remediation_describes_its_state() -> None:
    virtual = sick("hang", watchdog_armed_s=60.0)

    stop = Interrupts(virtual, "quiet-time")
    remediation = Remediation(case(virtual, in_band_hung=True, journal=stop))
    assert remediation.describe_state() == "No reset was sent."
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(remediation.heal())
    standing = remediation.describe_state()
    assert "One cold reset was sent" in standing
    assert "WATCHDOG" in standing


def test_the_virtual_bmc_refuses_an_unknown_fault() -> None:
    with pytest.raises(ConfigurationError):
        VirtualBmc("no-such-fault")
