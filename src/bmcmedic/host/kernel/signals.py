"""Signal exactly the process that is held, never another process that has its pid by now.

From Linux 5.1 on a held /proc/PID directory is a pidfd: the kernel takes it for the process itself,
and refuses the signal when that process has ended. Older kernels, and sandboxes that forbid the
call, only take a number. Then the start time is compared immediately before.
"""

import ctypes
import errno
import os
import platform
import signal

from bmcmedic.host.kernel.proc import Gone, ProcError, Process, ProcessIdentity, Tree
from bmcmedic.host.typed import Callable, NamedTuple, Optional

_PIDFD_SEND_SIGNAL = 424
# On these machines the system call has that number.
_ONE_NUMBER = frozenset(
    [
        *("x86_64", "i386", "i586", "i686", "aarch64", "armv7l"),
        *("ppc64", "ppc64le", "s390x", "riscv64", "loongarch64"),
    ]
)
_NO_SUCH_CALL = frozenset({errno.ENOSYS, errno.EPERM, errno.EBADF, errno.EOPNOTSUPP})
"""Errors of a kernel or a sandbox without pidfds; EPERM may also be a true refusal."""

SendToHeld = Callable[[int, int], None]
"""Takes a descriptor and a signal; raises OSError."""


class NotSent(Exception):
    """A signal was not sent; the message says why."""


class Sent(NamedTuple):
    """A signal that was sent."""

    number: int
    through: str
    """`pidfd`, or `pid` on a system without pidfds."""

    @property
    def name(self) -> str:
        """The signal's name, such as `TERM`."""
        return signal.Signals(self.number).name[3:]


class Sender:
    """Sends signals to processes; tests hand in their own calls."""

    def __init__(
        self,
        send_to_held: Optional[SendToHeld],
        send_to_pid: Callable[[int, int], None] = os.kill,
    ) -> None:
        """`send_to_held` None: the system has no pidfds."""
        self._send_to_held = send_to_held
        self._send_to_pid = send_to_pid

    @classmethod
    def of_this_system(cls) -> "Sender":
        """Return the sender for this system, with pidfds if Python or the kernel has them."""
        return cls(_send_to_held())

    def send(self, process: Process, identity: ProcessIdentity, number: int) -> Sent:
        """Send a signal to a held process; raises Gone or NotSent."""
        if identity.pid <= 1 or identity.pid == os.getpid() or process.pid != identity.pid:
            raise NotSent(f"pid {identity.pid} is never sent a signal")
        if self._send_to_held is not None:
            try:
                self._send_to_held(process.fileno(), number)
                return Sent(number, "pidfd")
            except OSError as error:
                if error.errno not in _NO_SUCH_CALL:
                    raise _refusal(error) from None
        return self._send_by_number(process, identity, number)

    def _send_by_number(self, process: Process, identity: ProcessIdentity, number: int) -> Sent:
        try:
            # Nothing but this comparison may come between the proof and the signal.
            if process.stat().identity != identity:
                raise Gone(f"pid {identity.pid} is another process now")
            self._send_to_pid(identity.pid, number)
        except OSError as error:
            raise _refusal(error) from None
        return Sent(number, "pid")


def why_pids_mean_nothing(tree: Tree) -> Optional[str]:
    """Return why the pids of a proc tree must not be signalled; None: they are our own."""
    try:
        link = os.readlink(tree.root + "/self")
        with tree.hold(os.getpid()) as own:
            namespaces = own.status().get("NSpid", "1").split()
    except (OSError, ProcError) as error:
        return f"{tree.root} does not show this process: {error}"
    if link != str(os.getpid()) or len(namespaces) != 1:
        return f"{tree.root} belongs to another pid namespace"
    return None


def _refusal(error: OSError) -> Exception:
    if error.errno == errno.ESRCH:
        return Gone("it has ended")
    return NotSent(error.strerror or str(error))


def _send_to_held() -> Optional[SendToHeld]:
    ours: Optional[SendToHeld] = getattr(signal, "pidfd_send_signal", None)  # Python 3.9
    if ours is not None:
        return ours
    if platform.machine() not in _ONE_NUMBER:
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
    except OSError:
        return None

    def send(descriptor: int, number: int) -> None:
        sent = library.syscall(
            ctypes.c_long(_PIDFD_SEND_SIGNAL),
            ctypes.c_int(descriptor),
            ctypes.c_int(number),
            ctypes.c_void_p(None),
            ctypes.c_uint(0),
        )
        if sent != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return send
