"""Sensor data records (chapter 43): a header of 5 bytes, then a body, LSB first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import KEEP, IntFlag

from bmcmedic.errors import InvalidDataField
from bmcmedic.ipmi.commands.command import check_length, require_length, require_range
from bmcmedic.ipmi.commands.reading_factors import AnalogFormat, ReadingFactors
from bmcmedic.ipmi.commands.text_fields import EIGHT_BIT_TEXT, decode_text, encode_text

SDR_HEADER_BYTES = 5
SDR_BYTES_MAX = SDR_HEADER_BYTES + 255
SDR_VERSION = 0x51
ID_STRING_BYTES_MAX = 16

FULL_SENSOR = 0x01
COMPACT_SENSOR = 0x02
FRU_DEVICE_LOCATOR = 0x11
MC_DEVICE_LOCATOR = 0x12


def _record(record_id: int, record_type: int, body: bytes) -> bytes:
    return record_id.to_bytes(2, "little") + bytes((SDR_VERSION, record_type, len(body))) + body


def _body(data: bytes, record_type: int, minimum: int, section: str) -> tuple[int, bytes]:
    """Return record id and body; raises RemoteProtocolError.

    A BMC may send more bytes than the header announces, but not fewer.
    """
    check_length(data, SDR_HEADER_BYTES, SDR_BYTES_MAX, section="43")
    body = data[SDR_HEADER_BYTES : SDR_HEADER_BYTES + data[4]]
    if data[3] != record_type or len(body) < data[4] or len(body) < minimum:
        raise InvalidDataField(
            f"not an SDR of type {record_type:#04x} with a body of {minimum} bytes or more",
            section=section,
            raw=data,
        )
    return int.from_bytes(data[:2], "little"), body


def _encode_id_string(text: str) -> bytes:
    data = encode_text("an id string", text, ID_STRING_BYTES_MAX)
    return bytes((EIGHT_BIT_TEXT << 6 | len(data),)) + data


def _decode_id_string(data: bytes) -> str:
    # Field: some BMCs announce more characters than the record has; those present are used.
    return decode_text(
        data[0] >> 6,
        data[1 : 1 + (data[0] & 0x1F)],
        kind_0=lambda raw: raw.decode("utf-16-le", "replace"),
    )


@dataclass(frozen=True, slots=True)
class SensorUnits:
    """The units of a sensor's readings. Spec: 43.1, bytes 21 to 23. Shape: 3 bytes."""

    analog_format: AnalogFormat = AnalogFormat.NONE
    base_unit: int = 0
    modifier_unit: int = 0
    rate_unit: int = 0
    modifier_use: int = 0
    """0 for none, 1 for base unit / modifier, 2 for base unit * modifier."""
    percentage: bool = False

    def __post_init__(self) -> None:
        require_range("rate unit", self.rate_unit, 7)
        require_range("modifier use", self.modifier_use, 3)

    def encode(self) -> bytes:
        """Return the 3 bytes."""
        first = (
            self.analog_format << 6 | self.rate_unit << 3 | self.modifier_use << 1 | self.percentage
        )
        return bytes((first, self.base_unit, self.modifier_unit))

    @classmethod
    def decode(cls, data: bytes) -> SensorUnits:
        """Decode the 3 bytes; raises RemoteProtocolError."""
        check_length(data, 3, section="43.1")
        return cls(
            analog_format=AnalogFormat(data[0] >> 6),
            base_unit=data[1],
            modifier_unit=data[2],
            rate_unit=data[0] >> 3 & 7,
            modifier_use=data[0] >> 1 & 3,
            percentage=bool(data[0] & 1),
        )


_NO_UNITS = SensorUnits()


@dataclass(frozen=True, slots=True)
class SensorDescription:
    """The part that Full and Compact records share. Spec: 43.1 and 43.2, bytes 6 to 23."""

    sensor_number: int
    sensor_type: int
    event_type: int
    entity_id: int = 0
    entity_instance: int = 0
    """The entity instance; bit 7 set means a logical container, not a physical entity."""
    owner_id: int = 0x20
    owner_lun: int = 0
    """The channel in bits 7:4 and the LUN in bits 1:0."""
    initialization: int = 0x7F
    capabilities: int = 0x40
    """Bit 6: automatic re-arm; bits 5:4: hysteresis, 3:2: thresholds, 1:0: event control."""
    assertion_mask: int = 0
    """For thresholds: bits 14:12 the lower comparisons returned, 11:0 the assertion events."""
    deassertion_mask: int = 0
    """For thresholds: bits 14:12 the upper comparisons returned, 11:0 the deassertion events."""
    reading_mask: int = 0
    """For thresholds: bits 13:8 the settable ones, 5:0 the readable ones."""
    units: SensorUnits = _NO_UNITS

    def encode(self) -> bytes:
        """Return the 18 bytes."""
        return (
            bytes(
                (
                    self.owner_id,
                    self.owner_lun,
                    self.sensor_number,
                    self.entity_id,
                    self.entity_instance,
                    self.initialization,
                    self.capabilities,
                    self.sensor_type,
                    self.event_type,
                )
            )
            + self.assertion_mask.to_bytes(2, "little")
            + self.deassertion_mask.to_bytes(2, "little")
            + self.reading_mask.to_bytes(2, "little")
            + self.units.encode()
        )

    @classmethod
    def decode(cls, data: bytes) -> SensorDescription:
        """Decode the 18 bytes; raises RemoteProtocolError."""
        check_length(data, 18, section="43.1")
        return cls(
            owner_id=data[0],
            owner_lun=data[1],
            sensor_number=data[2],
            entity_id=data[3],
            entity_instance=data[4],
            initialization=data[5],
            capabilities=data[6],
            sensor_type=data[7],
            event_type=data[8],
            assertion_mask=int.from_bytes(data[9:11], "little"),
            deassertion_mask=int.from_bytes(data[11:13], "little"),
            reading_mask=int.from_bytes(data[13:15], "little"),
            units=SensorUnits.decode(data[15:18]),
        )


class AnalogCharacteristics(IntFlag, boundary=KEEP):
    """The typical readings that a Full record gives (43.1, byte 31)."""

    NOMINAL_READING = 0x01
    NORMAL_MAXIMUM = 0x02
    NORMAL_MINIMUM = 0x04


_NO_CHARACTERISTICS = AnalogCharacteristics(0)


@dataclass(frozen=True, slots=True)
class FullSensorRecord:
    """A sensor with reading factors and thresholds; the thresholds are raw readings.

    Spec: 43.1. Shape: header, 43 bytes, id string; bytes 45 and 46 are reserved.
    """

    record_id: int
    sensor: SensorDescription
    id_string: str
    factors: ReadingFactors
    linearization: int = 0
    characteristics: AnalogCharacteristics = _NO_CHARACTERISTICS
    nominal_reading: int = 0
    normal_maximum: int = 0
    normal_minimum: int = 0
    sensor_maximum: int = 0xFF
    sensor_minimum: int = 0
    upper_non_recoverable: int = 0
    upper_critical: int = 0
    upper_non_critical: int = 0
    lower_non_recoverable: int = 0
    lower_critical: int = 0
    lower_non_critical: int = 0
    positive_hysteresis: int = 0
    negative_hysteresis: int = 0
    oem: int = 0

    def value(self, raw: int) -> float | None:
        """Return a raw reading in the sensor's unit; None if it has no value."""
        return self.factors.convert(raw, self.sensor.units.analog_format, self.linearization)

    def encode(self) -> bytes:
        """Return the record, header included."""
        levels = (
            self.characteristics,
            self.nominal_reading,
            self.normal_maximum,
            self.normal_minimum,
            self.sensor_maximum,
            self.sensor_minimum,
            self.upper_non_recoverable,
            self.upper_critical,
            self.upper_non_critical,
            self.lower_non_recoverable,
            self.lower_critical,
            self.lower_non_critical,
            self.positive_hysteresis,
            self.negative_hysteresis,
            0,
            0,
            self.oem,
        )
        body = self.sensor.encode() + bytes((self.linearization,)) + self.factors.encode()
        return _record(
            self.record_id, FULL_SENSOR, body + bytes(levels) + _encode_id_string(self.id_string)
        )

    @classmethod
    def decode(cls, data: bytes) -> FullSensorRecord:
        """Decode a record of this type; raises RemoteProtocolError."""
        record_id, body = _body(data, FULL_SENSOR, 43, "43.1")
        return cls(
            record_id,
            SensorDescription.decode(body[:18]),
            _decode_id_string(body[42:]),
            ReadingFactors.decode(body[19:25]),
            body[18] & 0x7F,
            AnalogCharacteristics(body[25]),
            *body[26:39] + body[41:42],
        )


@dataclass(frozen=True, slots=True)
class CompactSensorRecord:
    """A sensor without an analog reading, or several sensors that share one record.

    Spec: 43.2. Shape: header, 27 bytes, id string; bytes 28 to 30 are reserved.
    """

    record_id: int
    sensor: SensorDescription
    id_string: str
    sharing: int = 0x0001
    """How sensors share the record.

    Low byte: direction (bits 7:6), modifier type (5:4), share count (3:0). High byte: instance
    sharing (bit 7), modifier offset (6:0).
    """
    positive_hysteresis: int = 0
    negative_hysteresis: int = 0
    oem: int = 0

    def encode(self) -> bytes:
        """Return the record, header included."""
        tail = (self.positive_hysteresis, self.negative_hysteresis, 0, 0, 0, self.oem)
        body = self.sensor.encode() + self.sharing.to_bytes(2, "little") + bytes(tail)
        return _record(self.record_id, COMPACT_SENSOR, body + _encode_id_string(self.id_string))

    @classmethod
    def decode(cls, data: bytes) -> CompactSensorRecord:
        """Decode a record of this type; raises RemoteProtocolError."""
        record_id, body = _body(data, COMPACT_SENSOR, 27, "43.2")
        return cls(
            record_id=record_id,
            sensor=SensorDescription.decode(body[:18]),
            id_string=_decode_id_string(body[26:]),
            sharing=int.from_bytes(body[18:20], "little"),
            positive_hysteresis=body[20],
            negative_hysteresis=body[21],
            oem=body[25],
        )


@dataclass(frozen=True, slots=True)
class FruDeviceLocatorRecord:
    """The location of a FRU inventory.

    Spec: 43.8. Shape: header, 11 bytes, id string; byte 10 is reserved.
    """

    record_id: int
    id_string: str
    fru_device_id: int = 0
    """The FRU device id of a logical device; otherwise the slave address of the EEPROM."""
    access_address: int = 0x20
    logical: bool = True
    access_lun: int = 0
    private_bus_id: int = 0
    channel: int = 0
    device_type: int = 0x10
    device_type_modifier: int = 0
    entity_id: int = 0
    entity_instance: int = 0
    oem: int = 0

    def __post_init__(self) -> None:
        require_range("access LUN", self.access_lun, 3)
        require_range("private bus id", self.private_bus_id, 7)
        require_range("channel", self.channel, 0x0F)

    def encode(self) -> bytes:
        """Return the record, header included."""
        body = (
            self.access_address,
            self.fru_device_id,
            self.logical << 7 | self.access_lun << 3 | self.private_bus_id,
            self.channel << 4,
            0,
            self.device_type,
            self.device_type_modifier,
            self.entity_id,
            self.entity_instance,
            self.oem,
        )
        return _record(
            self.record_id, FRU_DEVICE_LOCATOR, bytes(body) + _encode_id_string(self.id_string)
        )

    @classmethod
    def decode(cls, data: bytes) -> FruDeviceLocatorRecord:
        """Decode a record of this type; raises RemoteProtocolError."""
        record_id, body = _body(data, FRU_DEVICE_LOCATOR, 11, "43.8")
        return cls(
            record_id=record_id,
            id_string=_decode_id_string(body[10:]),
            fru_device_id=body[1],
            access_address=body[0],
            logical=bool(body[2] & 0x80),
            access_lun=body[2] >> 3 & 3,
            private_bus_id=body[2] & 7,
            channel=body[3] >> 4,
            device_type=body[5],
            device_type_modifier=body[6],
            entity_id=body[7],
            entity_instance=body[8],
            oem=body[9],
        )


@dataclass(frozen=True, slots=True)
class McDeviceLocatorRecord:
    """The location of a management controller, and what it provides.

    Spec: 43.9. Shape: header, 11 bytes, id string; bytes 10 to 12 are reserved.
    """

    record_id: int
    id_string: str
    slave_address: int = 0x20
    channel: int = 0
    power_state_notification: int = 0
    capabilities: int = 0
    """The same bits as `additional_device_support` of Get Device ID."""
    entity_id: int = 0
    entity_instance: int = 0
    oem: int = 0

    def __post_init__(self) -> None:
        require_range("channel", self.channel, 0x0F)

    def encode(self) -> bytes:
        """Return the record, header included."""
        body = (
            self.slave_address,
            self.channel,
            self.power_state_notification,
            self.capabilities,
            0,
            0,
            0,
            self.entity_id,
            self.entity_instance,
            self.oem,
        )
        return _record(
            self.record_id, MC_DEVICE_LOCATOR, bytes(body) + _encode_id_string(self.id_string)
        )

    @classmethod
    def decode(cls, data: bytes) -> McDeviceLocatorRecord:
        """Decode a record of this type; raises RemoteProtocolError."""
        record_id, body = _body(data, MC_DEVICE_LOCATOR, 11, "43.9")
        return cls(
            record_id=record_id,
            id_string=_decode_id_string(body[10:]),
            slave_address=body[0],
            channel=body[1] & 0x0F,
            power_state_notification=body[2],
            capabilities=body[3],
            entity_id=body[7],
            entity_instance=body[8],
            oem=body[9],
        )


@dataclass(frozen=True, slots=True)
class OtherRecord:
    """A record of a type that is not decoded here, such as Event-Only or a vendor's own."""

    record_id: int
    record_type: int
    body: bytes

    def __post_init__(self) -> None:
        require_length("an SDR's body", self.body, 255)

    def encode(self) -> bytes:
        """Return the record, header included."""
        return _record(self.record_id, self.record_type, self.body)

    @classmethod
    def decode(cls, data: bytes) -> OtherRecord:
        """Decode a record of any type, but not its body; raises RemoteProtocolError."""
        check_length(data, SDR_HEADER_BYTES, SDR_BYTES_MAX, section="43")
        record_id, body = _body(data, data[3], 0, "43")
        return cls(record_id, data[3], body)


SdrRecord = (
    FullSensorRecord
    | CompactSensorRecord
    | FruDeviceLocatorRecord
    | McDeviceLocatorRecord
    | OtherRecord
)


def decode_sdr_record(data: bytes) -> SdrRecord:
    """Decode a whole record by its type; raises RemoteProtocolError."""
    check_length(data, SDR_HEADER_BYTES, SDR_BYTES_MAX, section="43")
    if data[3] == FULL_SENSOR:
        return FullSensorRecord.decode(data)
    if data[3] == COMPACT_SENSOR:
        return CompactSensorRecord.decode(data)
    if data[3] == FRU_DEVICE_LOCATOR:
        return FruDeviceLocatorRecord.decode(data)
    if data[3] == MC_DEVICE_LOCATOR:
        return McDeviceLocatorRecord.decode(data)
    return OtherRecord.decode(data)
