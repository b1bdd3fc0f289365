"""Whether the host restarted while its BMC did: the marks that a restart leaves, seen over LAN.

None of them is asked from the host, each is optional (0xC1 is fine), and together they can prove
that the host was touched, never that it was not: only the host's own boot id does that.
"""

from __future__ import annotations

from dataclasses import dataclass

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.fleet.link import BmcSession, Timekeeper
from bmcmedic.fleet.observe import ask, power_word
from bmcmedic.ipmi.commands.chassis import (
    GetChassisStatusReq,
    GetSystemRestartCauseReq,
    LastPowerEvent,
    RestartCause,
)
from bmcmedic.ipmi.commands.sel import (
    FIRST_RECORD_ID,
    LAST_RECORD_ID,
    GetSelEntryReq,
    GetSelInfoReq,
)
from bmcmedic.ipmi.commands.sel_records import SYSTEM_EVENT, SystemEventRecord

NEW_EVENTS_MAX = 64
"""A host that boots logs a few dozen events; more new ones than this are not read."""

_SENSOR_SPECIFIC = 0x6F
_RECORD_TYPE_OFFSET = 2

_RESTART_EVENTS: dict[int, tuple[str, frozenset[int] | None]] = {
    0x09: ("power unit", frozenset({0, 1, 4, 5})),
    0x0F: ("system firmware progress", frozenset({2})),
    0x12: ("system event", frozenset({1})),
    0x1D: ("system boot initiated", None),
    0x1F: ("OS boot", None),
    0x22: ("system ACPI power state", frozenset({4, 5, 6, 7, 9})),
    0x23: ("watchdog", frozenset({1, 2, 3})),
}
"""By sensor type: the offsets that speak of a host restart (table 42-3); None is every offset.

A BMC that boots logs some of these types for itself, such as ACPI S0 or a watchdog that stopped:
those offsets are left out.
"""


@dataclass(frozen=True, slots=True)
class HostMarks:
    """What a host restart would change; unknown is None."""

    power: str | None
    last_power_event: LastPowerEvent | None
    restart_cause: RestartCause | None
    sel_entries: int | None
    sel_last_addition: int | None
    sel_last_record_id: int | None

    def describe(self) -> str:
        """The marks besides the power, in one line."""
        parts = []
        if self.restart_cause is not None:
            parts.append(f"last restart: {self.restart_cause.name.lower().replace('_', ' ')}")
        if self.sel_entries is not None:
            parts.append(f"{self.sel_entries} entries in the event log")
        return ", ".join(parts)


async def read_host_marks(session: BmcSession, time: Timekeeper) -> HostMarks:
    """Note everything that a host restart would change."""
    _, status = await ask(session, time, "power", GetChassisStatusReq())
    _, cause = await ask(session, time, "restart cause", GetSystemRestartCauseReq())
    _, log = await ask(session, time, "event log", GetSelInfoReq())
    last_id = None
    if log is not None and log.entries:
        _, entry = await ask(session, time, "last event", GetSelEntryReq(LAST_RECORD_ID))
        if entry is not None and len(entry.record_data) > _RECORD_TYPE_OFFSET:
            last_id = int.from_bytes(entry.record_data[:2], "little")
    return HostMarks(
        power=power_word(status) if status else None,
        last_power_event=status.last_power_event if status else None,
        restart_cause=cause.cause if cause else None,
        sel_entries=log.entries if log else None,
        sel_last_addition=log.last_addition if log else None,
        sel_last_record_id=last_id,
    )


async def read_new_events(
    session: BmcSession, time: Timekeeper, before: HostMarks, after: HostMarks
) -> tuple[SystemEventRecord, ...]:
    """The events logged since `before`, none when the log did not change."""
    unchanged = (before.sel_entries, before.sel_last_addition, before.sel_last_record_id) == (
        after.sel_entries,
        after.sel_last_addition,
        after.sel_last_record_id,
    )
    if unchanged or not after.sel_entries or before.sel_entries is None:
        return ()
    record_id = FIRST_RECORD_ID
    if before.sel_last_record_id is not None:
        _, known = await ask(
            session, time, "known event", GetSelEntryReq(before.sel_last_record_id)
        )
        if known is not None:  # else the log was cleared meanwhile: everything in it is new
            record_id = known.next_record_id
    events = []
    for _ in range(NEW_EVENTS_MAX):
        if record_id == LAST_RECORD_ID:
            break
        _, entry = await ask(session, time, "new event", GetSelEntryReq(record_id))
        if entry is None:
            break
        if (event := _system_event(entry.record_data)) is not None:
            events.append(event)
        record_id = entry.next_record_id
    return tuple(events)


def _system_event(raw: bytes) -> SystemEventRecord | None:
    if len(raw) <= _RECORD_TYPE_OFFSET or raw[_RECORD_TYPE_OFFSET] != SYSTEM_EVENT:
        return None
    try:
        return SystemEventRecord.decode(raw)
    except RemoteProtocolError:
        return None


def host_changes(
    before: HostMarks,
    after: HostMarks,
    events: tuple[SystemEventRecord, ...] = (),
    *,
    power_seen_off: bool = False,
) -> tuple[str, ...]:
    """Every sign that the host restarted or lost its power; pure.

    A BMC that lost a volatile mark in its own restart shows it as zero: that is no sign.
    """
    signs = []
    if before.power is not None and after.power is not None and before.power != after.power:
        signs.append(f"the host's power was {before.power} and is {after.power}")
    if power_seen_off and before.power == "on":
        signs.append("the host's power was seen off while the BMC came back")
    cause, old_cause = after.restart_cause, before.restart_cause
    if cause and old_cause is not None and cause is not old_cause:
        signs.append(f"the host's restart cause is new: {cause.name.lower().replace('_', ' ')}")
    event, old_event = after.last_power_event, before.last_power_event
    if event and old_event is not None and event != old_event:
        signs.append(f"the chassis reports a new power event (0x{int(event):02x})")
    signs += [line for record in events if (line := _restart_sign(record)) is not None]
    return tuple(signs)


def _restart_sign(record: SystemEventRecord) -> str | None:
    if record.deassertion or record.event_type != _SENSOR_SPECIFIC:
        return None
    name, offsets = _RESTART_EVENTS.get(record.sensor_type, ("", frozenset()))
    offset = record.event_data[0] & 0x0F
    if offsets is not None and offset not in offsets:
        return None
    return f"the event log has a new entry of a host restart: {name}, offset {offset}"
