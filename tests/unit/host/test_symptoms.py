"""The vocabulary of symptoms, and the word for each finding in JSON."""

from __future__ import annotations

from bmcmedic.agent.state import DriverView
from bmcmedic.host import symptoms
from bmcmedic.host.client.stuck import Finding


def words_of(module: object) -> set[str]:
    return {value for name, value in vars(module).items() if name.isupper() and value == str(value)}


def test_each_symptom_is_one_of_triage_or_of_the_driver() -> None:
    both = {*symptoms.TRIAGE_SYMPTOMS, *symptoms.DRIVER_SYMPTOMS}
    assert words_of(symptoms) == both
    assert len(symptoms.TRIAGE_SYMPTOMS) == len(set(symptoms.TRIAGE_SYMPTOMS))


def test_the_agent_finds_the_symptoms_of_the_driver_and_no_others() -> None:
    failing = {"failure": "no answer", "check_failure": "exit status 1"}
    views = (
        DriverView(),
        DriverView({"driver": {"interface_missing": "no /dev/ipmi0"}}),
        DriverView({"driver": {"breaker": {"open": True}}, "watchdog": failing}),
    )
    assert {each for view in views for each in view.symptoms} == set(symptoms.DRIVER_SYMPTOMS)


def test_json_has_one_word_for_clients_that_are_not_proven_stuck() -> None:
    unproven = {Finding.NOT_PROVEN, Finding.WATCHED_TOO_BRIEFLY, Finding.HELD_UP}
    assert {each for each in Finding if each.is_unproven} == unproven
    assert {each.word for each in unproven} == {"not proven"}
    proven = [each.word for each in Finding if each not in unproven]
    assert len({*proven, "not proven"}) == len(proven) + 1
