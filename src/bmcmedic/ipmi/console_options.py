"""How a remote console sets up its sessions, and when it retransmits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bmcmedic.errors import LocalProtocolError
from bmcmedic.ipmi.cipher_suites import DEFAULT_CIPHER_SUITES, CipherSuite, cipher_suite
from bmcmedic.ipmi.constants import PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.ipmi.session import AesFactory, RandomBytes

RETRANSMIT_FIRST_S = 0.25
"""Time before the first retransmission, in seconds."""
RETRANSMIT_BACKOFF_FACTOR = 1.1
"""Growth of the time from one retransmission to the next.

It is small on purpose: under loss, doubling the time costs more answers than it saves datagrams.
"""


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """How sessions are set up; all consoles of a sweep share one object.

    `cipher_suites` are proposed in their order. With `may_reopen`, a session whose BMC stops
    answering is set up again and its request is repeated, both within the request's deadline.
    """

    credentials: Credentials
    random_bytes: RandomBytes
    aes: AesFactory
    privilege: PrivilegeLevel = PrivilegeLevel.USER
    cipher_suites: Sequence[int] = DEFAULT_CIPHER_SUITES
    name_only_lookup: bool = True
    may_reopen: bool = False
    retransmit_first_s: float = RETRANSMIT_FIRST_S
    """Time before the first retransmission, in seconds.

    Make it longer for a BMC that is known to be slow: each repetition slows it further.
    """
    suites: tuple[CipherSuite, ...] = field(init=False)
    user_name: bytes = field(init=False)

    def __post_init__(self) -> None:
        suites = tuple(cipher_suite(suite_id) for suite_id in self.cipher_suites)
        if not suites:
            raise LocalProtocolError("no cipher suite to propose")
        object.__setattr__(self, "suites", suites)
        object.__setattr__(self, "user_name", self.credentials.user_name)
