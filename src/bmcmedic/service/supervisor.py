"""The process around driver or agent: its threads, its signals, and its reports to systemd.

The main thread waits here and does nothing else. When a thread ends unasked, the whole process ends
and systemd starts it anew: half a driver would be worse than none.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bmcmedic.service.log import Log

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
JOIN_S = 2.0
"""Wait for a thread that was asked to end, in seconds; then the process ends without it."""
_DIED = b"\0"
"""A byte that is no signal's number; it means that a thread has died."""


@dataclass(slots=True)
class _Thread:
    thread: threading.Thread
    ended: bool = False


class Supervisor:
    """Starts the threads, and waits for a signal or for one of them to end."""

    def __init__(self, log: Log, schedule: Callable[[int], str | None]) -> None:
        """`schedule` sets the calling thread's priority, and returns what could not be done.

        Its argument is how much more urgent than the others the thread is.
        """
        self._log = log
        self._schedule = schedule
        self._stopping = False
        self._threads: dict[str, _Thread] = {}
        self._died: str | None = None
        self._wakeup_read, self._wakeup_write = socket.socketpair()
        self._wakeup_read.setblocking(False)
        self._wakeup_write.setblocking(False)

    def start(self, name: str, body: Callable[[], object], *, urgency: int = 0) -> None:
        """Run `body` in a thread of its own, which may end only after `expect_ends`."""
        thread = threading.Thread(
            target=self._run, args=(name, body, urgency), name=name, daemon=True
        )
        self._threads[name] = _Thread(thread)
        thread.start()

    def _run(self, name: str, body: Callable[[], object], urgency: int) -> None:
        unscheduled = self._schedule(urgency)
        if unscheduled is not None and self._schedule(0) is None:
            # If no priority can be set at all, the main thread has reported it.
            self._log.warning(f"the {name} thread has no priority over others: {unscheduled}")
        try:
            body()
        except BaseException:  # noqa: BLE001 - any error ends the process, and is logged
            self._log.error(f"the {name} thread died:\n{traceback.format_exc().rstrip()}")
        else:
            if not self._stopping:
                self._log.error(f"the {name} thread ended without having been asked to")
        self._threads[name].ended = True
        if not self._stopping:
            self._died = name
            with contextlib.suppress(OSError):
                self._wakeup_write.send(_DIED)

    @contextlib.contextmanager
    def signals_handled(self) -> Iterator[None]:
        """Let signals wake the main thread, and do nothing else.

        Signals are unblocked here, because the check command would inherit the block. Signals that
        have waited since the start are handled now.
        """
        before = {number: signal.signal(number, _do_nothing) for number in HANDLED}
        old_fd = signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._wakeup_read.close()
            self._wakeup_write.close()

    def wait(
        self, every_s: float | None, tick: Callable[[], None], reload: Callable[[], None]
    ) -> str | None:
        """Wait until the process is to end; return the name of the thread that died, or None.

        `tick` is called at least every `every_s` seconds, `reload` upon SIGHUP.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakeup_read, selectors.EVENT_READ)
            while True:
                selector.select(every_s)
                numbers = self._read_wakeup()
                if self._died is not None:
                    return self._died
                if signal.SIGTERM in numbers or signal.SIGINT in numbers:
                    return None
                if signal.SIGHUP in numbers:
                    reload()
                tick()

    def _read_wakeup(self) -> bytes:
        try:
            return self._wakeup_read.recv(4096)
        except BlockingIOError:
            return b""

    def expect_ends(self) -> None:
        """Allow threads to end from now on."""
        self._stopping = True

    def join(self, name: str, timeout_s: float = JOIN_S) -> bool:
        """Wait for a thread that was asked to end; return False when it does not."""
        found = self._threads.get(name)
        if found is None:
            return True
        found.thread.join(timeout_s)
        return not found.thread.is_alive()


def _do_nothing(number: int, frame: object) -> None:
    """Do nothing: the byte in the wake-up socket is what counts."""
    del number, frame


class ServiceManager:
    """Notifications to systemd, where it asked for them: sd_notify(3) and its keep-alive."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self.alive_every_s: float | None = None
        """How often `alive` is due, in seconds; None when systemd does not expect it."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        if microseconds.isdecimal() and environment.get("WATCHDOG_PID", str(os.getpid())) == str(
            os.getpid()
        ):
            self.alive_every_s = int(microseconds) / 1e6 / 3

    def notify(self, *lines: str) -> None:
        """Send lines to systemd; a manager that does not listen is not waited for."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto("\n".join(lines).encode(), self._address)

    def ready(self, status: str) -> None:
        """Report that the service is ready."""
        self.notify("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Report what the service is doing."""
        self.notify(f"STATUS={status}")

    def reloading(self, now_us: int) -> None:
        """Report that a reload has begun."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """Report that the end has begun."""
        self.notify("STOPPING=1")

    def alive(self) -> None:
        """Report that all threads are alive."""
        if self.alive_every_s is not None:
            self.notify("WATCHDOG=1")
