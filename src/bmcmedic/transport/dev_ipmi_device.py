"""Linux's /dev/ipmi0: messages to and from the kernel's IPMI driver, and its counters.

Shape: the structs of <linux/ipmi.h>, in the host's byte order and alignment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from array import array
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Protocol

from bmcmedic.errors import (
    BmcmedicError,
    ConfigurationError,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
)
from bmcmedic.ipmi.kcs import MESSAGE_BYTES_MAX, REQUEST_BYTES_MIN
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, Ipmb, hold_alone

_OLD_STYLE = ("alpha", "mips", "ppc", "sparc")
"""Architectures whose ioctl numbers have 13 bits for the size and other direction bits."""


class Direction(Enum):
    """Direction of an ioctl's argument as the program sees it; some drivers declare it wrongly."""

    READ = "read"
    READ_WRITE = "read and write"
    WRITE = "write"


def ioctl_number(
    direction: Direction, kind: str, number: int, size: int, machine: str | None = None
) -> int:
    """Return the number of the ioctl with an argument of `size` bytes."""
    read, write, shift = 2, 1, 30
    if (machine or os.uname().machine).startswith(_OLD_STYLE):
        read, write, shift = 2, 4, 29
    bits = {
        Direction.READ: read,
        Direction.WRITE: write,
        Direction.READ_WRITE: read | write,
    }[direction]
    return bits << shift | size << 16 | ord(kind) << 8 | number


SYSTEM_INTERFACE_ADDR_TYPE = 0x0C
IPMB_ADDR_TYPE = 0x01
BMC_CHANNEL = 0x0F
RESPONSE_RECV_TYPE = 1

SYSTEM_ADDR = struct.Struct("@ihBx")
"""struct ipmi_system_interface_addr: type, channel, LUN."""
IPMB_ADDR = struct.Struct("@ihBB")
"""struct ipmi_ipmb_addr: type, channel, slave address, LUN."""
REQ = struct.Struct("@PIlBBHP")
"""struct ipmi_req: address, its length, message id; netFn, command, length of the data, data."""
REQ_SETTIME = struct.Struct("@PIlBBHPiI")
"""struct ipmi_req_settime: struct ipmi_req, then retries and the milliseconds until each."""
RECV = struct.Struct("@iPIlBBHP")
"""struct ipmi_recv: kind, then the fields of struct ipmi_req."""
ADDR_BYTES = 40
"""sizeof(struct ipmi_addr), for any kind of address."""

_READ, _READ_WRITE = Direction.READ, Direction.READ_WRITE
SEND_COMMAND = ioctl_number(_READ, "i", 13, REQ.size)
SEND_COMMAND_SETTIME = ioctl_number(_READ, "i", 21, REQ_SETTIME.size)
RECEIVE_MSG_TRUNC = ioctl_number(_READ_WRITE, "i", 11, RECV.size)
GET_MY_ADDRESS = ioctl_number(_READ, "i", 18, 4)

DATA_BYTES_MAX = MESSAGE_BYTES_MAX - REQUEST_BYTES_MIN
RETRY_MS_MAX = 2**31 - 1

_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.EBADF, errno.ENOTTY})
_BUSY = frozenset({errno.EBUSY, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


def _fixed(size: int) -> tuple[memoryview, int]:
    """Return memory for the kernel, and its address.

    The view keeps the memory from moving.
    """
    memory = array("B", bytes(size))
    return memoryview(memory), memory.buffer_info()[0]


class Received(NamedTuple):
    """A message from the kernel; `data` begins with the completion code."""

    kind: int
    msgid: int
    netfn: int
    command: int
    lun: int
    data: bytes


class Device(Protocol):
    """An open /dev/ipmi0: one user of the kernel's driver, with message ids of its own."""

    def hold_alone(self) -> None:
        """Lock the device against other bmcmedic drivers. Raises: InterfaceBusy."""

    def send(self, msgid: int, request: bytes) -> None:
        """Queue a request for the BMC. Raises: as `device_error`."""

    def send_ipmb(self, msgid: int, request: bytes, target: Ipmb, answer_ms: int) -> None:
        """Queue a request for a controller behind the BMC, which the kernel sends once."""

    def receive(self) -> Received | None:
        """Return the oldest message, or None if there is none. Raises: as `device_error`."""

    def wait(self, timeout_s: float | None) -> None:
        """Wait until a message arrives, `wake` is called, or the time is up."""

    def wake(self) -> None:
        """End a `wait`; any thread may call this."""

    def check(self) -> None:
        """Raise InterfaceGone when the interface is gone, which `wait` does not show."""

    def close(self) -> None:
        """Close the device."""


class DeviceCounters(Protocol):
    """The kernel's counters of the interface; reading them sends nothing to the BMC."""

    def complete_transactions(self) -> int | None:
        """Return the count of exchanges that ended with an answer; None if there is no counter."""

    def hosed_count(self) -> int | None:
        """Return the count of exchanges that the kernel gave up; None if there is no counter."""

    def close(self) -> None:
        """Close the counters' files."""


def device_error(path: str, error: OSError) -> BmcmedicError:
    """Return the error of this program that corresponds to an errno from the kernel."""
    number = error.errno
    what = f"{path}: {error.strerror or error}"
    if number in _GONE:
        return InterfaceGone(f"{what}: the kernel's IPMI driver is not there; is ipmi_si loaded?")
    if number in _BUSY:
        return InterfaceBusy(f"{what}: the kernel accepts no more requests for now")
    if number in (errno.EACCES, errno.EPERM):
        return ConfigurationError(f"{what}: no right to use it; run as root")
    if number == errno.EMSGSIZE:
        return LocalProtocolError(f"{what}: longer than the kernel accepts")
    if number == errno.EINVAL:
        return Refused(f"{what}: a command that the kernel reserves for itself")
    return InterfaceGone(what)


class IpmiDevice:
    """An open /dev/ipmi0; only one thread at a time may send, and only one may receive.

    Raises: InterfaceGone, InterfaceBusy, ConfigurationError.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._out = bytearray(REQ_SETTIME.size)
        self._out_addr, self._out_addr_at = _fixed(SYSTEM_ADDR.size)
        self._out_data, self._out_data_at = _fixed(DATA_BYTES_MAX)
        self._in = bytearray(RECV.size)
        self._in_addr, self._in_addr_at = _fixed(ADDR_BYTES)
        self._in_data, self._in_data_at = _fixed(MESSAGE_BYTES_MAX)
        self._four = bytearray(4)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise InterfaceBusy(
                    f"{path}: the kernel lets no more programs in "
                    "(/sys/module/ipmi_msghandler/parameters/max_users); end stuck ones"
                ) from None
            raise device_error(path, error) from None
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def hold_alone(self) -> None:
        """Lock the device against other bmcmedic drivers. Raises: InterfaceBusy."""
        hold_alone(self._fd, self.path)

    def send(self, msgid: int, request: bytes) -> None:
        """Queue a request for the BMC. Raises: as `device_error`."""
        message = self._message(msgid, request)
        lun = request[0] & 3
        SYSTEM_ADDR.pack_into(self._out_addr, 0, SYSTEM_INTERFACE_ADDR_TYPE, BMC_CHANNEL, lun)
        REQ.pack_into(self._out, 0, *message)
        self._ioctl(SEND_COMMAND, self._out)

    def send_ipmb(self, msgid: int, request: bytes, target: Ipmb, answer_ms: int) -> None:
        """Queue a request for a controller behind the BMC, which the kernel sends once.

        Raises: as `device_error`; Refused when the channel reaches nothing but the BMC.
        """
        message = self._message(msgid, request)
        IPMB_ADDR.pack_into(
            self._out_addr, 0, IPMB_ADDR_TYPE, target.channel, target.address, target.lun
        )
        answer_ms = max(1, min(answer_ms, RETRY_MS_MAX))
        REQ_SETTIME.pack_into(self._out, 0, *message, 0, answer_ms)
        try:
            self._ioctl(SEND_COMMAND_SETTIME, self._out)
        except Refused:
            raise Refused(
                f"{self.path}: the kernel cannot reach {target.address:#04x}: the BMC's Get "
                f"Channel Info does not name channel {target.channel} as an IPMB"
            ) from None

    def receive(self) -> Received | None:
        """Return the oldest message, or None if there is none.

        Raises: as `device_error`; LocalProtocolError for a message above the maximum length.
        """
        RECV.pack_into(
            self._in, 0, 0, self._in_addr_at, ADDR_BYTES, 0, 0, 0, MESSAGE_BYTES_MAX,
            self._in_data_at,
        )  # fmt: skip
        try:
            self._ioctl(RECEIVE_MSG_TRUNC, self._in)
        except InterfaceBusy:
            return None  # EAGAIN: no message is queued
        kind, _, _, msgid, netfn, command, length, _ = RECV.unpack(self._in)
        lun = 0
        if SYSTEM_ADDR.unpack_from(self._in_addr)[0] == SYSTEM_INTERFACE_ADDR_TYPE:
            lun = SYSTEM_ADDR.unpack_from(self._in_addr)[2] & 3
        elif IPMB_ADDR.unpack_from(self._in_addr)[0] == IPMB_ADDR_TYPE:
            lun = IPMB_ADDR.unpack_from(self._in_addr)[3] & 3
        return Received(kind, msgid, netfn, command, lun, self._in_data[:length].tobytes())

    def wait(self, timeout_s: float | None) -> None:
        """Wait until a message arrives, `wake` is called, or the time is up."""
        poll = select.poll()  # a fenced-off thread may still use an earlier one
        poll.register(self._fd, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        ready = poll.poll(None if timeout_s is None else max(0.0, timeout_s * 1000))
        for fd, events in ready:
            if fd == self._wakeup:
                os.eventfd_read(fd)
            elif events & (select.POLLNVAL | select.POLLHUP):
                raise InterfaceGone(f"{self.path} was closed")

    def wake(self) -> None:
        """End a `wait`; any thread may call this."""
        os.eventfd_write(self._wakeup, 1)

    def check(self) -> None:
        """Raise InterfaceGone when the interface is gone, which `wait` does not show."""
        self._ioctl(GET_MY_ADDRESS, self._four)

    def close(self) -> None:
        """Close the device; the kernel still executes the requests in its queue."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            os.close(self._wakeup)

    def _message(self, msgid: int, request: bytes) -> tuple[int, ...]:
        length = len(request) - REQUEST_BYTES_MIN
        if not 0 <= length <= DATA_BYTES_MAX:
            raise LocalProtocolError(f"the kernel cannot carry a request of {len(request)} bytes")
        self._out_data[:length] = request[REQUEST_BYTES_MIN:]
        return (
            self._out_addr_at, SYSTEM_ADDR.size, msgid,
            request[0] >> 2, request[1], length, self._out_data_at,
        )  # fmt: skip

    def _ioctl(self, number: int, argument: bytearray) -> None:
        if self._fd < 0:
            raise InterfaceGone(f"{self.path} was closed")
        try:
            fcntl.ioctl(self._fd, number, argument, True)
        except OSError as error:
            raise device_error(self.path, error) from None


class KernelCounters:
    """The device's counters in /sys; `root` is for tests.

    Never raises: a counter that cannot be read is None.
    """

    def __init__(self, path: str, root: str = "/") -> None:
        self._fds: dict[str, int] = {}
        try:
            number = Path(path).stat().st_rdev
        except OSError:
            return
        folder = Path(root, "sys/dev/char", f"{os.major(number)}:{os.minor(number)}", "device")
        for name in ("complete_transactions", "hosed_count"):
            try:
                self._fds[name] = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue

    def complete_transactions(self) -> int | None:
        """Return the count of exchanges that ended with an answer; None if there is no counter."""
        return self._read("complete_transactions")

    def hosed_count(self) -> int | None:
        """Return the count of exchanges that the kernel gave up; None if there is no counter."""
        return self._read("hosed_count")

    def close(self) -> None:
        """Close the counters' files."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _read(self, name: str) -> int | None:
        try:
            return int(os.pread(self._fds[name], 32, 0))
        except (KeyError, OSError, ValueError):
            return None


def response_to(request: bytes, received: Received) -> bytes:
    """Return the response as bytes.

    Shape: netFn<<2 | LUN, command, completion code, data.
    Raises: RemoteProtocolError when it belongs to another request or has no completion code.
    """
    raw = bytes((received.netfn << 2 & 0xFF | received.lun, received.command)) + received.data
    if received.netfn != request[0] >> 2 | 1 or received.command != request[1]:
        raise RemoteProtocolError("the response is another request's", section="5.1", raw=raw)
    if not received.data:
        raise RemoteProtocolError("a response without a completion code", section="5.2", raw=raw)
    return raw
