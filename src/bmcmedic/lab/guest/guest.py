"""A real Linux kernel in QEMU, with a simulated BMC, our Python, and a way to run commands in it.

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
"""The BIOS resets the machine once more, a moment after each reset."""

CHUNK_BYTES = 2_048
"""Of a file that is copied in; each is a command of its own."""

IPMI_MODULES = ("ipmi_devintf", "ipmi_si")
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=4 rdinit=/init nokaslr mitigations=off tsc=reliable "
    "random.trust_cpu=on cryptomgr.notests"
)
"""Nothing that takes time and has no part in what is tested."""


class GuestError(BmcmedicError):
    """The guest did not do what it should: not in time, or it is gone."""


class GuestTimeout(GuestError):
    """It did not happen in time."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended; `output` is both of its streams, the last 512 KiB of them."""

    status: int
    output: str


@dataclass(frozen=True, slots=True)
class GuestOptions:
    """What the machine is made of.

    Units: `memory_mib` in MiB.
    """

    bmc: str | None = None
    """Where the simulator's --vm-socket is: ADDR:PORT, or a path; None: no BMC."""

    irq: int = 0
    """The KCS interface's interrupt; with 0 the kernel polls, in its thread `kipmi0`."""

    port80: str | None = None
    """Where the simulator's --port80-chardev is."""

    uuid: str | None = None
    """Its SMBIOS product UUID; its BMC's (`SimProcess.host_uuid`) shows that they belong together.

    None: QEMU has none.
    """

    modules: Sequence[str] = IPMI_MODULES
    """Kernel modules to load, each with its parameters: `ipmi_watchdog timeout=10`."""

    programs: Sequence[str] = ()
    """Programs of this machine that the guest has besides, such as `ipmitool`."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files that it has from the start, by their paths; scripts (`#!`) can be executed."""

    bmcmedic: bool = True
    """Whether bmcmedic is there; Python is in any case."""

    agent: bool = False
    """Whether bmcmedic's agent can run there: it needs packages of others."""

    systemd: bool = False
    """Whether systemd is its init, instead of busybox."""

    cpus: int = 1
    memory_mib: int = 256
    kernel_arguments: str = ""
    cache: Path | None = None
    """Where what was built is kept; None: beside the kernel."""


class Job:
    """A command that runs in the guest."""

    def __init__(self, guest: Guest, number: int, command: str) -> None:
        self.number = number
        self.command = command
        self.done: Done | None = None
        """What came of it, as soon as it has ended."""
        self.lost = False
        """The guest restarted, or is gone."""
        self._guest = guest

    def wait(self, timeout_s: float = RUN_TIMEOUT_S) -> Done:
        """Wait for its end.

        Raises: GuestTimeout (it runs on), GuestError when the guest restarted or is gone.
        """
        self._guest.wait_until(
            lambda: self.done is not None or self.lost, timeout_s, f"the end of {self.command!r}"
        )
        if self.done is None:
            raise GuestError(f"the guest is gone, or has restarted, under {self.command!r}")
        return self.done

    def output_so_far(self) -> str:
        """What it has written until now."""
        seen = self._guest.run(f"cat {JOBS_FOLDER}/{self.number}.out").output
        # It may have ended just before, and its file is gone then.
        return seen if self.done is None else self.done.output

    def kill(self, signal_name: str = "KILL") -> None:
        """Send a signal to it and to all that it has started."""
        if self.done is None and not self.lost:
            self._guest.run(f"kill -{signal_name} -$(cat {JOBS_FOLDER}/{self.number}.pid)")


class Guest:
    """A virtual machine; a context manager that boots it and ends it."""

    def __init__(self, kernel: Kernel, options: GuestOptions | None = None, **more: Any) -> None:  # noqa: ANN401
        """`more`: the options' fields, instead of `options`."""
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
        """Linux's boot_id of every boot that came as far as the agent."""
        self.uptimes_s: list[float] = []
        """How long the kernel had run then."""
        self.reports: list[bytes] = []
        """What programs in the guest have said by themselves; see `guest_scripts`."""

    # ---- life and end

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
        """Switch the machine on.

        Raises: ConfigurationError when something that it is made of is not there.
        """
        if shutil.which(QEMU) is None:
            raise ConfigurationError(
                f"{QEMU} is not here; install it (Debian: qemu-system-x86), or run `make setup`"
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
        # QEMU has mapped it; a process that is killed before `stop` leaves next to nothing behind.
        (folder / "initramfs").unlink()

    def stop(self) -> None:
        """Switch the machine off, whatever it is doing, and leave nothing behind."""
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
        """Whether QEMU runs: it ends when the machine's power goes."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._running.pid

    @property
    def folder(self) -> Path | None:
        """The temporary folder with the machine's sockets and logs; None: it was never started."""
        return self._folder

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise GuestError("the guest does not run")
        return self._process

    # ---- what QEMU is told

    @property
    def qmp(self) -> Qmp:
        """QEMU's monitor: `guest.qmp.execute("stop")`."""
        assert self._qmp is not None, "the guest was not started"
        return self._qmp

    def qemu_log(self) -> str:
        """What QEMU itself complained about."""
        return self._text("qemu.log").strip()

    def _write_initramfs(self, place: Path) -> None:
        options = self._options
        own = Archive()
        own.file("etc/modules", self._module_lines().encode())
        for path, content in options.files.items():
            own.file(path, content, executable=content.startswith(b"#!"))
        with place.open("wb") as initramfs:
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
        # So that nothing is left when this process is killed.
        setpriv = shutil.which("setpriv")
        return command if setpriv is None else [setpriv, "--pdeathsig", "KILL", *command]

    # ---- commands

    def run(self, command: str, timeout_s: float = RUN_TIMEOUT_S, *, check: bool = False) -> Done:
        """Run a shell command in the guest to its end; `check`: its status has to be 0.

        Raises: GuestTimeout (then it is killed), GuestError.
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
        """Start a shell command in the guest and go on.

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
        """Copy something small into the guest; large files go into the options."""
        place = shlex.quote(path)
        self.run(f": >{place}", check=True)
        for start in range(0, len(content), CHUNK_BYTES):
            chunk = base64.b64encode(content[start : start + CHUNK_BYTES]).decode()
            self.run(f"echo {chunk} | base64 -d >>{place}", check=True)

    def read_file(self, path: str) -> bytes:
        """Copy something out of the guest."""
        done = self.run(f"base64 -w 0 {shlex.quote(path)}", check=True)
        return base64.b64decode(done.output)

    # ---- what happens

    @property
    def console(self) -> str:
        """All that the kernel has said on its console, of every boot."""
        return self._text("console")

    @property
    def boots(self) -> int:
        """How often it came as far as the agent."""
        return len(self.boot_ids)

    @property
    def resets(self) -> int:
        """How often it was reset, by itself or by its BMC."""
        count, last = 0, 0.0
        for when in self.qmp.times("RESET"):
            count += when - last > SECOND_RESET_S
            last = when
        return count

    def wait_for_boot(self, count: int, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait until it is up for the `count`-th time."""
        self.wait_until(
            lambda: self.boots >= count or not self.is_running, timeout_s, f"boot number {count}"
        )
        if self.boots < count:
            raise GuestError(f"the guest has ended: {self.qemu_log()}\n{self.console[-2000:]}")

    def wait_for_reset(self, count: int, timeout_s: float) -> None:
        """Wait until it was reset `count` times."""
        self.wait_until(lambda: self.resets >= count, timeout_s, f"reset number {count}")

    def wait_for_end(self, timeout_s: float) -> None:
        """Wait until the machine's power has gone."""
        self.wait_until(lambda: not self.is_running, timeout_s, "the machine's power to go")

    def wait_for_console(self, text: str, timeout_s: float) -> None:
        """Wait until the kernel has said that."""
        self.wait_until(lambda: text in self.console, timeout_s, f"{text!r} on the console")

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for anything; raises GuestTimeout, which shows the end of the console."""
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
        """The thread that reads what the agent says."""
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
    """As QEMU's options take it: a comma stands twice."""
    return str(path).replace(",", ",,")


def _socket(place: str) -> str:
    if "/" in place:
        return f"path={_escaped(Path(place))}"
    host, _, port = place.rpartition(":")
    return f"host={host.strip('[]')},port={port}"
