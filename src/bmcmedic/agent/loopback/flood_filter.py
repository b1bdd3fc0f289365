"""Who sends the loopback door more than any tool does: told apart by address, and shut out.

What a flood fills is the socket's buffer, and then nobody else is heard. So the kernel is told to
drop what comes from there before it takes any room. On one machine anybody can send from another's
address, so who has a session is never shut out, and such a flood costs what any flood does.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Final

from bmcmedic.transport.addresses import Address

DATAGRAMS_A_WINDOW_MAX = 128
"""From one address, those in a session of its own not counted: its set-up takes five."""
WINDOW_S = 1.0
MUTED_S = 10.0
"""Who then goes on is heard again so seldom."""
MUTED_MAX = 64
"""More are dropped here alone, until the window's end."""
COUNTED_MAX = 4096
"""Addresses in one window."""

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
"""Linux's, which Python has no names for."""
_INSTRUCTION: Final = struct.Struct("HBBI")
_PROGRAM: Final = struct.Struct("HP")
_LOAD_WORD, _LOAD_HALF, _JUMP_UNLESS_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_SOURCE_ADDRESS_AT: Final = 0xFFF0_0000 + 12
"""In the IPv4 header, by the kernel's way to get at it (SKF_NET_OFF)."""
_SOURCE_PORT_AT: Final = 0
"""A UDP socket's filter sees what begins with the UDP header."""
_WHOLE: Final = 0xFFFF_FFFF


class FloodFilter:
    """For one IPv4 socket."""

    def __init__(self, heard_by: socket.socket, has_session: Callable[[Address], bool]) -> None:
        self._socket = heard_by
        self._has_session = has_session
        self._heard: Counter[Address] = Counter()
        self._window_ends_at = 0.0
        self._muted: dict[Address, float] = {}
        self.dropped = 0
        """Of those that were muted; what the kernel drops is not counted."""

    def is_to_drop(self, peer: Address, now: float) -> bool:
        """Count a datagram, and say whether it is one too many."""
        if peer in self._muted:
            self.dropped += 1
            return True
        if now >= self._window_ends_at or len(self._heard) >= COUNTED_MAX:
            self._heard.clear()
            self._window_ends_at = now + WINDOW_S
        self._heard[peer] += 1
        if self._heard[peer] <= DATAGRAMS_A_WINDOW_MAX or self._has_session(peer):
            return False
        self.dropped += 1
        if len(self._muted) < MUTED_MAX:
            self._muted[peer] = now + MUTED_S
            self._tell_kernel()
        return True

    def is_in_session(self, peer: Address) -> None:
        """Whoever has the secret may send as much as it likes."""
        del self._heard[peer]

    def release(self, now: float) -> None:
        """Hear those again whose time is over."""
        over = [peer for peer, until in self._muted.items() if until <= now]
        if over:
            for peer in over:
                del self._muted[peer]
            self._tell_kernel()

    def _tell_kernel(self) -> None:
        # Two at once may be more than it has room for, and the old one would stay.
        with contextlib.suppress(OSError):  # there was none
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        if not self._muted:
            return
        # Where it does not take that, all is dropped here: dearer, but dropped.
        with contextlib.suppress(OSError):
            code = array.array("B", _filter(list(self._muted)))
            at, length = code.buffer_info()
            program = _PROGRAM.pack(length // _INSTRUCTION.size, at)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _filter(peers: list[Address]) -> bytes:
    """Classic BPF that drops what is from one of them."""
    code = []
    for host, port in peers:
        code += [
            (_LOAD_WORD, 0, 0, _SOURCE_ADDRESS_AT),
            (_JUMP_UNLESS_EQUAL, 0, 3, int.from_bytes(socket.inet_aton(host), "big")),
            (_LOAD_HALF, 0, 0, _SOURCE_PORT_AT),
            (_JUMP_UNLESS_EQUAL, 0, 1, port),
            (_RETURN, 0, 0, 0),
        ]
    code.append((_RETURN, 0, 0, _WHOLE))
    return b"".join(_INSTRUCTION.pack(*each) for each in code)
