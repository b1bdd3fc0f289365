"""A real Linux kernel in QEMU with a simulated BMC and Python, and a way to run commands in it.

with Guest(Kernel.find(Path("build/kernel")), bmc="127.0.0.1:9002") as guest:
    done = guest.run("bmcmedic --version")
"""

from __future__ import annotations

import base64
import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from bmcmedic.errors import BmcmedicError, ConfigurationError
from bmcmedic.lab.guest.agent_packages import agent_archive
from bmcmedic.lab.guest.cpio import Archive
from bmcmedic.lab.guest.initramfs import base_archive, source_archive
from bmcmedic.lab.guest.kernel_files import Kernel, module_order
from bmcmedic.lab.guest.qmp import Qmp, QmpError
from bmcmedic.lab.guest.scripts import JOBS_FOLDER
from bmcmedic.lab.guest.systemd import systemd_archive

QEMU = "qemu-system-x86_64"
BOOT_TIMEOUT_S = 90.0
RUN_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.05
SECOND_RESET_S = 1.0
"""A reset this soon after another one is the BIOS's own, and is not counted; in seconds."""

CHUNK_BYTES = 2_048
"""Size of the parts in which a file is copied into the guest; each part is one command."""

IPMI_MODULES = ("ipmi_devintf", "ipmi_si")
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=4 rdinit=/init nokaslr mitigations=off tsc=reliable "
    "random.trust_cpu=on cryptomgr.notests"
)
"""Kernel arguments that turn off what takes time and is not under test."""


class GuestError(BmcmedicError):
    """The guest failed: an event did not happen in time, or the guest is gone."""


class GuestTimeout(GuestError):
    """An event of the guest did not happen in time."""


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a command; `output` is the last 512 KiB of both of its streams."""

    status: int
    output: str


@dataclass(frozen=True, slots=True)
class GuestOptions:
    """The options of the virtual machine.

    Units: `memory_mib` in MiB.
    """

    bmc: str | None = None
    """Address of the simulator's --vm-socket, ADDR:PORT or a path; None: there is no BMC."""

    irq: int = 0
    """The KCS interface's interrupt; with 0 the kernel polls, in its thread `kipmi0`."""

    port80: str | None = None
    """Address of the simulator's --port80-chardev; None: port 0x80 is not connected."""

    uuid: str | None = None
    """The machine's SMBIOS product UUID; None: QEMU has none.

    With its BMC's (`SimProcess.host_uuid`), `heal` knows that the two belong together.
    """

    modules: Sequence[str] = IPMI_MODULES
    """Kernel modules to load, each with its parameters: `ipmi_watchdog timeout=10`."""

    programs: Sequence[str] = ()
    """Programs of this machine to copy into the guest, such as `ipmitool`."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files of the guest by their paths; scripts (`#!`) are executable."""

    bmcmedic: bool = True
    """Whether bmcmedic is installed; Python always is."""

    agent: bool = False
    """Whether the packages that bmcmedic's agent needs are installed."""

    systemd: bool = False
    """Whether systemd is its init, instead of busybox."""

    cpus: int = 1
    memory_mib: int = 256
    kernel_arguments: str = ""
    cache: Path | None = None
    """Folder of the build cache; None: beside the kernel."""


class Job:
    """A command that was started in the guest."""

    def __init__(self, guest: Guest, number: int, command: str) -> None:
        self.number = number
        self.command = command
        self.done: Done | None = None
        """The result of the command, once it has ended."""
        self.lost = False
        """Whether the guest restarted or ended before the command did."""
        self._guest = guest

    def wait(self, timeout_s: float = RUN_TIMEOUT_S) -> Done:
        """Wait for the end of the command.

        Raises: GuestTimeout (the command runs on), GuestError when the guest restarted or is gone.
        """
        self._guest.wait_until(
            lambda: self.done is not None or self.lost, timeout_s, f"the end of {self.command!r}"
        )
        if self.done is None:
            raise GuestError(f"the guest ended or restarted during {self.command!r}")
        return self.done

    def output_so_far(self) -> str:
        """Return what the command has written so far."""
        seen = self._guest.run(f"cat {JOBS_FOLDER}/{self.number}.out").output
        # The command may have ended just before; its file is deleted then.
        return seen if self.done is None else self.done.output

    def kill(self, signal_name: str = "KILL") -> None:
        """Send a signal to the command and to all processes that it has started."""
        if self.done is None and not self.lost:
            self._guest.run(f"kill -{signal_name} -$(cat {JOBS_FOLDER}/{self.number}.pid)")


class Guest:
    """A virtual machine; as a context manager it boots the machine and ends it."""

    def __init__(self, kernel: Kernel, options: GuestOptions | None = None, **more: Any) -> None:  # noqa: ANN401
        """Create the machine; `more`: fields of `GuestOptions`, instead of `options`."""
        self._kernel = kernel
        self._options = options if options is not None else GuestOptions(**more)
        self._cache = self._options.cache or kernel.folder / "cache"
        self._changed = threading.Condition()
        self._jobs: dict[int, Job] = {}
        self._last_number = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._qmp: Qmp | None = None
        self.boot_ids: list[str] = []
        """Linux's boot_id of every boot that reached the guest's agent."""
        self.uptimes_s: list[float] = []
        """How long the kernel had run at each of these boots, in seconds."""
        self.reports: list[bytes] = []
        """Reports that programs in the guest have sent on their own; see `scripts`."""

    # ---- start and stop

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_for_boot(1)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the machine.

        Raises: ConfigurationError when a program or file that it needs is missing.
        """
        if shutil.which(QEMU) is None:
            raise ConfigurationError(
                f"{QEMU} is not installed; install it (Debian: qemu-system-x86) or run `make setup`"
            )
        folder = self._folder = Path(tempfile.mkdtemp(prefix="bmcmedic-guest-"))
        self._write_initramfs(folder / "initramfs")
        with (folder / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - QEMU alone, without a shell
                self._command_line(folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
            )
        self._reader = threading.Thread(target=self._read, name="guest", daemon=True)
        self._reader.start()
        try:
            self._qmp = Qmp(folder / "qmp", self._changed, lambda: self.is_running)
        except QmpError:
            raise GuestError(f"QEMU did not start: {self.qemu_log()}") from None
        # QEMU has mapped the file; a process that is killed before `stop` leaves little behind.
        (folder / "initramfs").unlink()

    def stop(self) -> None:
        """Stop the machine at once, and delete its files."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if self._reader is not None:
                self._reader.join()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        if self._qmp is not None:
            self._qmp.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        """Whether QEMU runs; it ends when the machine's power is turned off."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of QEMU."""
        return self._running.pid

    @property
    def folder(self) -> Path | None:
        """The temporary folder with the machine's sockets and logs; None: it was never started."""
        return self._folder

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise GuestError("the guest is not running")
        return self._process

    # ---- QEMU

    @property
    def qmp(self) -> Qmp:
        """The connection to QEMU's monitor: `guest.qmp.execute("stop")`."""
        assert self._qmp is not None, "the guest was not started"
        return self._qmp

    def qemu_log(self) -> str:
        """Return the error messages of QEMU itself."""
        return self._text("qemu.log").strip()

    def _write_initramfs(self, initramfs_path: Path) -> None:
        options = self._options
        own = Archive()
        own.file("etc/modules", self._module_lines().encode())
        for path, content in options.files.items():
            own.file(path, content, executable=content.startswith(b"#!"))
        with initramfs_path.open("wb") as initramfs:
            parts = [base_archive(self._kernel, options.programs, self._cache)]
            if options.bmcmedic:
                parts.append(source_archive(self._cache))
            if options.agent:
                parts.append(agent_archive(self._cache))
            if options.systemd:
                parts.append(systemd_archive(self._cache))
            for part in parts:
                with part.open("rb") as archive:
                    shutil.copyfileobj(archive, initramfs)
            initramfs.write(own.encode())

    def _module_lines(self) -> str:
        parameters = {}
        for wanted in self._options.modules:
            name, _, rest = wanted.partition(" ")
            parameters[name] = rest
        order = module_order(parameters, self._kernel.modules())
        return "".join(f"{name} {parameters.get(name, '')}".rstrip() + "\n" for name in order)

    def _command_line(self, folder: Path) -> list[str]:
        options = self._options
        command = [
            QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(options.cpus),
            "-m", str(options.memory_mib), "-nodefaults", "-no-user-config", "-display", "none",
            "-kernel", str(self._kernel.image(self._cache)), "-initrd", str(folder / "initramfs"),
            "-append", f"{KERNEL_ARGUMENTS} {options.kernel_arguments}".strip(),
            "-serial", f"file:{_escaped(folder / 'console')}",
            "-chardev", "stdio,id=agent,signal=off", "-serial", "chardev:agent",
            "-chardev", f"socket,id=qmp,path={_escaped(folder / 'qmp')},server=on,wait=off",
            "-mon", "chardev=qmp,mode=control",
        ]  # fmt: skip
        if options.uuid is not None:
            command += ["-uuid", options.uuid]
        if options.bmc is not None:
            command += [
                "-chardev", f"socket,id=bmc,{_socket(options.bmc)},reconnect=1",
                "-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc",
                "-device", f"isa-ipmi-kcs,bmc=bmc0,irq={options.irq}",
            ]  # fmt: skip
        if options.port80 is not None:
            command += [
                "-chardev", f"socket,id=port80,{_socket(options.port80)},reconnect=1",
                "-device", "isa-debugcon,iobase=0x80,chardev=port80",
            ]  # fmt: skip
        # QEMU ends with this process, even if it is killed.
        setpriv = shutil.which("setpriv")
        return command if setpriv is None else [setpriv, "--pdeathsig", "KILL", *command]

    # ---- commands

    def run(self, command: str, timeout_s: float = RUN_TIMEOUT_S, *, check: bool = False) -> Done:
        """Run a shell command in the guest to its end; `check`: its status has to be 0.

        Raises: GuestTimeout (the command is killed then), GuestError.
        """
        job = self.begin(command)
        try:
            done = job.wait(timeout_s)
        except GuestTimeout:
            with contextlib.suppress(GuestError):
                self.begin(f"kill -KILL -$(cat {JOBS_FOLDER}/{job.number}.pid)")
            raise
        if check and done.status != 0:
            raise GuestError(f"{command!r} ended with {done.status}: {done.output.strip()}")
        return done

    def begin(self, command: str) -> Job:
        """Start a shell command in the guest, and do not wait for it.

        Raises: GuestError when the guest is not up.
        """
        process = self._running
        with self._changed:
            self._last_number += 1
            job = Job(self, self._last_number, command)
            self._jobs[job.number] = job
            line = f"{job.number} {base64.b64encode(command.encode()).decode()}\n".encode()
            assert process.stdin is not None
            try:
                _write_all(process.stdin, line)
            except OSError as error:
                raise GuestError(f"the guest is gone: {error.strerror}") from None
        return job

    def write_file(self, path: str, content: bytes) -> None:
        """Copy a small file into the guest; large files belong into the options."""
        quoted = shlex.quote(path)
        self.run(f": >{quoted}", check=True)
        for start in range(0, len(content), CHUNK_BYTES):
            chunk = base64.b64encode(content[start : start + CHUNK_BYTES]).decode()
            self.run(f"echo {chunk} | base64 -d >>{quoted}", check=True)

    def read_file(self, path: str) -> bytes:
        """Copy a file out of the guest."""
        done = self.run(f"base64 -w 0 {shlex.quote(path)}", check=True)
        return base64.b64decode(done.output)

    # ---- events

    @property
    def console(self) -> str:
        """The kernel's console output of all boots."""
        return self._text("console")

    @property
    def boots(self) -> int:
        """Number of boots that reached the guest's agent."""
        return len(self.boot_ids)

    @property
    def resets(self) -> int:
        """Number of resets, by the guest itself or by its BMC."""
        count, last = 0, 0.0
        for when in self.qmp.times("RESET"):
            count += when - last > SECOND_RESET_S
            last = when
        return count

    def wait_for_boot(self, count: int, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait until the guest has booted `count` times."""
        self.wait_until(
            lambda: self.boots >= count or not self.is_running, timeout_s, f"boot number {count}"
        )
        if self.boots < count:
            raise GuestError(f"the guest has ended: {self.qemu_log()}\n{self.console[-2000:]}")

    def wait_for_reset(self, count: int, timeout_s: float) -> None:
        """Wait until the guest was reset `count` times."""
        self.wait_until(lambda: self.resets >= count, timeout_s, f"reset number {count}")

    def wait_for_end(self, timeout_s: float) -> None:
        """Wait until the machine's power is off."""
        self.wait_until(lambda: not self.is_running, timeout_s, "the machine's power to go")

    def wait_for_console(self, text: str, timeout_s: float) -> None:
        """Wait until that text is on the kernel's console."""
        self.wait_until(lambda: text in self.console, timeout_s, f"{text!r} on the console")

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until the condition holds; `what` names it.

        Raises: GuestTimeout, which shows the end of the console.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise GuestTimeout(
                        f"waited {timeout_s:g} s for {what}; the console ends with:\n"
                        f"{self.console[-2000:]}"
                    )
                self._changed.wait(min(left_s, POLL_S))

    def _text(self, name: str) -> str:
        if self._folder is None:
            return ""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / name).read_text(errors="replace").replace("\r", "")
        return ""

    def _read(self) -> None:
        """Read the lines of the guest's agent; this is the body of a thread."""
        assert self._process is not None
        assert self._process.stdout is not None
        rest = b""
        while chunk := self._process.stdout.read(65_536):
            *lines, rest = (rest + chunk).split(b"\n")
            with self._changed:
                for line in lines:
                    self._take(line)
                self._changed.notify_all()
        with self._changed:
            self._lose_jobs()

    def _take(self, line: bytes) -> None:
        match line.split():
            case [b"hello", boot_id, uptime]:
                self._lose_jobs()
                self.boot_ids.append(boot_id.decode())
                self.uptimes_s.append(float(uptime))
            case [b"report", *_]:
                self.reports.append(line.partition(b" ")[2])
            case [b"end", number, status, *output]:
                job = self._jobs.pop(int(number), None)
                if job is not None:
                    text = base64.b64decode(b"".join(output)).decode(errors="replace")
                    job.done = Done(int(status), text)

    def _lose_jobs(self) -> None:
        for job in self._jobs.values():
            job.lost = True
        self._jobs.clear()
        self._changed.notify_all()


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe.fileno(), view) :]


def _escaped(path: Path) -> str:
    """Escape a path for QEMU's options: a comma is doubled."""
    return str(path).replace(",", ",,")


def _socket(address: str) -> str:
    if "/" in address:
        return f"path={_escaped(Path(address))}"
    host, _, port = address.rpartition(":")
    return f"host={host.strip('[]')},port={port}"
