"""The frozen records that flow from stage to stage; no behaviour but their JSON shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class WatchdogFacts:
    """The BMC's watchdog timer as one Get Watchdog Timer saw it (chapter 27)."""

    running: bool
    present_countdown_s: float
    action: str
    """`none`, `hard reset`, `power down` or `power cycle`."""

    def to_json(self) -> dict[str, Any]:
        """The object under `watchdog` in the documented JSON."""
        return {
            "running": self.running,
            "present_countdown_s": self.present_countdown_s,
            "action": self.action,
        }


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe of one target found out; unknown is None."""

    target: str
    reachable: bool
    power: str | None = None
    """`on` or `off`."""
    device_id: int | None = None
    firmware: str | None = None
    manufacturer_id: int | None = None
    guid: str | None = None
    """As 32 hexadecimal digits in the order of the wire."""
    self_test: str | None = None
    """`passed`, `unsupported`, or what failed."""
    watchdog: WatchdogFacts | None = None
    latency_s: float | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """One line of `bmcmedic probe --json`."""
        return {
            "target": self.target,
            "reachable": self.reachable,
            "power": self.power,
            "device_id": self.device_id,
            "firmware": self.firmware,
            "manufacturer_id": self.manufacturer_id,
            "guid": self.guid,
            "self_test": self.self_test,
            "watchdog": self.watchdog.to_json() if self.watchdog else None,
            "latency_s": self.latency_s,
            "error": self.error,
        }
