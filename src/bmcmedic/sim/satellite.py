"""The controller behind the bridge: the management engine at 0x2C on IPMB channel 6.

Monitoring scripts read its sensor 0xBE (`ipmitool -b 6 -t 0x2c raw 0x4 0x2d 0xbe`).
"""

from __future__ import annotations

from bmcmedic.errors import RemoteProtocolError
from bmcmedic.ipmi.commands.device import GetDeviceIdReq, GetDeviceIdRsp
from bmcmedic.ipmi.commands.sensor import GetSensorReadingReq
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.sim.profile import SATELLITE_ADDRESS, SATELLITE_SENSOR

_DEVICE_ID = GetDeviceIdRsp(
    device_id=0x50,
    device_revision=1,
    provides_sdrs=False,
    available=True,
    firmware_major=4,
    firmware_minor=0x01,
    ipmi_version=0x02,
    additional_device_support=0x21,
    manufacturer_id=7154,
    product_id=0x0002,
).encode()


def answer(request: RequestMessage, *, power_on: bool) -> tuple[int, bytes] | None:
    """Return completion code and data; None: no controller has that address."""
    if request.responder != SATELLITE_ADDRESS:
        return None
    try:
        if (request.netfn, request.command) == (GetDeviceIdReq.netfn, GetDeviceIdReq.command):
            GetDeviceIdReq.decode(request.data)
            return CompletionCode.OK, _DEVICE_ID
        if (request.netfn, request.command) == (
            GetSensorReadingReq.netfn,
            GetSensorReadingReq.command,
        ):
            return _reading(GetSensorReadingReq.decode(request.data), power_on=power_on)
    except RemoteProtocolError:
        return CompletionCode.DATA_LENGTH_INVALID, b""
    return CompletionCode.INVALID_COMMAND, b""


def _reading(request: GetSensorReadingReq, *, power_on: bool) -> tuple[int, bytes]:
    if request.sensor_number != SATELLITE_SENSOR.number:
        return CompletionCode.NOT_PRESENT, b""
    raw = SATELLITE_SENSOR.nominal
    return CompletionCode.OK, bytes((raw, 0xC0 if power_on else 0xE0, SATELLITE_SENSOR.state(raw)))
