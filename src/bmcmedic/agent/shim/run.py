"""One run of the real ipmitool, that ends: by itself, at its deadline, or with us."""

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
"""From SIGTERM to SIGKILL."""
POLL_S = 0.01
LOOK_PERIOD_S = 1.0
"""How often a run looks whether what is to answer it moves."""
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Late(Exception):
    """The deadline has passed."""


class Signalled(Exception):
    """Somebody wants us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StandsStill(Exception):
    """What is to answer the run does not move."""


class _Ending:
    """What is to end us raises once: after that we are ending, and must not be kept from it."""

    __slots__ = ("at", "began", "stands_still")

    def __init__(self) -> None:
        self.began = False
        self.at = 0.0
        self.stands_still: Callable[[], bool] | None = None


_ending = _Ending()


def raise_at_signals() -> None:
    """From now on a signal that ends us raises Signalled, and the alarm Late or StandsStill."""
    for number in _FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _signalled)
    signal.signal(signal.SIGALRM, _rang)


def alarm_in(seconds: float, stands_still: Callable[[], bool] | None = None) -> None:
    """Raise Late then, or StandsStill once that is so; 0: not at all."""
    _ending.at = time.monotonic() + seconds
    _ending.stands_still = stands_still
    signal.setitimer(signal.ITIMER_REAL, min(seconds, LOOK_PERIOD_S) if stands_still else seconds)


def die_of(number: int) -> None:
    """End as who was never there would have."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def captured(
    path: str,
    argv: list[str],
    environment: dict[str, str],
    deadline_s: float,
    stands_still: Callable[[], bool] | None = None,
) -> Result:
    """Run it without input and keep what it says.

    Raises: Late, StandsStill, Signalled; OSError.
    """
    _fill_standard_descriptors()
    output, error = os.memfd_create("output"), os.memfd_create("error")
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, nothing, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, error, 2)]
        started_at = result_cache.now()
        status = _run(path, argv, environment, actions, deadline_s, stands_still, own_group=True)
        finished_at = result_cache.now()
        return Result(status, _content(output), _content(error), started_at, finished_at)
    finally:
        for descriptor in (output, error, nothing):
            os.close(descriptor)


def passed_on(
    path: str,
    argv: list[str],
    environment: dict[str, str],
    deadline_s: float,
    stands_still: Callable[[], bool] | None = None,
) -> int:
    """Run it with our own input and output. Raises: Late, StandsStill, Signalled; OSError."""
    # On a terminal it must stay in the group that has the terminal.
    own_group = not any(os.isatty(descriptor) for descriptor in (0, 1, 2) if _is_open(descriptor))
    return _run(path, argv, environment, [], deadline_s, stands_still, own_group=own_group)


def _run(
    path: str,
    argv: list[str],
    environment: dict[str, str],
    actions: list[tuple[int, int, int]],
    deadline_s: float,
    stands_still: Callable[[], bool] | None,
    *,
    own_group: bool,
) -> int:
    """The exit status as a shell would have it; whatever else happens, nobody stays behind."""
    # The child has our dispositions but for what we changed: ignored stays ignored.
    changed = [number for number in _FORWARDED if signal.getsignal(number) is _signalled]
    defaults = [*changed, signal.SIGALRM, signal.SIGPIPE, signal.SIGXFSZ]
    # No signal may come between the start and the moment from which on it is looked after.
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
        alarm_in(deadline_s, stands_still)
        # Not reaped yet, it keeps its number, and its group's, from being another's.
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
    """Who calls us may have closed some; what we open then must not be taken for them."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    os.close(descriptor)


def _kill_rest(group: int) -> None:
    """What it started may be there still; the leader is not reaped yet, so the group is its own."""
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


def _signalled(number: int, _frame: object) -> None:
    if not _ending.began:
        _ending.began = True
        raise Signalled(number)


def _rang(_number: int, _frame: object) -> None:
    if _ending.began:
        return
    left_s = _ending.at - time.monotonic()
    if left_s <= 0:
        _ending.began = True
        raise Late
    if _ending.stands_still is not None and _ending.stands_still():
        _ending.began = True
        raise StandsStill
    signal.setitimer(signal.ITIMER_REAL, min(left_s, LOOK_PERIOD_S))
