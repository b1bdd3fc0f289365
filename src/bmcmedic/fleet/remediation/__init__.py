"""The loop that joins the stages: probe, diagnose, plan, act, verify, verdict.

A remediation works on one BMC, sends at most one reset, and always ends in a verdict. `case` is
its input, `remediation` goes from symptom to plan, `execution` carries the plan out, `proof`
verifies the result, and `record` holds what all of them found.
"""

from bmcmedic.fleet.remediation.case import Confirm, HostSource, RemediationCase, RemediationEnding
from bmcmedic.fleet.remediation.remediation import Remediation

__all__ = ["Confirm", "HostSource", "Remediation", "RemediationCase", "RemediationEnding"]
