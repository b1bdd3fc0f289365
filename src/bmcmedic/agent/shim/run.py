"""One run of the real ipmitool, which always ends: by itself, at its deadline, or with the shim."""

from __future__ import annotations

import os
import signal
import time

from bmcmedic.agent.shim import result_cache
from bmcmedic.agent.shim.result_cache import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TERM_S = 1.0
"""Time between SIGTERM and SIGKILL, in seconds."""
POLL_S = 0.01
"""Period in which an ending run is checked, in seconds."""
STALL_CHECK_PERIOD_S = 1.0
"""Period in which a run checks whether the proxy still responds, in seconds."""
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class DeadlinePassed(Exception):
    """The run did not end before its deadline."""


class Signalled(Exception):
    """A signal asks the shim to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class ProxyStalled(Exception):
    """The proxy that must answer the run has stopped responding."""


class _Interruption:
    """The deadline, and whether a handler has raised already.

    Only the first handler raises: a second exception would interrupt the clean-up after the first.
    """

    __slots__ = ("at", "has_raised", "is_stalled")

    def __init__(self) -> None:
        self.has_raised = False
        self.at = 0.0
        self.is_stalled: Callable[[], bool] | None = None


_interruption = _Interruption()


def raise_at_signals() -> None:
    """Let signals that end us raise Signalled, and the alarm DeadlinePassed or ProxyStalled."""
    for number in _FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    signal.signal(signal.SIGALRM, _on_alarm)


def alarm_in(seconds: float, is_stalled: Callable[[], bool] | None = None) -> None:
    """Raise DeadlinePassed after `seconds`, or ProxyStalled once `is_stalled`; 0 cancels it."""
    _interruption.at = time.monotonic() + seconds
    _interruption.is_stalled = is_stalled
    signal.setitimer(
        signal.ITIMER_REAL, min(seconds, STALL_CHECK_PERIOD_S) if is_stalled else seconds
    )


def die_of_signal(number: int) -> None:
    """End by the same signal as ipmitool without the shim would have."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def run_captured(
    path: str,
    argv: list[str],
    environment: dict[str, str],
    deadline_s: float,
    is_stalled: Callable[[], bool] | None = None,
) -> Result:
    """Run it without input, and return its exit status and output.

    Raises: DeadlinePassed, ProxyStalled, Signalled; OSError.
    """
    _fill_standard_descriptors()
    output, error = os.memfd_create("output"), os.memfd_create("error")
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, nothing, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, error, 2)]
        started_at = result_cache.now()
        status = _run(path, argv, environment, actions, deadline_s, is_stalled, own_group=True)
        finished_at = result_cache.now()
        return Result(status, _content(output), _content(error), started_at, finished_at)
    finally:
        for descriptor in (output, error, nothing):
            os.close(descriptor)


def run_passed_through(
    path: str,
    argv: list[str],
    environment: dict[str, str],
    deadline_s: float,
    is_stalled: Callable[[], bool] | None = None,
) -> int:
    """Run it with our own input and output, and return its exit status.

    Raises: DeadlinePassed, ProxyStalled, Signalled; OSError.
    """
    # On a terminal it must stay in the process group that owns the terminal.
    own_group = not any(os.isatty(descriptor) for descriptor in (0, 1, 2) if _is_open(descriptor))
    return _run(path, argv, environment, [], deadline_s, is_stalled, own_group=own_group)


def _run(
    path: str,
    argv: list[str],
    environment: dict[str, str],
    actions: list[tuple[int, int, int]],
    deadline_s: float,
    is_stalled: Callable[[], bool] | None,
    *,
    own_group: bool,
) -> int:
    """Return the exit status as a shell reports it. No process of the run outlives this call."""
    # The child inherits our signal dispositions, except those we changed: ignored stays ignored.
    changed = [number for number in _FORWARDED if signal.getsignal(number) is _on_signal]
    defaults = [*changed, signal.SIGALRM, signal.SIGPIPE, signal.SIGXFSZ]
    # A signal between the start and the wait below would leave the child without supervision.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    pid = 0
    try:
        if own_group:
            pid = os.posix_spawn(
                path, argv, environment,
                file_actions=actions, setpgroup=0, setsigmask=mask, setsigdef=defaults,
            )  # fmt: skip
        else:
            pid = os.posix_spawn(
                path, argv, environment,
                file_actions=actions, setsigmask=mask, setsigdef=defaults,
            )  # fmt: skip
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        alarm_in(deadline_s, is_stalled)
        # Until it is reaped, no other process can get its pid or the id of its group.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        alarm_in(0)
    except BaseException:
        alarm_in(0)
        if pid:
            _end(pid, own_group=own_group)
        raise
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _end(pid: int, *, own_group: bool) -> None:
    kill = os.killpg if own_group else os.kill
    for number, patience_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, float("inf"))):
        try:
            kill(pid, number)
        except ProcessLookupError:
            pass
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                if own_group:
                    _kill_rest(pid)
                os.waitpid(pid, 0)
                return
            time.sleep(POLL_S)


def _fill_standard_descriptors() -> None:
    """Open standard descriptors that the caller closed, or our files would get their numbers."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    os.close(descriptor)


def _kill_rest(group: int) -> None:
    """Kill what is left of its group. Its leader is not reaped yet, so the id is still its own."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _on_signal(number: int, _frame: object) -> None:
    if not _interruption.has_raised:
        _interruption.has_raised = True
        raise Signalled(number)


def _on_alarm(_number: int, _frame: object) -> None:
    if _interruption.has_raised:
        return
    left_s = _interruption.at - time.monotonic()
    if left_s <= 0:
        _interruption.has_raised = True
        raise DeadlinePassed
    if _interruption.is_stalled is not None and _interruption.is_stalled():
        _interruption.has_raised = True
        raise ProxyStalled
    signal.setitimer(signal.ITIMER_REAL, min(left_s, STALL_CHECK_PERIOD_S))
