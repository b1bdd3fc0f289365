"""`bmcmedic triage`: its options, output and exit status."""

import argparse
import gc
import os
import sys
from typing import Sequence

EXIT_NO_SYMPTOM = 0
EXIT_SYMPTOMS = 1
EXIT_USAGE = 2

HELP_COLUMNS = 100


# What does the work is imported within the functions: by then the garbage collector is off.


def parser() -> argparse.ArgumentParser:
    """The options of `bmcmedic triage`."""
    from bmcmedic.host.clients import STUCK_AFTER_S
    from bmcmedic.host.triage import INTERVAL_S

    arguments = argparse.ArgumentParser(
        prog="bmcmedic triage",
        description="Look at this host: stuck IPMI clients, kipmi threads, the counters of the"
        " interface, and what they say about its BMC. Nothing is changed, and the BMC not asked.",
        # The usual one loads a great deal to learn the width of the terminal.
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=HELP_COLUMNS),
        epilog="Exit status: 0 no symptom, 1 symptoms found or not to be judged, 2 usage.",
    )
    arguments.add_argument(
        "--proc-root",
        metavar="DIR",
        help="read a captured tree (made by --capture and unpacked), or a bare proc tree",
    )
    arguments.add_argument(
        "--interval",
        metavar="S",
        type=_interval_s,
        default=INTERVAL_S,
        help="seconds between the two looks (default: %(default)g)",
    )
    arguments.add_argument(
        "--stuck-after",
        metavar="S",
        type=_seconds,
        default=STUCK_AFTER_S,
        help="the age from which a client that makes no progress counts as stuck"
        " (default: %(default)g)",
    )
    arguments.add_argument(
        "--capture",
        metavar="FILE",
        help="write what was looked at to a tar file as well, with secrets masked",
    )
    arguments.add_argument("--json", action="store_true", help="print one JSON object")
    return arguments


def main(arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    # What a run makes is little, and in no circles: to search it took a tenth of the time.
    gc.disable()
    try:
        return _run(arguments)
    finally:
        # The interpreter searches it once more at its end, but for what is put aside (Python 3.7).
        getattr(gc, "freeze", int)()
        gc.enable()


def _run(arguments: Sequence[str]) -> int:
    from bmcmedic.host.diagnosis import Kind
    from bmcmedic.host.report import encoded, screen
    from bmcmedic.host.triage import NoTree, Roots, triage

    options = parser().parse_args(list(arguments))
    if options.capture is not None and options.proc_root is not None:
        return _usage("--capture is of this host, and cannot go with --proc-root")
    if options.capture is not None and os.path.exists(options.capture):
        return _usage(f"--capture: {options.capture} is there already")
    try:
        if options.proc_root is not None:
            roots = Roots.captured(options.proc_root)
        else:
            roots = Roots.live(recording=options.capture is not None)
    except NoTree as error:
        return _usage(f"--proc-root: {error}")
    if not roots.proc.pids():
        return _usage(f"{roots.proc.root}: no processes; is it mounted?")
    seen = triage(
        roots,
        interval_s=options.interval,
        stuck_after_s=options.stuck_after,
        with_stacks=options.json or options.capture is not None,
    )
    if options.capture is not None:
        from bmcmedic.host import capture

        try:
            files = capture.write(roots, options.capture)
        except OSError as error:
            return _usage(f"--capture: {options.capture}: {error.strerror}")
        print(f"bmcmedic triage: {files} files in {options.capture}", file=sys.stderr)
    print(encoded(seen) if options.json else screen(seen))
    is_undecided = seen.diagnosis.kind is Kind.UNDECIDED
    return EXIT_SYMPTOMS if seen.diagnosis.symptoms or is_undecided else EXIT_NO_SYMPTOM


def _usage(message: str) -> int:
    print(f"bmcmedic triage: {message}", file=sys.stderr)
    return EXIT_USAGE


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _interval_s(text: str) -> float:
    from bmcmedic.host.triage import INTERVAL_S_MAX

    seconds = _seconds(text)
    if not 0.1 <= seconds <= INTERVAL_S_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0.1 to {INTERVAL_S_MAX:g} seconds")
    return seconds
