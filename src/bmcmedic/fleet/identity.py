"""Whether a host and a BMC belong together, by every id that both sides report: pure, no I/O.

`bmcmedic.ipmi.guid` compares two ids in every order of bytes that vendors use. The rules
`other-host` and `identity-not-proven` in `guardrails` act on the result. An id that is void (all
zeros or all ones) is dropped before, in `observe`.
"""

from __future__ import annotations

from collections.abc import Sequence

from bmcmedic.ipmi.guid import guid_candidates, guid_matches
from bmcmedic.model.heal import HostReport, IdentityCheck, Observation

_WORST_FIRST = (
    IdentityCheck.MISMATCH,
    IdentityCheck.NOT_PROVEN,
    IdentityCheck.PROVEN,
    IdentityCheck.NOT_ASKED,
)

NO_REPORT = "no host report was given, so only the operator says which host this BMC belongs to"


def check_identity(observation: Observation, report: HostReport | None) -> IdentityCheck:
    """Compare every pair of ids that the BMC and one host report.

    One pair that agrees, in any order of bytes in use, proves the identity: no two machines share
    an id.
    """
    if report is None:
        return IdentityCheck.NOT_ASKED
    guids = [g for g in (observation.system_guid, observation.device_guid) if g is not None]
    host_ids = [i for i in (report.product_uuid, report.bmc_guid) if i is not None]
    readable = [host_id for host_id in host_ids if _is_id(host_id)]
    if not guids or not readable:
        return IdentityCheck.NOT_PROVEN
    if any(guid_matches(guid, host_id) for guid in guids for host_id in readable):
        return IdentityCheck.PROVEN
    return IdentityCheck.MISMATCH


def check_identities(
    observation: Observation, reports: Sequence[HostReport]
) -> tuple[IdentityCheck, str]:
    """Compare the BMC with every host report; return the worst result, and both sides' ids."""
    if not reports:
        return IdentityCheck.NOT_ASKED, NO_REPORT
    checks = [check_identity(observation, report) for report in reports]
    worst = min(checks, key=_WORST_FIRST.index)
    return worst, identity_detail(observation, reports[checks.index(worst)])


def identity_detail(observation: Observation, report: HostReport) -> str:
    """Return the ids of host and BMC in one line, for an operator to compare."""
    known = (observation.system_guid, observation.device_guid)
    guids = dict.fromkeys(guid.hex() for guid in known if guid is not None)
    host_id = report.product_uuid or report.bmc_guid
    reports = (
        f"reports the id {host_id}"
        if host_id
        else "reports no id (triage reads it as root only, and some hosts have none)"
    )
    bmc_ids = " and ".join(guids) or "none"
    return f"host {report.hostname or 'unnamed'} {reports}, the BMC reports {bmc_ids}"


def _is_id(host_id: str) -> bool:
    """Whether a host's id is a GUID that identifies one machine."""
    try:
        raw = bytes.fromhex(host_id.replace("-", "").strip())
    except ValueError:
        return False
    return bool(guid_candidates(raw))
