"""Run first on an overloaded host, for as long as relief lasts.

If the kernel shares the CPUs out by session (autogroup), a nice value only counts within a session,
and each service and each login is a session of its own. So the session's nice value is changed as
well. If control groups share the CPUs out, their weights count, and neither nice value does.
"""

import contextlib
import errno
import os
import signal
import time
from types import FrameType

from bmcmedic.host.typed import Any, Callable, Dict, Iterator, Optional

NICE = -10
"""The nice value during relief, which is short work and helps all, even with a load of 190."""
AUTOGROUP = "/proc/self/autogroup"
RETRY_S = 0.02
"""Time between two tries, in seconds.

Without CAP_SYS_ADMIN, the kernel takes one such change within 0.1 s from all processes together.
"""
RAISE_S_MAX = 0.2
"""Time to raise the session's priority, in seconds."""
PUT_BACK_S_MAX = 2.0
"""Time to put the session's priority back, in seconds."""
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP)
"""The signals that end or stop a program that was called by hand."""


class RaisedPriority:
    """A higher priority for the calling thread, and for its session if that is allowed.

    It may be entered again within itself. If something could not be put back, its next end tries
    that again.
    """

    def __init__(
        self,
        autogroup: str = AUTOGROUP,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is changed before it is entered."""
        self._autogroup = autogroup
        self._monotonic = monotonic
        self._sleep = sleep
        self._depth = 0
        self._thread_before: Optional[int] = None
        self._session_before: Optional[int] = None

    def __enter__(self) -> None:
        """Raise the priority."""
        self._depth += 1
        if self._depth > 1:
            return
        with contextlib.suppress(OSError):
            # On Linux each thread has a nice value of its own, and 0 means the calling thread.
            before = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, 0, min(NICE, before))
            self._thread_before = before
        session = self._session_nice()
        if self._session_before is None and session is not None and session > NICE:
            self._session_before = session  # from here on a signal may put it back
            self._session_before = session if self._write(NICE, RAISE_S_MAX) else None

    def __exit__(self, *_: object) -> None:
        """Put the priority back."""
        self._depth -= 1
        if self._depth == 0:
            self.put_back()

    def put_back(self) -> None:
        """Put both nice values back; never raises."""
        before, self._thread_before = self._thread_before, None
        if before is not None:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, before)
        session = self._session_before
        if session is not None and self._write(session, PUT_BACK_S_MAX):
            self._session_before = None

    def _session_nice(self) -> Optional[int]:
        """Return the session's nice value; None: the kernel does not share out by session."""
        try:
            with open(self._autogroup, encoding="ascii") as file:
                return int(file.read().rpartition(" nice ")[2])
        except (OSError, ValueError):
            return None

    def _write(self, nice: int, s_max: float) -> bool:
        """Set the session's nice value; returns whether that worked."""
        until = self._monotonic() + s_max
        while True:
            try:
                file = os.open(self._autogroup, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(file, b"%d" % nice)
                finally:
                    os.close(file)
                return True
            except OSError as error:
                if error.errno != errno.EAGAIN or self._monotonic() >= until:
                    return False
            self._sleep(RETRY_S)


@contextlib.contextmanager
def ahead_until_the_end() -> Iterator[None]:
    """Raise the priority of a program that was called by hand, in a person's session maybe.

    A signal that ends or stops the program puts the priority back first. SIGKILL and SIGSTOP
    cannot, and leave the session as it is.
    """
    ahead = RaisedPriority()
    before: Dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def give_way(number: int, _: Optional[FrameType]) -> None:
        ahead.put_back()
        signal.signal(number, before[number])
        os.kill(os.getpid(), number)

    changed = [n for n in SIGNALS if before[n] not in (signal.SIG_IGN, None)]
    for number in changed:
        signal.signal(number, give_way)
    try:
        with ahead:
            yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
