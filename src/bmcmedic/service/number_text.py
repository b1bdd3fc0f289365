"""Numbers as text without an exponent. Every command line loads it, so it loads nothing."""

from __future__ import annotations

import math


def plain_number(value: float) -> str:
    """Return a number without an exponent, as far as an operator may meet it: 2592000, 0.25."""
    return f"{value:g}" if abs(value) < 1e6 or math.isinf(value) else f"{value:.0f}"
