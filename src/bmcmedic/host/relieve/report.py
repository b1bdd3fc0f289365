"""A relief as JSON and as lines of text: what was found and done, before and after."""

import json
import shlex
from collections import Counter
from enum import Enum

from bmcmedic.host.client.stuck import Finding
from bmcmedic.host.kernel.kipmid import Kipmi
from bmcmedic.host.kernel.proc import shortened
from bmcmedic.host.output import duration, printable
from bmcmedic.host.relieve.end_client import Outcome
from bmcmedic.host.relieve.kipmid_throttle import ThrottleSetting
from bmcmedic.host.relieve.relieve import ReliefCase, Report
from bmcmedic.host.typed import Any, Dict, List, NamedTuple, Optional

ROWS_MAX = 1000
"""Longest list in the JSON, in rows; the counts beside it include the rest."""
LINES_MAX = 20
"""Number of clients of one kind in the text."""

_COMMAND_CHARACTERS_MAX = 60


class ReliefMode(Enum):
    """What a run of `relieve` was."""

    RELIEVE = "relieve"
    UNDO = "undo"
    DRY_RUN = "dry-run"
    DISABLED = "disabled"
    """Something forbids relief on this host."""
    REFUSED = "refused"
    """There was something to do, but neither a terminal nor --yes."""

    @property
    def is_refusal(self) -> bool:
        """Whether the run did nothing though it was requested."""
        return self in (ReliefMode.DISABLED, ReliefMode.REFUSED)


class HostAfterRelief(NamedTuple):
    """The host once more, after relief."""

    stuck_count: int
    kipmi: List[Kipmi]


class ReliefSummary(NamedTuple):
    """All that is reported of a relief."""

    report: Report
    mode: ReliefMode
    why: Optional[str]
    """Why nothing was done though it was requested."""
    stuck_after_s: float
    after: Optional[HostAfterRelief]
    """None: nothing was done."""
    left: List[ReliefCase]
    hidden: Optional[str]
    """What /proc hides from this process; None: nothing."""


def encoded(summary: ReliefSummary) -> str:
    """Return the document that `--json` prints; docs/reference/relieve.md explains each key."""
    report = summary.report
    return json.dumps(
        {
            "captured_at": round(report.at, 3),
            "mode": summary.mode.value,
            "why": summary.why,
            "stuck_after_s": summary.stuck_after_s,
            "stuck_before": len(report.stuck),
            "stuck_after": summary.after.stuck_count if summary.after is not None else None,
            "outcomes": dict(Counter(map(outcome_of, report.stuck))),
            "clients": [_client(case) for case in report.stuck[:ROWS_MAX]],
            "spared": [_spared(case) for case in _spared_cases(report)[:ROWS_MAX]],
            "unseen": report.unseen,
            "blind": [summary.hidden] if summary.hidden is not None else [],
            "left": [case.judged.client.identity.pid for case in summary.left[:ROWS_MAX]],
            "left_count": len(summary.left),
            "kipmi": _kipmi(report.kipmi_before, summary.after),
            "kipmid_max_busy_us": _setting(report.setting),
        }
    )


def encoded_undo(mode: ReliefMode, setting: ThrottleSetting) -> str:
    """Return the document that `--undo --json` prints."""
    return json.dumps({"mode": mode.value, "kipmid_max_busy_us": _setting(setting)})


def outcome_of(case: ReliefCase) -> str:
    """Return what came of a stuck client, or `would end` if nothing was done."""
    return case.ending.outcome.value if case.ending is not None else "would end"


def _client(case: ReliefCase) -> Dict[str, Any]:
    judged, ending, launcher = case.judged, case.ending, case.launcher
    took_s = ending.took_s if ending is not None else None
    return {
        "pid": judged.client.identity.pid,
        "argv": shortened(judged.client.argv),
        "age_s": round(judged.sample.age_s, 2),
        "state": judged.sample.stat.state,
        "wchan": judged.sample.wchan,
        "evidence": judged.verdict.evidence,
        "started_by": launcher.user if launcher is not None else None,
        "unit": launcher.unit if launcher is not None else None,
        "group": None if case.group is None else dict(case.group._asdict()),
        "outcome": outcome_of(case),
        "signals": ending.signals if ending is not None else [],
        "through": ending.through if ending is not None else None,
        "reason": ending.why if ending is not None else None,
        "took_s": None if took_s is None else round(took_s, 3),
    }


def _spared(case: ReliefCase) -> Dict[str, Any]:
    return {
        "pid": case.judged.client.identity.pid,
        "argv": shortened(case.judged.client.argv),
        "finding": case.judged.verdict.finding.word,
        "reason": "; ".join(case.judged.verdict.evidence),
    }


def _spared_cases(report: Report) -> List[ReliefCase]:
    return [
        case
        for case in report.cases
        if not case.judged.verdict.is_stuck and case.judged.verdict.finding is not Finding.GONE
    ]


def _kipmi(before: List[Kipmi], after: Optional[HostAfterRelief]) -> List[Dict[str, Any]]:
    later = {(each.name, each.pid): each.cpu_percent for each in after.kipmi} if after else {}
    return [
        {
            "name": each.name,
            "pid": each.pid,
            "cpu_percent_before": each.cpu_percent,
            "cpu_percent_after": later.get((each.name, each.pid)),
        }
        for each in before
    ]


def _setting(setting: ThrottleSetting) -> Dict[str, Any]:
    return {**setting._asdict(), "action": setting.action.value}


# ---------------------------------------------------------------------------------------- the text


def screen(summary: ReliefSummary, path: str) -> str:
    """Return what was found and done, for a person; `path` is that of the kernel's parameter."""
    report = summary.report
    lines = _stuck_lines(summary)
    lines += _spared_lines(report)
    if report.unseen:
        lines.append(f"{report.unseen} clients more than one scan takes: run it again")
    lines += setting_lines(report.setting, path, did=report.acted)
    lines += _kipmi_lines(summary)
    lines.append(_closing(summary))
    return "\n".join(printable(line) for line in lines)


def setting_lines(setting: ThrottleSetting, path: str, *, did: bool) -> List[str]:
    """Return what was done to the kernel's parameter, or would be done."""
    if not setting.action.is_change:
        return [f"kipmid_max_busy_us: {setting.why}"] if setting.failed else []
    verb = setting.action.value if did else f"would {setting.action.value}"
    return [
        f"{verb} {path}: from {_value(setting.before)} to {_value(setting.after)} ({setting.why})"
    ]


def _value(text: Optional[str]) -> str:
    return "unknown" if text is None else (text or "nothing written yet")


def _stuck_lines(summary: ReliefSummary) -> List[str]:
    """Return the stuck clients, up to a screen; those that did not end at once come first."""
    stuck = sorted(summary.report.stuck, key=lambda case: _rank(case, summary))
    lines = []
    for case in stuck[:LINES_MAX]:
        lines.append(f"{_what(case)} pid {case.judged.client.identity.pid}: {_command(case)}")
        lines.append("    " + "; ".join(_about(case)))
    if len(stuck) > LINES_MAX:
        counted = Counter(_what(case) for case in stuck[LINES_MAX:])
        lines += [f"{what} {count} more" for what, count in counted.most_common()]
    return lines


def _rank(case: ReliefCase, summary: ReliefSummary) -> int:
    if case in summary.left:
        return 0
    is_plain = case.ending is None or case.ending.outcome is Outcome.ENDED
    return 2 if is_plain else 1


def _what(case: ReliefCase) -> str:
    if case.ending is None:
        return "would end"
    return f"{case.ending.outcome.value}:"


def _about(case: ReliefCase) -> List[str]:
    about = [f"{duration(case.judged.sample.age_s)} old", ", ".join(case.judged.verdict.evidence)]
    if case.launcher is not None:
        about.append(", ".join(filter(None, [case.launcher.user, case.launcher.unit])))
    group = case.group
    if group is not None and group.members > group.stuck:
        about.append(f"not touched: {group.members - group.stuck} more of its process group")
    if case.ending is not None and case.ending.why is not None:
        about.append(case.ending.why)
    return [part for part in about if part]


def _command(case: ReliefCase) -> str:
    words = " ".join(shlex.quote(word) for word in case.judged.client.argv)
    if len(words) <= _COMMAND_CHARACTERS_MAX:
        return words
    return words[: _COMMAND_CHARACTERS_MAX - 1] + "…"


def _spared_lines(report: Report) -> List[str]:
    spared = _spared_cases(report)
    lines = [
        f"spared: pid {case.judged.client.identity.pid}: {_command(case)}:"
        f" {case.judged.verdict.finding.word}: {', '.join(case.judged.verdict.evidence)}"
        for case in spared[:LINES_MAX]
    ]
    more = len(spared) - LINES_MAX
    return lines + ([f"spared: {more} more"] if more > 0 else [])


def _kipmi_lines(summary: ReliefSummary) -> List[str]:
    return [
        "{} (pid {}): {} of a core{}".format(
            each["name"],
            each["pid"],
            _percent(each["cpu_percent_before"]),
            "" if summary.after is None else ", now " + _percent(each["cpu_percent_after"]),
        )
        for each in _kipmi(summary.report.kipmi_before, summary.after)
    ]


def _percent(share: Optional[float]) -> str:
    return "unknown" if share is None else f"{share:g} %"


def _closing(summary: ReliefSummary) -> str:
    count = len(summary.report.stuck)
    if summary.after is not None:
        left = f", {len(summary.left)} could not be relieved" if summary.left else ""
        return f"{count} stuck before, {summary.after.stuck_count} after{left}"
    closing = f"{count} stuck"
    unknown = len(summary.left) - count
    if unknown > 0:
        closing += f", {unknown} that cannot be judged"
    if summary.why is not None:
        return f"{closing}; nothing was done"  # standard error says why
    return f"{closing}; nothing was done (--yes does it)" if summary.report.is_to_do else closing
