"""Which commands only read, so that they may be shared, repeated, and answered from the cache."""

from __future__ import annotations

from typing import Final

_APP, _CHASSIS, _SENSOR, _STORAGE, _TRANSPORT = 0x06, 0x00, 0x04, 0x0A, 0x0C
_GROUP_EXTENSION = 0x2C

READS: Final = frozenset(
    (netfn, command)
    for netfn, commands in (
        # Get Device ID, Self Test Results, ACPI Power State, Device GUID, NetFn/Command Support …,
        # Watchdog Timer, BMC Global Enables, System GUID, Channel Info/Access, User Access/Name,
        # System Info Parameters, Channel Cipher Suites
        (
            _APP,
            (0x01, 0x04, 0x07, 0x08, 0x25, 0x2F, 0x37, 0x38, 0x41, 0x42, 0x44, 0x46, 0x54, 0x59),
        ),
        # Get Chassis Capabilities, Status, System Restart Cause, Boot Options, POH Counter
        (_CHASSIS, (0x00, 0x01, 0x07, 0x09, 0x0F)),
        # Get Device SDR Info, Device SDR, Sensor Reading Factors, Hysteresis, Threshold,
        # Event Enable, Event Status, Reading, Type; Get Event Receiver
        (_SENSOR, (0x01, 0x20, 0x21, 0x23, 0x25, 0x27, 0x29, 0x2B, 0x2D, 0x2F)),
        # FRU Inventory Area Info, Read FRU Data, SDR Repository Info, its Allocation Info, Get SDR,
        # SDR Repository Time, SEL Info, its Allocation Info, Get SEL Entry, SEL Time
        (_STORAGE, (0x10, 0x11, 0x20, 0x21, 0x23, 0x28, 0x40, 0x41, 0x43, 0x48)),
        # Get LAN, SOL Configuration Parameters
        (_TRANSPORT, (0x02, 0x22)),
        # Get PICMG Properties, VSO Capabilities; HPM.x Capabilities: ipmitool sends them first
        (_GROUP_EXTENSION, (0x00, 0x3E)),
    )
    for command in commands
)
"""The commands that change nothing, as (netFn, command). Get Message and its like are not here:
they remove what they return."""


_RESERVED: Final = frozenset({(_SENSOR, 0x21), (_STORAGE, 0x23), (_STORAGE, 0x43)})
"""Get Device SDR, Get SDR and Get SEL Entry. A caller that asks again later has another
reservation, so their answers are never used twice. One walk through a repository or a log would
push everything useful out of the cache."""


def is_cacheable(request: bytes) -> bool:
    """Return whether the answer to a read may be given again later, while the BMC is silent."""
    return (request[0] >> 2, request[1]) not in _RESERVED


_HARMLESS: Final = frozenset(
    {
        # Reserve Device SDR Repository, SDR Repository, SEL
        *((_SENSOR, 0x22), (_STORAGE, 0x22), (_STORAGE, 0x42)),
        # Clear Message Flags, Get Message Flags, Get Message, Read Event Message Buffer
        *((_APP, command) for command in (0x30, 0x31, 0x33, 0x35)),
    }
)


def leaves_cache_valid(request: bytes) -> bool:
    """Return whether a request that is not a read leaves cached answers valid.

    Tools begin with requests to PICMG, HPM.x and DCMI, whose answers are never cached.
    """
    what = request[0] >> 2, request[1]
    return what in _HARMLESS or what[0] == _GROUP_EXTENSION


def is_read(request: bytes) -> bool:
    """Return whether a request changes nothing, whoever sends it and however often.

    Shape: netFn<<2 | LUN, command, data.
    """
    return (request[0] >> 2, request[1]) in READS
