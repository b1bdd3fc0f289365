"""Marks that a restart of the host leaves in its BMC, read over LAN.

The host itself is not asked, and a BMC may lack any of the marks (0xC1 is fine). Together they can
prove that the host restarted. They never prove that it kept running: only its boot id does.
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
from bmcmedic.model.heal import BmcQuestion

NEW_EVENTS_MAX = 64
"""Most new events that are read; a host that boots logs a few dozen."""

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
"""For each sensor type, its name and the offsets that show a host restart; None is every offset.

Spec: table 42-3. Some offsets are left out, because a BMC logs them when it boots itself: ACPI S0,
or a watchdog that stopped.
"""


@dataclass(frozen=True, slots=True)
class HostMarks:
    """The state in a BMC that a host restart changes; unknown is None."""

    power: str | None
    last_power_event: LastPowerEvent | None
    restart_cause: RestartCause | None
    sel_entries: int | None
    sel_last_addition: int | None
    sel_last_record_id: int | None

    def describe(self) -> str:
        """Return the marks besides the power, in one line."""
        parts = []
        if self.restart_cause is not None:
            parts.append(f"last restart: {self.restart_cause.name.lower().replace('_', ' ')}")
        if self.sel_entries is not None:
            parts.append(f"{self.sel_entries} entries in the event log")
        return ", ".join(parts)


async def read_host_marks(session: BmcSession, time: Timekeeper) -> HostMarks:
    """Read everything that a host restart would change."""
    _, status = await ask(session, time, BmcQuestion.POWER, GetChassisStatusReq())
    _, cause = await ask(session, time, BmcQuestion.RESTART_CAUSE, GetSystemRestartCauseReq())
    _, log = await ask(session, time, BmcQuestion.EVENT_LOG, GetSelInfoReq())
    last_id = None
    if log is not None and log.entries:
        _, entry = await ask(session, time, BmcQuestion.LAST_EVENT, GetSelEntryReq(LAST_RECORD_ID))
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
    """Return the events logged since `before`; none if the log did not change."""
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
            session, time, BmcQuestion.KNOWN_EVENT, GetSelEntryReq(before.sel_last_record_id)
        )
        if known is not None:  # else the log was cleared meanwhile, so all of it is new
            record_id = known.next_record_id
    events = []
    for _ in range(NEW_EVENTS_MAX):
        if record_id == LAST_RECORD_ID:
            break
        _, entry = await ask(session, time, BmcQuestion.NEW_EVENT, GetSelEntryReq(record_id))
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
    """Return every sign that the host restarted or lost its power; this function is pure.

    A mark of zero is no sign: the BMC lost it in its own restart.
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
