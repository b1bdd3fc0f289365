"""`bmcmedic relieve`: its options, output and exit status."""

import argparse
import contextlib
import math
import sys

from bmcmedic.host.client.stuck import STUCK_AFTER_S
from bmcmedic.host.kernel.proc import ProcError
from bmcmedic.host.relieve.priority import ahead_until_the_end
from bmcmedic.host.relieve.relieve import SCAN_INTERVAL_S, HostTrees, Relief, Report, is_root
from bmcmedic.host.relieve.report import (
    HostAfterRelief,
    ReliefMode,
    ReliefSummary,
    encoded,
    encoded_undo,
    screen,
    setting_lines,
)
from bmcmedic.host.typed import Optional, Sequence, Tuple
from bmcmedic.host.usage import OneLineParser

EXIT_RELIEVED = 0
EXIT_LEFT = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3

STUCK_AFTER_S_MIN = 5.0
"""Lowest age for `--stuck-after`, in seconds: a client may wait so long for one answer."""
STUCK_AFTER_S_MAX = 30 * 86_400.0
"""Highest age for `--stuck-after`, in seconds."""


def parser() -> argparse.ArgumentParser:
    """Return the options of `bmcmedic relieve`."""
    arguments = OneLineParser(
        prog="bmcmedic relieve",
        description="End the clients of this host's BMC that are proven stuck, and throttle kipmid"
        " while the BMC hangs. It sends the BMC nothing, and changes nothing without --yes.",
        epilog="Exit status: 0 nothing is left stuck; 1 something is, or would be without --yes;"
        " 2 usage; 3 refused: no terminal and no --yes, relief is switched off on this host, or"
        " /proc belongs to another pid namespace.",
    )
    arguments.add_argument(
        "--stuck-after",
        metavar="S",
        type=_stuck_after_s,
        default=STUCK_AFTER_S,
        help="the age from which a client that makes no progress counts as stuck,"
        f" {STUCK_AFTER_S_MIN:g} or more (default: %(default)g)",
    )
    how = arguments.add_mutually_exclusive_group()
    how.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done, and do nothing; the default on a terminal",
    )
    how.add_argument("--yes", action="store_true", help="do what is proven necessary")
    arguments.add_argument(
        "--undo",
        action="store_true",
        help="only put back what an earlier relief changed (kipmid_max_busy_us)",
    )
    arguments.add_argument("--json", action="store_true", help="print one JSON object")
    return arguments


def main(arguments: Sequence[str], host: Optional[HostTrees] = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(list(arguments))
    with contextlib.ExitStack() as stack:
        if host is None and options.yes:
            stack.enter_context(ahead_until_the_end())
        return _run(options, host)


def _run(options: argparse.Namespace, host: Optional[HostTrees]) -> int:
    host = host if host is not None else HostTrees.here()
    relief = Relief(host, options.stuck_after)
    if options.undo:
        return _undo(relief, may_act=not options.dry_run, as_json=options.json)
    try:
        report = relief.relieve(may_act=options.yes)
        after = _after(relief) if report.acted else None
    except ProcError as error:
        print(f"bmcmedic relieve: /proc cannot be read: {error}", file=sys.stderr)
        return EXIT_LEFT
    mode, why = _mode(report, options)
    left, hidden = report.left(options.stuck_after), host.proc.hidden()
    summary = ReliefSummary(report, mode, why, options.stuck_after, after, left, hidden)
    print(encoded(summary) if options.json else screen(summary, relief.throttle.path))
    if why is not None:
        print(f"bmcmedic relieve: nothing was done: {why}", file=sys.stderr)
    if hidden is not None:
        print(f"bmcmedic relieve: not seen: {hidden}", file=sys.stderr)
    if not is_root():
        print("bmcmedic relieve: not root: others' processes cannot be judged", file=sys.stderr)
    return _status(summary)


def _mode(report: Report, options: argparse.Namespace) -> Tuple[ReliefMode, Optional[str]]:
    """Return the mode of this run, and why it did nothing though it was requested."""
    if report.disabled is not None:
        return ReliefMode.DISABLED, report.disabled
    if options.yes:
        return ReliefMode.RELIEVE, None
    if options.dry_run or sys.stdin.isatty() or not report.is_to_do:
        return ReliefMode.DRY_RUN, None
    return ReliefMode.REFUSED, "stdin is no terminal: give --yes, or --dry-run"


def _after(relief: Relief) -> HostAfterRelief:
    """Scan the host once more, a while after relief."""
    relief.pause(SCAN_INTERVAL_S)
    judged = relief.scan()
    return HostAfterRelief(sum(each.verdict.is_stuck for each in judged), relief.kipmi)


def _status(summary: ReliefSummary) -> int:
    report = summary.report
    if summary.mode.is_refusal and report.is_to_do:
        return EXIT_REFUSED
    if summary.left or report.unseen or summary.hidden or report.setting.failed:
        return EXIT_LEFT
    if summary.after is not None and summary.after.stuck_count:
        return EXIT_LEFT
    return EXIT_RELIEVED


def _undo(relief: Relief, *, may_act: bool, as_json: bool) -> int:
    setting = relief.undo(may_act)
    if as_json:
        print(encoded_undo(ReliefMode.UNDO if may_act else ReliefMode.DRY_RUN, setting))
    else:
        lines = setting_lines(setting, relief.throttle.path, did=may_act)
        print("\n".join(lines) or f"kipmid_max_busy_us: {setting.why}")
    return EXIT_LEFT if setting.failed else EXIT_RELIEVED


def _stuck_after_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not STUCK_AFTER_S_MIN <= seconds <= STUCK_AFTER_S_MAX:
        limits = f"{STUCK_AFTER_S_MIN:.0f} to {STUCK_AFTER_S_MAX:.0f}"
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, {limits}")
    return seconds
