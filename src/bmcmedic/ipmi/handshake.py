"""One attempt of a remote console to set up a session: Open Session, RAKP 1 to 4 (13.17 to 13.24).

Each step takes the payload that the BMC sent and returns the payload to send next. A payload that
does not belong to this attempt raises RemoteProtocolError and changes nothing. A refusal by the BMC
raises BmcRefusal. Repetition and time-outs are in `remote_console`.
"""

from __future__ import annotations

import hmac

from bmcmedic.errors import (
    AuthenticationFailed,
    RemoteProtocolError,
    RmcpPlusStatusError,
)
from bmcmedic.ipmi.cipher_suites import CipherSuite
from bmcmedic.ipmi.console_options import ConsoleOptions
from bmcmedic.ipmi.constants import RmcpPlusStatus
from bmcmedic.ipmi.rakp import (
    NAME_ONLY_LOOKUP,
    KeyExchange,
    OpenSessionRequest,
    OpenSessionResponse,
    Rakp1,
    Rakp2,
    Rakp3,
    Rakp4,
    session_refusal,
)
from bmcmedic.ipmi.session import (
    REMOTE_CONSOLE_AHEAD_MAX,
    Session,
    random_session_id,
)


class Handshake:
    """The steps of one attempt, in order, for one cipher suite.

    `final_rakp_3` is the payload of a RAKP 3 that must still be sent after AuthenticationFailed.
    """

    __slots__ = (
        "_console_session_id",
        "_exchange",
        "_options",
        "_rakp1",
        "_suite",
        "_tag",
        "final_rakp_3",
    )

    def __init__(self, options: ConsoleOptions, suite: CipherSuite, tag: int) -> None:
        self._options = options
        self._suite = suite
        self._tag = tag & 0xFF
        self._console_session_id = random_session_id(options.random_bytes)
        self._rakp1: Rakp1 | None = None
        self._exchange: KeyExchange | None = None
        self.final_rakp_3: bytes | None = None

    def open_session_request(self) -> bytes:
        """Return the first payload, the Open Session Request."""
        return OpenSessionRequest.for_suite(
            self._tag, self._options.privilege, self._console_session_id, self._suite
        ).encode()

    def rakp_1(self, payload: bytes) -> bytes:
        """Take the Open Session Response and return RAKP 1.

        Raises: RmcpPlusStatusError when the BMC refuses, or accepts another suite than proposed.
        """
        response = OpenSessionResponse.decode(payload)
        self._check(response.tag, response.console_session_id, "Open Session", response.status)
        if response.suite is not self._suite or not response.managed_session_id:
            # Field: pyghmi's Bmc answers every proposal with suite 3 and so refuses all others.
            raise RmcpPlusStatusError(
                "Open Session",
                RmcpPlusStatus.NO_CIPHER_SUITE_MATCH,
                "the BMC chose other algorithms than the proposed ones",
                "try --cipher-suite 3",
            )
        options = self._options
        role = options.privilege | (NAME_ONLY_LOOKUP if options.name_only_lookup else 0)
        self._next_tag()
        self._rakp1 = Rakp1(
            self._tag,
            response.managed_session_id,
            options.random_bytes(16),
            role,
            options.user_name,
        )
        return self._rakp1.encode()

    def rakp_3(self, payload: bytes) -> bytes:
        """Take RAKP 2 and return RAKP 3.

        Raises: RmcpPlusStatusError when the BMC refuses; AuthenticationFailed for a wrong password.
        """
        rakp2 = Rakp2.decode(payload, self._suite)
        self._check(rakp2.tag, rakp2.console_session_id, "RAKP 2", rakp2.status)
        rakp1 = self._rakp1
        assert rakp1 is not None
        credentials = self._options.credentials
        exchange = self._exchange = KeyExchange(
            self._suite,
            console_session_id=self._console_session_id,
            rakp1=rakp1,
            managed_random=rakp2.managed_random,
            managed_guid=rakp2.managed_guid,
            password=credentials.password,
            kg=credentials.kg,
        )
        self._next_tag()
        if not hmac.compare_digest(exchange.rakp2_code(), rakp2.key_exchange_code):
            # This RAKP 3 makes the BMC free its half of the session (section 13.22).
            self.final_rakp_3 = Rakp3(
                self._tag,
                RmcpPlusStatus.INVALID_INTEGRITY_CHECK_VALUE,
                exchange.managed_session_id,
            ).encode()
            raise AuthenticationFailed(
                f"RAKP 2: wrong password for user {credentials.user!r} "
                "(the BMC's key exchange code does not match)"
            )
        return Rakp3(self._tag, 0, exchange.managed_session_id, exchange.rakp3_code()).encode()

    def session(self, payload: bytes) -> Session:
        """Take RAKP 4 and return the session.

        Raises: RmcpPlusStatusError when the BMC refuses; AuthenticationFailed for a wrong K_g.
        """
        rakp4 = Rakp4.decode(payload, self._suite)
        self._check(rakp4.tag, rakp4.console_session_id, "RAKP 4", rakp4.status)
        exchange = self._exchange
        assert exchange is not None
        sik = exchange.sik()
        if not hmac.compare_digest(exchange.rakp4_value(sik), rakp4.integrity_check_value):
            kg = "wrong K_g" if exchange.has_kg else "this BMC has a K_g: give it"
            raise AuthenticationFailed(
                f"RAKP 4: the password is right but the session keys differ: {kg}"
            )
        return Session(
            self._suite,
            inbound_id=self._console_session_id,
            outbound_id=exchange.managed_session_id,
            k1=exchange.k1(sik),
            k2=exchange.k2(sik),
            aes=self._options.aes,
            random_bytes=self._options.random_bytes,
            ahead_max=REMOTE_CONSOLE_AHEAD_MAX,
        )

    def _check(self, tag: int, console_session_id: int, name: str, status: int) -> None:
        if tag != self._tag:
            raise RemoteProtocolError(f"{name}: the tag of another message", section="13.18")
        if status:
            raise session_refusal(name, status)
        if console_session_id != self._console_session_id:
            raise RemoteProtocolError(f"{name}: the id of another session", section="13.18")

    def _next_tag(self) -> None:
        self._tag = self._tag + 1 & 0xFF
