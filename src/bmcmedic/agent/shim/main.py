"""`bmcmedic ipmitool …`: the real ipmitool, through the loopback door, under a deadline.

It loads as little as it can: monitoring scripts start it by the hundred on hosts that are busy.
Whatever is not as it should be on our side (no agent, no driver, no rights, the kill switch, a
bug), the real ipmitool is run as it was called; in-band it has the same deadline then.
"""

from __future__ import annotations

import os
import signal
import sys

from bmcmedic.agent import proxy_files
from bmcmedic.agent.proxy_files import NoProxy, PublishedProxy
from bmcmedic.agent.shim import arguments as shim_words
from bmcmedic.agent.shim import result_cache
from bmcmedic.agent.shim import run as shim_run
from bmcmedic.agent.shim.arguments import ShimPlan
from bmcmedic.agent.shim.result_cache import Result, Results

TYPE_CHECKING = False
"""For type checkers alone: to load `typing` takes longer than all that the shim does."""
if TYPE_CHECKING:
    import argparse

RUNTIME_DIR_VARIABLE = "BMCMEDIC_RUNTIME_DIR"
REAL_VARIABLE = "BMCMEDIC_IPMITOOL"
KILL_SWITCH_VARIABLE = "BMCMEDIC_KILL_SWITCH"
INSIDE_VARIABLE = "BMCMEDIC_INSIDE_SHIM"
"""Set for the real ipmitool: who finds it set and is the shim was taken for the real one."""

DIVERTED = "/usr/bin/ipmitool.bmcmedic-real"
KILL_SWITCH = "/etc/bmcmedic/disabled"
MARK = b"bmcmedic shim"
"""Stands in the script that `shim install` puts in ipmitool's place."""

SECONDS_MAX = 86_400.0
"""No deadline is longer; what says so is no number that a timer takes."""
CIPHER_SUITE = "17"
_TOLD = {
    proxy_files.SILENT: "the BMC does not answer",
    proxy_files.NO_INTERFACE: "there is no interface to the BMC",
    proxy_files.STANDS_STILL: "the agent that has the door to the BMC stands still",
}
"""Where nothing is asked, and what is said of it."""
RETRIES = 4

EXIT_FAILED = 1
EXIT_NOT_FOUND = 127


def parser() -> argparse.ArgumentParser:
    """For the help: all arguments are ipmitool's."""
    import argparse

    return argparse.ArgumentParser(
        prog="bmcmedic ipmitool",
        usage="bmcmedic ipmitool ARGUMENT…",
        description="Run the real ipmitool, with these arguments, through the agent's loopback "
        "door: it ends at a deadline, who asks the same at the same time shares one run, and while "
        "the BMC is silent there is an old answer or an error at once.",
        epilog="Exit status: ipmitool's own; 1 where the shim says why on standard error.",
        allow_abbrev=False,
    )


def main(arguments: list[str]) -> int:
    """The program; returns the exit status, or becomes the real ipmitool."""
    if arguments == ["--help"]:
        parser().print_help()
        return 0
    return run(list(arguments), os.environ.get(REAL_VARIABLE) or find_real())


def run(arguments: list[str], real: str | None) -> int:
    """Run `real`, which is ipmitool's path."""
    if real is None or os.environ.get(INSIDE_VARIABLE):
        sys.stderr.write(
            f"bmcmedic ipmitool: there is no ipmitool to run; install it, or set {REAL_VARIABLE}\n"
        )
        return EXIT_NOT_FOUND
    try:
        shim = _Shim(arguments, real)
    except Exception:  # noqa: BLE001 - whatever it is, the operator's tool must work
        shim = None
    if shim is None or shim.why_not:
        _become(real, arguments, shim.in_band_s if shim is not None else 0.0)
    assert shim is not None
    return shim.run()


def find_real() -> str | None:
    """The real ipmitool: the diverted one, or the first in PATH that is not the shim."""
    if os.access(DIVERTED, os.X_OK):
        return DIVERTED
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder or ".", "ipmitool")
        if os.access(path, os.X_OK) and not is_shim(path):
            return path
    return None


def is_shim(path: str) -> bool:
    """Whether a file is what `shim install` writes."""
    try:
        with open(path, "rb") as file:
            return MARK in file.read(512)
    except OSError:
        return False


def _become(real: str, arguments: list[str], seconds: float) -> None:
    """Be the real one; after `seconds`, if any, the kernel ends it.

    Not as a child that is looked after: who kills us would leave that behind, with the device open.
    """
    os.environ[INSIDE_VARIABLE] = "1"
    if 0 < seconds < SECONDS_MAX:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
        signal.setitimer(signal.ITIMER_REAL, seconds)  # goes on in what we become
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, ipmitool must not
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(real, ["ipmitool", *arguments])  # noqa: S606 - it is what was called
    except OSError as error:
        sys.stderr.write(f"bmcmedic ipmitool: cannot run {real}: {error.strerror}\n")
        raise SystemExit(EXIT_NOT_FOUND) from None


class _Shim:
    """One call, as far as it is understood before anything is done."""

    def __init__(self, arguments: list[str], real: str) -> None:
        self.real = real
        self.runtime_dir = os.environ.get(RUNTIME_DIR_VARIABLE) or proxy_files.RUNTIME_DIR
        self.door: PublishedProxy | None = None
        self.plan: ShimPlan = shim_words.understand(arguments)
        self.state = self.reason = ""
        self.began_at = result_cache.began_at()
        self.in_band_s = 0.0
        """How long the real one may take where there is no door for it; 0: as long as it likes."""
        self.why_not = self.plan.left_alone or self._why_no_door()
        """Why the real ipmitool is to be run as it was called; empty: it is not."""

    def _why_no_door(self) -> str:
        if os.path.lexists(os.environ.get(KILL_SWITCH_VARIABLE) or KILL_SWITCH):
            return "the kill switch is set"
        self.in_band_s = self._deadline_s()
        try:
            self.door = proxy_files.find(self.runtime_dir)
        except NoProxy as error:
            return str(error)
        self.in_band_s = self._deadline_s()
        self._look()
        return self.reason or self.state if self.state == proxy_files.NO_DRIVER else ""

    def _look(self) -> bool:
        """See how the BMC is now; whether it may be asked."""
        self.state, self.reason = proxy_files.state(self.runtime_dir)
        return self.state not in _TOLD

    def _stands_still(self) -> bool:
        return not self._look() and self.state == proxy_files.STANDS_STILL

    def run(self) -> int:
        """Do it; returns the exit status."""
        shim_run.raise_at_signals()
        try:
            return self._run()
        except shim_run.Late:
            shim_run.alarm_in(0)
            return self._say(f"ended after {self._deadline_s():g} s without an end of its own")
        except shim_run.StandsStill:
            shim_run.alarm_in(0)
            return self._stood_still()
        except shim_run.Signalled as signalled:
            shim_run.die_of(signalled.number)
            return EXIT_FAILED
        except OSError as error:
            return self._say(f"{self.real}: {error.strerror}")

    def _run(self) -> int:
        results = self._results()
        if self.state in _TOLD:
            return self._silent(results)
        if results is not None and self.plan.may_be_shared and not _on_terminal():
            return self._give(self._shared(results), results)
        changes = None if self.plan.is_read else results
        if changes is not None:
            changes.changed()
        try:
            return shim_run.passed_on(
                self.real, self._argv(), _inside(), self._deadline_s(), self._stands_still
            )
        finally:
            if changes is not None:
                changes.changed()

    def _shared(self, results: Results) -> Result | None:
        """The result of a run that is ours, or of who asks the same; None: nobody may ask now."""
        until = result_cache.now() + self._deadline_s()
        while True:
            is_ours = results.claim()
            try:
                latest = results.latest()
                if latest is not None and self._is_of_now(latest, results):
                    return latest
                if not self._look():
                    return None
                if is_ours:
                    return self._captured(results)
            finally:
                results.release()
            left_s = until - result_cache.now()
            if left_s <= 0:
                raise shim_run.Late
            shim_run.alarm_in(left_s, self._stands_still)
            results.wait()
            shim_run.alarm_in(0)

    def _captured(self, results: Results) -> Result:
        argv, deadline_s = self._argv(), self._deadline_s()
        result = shim_run.captured(self.real, argv, _inside(), deadline_s, self._stands_still)
        # One in which the BMC fell silent is for who asked, and not for later.
        results.keep(result, is_good=result.status == 0 and self._look())
        return result

    def _give(self, result: Result | None, results: Results) -> int:
        if result is None or (result.status and not self._look()):
            return self._silent(results, result)  # it failed of that
        return _put(result)

    def _is_of_now(self, result: Result, results: Results) -> bool:
        share_s = float(self._setting("share_s", proxy_files.SHIM_SHARE_S))
        if result.finished_at < self.began_at - share_s or result.finished_at > result_cache.now():
            return False
        return result.started_at > results.changed_at()

    def _silent(self, results: Results | None, failed: Result | None = None) -> int:
        """The BMC does not answer: nobody waits for it."""
        told = _TOLD[self.state]
        if self.reason:
            told += f" ({self.reason})"
        if not self.plan.is_read:
            return self._say(f"{told}; nothing was sent")
        kept = None if results is None else results.last_good()
        old_s_max = float(self._setting("old_output_s_max", proxy_files.SHIM_CACHED_S_MAX))
        if kept is not None and results is not None and kept.started_at > results.changed_at():
            age_s = result_cache.now() - kept.started_at  # of its oldest part
            if 0 <= age_s <= old_s_max:
                status = _put(kept)
                self._say(f"{told}; this is its answer from {age_s:.0f} s ago")
                return status
        if failed is not None:
            _put(failed)
        since = f"of the last {old_s_max:g} s and since the last change"
        return self._say(f"{told}, and there is no answer {since} to give")

    def _stood_still(self) -> int:
        if self.plan.is_read:
            return self._silent(self._results())
        told = f"{_TOLD[self.state]} ({self.reason})"
        return self._say(f"{told}; whether this was carried out is not known")

    def _results(self) -> Results | None:
        names = ("TZ", "LANG", "LANGUAGE", "HOME")
        seen = [f"{k}={v}" for k, v in os.environ.items() if k in names or k.startswith("LC_")]
        key = "\0".join((*self.plan.arguments, "", *sorted(seen)))
        try:
            return Results(self.runtime_dir, os.fsencode(key))
        except OSError:
            return None  # then everybody runs for himself

    def _argv(self) -> list[str]:
        assert self.door is not None
        door = self.door
        # Nothing is lost on loopback: a repeat only asks whether the door is alive.
        seconds = int(door.request_s / RETRIES) + 2
        return [
            "ipmitool", "-I", "lanplus", "-H", door.host, "-p", str(door.port), "-U", door.user,
            "-f", door.password_file, "-C", CIPHER_SUITE, "-N", str(seconds), "-R", str(RETRIES),
            *self.plan.arguments,
        ]  # fmt: skip

    def _deadline_s(self) -> float:
        if self.plan.is_long:
            return float(self._setting("long_deadline_s", proxy_files.SHIM_LONG_DEADLINE_S))
        return float(self._setting("deadline_s", proxy_files.SHIM_DEADLINE_S))

    def _setting(self, name: str, default: float) -> float:
        if self.door is None:
            return default
        try:
            return float(self.door.settings[name])
        except (KeyError, ValueError):
            return default

    def _say(self, message: str) -> int:
        sys.stderr.write(f"bmcmedic ipmitool: {message}\n")
        return EXIT_FAILED


def _inside() -> dict[str, str]:
    return {**os.environ, INSIDE_VARIABLE: "1"}


def _on_terminal() -> bool:
    """Whether somebody looks on, and wants to see each line when it comes."""
    try:
        return os.isatty(1)
    except OSError:
        return False


def _put(result: Result) -> int:
    status = result.status
    for descriptor, raw in ((1, result.output), (2, result.error)):
        left = raw
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except BrokenPipeError:
            continue  # whoever read it has enough
        except OSError:
            status = status or EXIT_FAILED
    return status
