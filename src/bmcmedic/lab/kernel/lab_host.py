"""The host that every scenario of `lab kernel` runs on: a guest in QEMU and its simulated BMC.

A `LabHost` controls both and records what is observed of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bmcmedic.errors import BmcmedicError, ConfigurationError
from bmcmedic.lab.guest.guest import Guest, GuestOptions
from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.kernel.scripts import LAB_FILES, PERIOD
from bmcmedic.lab.kernel.timeline import (
    BmcSample,
    Sample,
    Timeline,
    TimelineEvent,
    TimelinePhase,
    highest_percent,
)
from bmcmedic.lab.sim_process import SimProcess, sim_bmc

POLL_S = 0.05
_DRIVER = b'{"driver"'
DEADLINE_S = 150.0
"""Longest wait of a scenario for one event, in seconds; emulation on a busy machine is slow."""

STUCK_AFTER_S = 5.0
"""A client without CPU time for so long counts as stuck, in seconds; a minute on real hosts."""

IPMITOOL_TIMEOUT_S = 60.0
BMC_USER, BMC_PASSWORD = "admin", "secret"
"""The simulator's default account."""


class NotSeen(BmcmedicError):
    """An event that the scenario waited for did not happen; the message names the event."""


class RunProgress(Protocol):
    """Receives the events and samples of a run while it goes on."""

    def event(self, event: TimelineEvent, timeline: Timeline) -> None:
        """Handle an event of the scenario."""

    def sample(self, timeline: Timeline) -> None:
        """Handle a new sample of the guest, the last of the timeline."""


@dataclass(frozen=True, slots=True)
class LabHostSpec:
    """What a scenario needs in its host and its BMC."""

    modules: Sequence[str]
    files: Mapping[str, bytes]
    programs: Sequence[str] = ()
    bmc_options: Sequence[str] = ()
    port80: bool = False
    bmc_boot_s: float = 2.0
    bmcmedic: bool = False
    """Whether driver, agent and shim are installed."""
    memory_mib: int = 512
    cpus: int = 2


class LabHost:
    """A guest and its BMC in a run, and the timeline of what was observed of them."""

    def __init__(self, guest: Guest, bmc: SimProcess, progress: RunProgress) -> None:
        self.guest = guest
        self.bmc = bmc
        self.timeline = Timeline()
        self._progress = progress
        self._reports_read = 0
        self._polled_at = 0.0

    # ---- observing

    def poll(self) -> None:
        """Add what the guest has reported since the last call to the timeline."""
        reports = self.guest.reports[self._reports_read :]
        for report in reports:
            self._reports_read += 1
            if report.startswith(_DRIVER):
                self.timeline.driver.append(json.loads(report)["driver"])
                continue
            self._polled_at = time.monotonic()
            self.timeline.samples.append(Sample.from_json(report))
            self._progress.sample(self.timeline)
        if not reports:
            return
        described = self.bmc.get()
        self.timeline.bmc_samples.append(
            BmcSample(
                self.timeline.now,
                described["state"],
                described["memory_free_fraction"],
                described["answer_latency_s"],
            )
        )

    @property
    def last(self) -> Sample:
        """The last sample of the guest."""
        return self.timeline.samples[-1]

    def wait_until(
        self, condition: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S
    ) -> None:
        """Poll until the condition holds.

        Raises: NotSeen after `timeout_s`; it names `what`.
        """
        deadline = time.monotonic() + timeout_s
        self.poll()
        while not (self.timeline.samples and condition()):
            if time.monotonic() > deadline:
                raise NotSeen(f"waited {timeout_s:.0f} s in vain for {what}")
            time.sleep(POLL_S)
            self.poll()

    def pass_time(self, guest_s: float) -> float:
        """Wait that many seconds of the guest's clock; return when the wait began."""
        self.poll()
        since = self.timeline.now
        self.wait_until(
            lambda: self.timeline.now >= since + guest_s,
            f"{guest_s:g} s of the guest's time",
            DEADLINE_S + 10 * guest_s,
        )
        return since

    def wait_for_share(self, since: float, window_s: float, percent_min: float) -> None:
        """Wait until kipmi0's share of a core exceeded this in one such window since then.

        kipmi0 runs at nice 19, so it has to wait while others want all of an emulated processor.
        """

        def is_reached() -> bool:
            highest = highest_percent(self.timeline.between(since, self.timeline.now), window_s)
            return highest is not None and highest > percent_min

        self.wait_until(is_reached, f"kipmi0 to take more than {percent_min:g} %")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the time inside the block as a phase of the run."""
        since = self.timeline.now
        yield
        self.poll()
        self.timeline.phases.append(TimelinePhase(name, since, self.timeline.now))

    def phase_samples(self, name: str) -> list[Sample]:
        """Return the samples of all phases with that name."""
        return [
            sample
            for phase in self.timeline.phases
            if phase.name == name
            for sample in self.timeline.between(phase.since, phase.until)
        ]

    # ---- acting

    def monitor_every(self, period_s: float) -> None:
        """Start the monitoring, or change its period."""
        runs = self.guest.run(f"test -e {PERIOD}").status == 0
        self.guest.run(f"echo {period_s:g} >{PERIOD}", check=True)
        if not runs:
            self.guest.begin("exec lab-monitoring")
            self.wait_until(lambda: self.last.started > 0, "the monitoring")

    def record_event(self, text: str) -> float:
        """Record an event now; return its time by the guest's clock."""
        self.poll()
        at = self.timeline.now + time.monotonic() - self._polled_at
        event = TimelineEvent(at, text)
        self.timeline.events.append(event)
        self._progress.event(event, self.timeline)
        return at

    def ipmitool(self, *words: str) -> str:
        """Run this machine's ipmitool against the BMC's LAN side; return what it printed.

        Raises: NotSeen when it fails.
        """
        host, _, port = self.bmc.target.rpartition(":")
        command = ["ipmitool", "-I", "lanplus", "-C", "17", "-H", host, "-p", port]
        done = subprocess.run(  # noqa: S603 - the arguments come from the scenarios
            [*command, "-U", BMC_USER, "-E", *words],
            env={**os.environ, "IPMI_PASSWORD": BMC_PASSWORD},
            capture_output=True,
            text=True,
            timeout=IPMITOOL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise NotSeen(f"ipmitool {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()


@contextlib.contextmanager
def lab_host(kernel: Kernel, spec: LabHostSpec, progress: RunProgress) -> Iterator[LabHost]:
    """Boot the host and start `lab-watch` in it; stop both when the block ends.

    Raises: ConfigurationError when a program that it needs is not installed.
    """
    if shutil.which("ipmitool") is None:
        raise ConfigurationError(
            "ipmitool is not installed; install it (Debian: ipmitool), or run `make setup`"
        )
    sim_options = [
        "--lan",
        "127.0.0.1:0",
        "--fault",
        f"boot:{spec.bmc_boot_s:g}",
        *spec.bmc_options,
    ]
    if spec.port80:
        sim_options += ["--port80-chardev", "127.0.0.1:0"]
    with sim_bmc(*sim_options) as bmc:
        options = GuestOptions(
            bmc=bmc.vm_socket,
            port80=bmc.port80 or None,
            modules=spec.modules,
            programs=spec.programs,
            files={**LAB_FILES, **spec.files},
            cpus=spec.cpus,
            memory_mib=spec.memory_mib,
            bmcmedic=spec.bmcmedic,
            agent=spec.bmcmedic,
        )
        with Guest(kernel, options) as guest:
            guest.run("mkdir -p /run/lab", check=True)
            host = LabHost(guest, bmc, progress)
            guest.begin(f"exec lab-watch {STUCK_AFTER_S:g} 2>/run/lab/watch.err")
            host.wait_until(lambda: True, "the first sample of the guest")
            yield host
