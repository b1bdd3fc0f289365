"""A triage as JSON and as one screen of text."""

from collections import Counter

from bmcmedic.host.client.launcher import Launcher
from bmcmedic.host.kernel.proc import TICKS_PER_S, shortened
from bmcmedic.host.output import duration, printable
from bmcmedic.host.triage.host_facts import IO_DELAY_TYPES
from bmcmedic.host.triage.process_scan import Opener
from bmcmedic.host.triage.triage import Spared, Stuck, Triage
from bmcmedic.host.typed import Any, Dict, List, Optional, Tuple

REPORT_BYTES_MAX = 900_000
"""Longest report that its readers take, in bytes; lists are cut to it, `stuck_count` is not."""

ROWS_MAX = 1000
"""Number of rows of one list in the JSON."""
LINES_MAX = 8
"""Number of lines of one list on the screen."""

_COLUMNS = 100


def to_json(seen: Triage) -> Dict[str, Any]:
    """Return the document that `--json` prints; docs/reference/triage.md explains each key."""
    host, facts, diagnosis = seen.host, seen.facts, seen.diagnosis
    return {
        "host_id": dict(host.host_id._asdict()),
        "captured_at": facts.captured_at,
        "interval_s": facts.interval_s,
        "symptoms": diagnosis.symptoms,
        "hung_since": diagnosis.hung_since,
        "blind": facts.blind,
        "diagnosis": {
            "kind": diagnosis.kind.value,
            "words": diagnosis.words,
            "evidence": diagnosis.evidence,
            "rules_out": diagnosis.rules_out,
            "advice": diagnosis.advice,
        },
        "kipmi": [dict(each._asdict()) for each in facts.kipmi],
        "kipmid_max_busy_us": facts.max_busy_us,
        "interfaces": [dict(each._asdict()) for each in facts.interfaces],
        "queued_share": facts.queued_share,
        "stuck_count": len(seen.stuck),
        "stuck": [_stuck(each, facts.captured_at) for each in seen.stuck[:ROWS_MAX]],
        "spared": [_spared(each) for each in seen.spared[:ROWS_MAX]],
        "direct_openers": [_direct(each, seen) for each in seen.scan.openers[:ROWS_MAX]],
        "power_meter": [
            dict(_opener(each.opener), waits=each.why) for each in seen.meter_waiters[:ROWS_MAX]
        ],
        "port80": {
            "io_delay_type": host.io_delay_type,
            "openers": [_opener(each) for each in seen.scan.port_openers[:ROWS_MAX]],
        },
        "guests": [dict(each._asdict()) for each in facts.guests[:ROWS_MAX]],
        "load": host.load,
        "cpus": host.cpus,
        "pressure": host.pressure,
        "kernel": host.kernel,
        "processes": seen.scan.processes,
        "unread": seen.scan.unread,
    }


def encoded(seen: Triage) -> str:
    """Return the same as one line of JSON, cut to a size that its readers take."""
    import json  # a run that prints the screen does not need it

    document = to_json(seen)
    line = json.dumps(document)
    while len(line) > REPORT_BYTES_MAX:
        for key in ("stuck", "spared", "direct_openers"):
            document[key] = document[key][: len(document[key]) // 2]
        line = json.dumps(document)
    return line


def _stuck(each: Stuck, captured_at: float) -> Dict[str, Any]:
    stat, launcher = each.sample.stat, each.launcher
    return {
        "pid": stat.pid,
        "argv": shortened(each.client.argv),
        "age_s": round(each.sample.age_s, 2),
        "started_at": round(captured_at - each.sample.age_s, 2),
        "state": stat.state,
        "wchan": each.sample.wchan,
        "stack": list(each.sample.stack),
        "idle_s": None if each.sample.idle_s is None else round(each.sample.idle_s, 2),
        "cpu_s": stat.cpu_ticks / TICKS_PER_S,
        "started_by": launcher.user,
        "unit": launcher.unit,
        "login_uid": launcher.login_uid,
        "uid": launcher.uid,
        "session": launcher.session,
        "container": launcher.container,
        "parent_pid": launcher.parent_pid,
        "parent": launcher.parent,
        "group": stat.group,
        "devices": each.client.holdings.devices if each.client.holdings is not None else None,
        "evidence": each.evidence,
    }


def _spared(each: Spared) -> Dict[str, Any]:
    return {
        "pid": each.client.identity.pid,
        "argv": shortened(each.client.argv),
        "finding": each.verdict.finding.word,
        "reason": "; ".join(each.verdict.evidence),
    }


def _opener(each: Opener) -> Dict[str, Any]:
    return {
        "pid": each.identity.pid,
        "name": each.name,
        "argv": shortened(each.argv),
        "devices": each.devices,
    }


def _direct(each: Opener, seen: Triage) -> Dict[str, Any]:
    return dict(_opener(each), waits=_waits(each, seen))


def _waits(opener: Opener, seen: Triage) -> Optional[str]:
    """Return how an opener stands still; None: it does not, or it is judged as a client."""
    for each in seen.standing:
        if each.opener.identity == opener.identity:
            return each.why
    return None


# -------------------------------------------------------------------------------------- the screen


def screen(seen: Triage) -> str:
    """Return one screen of text with what an operator wants to see first."""
    diagnosis = seen.diagnosis
    lines = [_heading(seen), "", diagnosis.words]
    lines += [f"  + {line}" for line in diagnosis.evidence]
    lines += [f"  - rules out {line}" for line in diagnosis.rules_out]
    lines += _section("Stuck clients", _stuck_lines(seen.stuck))
    lines += _section("Spared", _spared_lines(seen.spared))
    lines += _section("Other programs that have the BMC's device open", _opener_lines(seen))
    lines += _section(
        "Programs that wait for ACPI's power meter, and so maybe for the BMC (never ended)",
        [
            f"{each.opener.identity.pid} {each.opener.name}: {each.why}"
            for each in seen.meter_waiters
        ],
    )
    lines += _section("Guests", _guest_lines(seen))
    lines += _section("Host", _host_lines(seen))
    lines += _section("Next", diagnosis.advice)
    symptoms = ", ".join(diagnosis.symptoms) or ("none seen" if seen.facts.blind else "none")
    lines += ["", f"Symptoms: {symptoms}"]
    return "\n".join(printable(line) for line in lines)


def _heading(seen: Triage) -> str:
    name = seen.host.host_id.hostname or "this host"
    apart_s = seen.facts.interval_s
    over = "one sample" if apart_s is None else f"two samples, {apart_s:.1f} s apart"
    return f"{name}: {seen.scan.processes} processes, {over}"


def _section(title: str, lines: List[str]) -> List[str]:
    shown = [line if len(line) <= _COLUMNS else line[: _COLUMNS - 1] + "…" for line in lines]
    if len(shown) > LINES_MAX:
        shown = [*shown[: LINES_MAX - 1], f"… and {len(shown) - LINES_MAX + 1} more lines (--json)"]
    return ["", f"{title}:", *(f"  {line}" for line in shown)] if shown else []


def _stuck_lines(stuck: List[Stuck]) -> List[str]:
    """Return one entry for clients that were launched alike, the largest crowd first."""
    crowds: Dict[Tuple[str, str], List[Stuck]] = {}
    for each in stuck:
        key = (" ".join(each.client.argv), _launched_by(each.launcher))
        crowds.setdefault(key, []).append(each)
    lines = []
    for (command, launcher), members in sorted(crowds.items(), key=lambda item: -len(item[1])):
        oldest = members[0]
        pids = str(oldest.sample.stat.pid) + ("" if len(members) == 1 else " …")
        waits = oldest.sample.wchan or "?"
        age = duration(oldest.sample.age_s)
        lines.append(f"{len(members)} x {command}")
        lines.append(f"    pid {pids}, {age}, {oldest.sample.stat.state} in {waits}; {launcher}")
    return lines


def _launched_by(launcher: Launcher) -> str:
    parts = [launcher.user, launcher.unit]
    parts.append(f"session {launcher.session}" if launcher.session else None)
    parts.append(f"container {launcher.container[:12]}" if launcher.container else None)
    parts.append(f"parent {launcher.parent}" if launcher.parent else "parent gone")
    return ", ".join(part for part in parts if part)


def _spared_lines(spared: List[Spared]) -> List[str]:
    counted = Counter(
        (each.verdict.finding.word, each.client.program, "; ".join(each.verdict.evidence))
        for each in spared
    )
    return [
        f"{count} x {program}: {finding}: {reason}"
        for (finding, program, reason), count in counted.most_common()
    ]


def _opener_lines(seen: Triage) -> List[str]:
    clients = {each.identity.pid for each in seen.scan.clients}
    return [
        f"{each.identity.pid} {each.name} ({', '.join(each.devices)})"
        + (f": {_waits(each, seen)}" if _waits(each, seen) else "")
        for each in seen.scan.openers
        if each.identity.pid not in clients
    ]


def _guest_lines(seen: Triage) -> List[str]:
    waiting = sorted(seen.facts.guests, key=lambda each: -(each.run_delay_percent or 0.0))
    return [
        f"{each.name} (pid {each.pid}): {_percent(each.cpu_percent)} of a core,"
        f" waits for one {_percent(each.run_delay_percent)} of the time"
        for each in waiting
    ]


def _percent(share: Optional[float]) -> str:
    return "unknown" if share is None else f"{share:g} %"


def _host_lines(seen: Triage) -> List[str]:
    host = seen.host
    load = " ".join(f"{number:g}" for number in host.load) or "unknown"
    pressure = ", ".join(f"{name} {share:g} %" for name, share in sorted(host.pressure.items()))
    lines = [f"load {load} on {host.cpus or '?'} CPUs; pressure: {pressure or 'not kept'}"]
    if host.io_delay_type is not None:
        how = IO_DELAY_TYPES.get(host.io_delay_type, "unknown")
        lines.append(f"kernel.io_delay_type {host.io_delay_type}: the kernel's own delay is {how}")
    lines += [
        f"{each.identity.pid} {each.name} has /dev/port open: it may write port 0x80"
        for each in seen.scan.port_openers
    ]
    if seen.scan.unread:
        lines.append(
            f"open files of {seen.scan.unread} processes could not be read: run it as root"
        )
    if not seen.scan.sees_kernel:
        lines.append("no kernel thread is visible here: inside a container this is not the host")
    return lines
