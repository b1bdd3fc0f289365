"""Who logs in to a BMC, and with what."""

from __future__ import annotations

from dataclasses import dataclass, field

from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.rakp import PASSWORD_BYTES_MAX, USER_NAME_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in, and with what; never printed.

    Raises ConfigurationError where the specification's limits are exceeded (section 22.30).
    """

    user: str
    password: bytes = field(repr=False)
    kg: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if len(self.user_name) > USER_NAME_BYTES_MAX:
            raise ConfigurationError(f"a user name has at most {USER_NAME_BYTES_MAX} bytes")
        if len(self.password) > PASSWORD_BYTES_MAX:
            raise ConfigurationError(f"a password has at most {PASSWORD_BYTES_MAX} bytes")
        if len(self.kg) > PASSWORD_BYTES_MAX:
            raise ConfigurationError(f"K_g has at most {PASSWORD_BYTES_MAX} bytes")

    @property
    def user_name(self) -> bytes:
        """The name as on the wire; bytes that were no UTF-8 are as they were given."""
        return self.user.encode(errors="surrogateescape")
