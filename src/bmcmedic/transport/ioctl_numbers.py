"""Numbers of Linux's ioctls, as <asm/ioctl.h> makes them."""

from __future__ import annotations

import os
from enum import Enum

_OLD_STYLE = ("alpha", "mips", "ppc", "sparc")
"""Architectures with 13 bits for the size, and directions of their own."""


class Direction(Enum):
    """Which way the argument goes, seen from the program; drivers get it wrong at times."""

    READ = "read"
    READ_WRITE = "read and write"
    WRITE = "write"


def ioctl_number(
    direction: Direction, kind: str, number: int, size: int, machine: str | None = None
) -> int:
    """The number of the ioctl with an argument of `size` bytes."""
    read, write, shift = 2, 1, 30
    if (machine or os.uname().machine).startswith(_OLD_STYLE):
        read, write, shift = 2, 4, 29
    bits = {
        Direction.READ: read,
        Direction.WRITE: write,
        Direction.READ_WRITE: read | write,
    }[direction]
    return bits << shift | size << 16 | ord(kind) << 8 | number
