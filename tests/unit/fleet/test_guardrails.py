from __future__ import annotations

import pytest

from bmcmedic.fleet.guardrails import (
    SYMPTOMS_AGE_S_MAX,
    SYMPTOMS_AHEAD_S_MAX,
    GuardrailFacts,
    violated,
)
from bmcmedic.model.heal import IdentityCheck


def rules(facts: GuardrailFacts) -> list[str]:
    return [refusal.rule for refusal in violated(facts)]


def test_facts_that_are_not_known_yet_forbid_nothing() -> None:
    assert rules(GuardrailFacts()) == []


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        (GuardrailFacts(identity=IdentityCheck.MISMATCH), "other-host"),
        (GuardrailFacts(identity=IdentityCheck.MISMATCH, operators_word=True), "other-host"),
        (GuardrailFacts(identity=IdentityCheck.NOT_PROVEN), "identity-not-proven"),
        (GuardrailFacts(symptoms_age_s=SYMPTOMS_AGE_S_MAX + 1), "symptoms-too-old"),
        (GuardrailFacts(symptoms_age_s=-SYMPTOMS_AHEAD_S_MAX - 1), "symptoms-too-old"),
        (GuardrailFacts(updating="0xD1"), "bmc-updating"),
        (GuardrailFacts(power_asked=True), "power-unknown"),
        (GuardrailFacts(in_other_hands=True), "in-other-hands"),
        (GuardrailFacts(may_act=False), "no-right-to-act"),
        (GuardrailFacts(watchdog_armed=True), "watchdog-armed"),
        (GuardrailFacts(confirmed=False), "not-confirmed"),
    ],
)
def test_each_rule_refuses(facts: GuardrailFacts, rule: str) -> None:
    assert rules(facts) == [rule]


@pytest.mark.parametrize(
    "facts",
    [
        GuardrailFacts(identity=IdentityCheck.PROVEN),
        GuardrailFacts(identity=IdentityCheck.NOT_ASKED),
        GuardrailFacts(identity=IdentityCheck.NOT_PROVEN, operators_word=True),
        GuardrailFacts(symptoms_age_s=SYMPTOMS_AGE_S_MAX),
        GuardrailFacts(symptoms_age_s=-SYMPTOMS_AHEAD_S_MAX),
        GuardrailFacts(power_asked=True, power="off"),
        GuardrailFacts(power_asked=True, boot_id_known=True),
        GuardrailFacts(may_act=True, confirmed=True, watchdog_armed=False),
    ],
)
def test_each_rule_lets_pass(facts: GuardrailFacts) -> None:
    assert rules(facts) == []


def test_a_refusal_carries_its_numbers() -> None:
    (refusal,) = violated(GuardrailFacts(symptoms_age_s=400.0))
    assert refusal.facts == {"age_s": 400.0, "age_s_max": 300.0}
    assert "400 s old" in str(refusal)
    assert "300 s" in str(refusal)


def test_every_broken_rule_is_reported() -> None:
    facts = GuardrailFacts(identity=IdentityCheck.MISMATCH, updating="0xD1", confirmed=False)
    assert rules(facts) == ["other-host", "bmc-updating", "not-confirmed"]
