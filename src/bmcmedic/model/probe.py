"""The record of what one probe found out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class WatchdogFacts:
    """The BMC's watchdog timer as Get Watchdog Timer reported it (chapter 27)."""

    running: bool
    present_countdown_s: float | None
    """Seconds left; None where the BMC's answer leaves them out."""
    action: str
    """`none`, `hard reset`, `power down` or `power cycle`, or `reserved N`."""

    def to_json(self) -> dict[str, Any]:
        """Return the object under `watchdog` in the documented JSON."""
        return {
            "running": self.running,
            "present_countdown_s": self.present_countdown_s,
            "action": self.action,
        }


class ProbeResult(NamedTuple):
    """What one probe of one target found out. The names are the JSON keys; unknown is None."""

    target: str
    reachable: bool
    power: str | None = None
    """`on` or `off`."""
    device_id: int | None = None
    firmware: str | None = None
    manufacturer_id: int | None = None
    guid: str | None = None
    """32 hexadecimal digits, in the order of the wire."""
    self_test: str | None = None
    """`passed`, `unsupported`, or the failure in words."""
    watchdog: WatchdogFacts | None = None
    latency_s: float | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    """Optional questions that the BMC did not answer as it should; they are no fault."""

    def to_json(self) -> dict[str, Any]:
        """Return the line of `bmcmedic probe --json`; it has `notes` only where there are some."""
        facts = self._asdict()
        del facts["notes"]
        if self.notes:
            facts["notes"] = list(self.notes)
        if self.watchdog is not None:
            facts["watchdog"] = self.watchdog.to_json()
        return facts
