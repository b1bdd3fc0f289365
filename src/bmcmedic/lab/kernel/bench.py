"""The machine of `lab kernel` with its BMC, watched: what all scenarios have in common."""

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
"""For anything that a scenario waits for; an emulated machine on a busy one is slow."""

STUCK_AFTER_S = 5.0
"""The lab's minute: an age from which a client that stands still counts as stuck."""

IPMITOOL_TIMEOUT_S = 60.0
BMC_USER, BMC_PASSWORD = "admin", "secret"
"""The simulator's own."""


class NotSeen(BmcmedicError):
    """The scenario waited in vain for something; it says for what."""


class RunProgress(Protocol):
    """Who hears of the run while it goes on."""

    def event(self, event: TimelineEvent, timeline: Timeline) -> None:
        """Something was done, or has happened."""

    def sample(self, timeline: Timeline) -> None:
        """There is one more look at the guest: the last of the timeline's."""


@dataclass(frozen=True, slots=True)
class LabMachine:
    """What a scenario's machine has."""

    modules: Sequence[str]
    files: Mapping[str, bytes]
    programs: Sequence[str] = ()
    bmc_options: Sequence[str] = ()
    port80: bool = False
    bmc_boot_s: float = 2.0
    bmcmedic: bool = False
    """Driver, agent and shim are there."""
    memory_mib: int = 512
    cpus: int = 2


class Bench:
    """A guest and its BMC in a run, and what was seen of them."""

    def __init__(self, guest: Guest, bmc: SimProcess, telling: RunProgress) -> None:
        self.guest = guest
        self.bmc = bmc
        self.timeline = Timeline()
        self._telling = telling
        self._reports_read = 0
        self._looked_at = 0.0

    # ---- looking

    def look(self) -> None:
        """Take over what the guest has written since the last time."""
        reports = self.guest.reports[self._reports_read :]
        for report in reports:
            self._reports_read += 1
            if report.startswith(_DRIVER):
                self.timeline.driver.append(json.loads(report)["driver"])
                continue
            self._looked_at = time.monotonic()
            self.timeline.samples.append(Sample.from_json(report))
            self._telling.sample(self.timeline)
        if not reports:
            return
        told = self.bmc.get()
        self.timeline.bmc_samples.append(
            BmcSample(
                self.timeline.now,
                told["state"],
                told["memory_free_fraction"],
                told["answer_latency_s"],
            )
        )

    @property
    def last(self) -> Sample:
        """The last look at the guest."""
        return self.timeline.samples[-1]

    def wait_until(
        self, condition: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S
    ) -> None:
        """Go on looking until this holds; raises NotSeen."""
        deadline = time.monotonic() + timeout_s
        self.look()
        while not (self.timeline.samples and condition()):
            if time.monotonic() > deadline:
                raise NotSeen(f"waited {timeout_s:.0f} s in vain for {what}")
            time.sleep(POLL_S)
            self.look()

    def pass_time(self, guest_s: float) -> float:
        """Let the guest live for so long, by its own clock; returns when that began."""
        self.look()
        since = self.timeline.now
        self.wait_until(
            lambda: self.timeline.now >= since + guest_s,
            f"{guest_s:g} s of the guest's time",
            DEADLINE_S + 10 * guest_s,
        )
        return since

    def wait_for_share(self, since: float, window_s: float, percent_min: float) -> None:
        """Wait until kipmi0 had more than this of a core, over one such window since then.

        It runs at nice 19: where others want all of an emulated processor, it has to wait.
        """

        def is_reached() -> bool:
            highest = highest_percent(self.timeline.between(since, self.timeline.now), window_s)
            return highest is not None and highest > percent_min

        self.wait_until(is_reached, f"kipmi0 to take more than {percent_min:g} %")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens inside is a part of the run, with a name."""
        since = self.timeline.now
        yield
        self.look()
        self.timeline.phases.append(TimelinePhase(name, since, self.timeline.now))

    def phase_samples(self, name: str) -> list[Sample]:
        """The looks of a part of the run."""
        return [
            sample
            for phase in self.timeline.phases
            if phase.name == name
            for sample in self.timeline.between(phase.since, phase.until)
        ]

    # ---- doing

    def monitor_every(self, period_s: float) -> None:
        """Start the monitoring, or make it ask more or less often."""
        runs = self.guest.run(f"test -e {PERIOD}").status == 0
        self.guest.run(f"echo {period_s:g} >{PERIOD}", check=True)
        if not runs:
            self.guest.begin("exec lab-monitoring")
            self.wait_until(lambda: self.last.started > 0, "the monitoring")

    def say(self, words: str) -> float:
        """Put it into the time line, at the guest's present; returns that."""
        self.look()
        at = self.timeline.now + time.monotonic() - self._looked_at
        event = TimelineEvent(at, words)
        self.timeline.events.append(event)
        self._telling.event(event, self.timeline)
        return at

    def ipmitool(self, *words: str) -> str:
        """The real ipmitool on this machine, to the BMC's LAN side; what it printed."""
        host, _, port = self.bmc.target.rpartition(":")
        command = ["ipmitool", "-I", "lanplus", "-C", "17", "-H", host, "-p", port]
        done = subprocess.run(  # noqa: S603 - the arguments are ours
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
def bench(kernel: Kernel, machine: LabMachine, telling: RunProgress) -> Iterator[Bench]:
    """Boot it, with the one who looks on running in it.

    Raises: ConfigurationError when something that it needs is not here.
    """
    if shutil.which("ipmitool") is None:
        raise ConfigurationError(
            "ipmitool is not here; install it (Debian: ipmitool), or run `make setup`"
        )
    doors = [
        "--lan",
        "127.0.0.1:0",
        "--fault",
        f"boot:{machine.bmc_boot_s:g}",
        *machine.bmc_options,
    ]
    if machine.port80:
        doors += ["--port80-chardev", "127.0.0.1:0"]
    with sim_bmc(*doors) as bmc:
        options = GuestOptions(
            bmc=bmc.vm_socket,
            port80=bmc.port80 or None,
            modules=machine.modules,
            programs=machine.programs,
            files={**LAB_FILES, **machine.files},
            cpus=machine.cpus,
            memory_mib=machine.memory_mib,
            bmcmedic=machine.bmcmedic,
            agent=machine.bmcmedic,
        )
        with Guest(kernel, options) as guest:
            guest.run("mkdir -p /run/lab", check=True)
            made = Bench(guest, bmc, telling)
            guest.begin(f"exec lab-watch {STUCK_AFTER_S:g} 2>/run/lab/watch.err")
            made.wait_until(lambda: True, "the first look at the guest")
            yield made
