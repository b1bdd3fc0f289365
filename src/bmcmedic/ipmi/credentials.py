"""The credentials for a login to a BMC."""

from __future__ import annotations

from dataclasses import dataclass, field

from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.rakp import PASSWORD_BYTES_MAX, USER_NAME_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name, a password and an optional K_g; the secrets never appear in a `repr`.

    Raises: ConfigurationError when one is longer than the specification allows (section 22.30).
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
        """The name as it is on the wire; bytes that are not UTF-8 stay as they were given."""
        return self.user.encode(errors="surrogateescape")
