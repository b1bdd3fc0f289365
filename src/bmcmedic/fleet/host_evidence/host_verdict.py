"""Judges what is known about the host after its BMC restarted: pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.fleet.host_evidence.triage_document import are_left_over, complaints
from bmcmedic.model.heal import HostReport


@dataclass(frozen=True, slots=True)
class HostCondition:
    """What the host reported after the restart."""

    report: HostReport | None
    complaints: tuple[str, ...]
    """What still shows a sick in-band side."""
    detail: str
    left_over: str = ""
    """A line about clients that missed their answer and still wait, although the BMC is well."""

    @classmethod
    def of(cls, report: HostReport) -> HostCondition:
        """Return what one report means."""
        kipmi = f"kipmi at {report.kipmi_percent_max:g} %"
        if are_left_over(report):
            count = report.stuck_clients
            are = "client is" if count == 1 else "clients are"
            left = (
                f"{count} stuck {are} left over from the hang, though nothing waits for the BMC any"
                " more: `bmcmedic relieve` on the host ends them"
            )
            return cls(report, (), f"{kipmi}; {left}", left)
        return cls(report, complaints(report), f"{kipmi}, no stuck client")

    @property
    def is_well(self) -> bool:
        """Whether the host gave a report without complaints."""
        return self.report is not None and not self.complaints


@dataclass(frozen=True, slots=True)
class HostJudgement:
    """Whether the host kept running: True only if its boot id proves it."""

    untouched: bool | None
    lines: tuple[str, ...]
    other_host: bool = False


def judge_host(
    before: HostReport | None, after: HostReport | None, signs: tuple[str, ...]
) -> HostJudgement:
    """Judge the boot ids and the signs that were seen over LAN.

    The boot id outweighs every sign, because the kernel makes a new one at each boot. A BMC that
    has just restarted may report stale or wrong facts about its host.
    """
    if before is not None and after is not None:
        if _other_host(before, after):
            line = "the triage command reports another host after the restart than before"
            return HostJudgement(None, (line, *signs), other_host=True)
        if before.boot_id and after.boot_id:
            if before.boot_id == after.boot_id:
                overruled = tuple(f"{sign}; overruled by the boot id" for sign in signs)
                return HostJudgement(True, ("the host's boot id is the same", *overruled))
            line = "the host's boot id changed: it restarted together with its BMC"
            return HostJudgement(False, (line, *signs))
    if signs:
        return HostJudgement(False, signs)
    return HostJudgement(None, ())


def _other_host(before: HostReport, after: HostReport) -> bool:
    if before.product_uuid and after.product_uuid:
        return before.product_uuid.lower() != after.product_uuid.lower()
    if before.hostname and after.hostname:
        return before.hostname != after.hostname
    return False
