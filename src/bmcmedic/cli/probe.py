"""`bmcmedic probe`: which BMCs answer, and which are well."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bmcmedic.cli.credentials import read_credentials
from bmcmedic.cli.options import (
    CipherSuiteOption,
    JsonOption,
    KgFileOption,
    PasswordFileOption,
    UserOption,
    cipher_suites,
    positive,
)
from bmcmedic.errors import ConfigurationError, reason_of
from bmcmedic.fleet.inventory import parse_targets_and_lists
from bmcmedic.fleet.sweep.prober import ProbeOptions, Prober
from bmcmedic.model.probe import ProbeResult

CONCURRENCY_MAX = 65_536
"""Most targets that may be asked at the same time."""
LIST_BYTES_MAX = 32 * 1024 * 1024
"""Longest list of targets, in bytes."""
FLUSH_PERIOD_S = 0.05
"""Time between two writes of results to stdout, in seconds."""


class SessionKind(StrEnum):
    """Whether every round sets up new sessions, or keeps those of the first."""

    COLD = "cold"
    WARM = "warm"


def register(app: typer.Typer) -> None:
    """Add `probe` to the program."""
    app.command("probe")(probe)


def probe(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="host[:port], \\[ipv6]:port, or a node set: bmc[001-400].oob; @FILE is a list of"
            " them, and - is one on stdin.",
        ),
    ],
    user: UserOption = None,
    password_file: PasswordFileOption = None,
    kg_file: KgFileOption = None,
    cipher_suite: CipherSuiteOption = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="Deadline of one target as a whole.")
    ] = 5.0,
    concurrency: Annotated[
        int,
        typer.Option("--concurrency", metavar="N", help="Most targets that are asked at once."),
    ] = 1024,
    session: Annotated[
        SessionKind, typer.Option("--session", help="warm keeps sessions from round to round.")
    ] = SessionKind.COLD,
    count: Annotated[int, typer.Option("--count", metavar="N", help="How many rounds.")] = 1,
    period: Annotated[
        float, typer.Option("--period", metavar="S", help="Time between the starts of two rounds.")
    ] = 5.0,
    detail: Annotated[
        bool,
        typer.Option(
            "--detail", help="Ask also for device id, firmware, GUID, self-test and watchdog timer."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask BMCs over lanplus for the power status, and with --detail for their health.

    Exit status: 0 all answer and are well; 1 some BMC is unhealthy or silent,
    refuses the credentials, or has no address; 2 usage.
    """
    if count < 1:
        raise ConfigurationError(f"--count must be at least 1, not {count}")
    if not 1 <= concurrency <= CONCURRENCY_MAX:
        raise ConfigurationError(f"--concurrency is 1 to {CONCURRENCY_MAX}, not {concurrency}")
    options = ProbeOptions(
        timeout_s=positive("--timeout", timeout),
        concurrency=concurrency,
        cipher_suites=cipher_suites(cipher_suite),
        detail=detail,
        keep_sessions=session is SessionKind.WARM,
        count=count,
        period_s=positive("--period", period),
    )
    report = _Report(as_json=as_json)
    expanded = parse_targets_and_lists(targets, _read_list)
    credentials = read_credentials(user, password_file, kg_file)
    try:
        Prober(expanded, credentials, options, report.add, on_step=report.step).run()
    finally:
        report.close()
    raise typer.Exit(1 if report.unwell_count else 0)


def _read_list(argument: str) -> str:
    """Return the text of a list of targets: `@FILE`, or `-` for standard input."""
    try:
        if argument == "-":
            raw = sys.stdin.buffer.read(LIST_BYTES_MAX + 1)
        else:
            with Path(argument[1:]).open("rb") as file:
                raw = file.read(LIST_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {argument}: {reason_of(error)}") from None
    if len(raw) > LIST_BYTES_MAX:
        raise ConfigurationError(f"{argument} has more than {LIST_BYTES_MAX} bytes; split it")
    return raw.decode("utf-8-sig", "backslashreplace")


class _Report:
    """Prints results as they come, and counts them."""

    def __init__(self, *, as_json: bool) -> None:
        self._format = _json_format() if as_json else _text
        self._summary = not as_json
        self._lines: list[str] = []
        self._flushed_at = 0.0
        self.count = 0
        self.unwell_count = 0

    def add(self, result: ProbeResult) -> None:
        """Add one result to the output."""
        self.count += 1
        self.unwell_count += result.error is not None
        self._lines.append(self._format(result))

    def step(self) -> None:
        """Write the results in batches: line by line would cost more than the probes."""
        now = time.monotonic()
        if self._lines and now - self._flushed_at >= FLUSH_PERIOD_S:
            self._flushed_at = now
            self._flush()

    def close(self) -> None:
        """Write the last results, and a summary where there was more than one."""
        self._flush()
        if self.count > 1 and self._summary:
            well = self.count - self.unwell_count
            print(f"{self.count} probed: {well} well, {self.unwell_count} not", file=sys.stderr)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()


def _json_format() -> Callable[[ProbeResult], str]:
    # Only --json needs the module: without it a plain sweep starts faster.
    import json

    encode = json.JSONEncoder(check_circular=False).encode
    return lambda result: encode(result.to_json())


def _text(result: ProbeResult) -> str:
    if result.device_id is None and result.error is None and not result.notes:
        return f"{result.target}: power {result.power}, after {result.latency_s:.3f} s"
    parts = [f"{result.target}:"]
    if result.power is not None:
        parts.append(f"power {result.power}")
    if result.firmware is not None:
        parts.append(f"firmware {result.firmware}")
    if result.manufacturer_id is not None:
        parts.append(f"manufacturer {result.manufacturer_id}")
    if result.guid is not None:
        parts.append(f"guid {result.guid}")
    if result.self_test is not None:
        parts.append(f"self-test {result.self_test}")
    if result.watchdog is not None:
        watchdog = result.watchdog
        left_s = watchdog.present_countdown_s
        left = "unknown time" if left_s is None else f"{left_s:.1f} s"
        state = f"runs, {left} to {watchdog.action}" if watchdog.running else "stopped"
        parts.append(f"watchdog {state}")
    if result.latency_s is not None:
        parts.append(f"after {result.latency_s:.3f} s")
    parts += [f"no usable {note}" for note in result.notes]
    if result.error is not None:
        parts.append(("but " if result.power is not None else "") + result.error)
    return " ".join(parts[:2]) + "".join(f", {part}" for part in parts[2:])
