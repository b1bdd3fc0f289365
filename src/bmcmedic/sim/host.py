"""The simulated host beside a BMC: its power, its boots, and what `bmcmedic triage` would see.

The host never acts by itself but for its watchdog daemon (see `bmc`); it shows symptoms that grow
with the time for which its BMC has been silent, as an operator would find them.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, Protocol

from bmcmedic.host import symptoms

OS_BOOT_S = 3.0
"""From power on to a running system; a very quick machine, so that nobody waits for it."""

POWER_CYCLE_OFF_S = 2.0
"""How long a power cycle leaves the host without power, in seconds."""

STUCK_CLIENTS_MAX = 200
STUCK_CLIENT_EVERY_S = 10.0
"""How often a monitoring script starts another client that will never end."""

SLOW_AFTER_S = 0.1
"""From this time to answer on, a BMC counts as slow."""

KIPMI_BUSY_PERCENT = 50.0

_CLIENTS = (
    ("ipmitool", "mc", "info"),
    ("ipmitool", "-b", "6", "-t", "0x2c", "raw", "0x4", "0x2d", "0xbe"),
)
_KIPMI_PID = 512
_FIRST_CLIENT_PID = 65_113


class VirtualMachine(Protocol):
    """A virtual machine that is this host in earnest, and is told what happens to it."""

    def power_off(self, *, comes_back: bool) -> None:
        """Power goes; `comes_back`: for a moment only."""

    def reset(self) -> None:
        """The reset line is pulled."""

    def shut_down(self) -> None:
        """The system is asked to end by itself."""

    def interrupt(self) -> None:
        """An NMI."""

    def pretimeout(self) -> None:
        """The BMC's watchdog timer reached its pretimeout."""

    def bmc_answers(self, answers: bool) -> None:
        """Whether the BMC answers over KCS now; told again when its faults change."""


class SimHost:
    """One host. `now` is the simulation's clock in seconds."""

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
        """When the running boot has its system up; None: since before the simulation."""
        self.kcs_silent_since: float | None = None
        """Since when the BMC has not answered over KCS."""
        self.machine: VirtualMachine | None = None

    @property
    def boot_id(self) -> str:
        """Linux's boot_id: another one after each boot."""
        digest = hashlib.sha256(f"{self.product_uuid}/{self.boots}".encode()).digest()
        return str(uuid.UUID(bytes=digest[:16], version=4))

    def turn_off(self, *, comes_back: bool = False) -> None:
        """Power goes; `comes_back`: it is a power cycle."""
        if self.power_on:
            self.power_on = False
            self.power_changes += 1
            if self.machine is not None:
                self.machine.power_off(comes_back=comes_back)

    def turn_on(self, now: float) -> None:
        """Power comes, and the system boots."""
        if not self.power_on:
            self.power_on = True
            self.power_changes += 1
            self._boot(now)

    def reset(self, now: float) -> None:
        """A hard reset: a new boot without a change of power."""
        if self.power_on:
            self._boot(now)
            if self.machine is not None:
                self.machine.reset()

    def shut_down(self) -> None:
        """The system is asked to end by itself; the model takes its time for granted."""
        if self.machine is not None:
            self.machine.shut_down()

    def interrupt(self) -> None:
        """An NMI, of which the model takes no notice."""
        if self.machine is not None:
            self.machine.interrupt()

    def pretimeout(self, *, nmi: bool) -> None:
        """The watchdog timer reached its pretimeout, of which the model takes no notice."""
        if self.machine is not None:
            self.machine.pretimeout()
            if nmi:
                self.machine.interrupt()

    def _boot(self, now: float) -> None:
        self.boots += 1
        self.os_up_at = now + OS_BOOT_S

    def system_is_up(self, now: float) -> bool:
        """Whether anything could run on the host."""
        return self.power_on and (self.os_up_at is None or now >= self.os_up_at)

    def kcs_answers(self, answers: bool, now: float) -> None:
        """The BMC began or ceased to answer over KCS."""
        if answers:
            self.kcs_silent_since = None
        elif self.kcs_silent_since is None:
            self.kcs_silent_since = now
        if self.machine is not None:
            self.machine.bmc_answers(answers)

    def triage(self, now: float, epoch_offset_s: float, latency_s: float) -> dict[str, Any]:
        """What `bmcmedic triage --json` would print here (the keys that DESIGN.md documents).

        Units: `latency_s` is the time that the BMC takes for one answer at present.
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
    """kipmid polls as long as an answer is awaited: with one request a second, its share."""
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
