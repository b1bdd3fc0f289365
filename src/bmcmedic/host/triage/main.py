"""`bmcmedic triage`: its options, output and exit status."""

import gc
import os
import sys

from bmcmedic.host.typed import TYPE_CHECKING, NamedTuple, Optional, Sequence

if TYPE_CHECKING:
    import argparse

EXIT_NO_SYMPTOM = 0
EXIT_SYMPTOMS = 1
EXIT_USAGE = 2

HELP_COLUMNS = 100


# The working modules are imported within functions, after the garbage collector is switched off.


class Options(NamedTuple):
    """The options that `bmcmedic triage` was given."""

    proc_root: Optional[str]
    interval: float
    stuck_after: float
    capture: Optional[str]
    json: bool
    print_pyz: bool = False


def parser() -> "argparse.ArgumentParser":
    """Return the options of `bmcmedic triage`."""
    import argparse

    from bmcmedic.host.client.stuck import STUCK_AFTER_S
    from bmcmedic.host.triage.triage import INTERVAL_S
    from bmcmedic.host.usage import OneLineParser

    arguments = OneLineParser(
        prog="bmcmedic triage",
        description="Examine this host: stuck IPMI clients, kipmi threads, the counters of the"
        " interface, and what they show of its BMC. It changes nothing, and sends the BMC nothing.",
        # The default one loads many modules to learn the width of the terminal.
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=HELP_COLUMNS),
        epilog="Exit status: 0 no symptom; 1 symptoms found, or the host cannot be judged;"
        " 2 usage.",
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
        help="seconds between the two samples, 0.1 to 300 (default: %(default)g)",
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
        help="also write what was read to a tar file, with secrets redacted",
    )
    arguments.add_argument("--json", action="store_true", help="print one JSON object")
    arguments.add_argument(
        "--print-pyz",
        action="store_true",
        help="print triage and relieve as one Python file for other hosts, and exit",
    )
    return arguments


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    # A run creates few objects and no cycles, but collecting garbage took a tenth of its time.
    gc.disable()
    try:
        return _run(arguments)
    finally:
        # The interpreter collects once more at its end, except for frozen objects (Python 3.7).
        getattr(gc, "freeze", int)()
        gc.enable()


def options_of(arguments: Sequence[str]) -> Options:
    """Parse the arguments; ends the program if they are wrong."""
    plain = _plain(arguments)
    return plain if plain is not None else Options(**vars(parser().parse_args(list(arguments))))


def _plain(arguments: Sequence[str]) -> Optional[Options]:
    """Parse the arguments without argparse if they are plain; returns None if they are not.

    Loading argparse and parsing with it takes 3 of the 100 ms that a triage may take.
    """
    from bmcmedic.host.client.stuck import STUCK_AFTER_S
    from bmcmedic.host.triage.triage import INTERVAL_S

    options = Options(None, INTERVAL_S, STUCK_AFTER_S, None, json=False)
    words = iter(arguments)
    for word in words:
        if word == "--json":
            options = options._replace(json=True)
            continue
        value = next(words, "")
        if not value or value[0] == "-":
            return None
        if word == "--proc-root":
            options = options._replace(proc_root=value)
        elif word == "--capture":
            options = options._replace(capture=value)
        elif word == "--interval" and _is_interval_s(value):
            options = options._replace(interval=float(value))
        elif word == "--stuck-after" and _is_seconds(value):
            options = options._replace(stuck_after=float(value))
        else:
            return None
    return options


def _run(arguments: Sequence[str]) -> int:
    from bmcmedic.host.triage.diagnosis import HostDiagnosisKind
    from bmcmedic.host.triage.report import encoded, screen
    from bmcmedic.host.triage.triage import NoTree, Roots, triage

    options = options_of(arguments)
    if options.print_pyz:
        from bmcmedic.host import pyz

        sys.stdout.write(pyz.script())
        return EXIT_NO_SYMPTOM
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
    if not (roots.proc.has_processes() if roots.is_live else roots.proc.pids()):
        return _usage(f"{roots.proc.root}: no processes; is it mounted?")
    seen = triage(
        roots,
        interval_s=options.interval,
        stuck_after_s=options.stuck_after,
        with_stacks=options.json or options.capture is not None,
    )
    if options.capture is not None:
        from bmcmedic.host.triage import capture

        try:
            files = capture.write(roots, options.capture)
        except OSError as error:
            return _usage(f"--capture: {options.capture}: {error.strerror}")
        print(f"bmcmedic triage: {files} files in {options.capture}", file=sys.stderr)
    print(encoded(seen) if options.json else screen(seen))
    is_undecided = seen.diagnosis.kind is HostDiagnosisKind.UNDECIDED
    return EXIT_SYMPTOMS if seen.diagnosis.symptoms or is_undecided else EXIT_NO_SYMPTOM


def _usage(message: str) -> int:
    print(f"bmcmedic triage: {message}", file=sys.stderr)
    return EXIT_USAGE


def _is_seconds(text: str) -> bool:
    try:
        return 0.0 <= float(text) < float("inf")
    except ValueError:
        return False


def _is_interval_s(text: str) -> bool:
    from bmcmedic.host.triage.triage import INTERVAL_S_MAX

    return _is_seconds(text) and 0.1 <= float(text) <= INTERVAL_S_MAX


def _seconds(text: str) -> float:
    import argparse

    if not _is_seconds(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more")
    return float(text)


def _interval_s(text: str) -> float:
    import argparse

    from bmcmedic.host.triage.triage import INTERVAL_S_MAX

    seconds = _seconds(text)
    if not _is_interval_s(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 0.1 to {INTERVAL_S_MAX:g} seconds")
    return seconds
