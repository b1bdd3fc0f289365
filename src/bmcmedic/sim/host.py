"""The simulated host of a BMC: its power, its boots, and what `bmcmedic triage` would see.

Except for its watchdog daemon (see `bmc`), the host does nothing on its own. Its symptoms grow with
the time for which its BMC has been silent, as they do on a real host.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, Protocol

from bmcmedic.host import symptoms

OS_BOOT_S = 3.0
"""Time from power on to a running system, in seconds; short, to keep tests and demos quick."""

POWER_CYCLE_OFF_S = 2.0
"""How long a power cycle leaves the host without power, in seconds."""

STUCK_CLIENTS_MAX = 200
STUCK_CLIENT_EVERY_S = 10.0
"""How often a monitoring script starts another client that never ends, in seconds."""

SLOW_AFTER_S = 0.1
"""A BMC that takes at least this long to answer counts as slow, in seconds."""

KIPMI_BUSY_PERCENT = 50.0

_CLIENTS = (
    ("ipmitool", "mc", "info"),
    ("ipmitool", "-b", "6", "-t", "0x2c", "raw", "0x4", "0x2d", "0xbe"),
)
_KIPMI_PID = 512
_FIRST_CLIENT_PID = 65_113


class VirtualMachine(Protocol):
    """A real virtual machine in the place of the simulated host; it gets the host's events."""

    def power_off(self, *, comes_back: bool) -> None:
        """Turn the power off; `comes_back`: it is a power cycle."""

    def reset(self) -> None:
        """Pull the reset line."""

    def shut_down(self) -> None:
        """Ask the system to shut down by itself."""

    def interrupt(self) -> None:
        """Send an NMI."""

    def pretimeout(self) -> None:
        """Report that the BMC's watchdog timer reached its pretimeout."""

    def bmc_answers(self, answers: bool) -> None:
        """Report whether the BMC answers over KCS, after each change of its faults or state."""


class SimHost:
    """One simulated host. `now` is the simulation's clock, in seconds."""

    __slots__ = (
        "boots",
        "kcs_silent_since",
        "machine",
        "name",
        "os_up_at",
        "power_changes",
        "power_on",
        "product_uuid",
    )

    def __init__(self, name: str, product_uuid: uuid.UUID, *, power_on: bool) -> None:
        self.name = name
        self.product_uuid = product_uuid
        self.power_on = power_on
        self.power_changes = 0
        self.boots = 0
        self.os_up_at: float | None = None
        """When the system of the present boot is up; None: since before the simulation."""
        self.kcs_silent_since: float | None = None
        """When the BMC last stopped answering over KCS; None: it answers."""
        self.machine: VirtualMachine | None = None

    @property
    def boot_id(self) -> str:
        """Linux's boot_id, which changes with each boot."""
        digest = hashlib.sha256(f"{self.product_uuid}/{self.boots}".encode()).digest()
        return str(uuid.UUID(bytes=digest[:16], version=4))

    def turn_off(self, *, comes_back: bool = False) -> None:
        """Turn the power off; `comes_back`: it is a power cycle."""
        if self.power_on:
            self.power_on = False
            self.power_changes += 1
            if self.machine is not None:
                self.machine.power_off(comes_back=comes_back)

    def turn_on(self, now: float) -> None:
        """Turn the power on; the system boots."""
        if not self.power_on:
            self.power_on = True
            self.power_changes += 1
            self._boot(now)

    def reset(self, now: float) -> None:
        """Reset the host: a new boot without a change of power."""
        if self.power_on:
            self._boot(now)
            if self.machine is not None:
                self.machine.reset()

    def shut_down(self) -> None:
        """Ask the system to shut down by itself; only a real machine reacts."""
        if self.machine is not None:
            self.machine.shut_down()

    def interrupt(self) -> None:
        """Send an NMI; only a real machine reacts."""
        if self.machine is not None:
            self.machine.interrupt()

    def pretimeout(self, *, nmi: bool) -> None:
        """Handle the watchdog timer's pretimeout; only a real machine reacts."""
        if self.machine is not None:
            self.machine.pretimeout()
            if nmi:
                self.machine.interrupt()

    def _boot(self, now: float) -> None:
        self.boots += 1
        self.os_up_at = now + OS_BOOT_S

    def system_is_up(self, now: float) -> bool:
        """Return whether the system of the host is up."""
        return self.power_on and (self.os_up_at is None or now >= self.os_up_at)

    def kcs_answers(self, answers: bool, now: float) -> None:
        """Note whether the BMC answers over KCS."""
        if answers:
            self.kcs_silent_since = None
        elif self.kcs_silent_since is None:
            self.kcs_silent_since = now
        if self.machine is not None:
            self.machine.bmc_answers(answers)

    def triage(self, now: float, epoch_offset_s: float, latency_s: float) -> dict[str, Any]:
        """Return what `bmcmedic triage --json` would print here.

        Units: `latency_s` is the time that the BMC takes for one answer at present, in seconds.
        """
        silent_since = self.kcs_silent_since
        if silent_since is not None and self.os_up_at is not None:
            silent_since = max(silent_since, self.os_up_at)
        stuck = [] if silent_since is None else _stuck_clients(now - silent_since)
        cpu_percent = 100.0 if silent_since is not None else _kipmi_percent(latency_s)
        found = []
        if cpu_percent >= KIPMI_BUSY_PERCENT:
            found.append(symptoms.KIPMI_BUSY)
        if stuck:
            found.append(symptoms.STUCK_CLIENTS)
        if silent_since is not None:
            found.append(symptoms.BMC_NOT_ANSWERING)
        elif latency_s >= SLOW_AFTER_S:
            found.append(symptoms.BMC_SLOW)
        return {
            "host_id": {
                "hostname": f"{self.name}-host",
                "product_uuid": str(self.product_uuid),
                "bmc_guid": None,
                "boot_id": self.boot_id,
            },
            "captured_at": round(now + epoch_offset_s, 3),
            "kipmi": [{"name": "kipmi0", "pid": _KIPMI_PID, "cpu_percent": cpu_percent}],
            "stuck": stuck,
            "direct_openers": [{"pid": row["pid"], "argv": row["argv"]} for row in stuck],
            "guests": [],
            "symptoms": found,
            "hung_since": None if silent_since is None else round(silent_since + epoch_offset_s, 3),
        }


def _kipmi_percent(latency_s: float) -> float:
    """Return kipmid's CPU share at one request a second: it polls while it awaits an answer."""
    return round(100.0 * latency_s / (latency_s + 1.0), 1)


def _stuck_clients(silent_s: float) -> list[dict[str, Any]]:
    count = min(STUCK_CLIENTS_MAX, 1 + int(silent_s / STUCK_CLIENT_EVERY_S))
    return [
        {
            "pid": _FIRST_CLIENT_PID + 7 * index,
            "argv": list(_CLIENTS[index % len(_CLIENTS)]),
            "age_s": round(silent_s - index * STUCK_CLIENT_EVERY_S, 3),
            "state": "S",
            "wchan": "do_select",
            "started_by": "root",
            "unit": "crond.service",
        }
        for index in range(count)
    ]
