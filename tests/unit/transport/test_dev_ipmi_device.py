"""What is handed to the kernel, read back as C reads it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.errors import BmcmedicError, ConfigurationError, LocalProtocolError, Refused
from bmcmedic.transport import dev_ipmi_device
from bmcmedic.transport.dev_ipmi_device import (
    ADDR_BYTES,
    DATA_BYTES_MAX,
    GET_MY_ADDRESS,
    IPMB_ADDR,
    RECEIVE_MSG_TRUNC,
    RECV,
    REQ,
    REQ_SETTIME,
    SEND_COMMAND,
    SEND_COMMAND_SETTIME,
    SYSTEM_ADDR,
    Direction,
    IpmiDevice,
    KernelCounters,
    device_error,
    ioctl_number,
)
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, Ipmb


class CSystemAddr(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("channel", ctypes.c_short), ("lun", ctypes.c_ubyte))


class CIpmbAddr(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("channel", ctypes.c_short),
        ("address", ctypes.c_ubyte),
        ("lun", ctypes.c_ubyte),
    )


class CAddr(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("channel", ctypes.c_short),
        ("data", ctypes.c_char * 32),
    )


class CMsg(ctypes.Structure):
    _fields_ = (
        ("netfn", ctypes.c_ubyte),
        ("cmd", ctypes.c_ubyte),
        ("data_len", ctypes.c_ushort),
        ("data", ctypes.c_void_p),
    )


class CReq(ctypes.Structure):
    _fields_ = (
        ("addr", ctypes.c_void_p),
        ("addr_len", ctypes.c_uint),
        ("msgid", ctypes.c_long),
        ("msg", CMsg),
    )


class CReqSettime(ctypes.Structure):
    _fields_ = (("req", CReq), ("retries", ctypes.c_int), ("retry_time_ms", ctypes.c_uint))


class CRecv(ctypes.Structure):
    _fields_ = (
        ("recv_type", ctypes.c_int),
        ("addr", ctypes.c_void_p),
        ("addr_len", ctypes.c_uint),
        ("msgid", ctypes.c_long),
        ("msg", CMsg),
    )


def test_the_structs_have_the_sizes_of_c() -> None:
    for size, struct in (
        (SYSTEM_ADDR.size, CSystemAddr),
        (IPMB_ADDR.size, CIpmbAddr),
        (ADDR_BYTES, CAddr),
        (REQ.size, CReq),
        (REQ_SETTIME.size, CReqSettime),
        (RECV.size, CRecv),
    ):
        assert ctypes.sizeof(struct) == size, struct


def test_the_numbers_are_those_of_the_headers() -> None:
    """As a C program on x86-64 prints them."""
    if ctypes.sizeof(ctypes.c_long) == 8 and os.uname().machine in ("x86_64", "aarch64"):
        assert (SEND_COMMAND, SEND_COMMAND_SETTIME) == (0x8028690D, 0x80306915)
        assert (RECEIVE_MSG_TRUNC, GET_MY_ADDRESS) == (0xC030690B, 0x80046912)
    assert ioctl_number(Direction.WRITE, "i", 31, 4, "x86_64") == 0x4004691F
    assert ioctl_number(Direction.READ, "i", 13, 40, "ppc64le") == 0x4028690D
    assert ioctl_number(Direction.READ_WRITE, "i", 11, 48, "ppc64le") == 0xC030690B
    assert ioctl_number(Direction.WRITE, "i", 31, 4, "mips64") == 0x8004691F


class CKernel:
    """Reads what it is given as the kernel would, by address."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, int, int, int, bytes, tuple[int, int] | None]] = []
        self.inbox: deque[tuple[int, bytes, int, int, int, bytes]] = deque()
        self.error: int | None = None

    def ioctl(self, fd: int, number: int, argument: bytearray, mutate: bool) -> int:
        assert fd >= 0
        assert mutate
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        if number == RECEIVE_MSG_TRUNC:
            self._receive(argument)
        elif number == SEND_COMMAND_SETTIME:
            settime = CReqSettime.from_buffer(argument)
            self._send(settime.req, (settime.retries, settime.retry_time_ms))
        elif number == SEND_COMMAND:
            self._send(CReq.from_buffer(argument), None)
        else:
            assert number == GET_MY_ADDRESS
        return 0

    def _send(self, req: CReq, times: tuple[int, int] | None) -> None:
        address = ctypes.string_at(req.addr, req.addr_len)
        data = ctypes.string_at(req.msg.data, req.msg.data_len)
        self.sent.append((address, req.msgid, req.msg.netfn, req.msg.cmd, data, times))

    def _receive(self, argument: bytearray) -> None:
        if not self.inbox:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        kind, address, msgid, netfn, cmd, data = self.inbox.popleft()
        recv = CRecv.from_buffer(argument)
        assert recv.addr_len >= len(address)
        ctypes.memmove(recv.addr, address, len(address))
        assert recv.msg.data_len >= len(data)
        ctypes.memmove(recv.msg.data, data, len(data))
        recv.recv_type, recv.addr_len, recv.msgid = kind, len(address), msgid
        recv.msg.netfn, recv.msg.cmd, recv.msg.data_len = netfn, cmd, len(data)


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel = CKernel()
        monkeypatch.setattr(fcntl, "ioctl", self.kernel.ioctl)
        self.device = IpmiDevice(os.devnull)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_request_as_c_reads_it(bench: Bench) -> None:
    bench.device.send(2**40, b"\x1b\x22")
    bench.device.send(-1, b"\x18\x01" + bytes(range(256)))
    address = bytes(CSystemAddr(0x0C, 0x0F, 3))
    assert bench.kernel.sent[0] == (address, 2**40, 6, 0x22, b"", None)
    address = bytes(CSystemAddr(0x0C, 0x0F, 0))
    assert bench.kernel.sent[1] == (address, -1, 6, 1, bytes(range(256)), None)


def test_a_bridged_request_is_sent_once_and_has_its_time(bench: Bench) -> None:
    bench.device.send_ipmb(7, b"\x10\x2d\xbe", Ipmb(6, 0x2C, 1), 5000)
    address = bytes(CIpmbAddr(0x01, 6, 0x2C, 1))
    assert bench.kernel.sent == [(address, 7, 4, 0x2D, b"\xbe", (0, 5000))]
    bench.device.send_ipmb(8, b"\x10\x2d\xbe", Ipmb(6, 0x2C), -5)
    assert bench.kernel.sent[1][-1] == (0, 1)


@given(
    msgid=st.integers(-(2**63), 2**63 - 1),
    netfn=st.integers(0, 255),
    command=st.integers(0, 255),
    lun=st.integers(0, 255),
    data=st.binary(max_size=272),
)
def test_whatever_the_kernel_gives_is_read(
    msgid: int, netfn: int, command: int, lun: int, data: bytes
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        bench = Bench(monkeypatch)
        address = bytes(CSystemAddr(0x0C, 0x0F, lun))
        bench.kernel.inbox.append((1, address, msgid, netfn, command, data))
        bench.kernel.inbox.append((1, bytes(CIpmbAddr(1, 6, 0x2C, 2)), 1, 5, 0x2D, b"\0"))
        assert bench.device.receive() == (1, msgid, netfn, command, lun & 3, data)
        assert bench.device.receive() == (1, 1, 5, 0x2D, 2, b"\0")
        assert bench.device.receive() is None
        bench.device.close()


@pytest.mark.parametrize("length", [0, 1, DATA_BYTES_MAX + 3])
def test_a_length_that_cannot_be(bench: Bench, length: int) -> None:
    with pytest.raises(LocalProtocolError):
        bench.device.send(1, bytes(length))
    with pytest.raises(LocalProtocolError):
        bench.device.send_ipmb(1, bytes(length), Ipmb(6, 0x2C), 1000)
    assert not bench.kernel.sent


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.ENODEV, InterfaceGone, "is ipmi_si loaded"),
        (errno.ENOENT, InterfaceGone, "is ipmi_si loaded"),
        (errno.EBUSY, InterfaceBusy, "no more requests for now"),
        (errno.EAGAIN, InterfaceBusy, "no more requests for now"),
        (errno.EACCES, ConfigurationError, "run as root"),
        (errno.EMSGSIZE, LocalProtocolError, "longer than"),
        (errno.EINVAL, Refused, "reserves for itself"),
        (errno.EIO, InterfaceGone, "Input/output error"),
    ],
)
def test_what_the_kernels_errors_mean(
    bench: Bench, number: int, kind: type[BmcmedicError], told: str
) -> None:
    bench.kernel.error = number
    with pytest.raises(kind, match=f"/dev/null: .*{told}"):
        bench.device.send(1, b"\x18\x01")
    assert type(device_error("/dev/null", OSError(number, os.strerror(number)))) is kind


def test_a_channel_that_is_no_ipmb_is_named(bench: Bench) -> None:
    bench.kernel.error = errno.EINVAL
    with pytest.raises(Refused, match=r"cannot reach 0x2c: .* does not name channel 3 as an IPMB"):
        bench.device.send_ipmb(1, b"\x10\x2d", Ipmb(3, 0x2C), 1000)


def test_a_device_that_was_closed(bench: Bench) -> None:
    bench.device.check()
    bench.device.close()
    bench.device.close()
    with pytest.raises(InterfaceGone):
        bench.device.check()
    with pytest.raises(InterfaceGone):
        bench.device.send(1, b"\x18\x01")


def test_a_wait_ends_when_it_is_woken() -> None:
    read_end, write_end = os.pipe()
    device = IpmiDevice(f"/proc/self/fd/{read_end}")
    device.wake()
    device.wake()
    device.wait(None)
    device.wait(0.0)
    os.write(write_end, b"!")
    device.wait(None)
    device.close()
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.EBUSY, InterfaceBusy, "max_users"),
        (errno.ENOENT, InterfaceGone, "is ipmi_si loaded"),
        (errno.EPERM, ConfigurationError, "run as root"),
        (errno.EMFILE, InterfaceBusy, "Too many open files"),
    ],
)
def test_why_it_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[BmcmedicError], told: str
) -> None:
    def refuse(path: str, flags: int) -> int:  # noqa: ARG001
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(kind, match=told):
        IpmiDevice("/dev/ipmi0")


def test_the_kernels_counters(tmp_path: Path) -> None:
    number = Path(os.devnull).stat().st_rdev
    place = f"sys/dev/char/{os.major(number)}:{os.minor(number)}/device"
    (tmp_path / place).mkdir(parents=True)
    complete = tmp_path / place / "complete_transactions"
    complete.write_text("41\n")
    counters = KernelCounters(os.devnull, str(tmp_path))
    assert (counters.complete_transactions(), counters.hosed_count()) == (41, None)
    complete.write_text("42\n")
    assert counters.complete_transactions() == 42
    complete.write_text("garbage\n")
    assert counters.complete_transactions() is None
    counters.close()
    assert counters.complete_transactions() is None
    assert KernelCounters("/dev/none", str(tmp_path)).hosed_count() is None


def test_it_needs_no_ctypes() -> None:
    """Which costs the driver a MiB."""
    assert "ctypes" not in vars(dev_ipmi_device)


def test_only_one_driver_has_the_device(tmp_path: Path) -> None:
    path = tmp_path / "ipmi0"
    path.touch()
    first, bridge, second = (IpmiDevice(str(path)) for _ in range(3))
    first.hold_alone()
    with pytest.raises(InterfaceBusy, match="another bmcmedic driver has it"):
        second.hold_alone()
    first.close()
    second.hold_alone()
    for device in (bridge, second):
        device.close()
