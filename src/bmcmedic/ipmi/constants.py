"""Numbers and names that several chapters of the specification share (IPMI 2.0 rev. 1.1)."""

from __future__ import annotations

from enum import IntEnum

BMC_SLAVE_ADDRESS = 0x20
"""The BMC's own slave address on the IPMB (section 5.5)."""

REMOTE_CONSOLE_SWID = 0x81
"""First software id of a remote console, which ipmitool uses too (section 5.5)."""

PRESENT_CHANNEL = 0x0E
"""Channel number that stands for the channel over which the request came (section 6.3)."""

RMCP_PORT = 623
"""Primary RMCP port (section 13.1.2)."""


class NetFn(IntEnum):
    """Network function codes of requests; that of a response is one higher (section 5.1)."""

    CHASSIS = 0x00
    BRIDGE = 0x02
    SENSOR_EVENT = 0x04
    APP = 0x06
    FIRMWARE = 0x08
    STORAGE = 0x0A
    TRANSPORT = 0x0C
    GROUP_EXTENSION = 0x2C
    OEM_GROUP = 0x2E
    OEM = 0x30


class PrivilegeLevel(IntEnum):
    """Channel privilege levels (section 6.8)."""

    HIGHEST_MATCHING = 0
    CALLBACK = 1
    USER = 2
    OPERATOR = 3
    ADMINISTRATOR = 4
    OEM = 5


class CompletionCode(IntEnum):
    """Generic completion codes (section 5.2, table 5-2)."""

    OK = 0x00
    NODE_BUSY = 0xC0
    INVALID_COMMAND = 0xC1
    INVALID_FOR_LUN = 0xC2
    TIMEOUT = 0xC3
    OUT_OF_SPACE = 0xC4
    RESERVATION_CANCELLED = 0xC5
    DATA_TRUNCATED = 0xC6
    DATA_LENGTH_INVALID = 0xC7
    DATA_LENGTH_EXCEEDED = 0xC8
    PARAMETER_OUT_OF_RANGE = 0xC9
    CANNOT_RETURN_BYTES = 0xCA
    NOT_PRESENT = 0xCB
    INVALID_DATA_FIELD = 0xCC
    ILLEGAL_FOR_SENSOR = 0xCD
    RESPONSE_UNAVAILABLE = 0xCE
    DUPLICATED_REQUEST = 0xCF
    SDR_UPDATING = 0xD0
    FIRMWARE_UPDATING = 0xD1
    INITIALIZING = 0xD2
    DESTINATION_UNAVAILABLE = 0xD3
    INSUFFICIENT_PRIVILEGE = 0xD4
    NOT_SUPPORTED_IN_STATE = 0xD5
    SUB_FUNCTION_DISABLED = 0xD6
    UNSPECIFIED = 0xFF

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed when it is sent again later."""
        return self in _TEMPORARY


_TEMPORARY = frozenset(
    {
        CompletionCode.NODE_BUSY,
        CompletionCode.TIMEOUT,
        CompletionCode.OUT_OF_SPACE,
        CompletionCode.RESPONSE_UNAVAILABLE,
        CompletionCode.DUPLICATED_REQUEST,
        CompletionCode.SDR_UPDATING,
        CompletionCode.FIRMWARE_UPDATING,
        CompletionCode.INITIALIZING,
        CompletionCode.DESTINATION_UNAVAILABLE,
    }
)

_COMPLETION_CODE_TEXT: dict[int, str] = {
    CompletionCode.OK: "command completed normally",
    CompletionCode.NODE_BUSY: "node busy",
    CompletionCode.INVALID_COMMAND: "invalid or unsupported command",
    CompletionCode.INVALID_FOR_LUN: "command invalid for this LUN",
    CompletionCode.TIMEOUT: "timeout while processing the command",
    CompletionCode.OUT_OF_SPACE: "out of space",
    CompletionCode.RESERVATION_CANCELLED: "reservation cancelled or invalid",
    CompletionCode.DATA_TRUNCATED: "request data truncated",
    CompletionCode.DATA_LENGTH_INVALID: "request data length invalid",
    CompletionCode.DATA_LENGTH_EXCEEDED: "request data field length limit exceeded",
    CompletionCode.PARAMETER_OUT_OF_RANGE: "parameter out of range",
    CompletionCode.CANNOT_RETURN_BYTES: "cannot return the number of bytes asked for",
    CompletionCode.NOT_PRESENT: "sensor, data or record not present",
    CompletionCode.INVALID_DATA_FIELD: "invalid data field in the request",
    CompletionCode.ILLEGAL_FOR_SENSOR: "command illegal for this sensor or record type",
    CompletionCode.RESPONSE_UNAVAILABLE: "response could not be provided",
    CompletionCode.DUPLICATED_REQUEST: "cannot execute a duplicated request",
    CompletionCode.SDR_UPDATING: "SDR repository in update mode",
    CompletionCode.FIRMWARE_UPDATING: "device in firmware update mode",
    CompletionCode.INITIALIZING: "BMC initialization in progress",
    CompletionCode.DESTINATION_UNAVAILABLE: "destination unavailable",
    CompletionCode.INSUFFICIENT_PRIVILEGE: "insufficient privilege level",
    CompletionCode.NOT_SUPPORTED_IN_STATE: "not supported in the present state",
    CompletionCode.SUB_FUNCTION_DISABLED: "sub-function disabled or unavailable",
    CompletionCode.UNSPECIFIED: "unspecified error",
}


def completion_code_is_temporary(code: int) -> bool:
    """Return whether a raw completion code stands for a condition that may pass by itself."""
    return code in _TEMPORARY


def completion_code_text(code: int) -> str:
    """Return the meaning of a generic completion code, or the class of any other code."""
    known = _COMPLETION_CODE_TEXT.get(code)
    if known is not None:
        return known
    if 0x01 <= code <= 0x7E:
        return "OEM completion code"
    if 0x80 <= code <= 0xBE:
        return "command-specific completion code"
    return "reserved completion code"


class RmcpPlusStatus(IntEnum):
    """RMCP+ and RAKP message status codes (section 13.24, table 13-15)."""

    OK = 0x00
    INSUFFICIENT_RESOURCES = 0x01
    INVALID_SESSION_ID = 0x02
    INVALID_PAYLOAD_TYPE = 0x03
    INVALID_AUTHENTICATION_ALGORITHM = 0x04
    INVALID_INTEGRITY_ALGORITHM = 0x05
    NO_MATCHING_AUTHENTICATION_PAYLOAD = 0x06
    NO_MATCHING_INTEGRITY_PAYLOAD = 0x07
    INACTIVE_SESSION_ID = 0x08
    INVALID_ROLE = 0x09
    UNAUTHORIZED_ROLE = 0x0A
    INSUFFICIENT_RESOURCES_FOR_ROLE = 0x0B
    INVALID_NAME_LENGTH = 0x0C
    UNAUTHORIZED_NAME = 0x0D
    UNAUTHORIZED_GUID = 0x0E
    INVALID_INTEGRITY_CHECK_VALUE = 0x0F
    INVALID_CONFIDENTIALITY_ALGORITHM = 0x10
    NO_CIPHER_SUITE_MATCH = 0x11
    ILLEGAL_PARAMETER = 0x12


_RMCP_PLUS_STATUS_TEXT: dict[int, str] = {
    RmcpPlusStatus.OK: "no errors",
    RmcpPlusStatus.INSUFFICIENT_RESOURCES: "insufficient resources to create a session",
    RmcpPlusStatus.INVALID_SESSION_ID: "invalid session id",
    RmcpPlusStatus.INVALID_PAYLOAD_TYPE: "invalid payload type",
    RmcpPlusStatus.INVALID_AUTHENTICATION_ALGORITHM: "invalid authentication algorithm",
    RmcpPlusStatus.INVALID_INTEGRITY_ALGORITHM: "invalid integrity algorithm",
    RmcpPlusStatus.NO_MATCHING_AUTHENTICATION_PAYLOAD: "no matching authentication payload",
    RmcpPlusStatus.NO_MATCHING_INTEGRITY_PAYLOAD: "no matching integrity payload",
    RmcpPlusStatus.INACTIVE_SESSION_ID: "inactive session id",
    RmcpPlusStatus.INVALID_ROLE: "invalid role",
    RmcpPlusStatus.UNAUTHORIZED_ROLE: "unauthorized role or privilege level requested",
    RmcpPlusStatus.INSUFFICIENT_RESOURCES_FOR_ROLE: (
        "insufficient resources to create a session at the requested role"
    ),
    RmcpPlusStatus.INVALID_NAME_LENGTH: "invalid user name length",
    RmcpPlusStatus.UNAUTHORIZED_NAME: "unauthorized user name",
    RmcpPlusStatus.UNAUTHORIZED_GUID: "unauthorized GUID",
    RmcpPlusStatus.INVALID_INTEGRITY_CHECK_VALUE: "invalid integrity check value",
    RmcpPlusStatus.INVALID_CONFIDENTIALITY_ALGORITHM: "invalid confidentiality algorithm",
    RmcpPlusStatus.NO_CIPHER_SUITE_MATCH: "no cipher suite match with the proposed algorithms",
    RmcpPlusStatus.ILLEGAL_PARAMETER: "illegal or unrecognized parameter",
}


def rmcp_plus_status_text(status: int) -> str:
    """Return the meaning of an RMCP+ status code."""
    return _RMCP_PLUS_STATUS_TEXT.get(status, "reserved RMCP+ status")
