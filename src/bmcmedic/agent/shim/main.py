"""`bmcmedic ipmitool …`: the real ipmitool, through the loopback proxy, under a deadline.

The shim imports as little as it can, because monitoring scripts start it by the hundred on busy
hosts. If anything is wrong on our side (no agent, no driver, no rights, the kill switch, a bug),
the real ipmitool runs as it was called. If it then asks in-band, it has the same deadline.
"""

from __future__ import annotations

import os
import signal
import sys

from bmcmedic.agent import proxy_files
from bmcmedic.agent.proxy_files import NoProxy, PublishedProxy
from bmcmedic.agent.shim import result_cache
from bmcmedic.agent.shim import run as shim_run
from bmcmedic.agent.shim.arguments import ShimPlan, plan_call
from bmcmedic.agent.shim.result_cache import Result, ResultCache

TYPE_CHECKING = False
"""Only type checkers see True: loading `typing` would take longer than all the shim does."""
if TYPE_CHECKING:
    import argparse

RUNTIME_DIR_VARIABLE = "BMCMEDIC_RUNTIME_DIR"
REAL_VARIABLE = "BMCMEDIC_IPMITOOL"
KILL_SWITCH_VARIABLE = "BMCMEDIC_KILL_SWITCH"
INSIDE_VARIABLE = "BMCMEDIC_INSIDE_SHIM"
"""Set in the environment of the real ipmitool.

A shim that finds it set was started as the real ipmitool, and refuses to start itself again.
"""

DIVERTED = "/usr/bin/ipmitool.bmcmedic-real"
KILL_SWITCH = "/etc/bmcmedic/disabled"
MARK = b"bmcmedic shim"
"""Text by which `is_shim` recognizes the script that `shim install` writes."""

SECONDS_MAX = 86_400.0
"""Limit of a deadline, in seconds: a longer one sets no timer, which might not take the number."""
CIPHER_SUITE = "17"
_UNAVAILABLE = {
    proxy_files.SILENT: "the BMC does not answer",
    proxy_files.NO_INTERFACE: "there is no interface to the BMC",
    proxy_files.STALLED: "the agent that serves the proxy to the BMC does not respond",
}
"""States in which nothing is sent, and the message for each."""
RETRIES = 4
"""How often ipmitool sends a message to the proxy."""

EXIT_FAILED = 1
EXIT_NOT_FOUND = 127


def parser() -> argparse.ArgumentParser:
    """Return the parser that prints the help; every other argument is ipmitool's."""
    import argparse

    return argparse.ArgumentParser(
        prog="bmcmedic ipmitool",
        usage="bmcmedic ipmitool ARGUMENT…",
        description="Run the real ipmitool, with these arguments, through the agent's loopback "
        "proxy. A run ends at a deadline, and callers that ask the same at the same time share one "
        "run. While the BMC is silent, a cached answer or an error is printed at once.",
        epilog="Exit status: ipmitool's own; 1 if the shim reports an error on standard error.",
        allow_abbrev=False,
    )


def main(arguments: list[str]) -> int:
    """Run the program: return its exit status, or become the real ipmitool."""
    if arguments == ["--help"]:
        parser().print_help()
        return 0
    return run(list(arguments), os.environ.get(REAL_VARIABLE) or find_real())


def run(arguments: list[str], real: str | None) -> int:
    """Run ipmitool, whose path is `real`, and return the exit status."""
    if real is None or os.environ.get(INSIDE_VARIABLE):
        sys.stderr.write(
            f"bmcmedic ipmitool: there is no ipmitool to run; install it, or set {REAL_VARIABLE}\n"
        )
        return EXIT_NOT_FOUND
    try:
        shim = _Shim(arguments, real)
    except Exception:  # noqa: BLE001 - whatever went wrong, the operator's tool must work
        shim = None
    if shim is None or shim.reason_bypassed:
        _become(real, arguments, shim.in_band_s if shim is not None else 0.0)
    assert shim is not None
    return shim.run()


def find_real() -> str | None:
    """Return the path of the real ipmitool: the diverted one, or the first in PATH but the shim."""
    if os.access(DIVERTED, os.X_OK):
        return DIVERTED
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder or ".", "ipmitool")
        if os.access(path, os.X_OK) and not is_shim(path):
            return path
    return None


def is_shim(path: str) -> bool:
    """Return whether a file is a script that `shim install` wrote."""
    try:
        with open(path, "rb") as file:
            return MARK in file.read(512)
    except OSError:
        return False


def _become(real: str, arguments: list[str], seconds: float) -> None:
    """Become the real ipmitool. If `seconds` is not 0, the kernel ends it after that time.

    It is no child of ours: whoever killed us would leave such a child behind, with the device open.
    """
    os.environ[INSIDE_VARIABLE] = "1"
    if 0 < seconds < SECONDS_MAX:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
        signal.setitimer(signal.ITIMER_REAL, seconds)  # the timer survives execv
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, ipmitool must not
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(real, ["ipmitool", *arguments])  # noqa: S606 - it is what was called
    except OSError as error:
        sys.stderr.write(f"bmcmedic ipmitool: cannot run {real}: {error.strerror}\n")
        raise SystemExit(EXIT_NOT_FOUND) from None


class _Shim:
    """One call of the shim."""

    def __init__(self, arguments: list[str], real: str) -> None:
        self.real = real
        self.runtime_dir = os.environ.get(RUNTIME_DIR_VARIABLE) or proxy_files.RUNTIME_DIR
        self.proxy: PublishedProxy | None = None
        self.plan: ShimPlan = plan_call(arguments)
        self.state = self.reason = ""
        self.started_at = result_cache.process_started_at()
        self.in_band_s = 0.0
        """Deadline of the real ipmitool if it asks in-band, in seconds; 0 for none."""
        self.reason_bypassed = self.plan.reason_excluded or self._find_proxy()
        """Why the real ipmitool runs as it was called; empty if it goes through the proxy."""

    def _find_proxy(self) -> str:
        """Find the proxy and the state of the BMC; return why the proxy cannot be used, or ""."""
        if os.path.lexists(os.environ.get(KILL_SWITCH_VARIABLE) or KILL_SWITCH):
            return "the kill switch is set"
        self.in_band_s = self._deadline_s()
        try:
            self.proxy = proxy_files.find_proxy(self.runtime_dir)
        except NoProxy as error:
            return str(error)
        self.in_band_s = self._deadline_s()
        self._is_bmc_available()
        return self.reason or self.state if self.state == proxy_files.NO_DRIVER else ""

    def _is_bmc_available(self) -> bool:
        """Read the current state of the BMC, and return whether requests may be sent."""
        self.state, self.reason = proxy_files.read_state(self.runtime_dir)
        return self.state not in _UNAVAILABLE

    def _is_proxy_stalled(self) -> bool:
        return not self._is_bmc_available() and self.state == proxy_files.STALLED

    def run(self) -> int:
        """Run the call, and return the exit status."""
        shim_run.raise_at_signals()
        try:
            return self._run()
        except shim_run.DeadlinePassed:
            shim_run.alarm_in(0)
            return self._report(f"ended after {self._deadline_s():g} s, which is its deadline")
        except shim_run.ProxyStalled:
            shim_run.alarm_in(0)
            return self._report_stall()
        except shim_run.Signalled as signalled:
            shim_run.die_of_signal(signalled.number)
            return EXIT_FAILED
        except OSError as error:
            return self._report(f"{self.real}: {error.strerror}")

    def _run(self) -> int:
        cache = self._open_cache()
        if self.state in _UNAVAILABLE:
            return self._print_cached_answer(cache)
        if cache is not None and self.plan.may_be_shared and not _has_terminal():
            return self._print_result(self._run_shared(cache), cache)
        changes = None if self.plan.is_read else cache
        if changes is not None:
            changes.mark_changed()
        try:
            return shim_run.run_passed_through(
                self.real, self._argv(), _environment(), self._deadline_s(), self._is_proxy_stalled
            )
        finally:
            if changes is not None:
                changes.mark_changed()

    def _run_shared(self, cache: ResultCache) -> Result | None:
        """Return the result of our run, or of another caller's; None if nothing may be sent now."""
        until = result_cache.now() + self._deadline_s()
        while True:
            is_ours = cache.try_lock()
            try:
                latest = cache.latest()
                if latest is not None and self._is_fresh(latest, cache):
                    return latest
                if not self._is_bmc_available():
                    return None
                if is_ours:
                    return self._run_and_store(cache)
            finally:
                cache.unlock()
            left_s = until - result_cache.now()
            if left_s <= 0:
                raise shim_run.DeadlinePassed
            shim_run.alarm_in(left_s, self._is_proxy_stalled)
            cache.wait_for_unlock()
            shim_run.alarm_in(0)

    def _run_and_store(self, cache: ResultCache) -> Result:
        result = shim_run.run_captured(
            self.real, self._argv(), _environment(), self._deadline_s(), self._is_proxy_stalled
        )
        # A run during which the BMC fell silent may be incomplete, so it is never a cached answer.
        cache.store(result, is_good=result.status == 0 and self._is_bmc_available())
        return result

    def _print_result(self, result: Result | None, cache: ResultCache) -> int:
        if result is None or (result.status and not self._is_bmc_available()):
            return self._print_cached_answer(cache, result)
        return _print(result)

    def _is_fresh(self, result: Result, cache: ResultCache) -> bool:
        """Return whether a run ended recently enough to count as an answer to this call."""
        share_s = self._setting("share_s", proxy_files.SHIM_SHARE_S)
        if not self.started_at - share_s <= result.finished_at <= result_cache.now():
            return False
        return result.started_at > cache.changed_at()

    def _print_cached_answer(self, cache: ResultCache | None, failed: Result | None = None) -> int:
        """Print the cached answer and its age at once, or fail: the BMC is not available."""
        problem = _UNAVAILABLE[self.state]
        if self.reason:
            problem += f" ({self.reason})"
        if not self.plan.is_read:
            return self._report(f"{problem}; nothing was sent")
        age_s_max = self._setting("old_output_s_max", proxy_files.SHIM_CACHED_S_MAX)
        cached = None if cache is None else cache.cached_answer(age_s_max)
        if cached is not None:
            age_s = cached.age_s()
            status = _print(cached)
            self._report(f"{problem}; this is its answer from {age_s:.0f} s ago")
            return status
        if failed is not None:
            _print(failed)
        limits = f"from the last {age_s_max:g} s and since the last change"
        return self._report(f"{problem}, and there is no cached answer {limits}")

    def _report_stall(self) -> int:
        if self.plan.is_read:
            return self._print_cached_answer(self._open_cache())
        problem = f"{_UNAVAILABLE[self.state]} ({self.reason})"
        return self._report(f"{problem}; the command may or may not have been carried out")

    def _open_cache(self) -> ResultCache | None:
        names = ("TZ", "LANG", "LANGUAGE", "HOME")
        seen = [f"{k}={v}" for k, v in os.environ.items() if k in names or k.startswith("LC_")]
        key = "\0".join((*self.plan.arguments, "", *sorted(seen)))
        try:
            return ResultCache(self.runtime_dir, os.fsencode(key))
        except OSError:
            return None  # without the folder nothing is shared or cached

    def _argv(self) -> list[str]:
        assert self.proxy is not None
        proxy = self.proxy
        # No datagram is lost on loopback: a retry only checks that the proxy is alive.
        seconds = int(proxy.request_s / RETRIES) + 2
        return [
            "ipmitool", "-I", "lanplus", "-H", proxy.host, "-p", str(proxy.port), "-U", proxy.user,
            "-f", proxy.password_file, "-C", CIPHER_SUITE, "-N", str(seconds), "-R", str(RETRIES),
            *self.plan.arguments,
        ]  # fmt: skip

    def _deadline_s(self) -> float:
        if self.plan.is_long:
            return self._setting("long_deadline_s", proxy_files.SHIM_LONG_DEADLINE_S)
        return self._setting("deadline_s", proxy_files.SHIM_DEADLINE_S)

    def _setting(self, name: str, default: float) -> float:
        if self.proxy is None:
            return default
        try:
            return float(self.proxy.settings[name])
        except (KeyError, ValueError):
            return default

    def _report(self, message: str) -> int:
        """Print a message on standard error, and return the exit status of a failure."""
        sys.stderr.write(f"bmcmedic ipmitool: {message}\n")
        return EXIT_FAILED


def _environment() -> dict[str, str]:
    """Return the environment of the real ipmitool."""
    return {**os.environ, INSIDE_VARIABLE: "1"}


def _has_terminal() -> bool:
    """Return whether the output goes to a terminal, where a person wants each line at once."""
    try:
        return os.isatty(1)
    except OSError:
        return False


def _print(result: Result) -> int:
    """Write the output of a run, and return its exit status."""
    status = result.status
    for descriptor, raw in ((1, result.output), (2, result.error)):
        left = raw
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except BrokenPipeError:
            continue  # the reader closed the pipe, as `head` does
        except OSError:
            status = status or EXIT_FAILED
    return status
