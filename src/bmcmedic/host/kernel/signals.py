"""A signal to exactly the process that is held, never to another that has its pid by now.

From Linux 5.1 on the kernel takes a held /proc/PID directory for the process itself (it is a pidfd
then), and says so when that has ended. Before, and where a sandbox forbids that call, a signal can
go to a number only: the start time is compared immediately before.
"""

import ctypes
import errno
import os
import platform
import signal

from bmcmedic.host.kernel.proc import Gone, ProcError, Process, ProcessIdentity, Tree
from bmcmedic.host.typed import Callable, NamedTuple, Optional

_PIDFD_SEND_SIGNAL = 424
# The machines on which the call has that number.
_ONE_NUMBER = frozenset(
    [
        *("x86_64", "i386", "i586", "i686", "aarch64", "armv7l"),
        *("ppc64", "ppc64le", "s390x", "riscv64", "loongarch64"),
    ]
)
_NO_SUCH_CALL = frozenset({errno.ENOSYS, errno.EPERM, errno.EBADF, errno.EOPNOTSUPP})
"""What the kernel or a sandbox says where there are no pidfds; EPERM may be a true refusal too."""

SendToHeld = Callable[[int, int], None]
"""(descriptor, signal); raises OSError."""


class NotSent(Exception):
    """A signal was not sent; the message says why."""


class Sent(NamedTuple):
    """How a signal went out."""

    number: int
    through: str
    """`pidfd`, or `pid` where there are none."""

    @property
    def name(self) -> str:
        """Such as `TERM`."""
        return signal.Signals(self.number).name[3:]


class Sender:
    """The ways to signal a process; tests hand in their own."""

    def __init__(
        self,
        send_to_held: Optional[SendToHeld],
        send_to_pid: Callable[[int, int], None] = os.kill,
    ) -> None:
        """`send_to_held` is None where there are no pidfds."""
        self._send_to_held = send_to_held
        self._send_to_pid = send_to_pid

    @classmethod
    def of_this_system(cls) -> "Sender":
        """With pidfds, if this Python or this kernel has them."""
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
            # Nothing but this comparison may stand between the proof and the signal.
            if process.stat().identity != identity:
                raise Gone(f"pid {identity.pid} is another process now")
            self._send_to_pid(identity.pid, number)
        except OSError as error:
            raise _refusal(error) from None
        return Sent(number, "pid")


def why_pids_mean_nothing(tree: Tree) -> Optional[str]:
    """Why the pids of a proc tree must not be signalled; None: they are this process's own."""
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
