"""The rules that forbid an action: one pure function over facts, every refusal with its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bmcmedic.errors import GuardrailRefused
from bmcmedic.model.heal import IdentityCheck

SYMPTOMS_AGE_S_MAX = 300.0
"""Older symptoms say nothing about now."""

SYMPTOMS_AHEAD_S_MAX = 60.0
"""A host's clock that is further ahead hides that much of its symptoms' age."""


@dataclass(frozen=True, slots=True)
class GuardrailFacts:
    """What the rules look at. None is what was not looked at yet, and no rule trips over it."""

    identity: IdentityCheck = IdentityCheck.NOT_ASKED
    identity_detail: str = ""
    operators_word: bool = False
    """Whether the operator gave `--in-band-hung`, or ordered the restart outright."""
    symptoms_age_s: float | None = None
    updating: str | None = None
    """What the BMC said, if it says that it is updating."""
    power: str | None = None
    power_asked: bool = False
    boot_id_known: bool = False
    """Whether the host itself can prove afterwards that it was left alone."""
    in_other_hands: bool = False
    """Whether another heal or reset on this machine acts on the BMC right now."""
    may_act: bool | None = None
    """Whether an Administrator session could be opened."""
    may_act_detail: str = ""
    confirmed: bool | None = None
    confirmed_detail: str = ""
    watchdog_armed: bool | None = None
    """Whether the timer still runs towards an action before the work is over."""
    watchdog_detail: str = ""


def violated(facts: GuardrailFacts) -> tuple[GuardrailRefused, ...]:
    """Every rule that forbids to act, the gravest first; empty when nothing does."""
    return tuple(_violated(facts))


def _violated(facts: GuardrailFacts) -> Iterator[GuardrailRefused]:
    yield from _wrong_patient(facts)
    if facts.updating is not None:
        yield GuardrailRefused(
            "bmc-updating",
            f"the BMC says that it is updating ({facts.updating}): a restart now could brick it;"
            " wait until it is done",
            {"said": facts.updating},
        )
    if facts.in_other_hands:
        yield GuardrailRefused(
            "in-other-hands",
            "another heal or reset of this BMC is at work on this machine, and two would send two"
            " resets; wait for its verdict",
            {"in_other_hands": True},
        )
    if facts.power_asked and facts.power is None and not facts.boot_id_known:
        yield GuardrailRefused(
            "power-unknown",
            "the host's power state is unknown, so nothing could prove afterwards that the host"
            " was left alone; give --triage-command, which proves it by the boot id",
            {"power": None, "boot_id_known": False},
        )
    if facts.may_act is False:
        yield GuardrailRefused(
            "no-right-to-act",
            f"no session at Administrator level, which a reset needs: {facts.may_act_detail}",
            {"privilege": "ADMINISTRATOR"},
        )
    if facts.watchdog_armed:
        yield GuardrailRefused(
            "watchdog-armed",
            "the BMC's watchdog timer runs and could not be held: it would shoot the healthy host"
            f" while nobody can pat it ({facts.watchdog_detail})",
            {"detail": facts.watchdog_detail},
        )
    if facts.confirmed is False:
        yield GuardrailRefused("not-confirmed", facts.confirmed_detail, {"confirmed": False})


def _wrong_patient(facts: GuardrailFacts) -> Iterator[GuardrailRefused]:
    if facts.identity is IdentityCheck.MISMATCH:
        yield GuardrailRefused(
            "other-host",
            f"the symptoms are of another host than this BMC's: {facts.identity_detail}",
            {"identity": str(facts.identity)},
        )
    if facts.identity is IdentityCheck.NOT_PROVEN and not facts.operators_word:
        yield GuardrailRefused(
            "identity-not-proven",
            "nothing proves that the symptoms are of this BMC's host"
            f" ({facts.identity_detail}); if you know that they are, say so with --in-band-hung",
            {"identity": str(facts.identity)},
        )
    age_s = facts.symptoms_age_s
    if age_s is not None and not -SYMPTOMS_AHEAD_S_MAX <= age_s <= SYMPTOMS_AGE_S_MAX:
        when = (
            f"{age_s:.0f} s old, the limit is {SYMPTOMS_AGE_S_MAX:.0f} s"
            if age_s > 0
            else f"from {-age_s:.0f} s in the future, so their age is not known"
        )
        yield GuardrailRefused(
            "symptoms-too-old",
            f"the symptoms are {when}; take them again, and compare the clocks if they are new",
            {"age_s": round(age_s, 1), "age_s_max": SYMPTOMS_AGE_S_MAX},
        )
