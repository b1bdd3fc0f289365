"""The rules that forbid an action: one pure function of facts; a refusal carries its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bmcmedic.errors import GuardrailRefused
from bmcmedic.model.heal import IdentityCheck

SYMPTOMS_AGE_S_MAX = 300.0
"""Maximum age of symptoms, in seconds; older ones say nothing about the host's state now."""

SYMPTOMS_AHEAD_S_MAX = 60.0
"""How far a host's clock may be ahead, in seconds; a clock ahead hides the age of symptoms."""


@dataclass(frozen=True, slots=True)
class GuardrailFacts:
    """What the rules check. None means not known yet, and then no rule refuses because of it."""

    identity: IdentityCheck = IdentityCheck.NOT_ASKED
    identity_detail: str = ""
    operators_word: bool = False
    """Whether the operator gave `--in-band-hung`, or ordered the restart outright."""
    symptoms_age_s: float | None = None
    updating: str | None = None
    """How the BMC reported that it is updating; None if it did not."""
    power: str | None = None
    power_asked: bool = False
    boot_id_known: bool = False
    """Whether the host can prove afterwards, by its boot id, that it kept running."""
    in_other_hands: bool = False
    """Whether another `heal` or `reset` on this machine is acting on the BMC."""
    may_act: bool | None = None
    """Whether an Administrator session could be opened."""
    may_act_detail: str = ""
    confirmed: bool | None = None
    confirmed_detail: str = ""
    watchdog_armed: bool | None = None
    """Whether the timer may still act on the host before the remediation ends."""
    watchdog_unknown: bool = False
    """Whether nothing shows if the timer runs, and the operator did not accept that."""
    watchdog_detail: str = ""


def violated(facts: GuardrailFacts) -> tuple[GuardrailRefused, ...]:
    """Return every rule that forbids the action, the most serious first; empty if none does."""
    return tuple(_violated(facts))


def _violated(facts: GuardrailFacts) -> Iterator[GuardrailRefused]:
    yield from _wrong_host(facts)
    if facts.updating is not None:
        yield GuardrailRefused(
            "bmc-updating",
            f"the BMC reports that it is updating ({facts.updating}): a restart now could brick it;"
            " wait until the update is done",
            {"said": facts.updating},
        )
    if facts.in_other_hands:
        yield GuardrailRefused(
            "in-other-hands",
            "another heal or reset of this BMC runs on this machine, and two of them would send two"
            " resets; wait for its verdict",
            {"in_other_hands": True},
        )
    if facts.power_asked and facts.power is None and not facts.boot_id_known:
        yield GuardrailRefused(
            "power-unknown",
            "the host's power state is unknown, so nothing could prove afterwards that the host"
            " kept running; give --triage-command, which proves it by the boot id",
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
            "the BMC's watchdog timer runs and could not be held: it would reboot the healthy host"
            f" while nothing can pat it ({facts.watchdog_detail})",
            {"detail": facts.watchdog_detail},
        )
    elif facts.watchdog_unknown:
        yield GuardrailRefused(
            "watchdog-armed",
            "it is not known whether the BMC's watchdog timer runs: it could reboot the healthy"
            f" host while nothing can pat it ({facts.watchdog_detail}); if you know that it does"
            " not run, give --watchdog-unknown-ok",
            {"detail": facts.watchdog_detail, "known": False},
        )
    if facts.confirmed is False:
        yield GuardrailRefused("not-confirmed", facts.confirmed_detail, {"confirmed": False})


def _wrong_host(facts: GuardrailFacts) -> Iterator[GuardrailRefused]:
    if facts.identity is IdentityCheck.MISMATCH:
        yield GuardrailRefused(
            "other-host",
            f"the symptoms are those of another host, not of this BMC's: {facts.identity_detail}",
            {"identity": str(facts.identity)},
        )
    if facts.identity is IdentityCheck.NOT_PROVEN and not facts.operators_word:
        yield GuardrailRefused(
            "identity-not-proven",
            "nothing proves that the symptoms are those of this BMC's host"
            f" ({facts.identity_detail}); if you know that they are, give --in-band-hung",
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
            f"the symptoms are {when}; run triage again, and compare the clocks if they are new",
            {"age_s": round(age_s, 1), "age_s_max": SYMPTOMS_AGE_S_MAX},
        )
