"""The flood filter: mute addresses that send the loopback proxy more than any tool does.

A flood fills the buffer of the socket, and then the proxy receives from nobody else. So the kernel
drops datagrams of a muted address before they take any room. On one machine any process can send
from another one's address. An address with a session is therefore never muted, and a flood from
such an address is not filtered.
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
"""Datagrams that one address may send in a window.

Those in a session of the address are not counted; setting up a session takes five.
"""
WINDOW_S = 1.0
"""Length of a window, in seconds."""
MUTED_S = 10.0
"""How long an address is muted, in seconds."""
MUTED_MAX = 64
"""Addresses that the kernel filters. Further ones are dropped here, until the end of the window."""
COUNTED_MAX = 4096
"""Addresses that are counted in one window."""

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
"""Socket options of Linux for which Python has no names."""
_INSTRUCTION: Final = struct.Struct("HBBI")
_PROGRAM: Final = struct.Struct("HP")
_LOAD_WORD, _LOAD_HALF, _JUMP_UNLESS_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_SOURCE_ADDRESS_AT: Final = 0xFFF0_0000 + 12
"""Offset of the source address in the IPv4 header, which the kernel maps at SKF_NET_OFF."""
_SOURCE_PORT_AT: Final = 0
"""Offset of the source port: for the filter of a UDP socket, data begins at the UDP header."""
_WHOLE: Final = 0xFFFF_FFFF


class FloodFilter:
    """The filter of one IPv4 socket."""

    def __init__(self, filtered: socket.socket, has_session: Callable[[Address], bool]) -> None:
        self._socket = filtered
        self._has_session = has_session
        self._counts: Counter[Address] = Counter()
        self._window_ends_at = 0.0
        self._muted: dict[Address, float] = {}
        self.dropped = 0
        """Number of datagrams dropped here; those that the kernel drops are not counted."""

    def must_drop(self, peer: Address, now: float) -> bool:
        """Count a datagram, and return whether it is one too many."""
        if peer in self._muted:
            self.dropped += 1
            return True
        if now >= self._window_ends_at or len(self._counts) >= COUNTED_MAX:
            self._counts.clear()
            self._window_ends_at = now + WINDOW_S
        self._counts[peer] += 1
        if self._counts[peer] <= DATAGRAMS_A_WINDOW_MAX or self._has_session(peer):
            return False
        self.dropped += 1
        if len(self._muted) < MUTED_MAX:
            self._muted[peer] = now + MUTED_S
            self._update_kernel_filter()
        return True

    def uncount(self, peer: Address) -> None:
        """Take back a count: the datagram belongs to a session, which has no limit."""
        del self._counts[peer]

    def unmute_expired(self, now: float) -> None:
        """Unmute the addresses whose time is over."""
        over = [peer for peer, until in self._muted.items() if until <= now]
        if over:
            for peer in over:
                del self._muted[peer]
            self._update_kernel_filter()

    def _update_kernel_filter(self) -> None:
        # Detach first: two filters at once may not fit, and then the old one would stay.
        with contextlib.suppress(OSError):  # there was none
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        if not self._muted:
            return
        # If the kernel refuses the filter, everything is dropped here, at a higher cost.
        with contextlib.suppress(OSError):
            code = array.array("B", _filter(list(self._muted)))
            at, length = code.buffer_info()
            program = _PROGRAM.pack(length // _INSTRUCTION.size, at)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _filter(peers: list[Address]) -> bytes:
    """Return a program in classic BPF that drops datagrams from these addresses."""
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
