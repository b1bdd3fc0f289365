"""Coming first on a host that is overloaded, for as long as it is being relieved.

Where the kernel shares the CPUs out by session (autogroup), a nice value counts within a session
only, and each service and each login is a session of its own. So that of the session is changed as
well. Where control groups share the CPUs out, their weights count, and neither of the two does.
"""

import contextlib
import errno
import os
import signal
import time
from types import FrameType

from bmcmedic.host.typed import Any, Callable, Dict, Iterator, Optional

NICE = -10
"""With a load of 190 it is short work, and all others wait for it to be done."""
AUTOGROUP = "/proc/self/autogroup"
RETRY_S = 0.02
"""The kernel takes one such change within 0.1 s from all who are not CAP_SYS_ADMIN."""
RAISE_S_MAX = 0.2
PUT_BACK_S_MAX = 2.0
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP)
"""With these somebody ends or stops a program that was called by hand."""


class RaisedPriority:
    """The calling thread comes first within it, and so does its session, where that is allowed.

    It may be entered again within itself. What could not be put back is tried again at its next
    end.
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
        """Come first."""
        self._depth += 1
        if self._depth > 1:
            return
        with contextlib.suppress(OSError):
            # On Linux each thread has a niceness of its own, and 0 is the one that asks.
            before = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, 0, min(NICE, before))
            self._thread_before = before
        session = self._session_nice()
        if self._session_before is None and session is not None and session > NICE:
            self._session_before = session  # a signal may put it back from here on
            self._session_before = session if self._write(NICE, RAISE_S_MAX) else None

    def __exit__(self, *_: object) -> None:
        """Be as nice as before."""
        self._depth -= 1
        if self._depth == 0:
            self.put_back()

    def put_back(self) -> None:
        """As it was; never raises."""
        before, self._thread_before = self._thread_before, None
        if before is not None:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, before)
        session = self._session_before
        if session is not None and self._write(session, PUT_BACK_S_MAX):
            self._session_before = None

    def _session_nice(self) -> Optional[int]:
        """None: the kernel does not share out by session."""
        try:
            with open(self._autogroup, encoding="ascii") as file:
                return int(file.read().rpartition(" nice ")[2])
        except (OSError, ValueError):
            return None

    def _write(self, nice: int, s_max: float) -> bool:
        """Whether the session is as nice now."""
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
    """The same for a program that is called by hand, whose session may be a person's.

    What ends or stops it puts back first, but for SIGKILL and SIGSTOP: those leave the session so.
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
