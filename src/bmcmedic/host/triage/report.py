"""A triage as JSON and as one screen of text."""

from collections import Counter

from bmcmedic.host.client.launcher import Launcher
from bmcmedic.host.kernel.proc import TICKS_PER_S, shortened
from bmcmedic.host.triage.diagnosis import duration
from bmcmedic.host.triage.machine import IO_DELAY_TYPES
from bmcmedic.host.triage.survey import Opener
from bmcmedic.host.triage.triage import Spared, Stuck, Triage
from bmcmedic.host.typed import Any, Dict, List, Optional, Tuple

REPORT_BYTES_MAX = 900_000
"""Below what readers of a report take; longer lists are cut, and `stuck_count` stays right."""

ROWS_MAX = 1000
LINES_MAX = 8
"""Of one list on the screen."""

_COLUMNS = 100


def to_json(seen: Triage) -> Dict[str, Any]:
    """The document that `--json` prints; docs/reference/triage.md explains each key."""
    machine, facts, told = seen.machine, seen.facts, seen.diagnosis
    return {
        "host_id": dict(machine.host_id._asdict()),
        "captured_at": facts.captured_at,
        "interval_s": facts.interval_s,
        "symptoms": told.symptoms,
        "hung_since": told.hung_since,
        "blind": facts.blind,
        "diagnosis": {
            "kind": told.kind.value,
            "words": told.words,
            "evidence": told.evidence,
            "rules_out": told.rules_out,
            "advice": told.advice,
        },
        "kipmi": [dict(each._asdict()) for each in facts.kipmi],
        "kipmid_max_busy_us": facts.max_busy_us,
        "interfaces": [dict(each._asdict()) for each in facts.interfaces],
        "queued_share": facts.queued_share,
        "stuck_count": len(seen.stuck),
        "stuck": [_stuck(each, facts.captured_at) for each in seen.stuck[:ROWS_MAX]],
        "spared": [_spared(each) for each in seen.spared[:ROWS_MAX]],
        "direct_openers": [_opener(each) for each in seen.survey.openers[:ROWS_MAX]],
        "port80": {
            "io_delay_type": machine.io_delay_type,
            "openers": [_opener(each) for each in seen.survey.port_openers[:ROWS_MAX]],
        },
        "guests": [dict(each._asdict()) for each in facts.guests[:ROWS_MAX]],
        "load": machine.load,
        "cpus": machine.cpus,
        "pressure": machine.pressure,
        "kernel": machine.kernel,
        "processes": seen.survey.processes,
        "unread": seen.survey.unread,
    }


def encoded(seen: Triage) -> str:
    """The same as one line of JSON, cut to a size that its readers take."""
    import json  # no run that prints the screen has a use for it

    document = to_json(seen)
    line = json.dumps(document)
    while len(line) > REPORT_BYTES_MAX:
        for key in ("stuck", "spared", "direct_openers"):
            document[key] = document[key][: len(document[key]) // 2]
        line = json.dumps(document)
    return line


def _stuck(each: Stuck, captured_at: float) -> Dict[str, Any]:
    stat, who = each.look.stat, each.starter
    return {
        "pid": stat.pid,
        "argv": shortened(each.client.argv),
        "age_s": round(each.look.age_s, 2),
        "started_at": round(captured_at - each.look.age_s, 2),
        "state": stat.state,
        "wchan": each.look.wchan,
        "stack": list(each.look.stack),
        "idle_s": None if each.look.idle_s is None else round(each.look.idle_s, 2),
        "cpu_s": stat.cpu_ticks / TICKS_PER_S,
        "started_by": who.user,
        "unit": who.unit,
        "login_uid": who.login_uid,
        "uid": who.uid,
        "session": who.session,
        "container": who.container,
        "parent_pid": who.parent_pid,
        "parent": who.parent,
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


# -------------------------------------------------------------------------------------- the screen


def screen(seen: Triage) -> str:
    """What an operator wants to see first, in one screen."""
    told = seen.diagnosis
    lines = [_heading(seen), "", told.words]
    lines += [f"  + {line}" for line in told.evidence]
    lines += [f"  - rules out {line}" for line in told.rules_out]
    lines += _section("Stuck clients", _stuck_lines(seen.stuck))
    lines += _section("Left alone", _spared_lines(seen.spared))
    lines += _section("Others that have the BMC's device open", _opener_lines(seen))
    lines += _section("Guests", _guest_lines(seen))
    lines += _section("Host", _host_lines(seen))
    lines += _section("Next", told.advice)
    symptoms = ", ".join(told.symptoms) or ("none seen" if seen.facts.blind else "none")
    lines += ["", f"Symptoms: {symptoms}"]
    return "\n".join(_visible(line) for line in lines)


def _heading(seen: Triage) -> str:
    name = seen.machine.host_id.hostname or "this host"
    apart_s = seen.facts.interval_s
    over = "one look" if apart_s is None else f"two looks, {apart_s:.1f} s apart"
    return f"{name}: {seen.survey.processes} processes, {over}"


def _section(title: str, lines: List[str]) -> List[str]:
    shown = [line if len(line) <= _COLUMNS else line[: _COLUMNS - 1] + "…" for line in lines]
    if len(shown) > LINES_MAX:
        shown = [*shown[: LINES_MAX - 1], f"… and {len(shown) - LINES_MAX + 1} more lines (--json)"]
    return ["", f"{title}:", *(f"  {line}" for line in shown)] if shown else []


def _stuck_lines(stuck: List[Stuck]) -> List[str]:
    """Clients that were started alike stand in one line, the largest crowd first."""
    crowds: Dict[Tuple[str, str], List[Stuck]] = {}
    for each in stuck:
        key = (" ".join(each.client.argv), _started_by(each.starter))
        crowds.setdefault(key, []).append(each)
    lines = []
    for (command, starter), members in sorted(crowds.items(), key=lambda item: -len(item[1])):
        oldest = members[0]
        pids = str(oldest.look.stat.pid) + ("" if len(members) == 1 else " …")
        waits = oldest.look.wchan or "?"
        age = duration(oldest.look.age_s)
        lines.append(f"{len(members)} x {command}")
        lines.append(f"    pid {pids}, {age}, {oldest.look.stat.state} in {waits}; {starter}")
    return lines


def _started_by(who: Launcher) -> str:
    parts = [who.user, who.unit, f"session {who.session}" if who.session else None]
    parts.append(f"container {who.container[:12]}" if who.container else None)
    parts.append(f"parent {who.parent}" if who.parent else "parent gone")
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
    clients = {each.identity.pid for each in seen.survey.clients}
    return [
        f"{each.identity.pid} {each.name} ({', '.join(each.devices)})"
        for each in seen.survey.openers
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
    machine = seen.machine
    load = " ".join(f"{number:g}" for number in machine.load) or "unknown"
    pressure = ", ".join(f"{name} {share:g} %" for name, share in sorted(machine.pressure.items()))
    lines = [f"load {load} on {machine.cpus or '?'} CPUs; pressure: {pressure or 'not kept'}"]
    if machine.io_delay_type is not None:
        how = IO_DELAY_TYPES.get(machine.io_delay_type, "unknown")
        lines.append(
            f"kernel.io_delay_type {machine.io_delay_type}: the kernel's own delay is {how}"
        )
    lines += [
        f"{each.identity.pid} {each.name} has /dev/port open: it may write port 0x80"
        for each in seen.survey.port_openers
    ]
    if seen.survey.unread:
        lines.append(
            f"open files of {seen.survey.unread} processes could not be read: run it as root"
        )
    if not seen.survey.sees_kernel:
        lines.append("no kernel thread is to be seen here: inside a container this is not the host")
    return lines


def _visible(line: str) -> str:
    """Nothing that another program is called by may steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in line)
