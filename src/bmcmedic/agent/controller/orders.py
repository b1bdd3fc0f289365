"""The orders of a controller, and the checks that decide whether this host carries one out.

An order is carried out only if it is complete, names this very host and boot, has not expired, and
is allowed. Any other order is refused, and the next report gives the reason. The module is pure:
the time is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeGuard

from bmcmedic.agent.config import OrderKind
from bmcmedic.driver.parking import PARK_S_MAX, PARK_S_MIN
from bmcmedic.driver.socket.protocol import SECONDS_MAX
from bmcmedic.errors import Refused

ORDERS_MAX = 16
"""Orders that may wait at the same time; a further one is refused."""
LIFE_S_MAX = 3600.0
"""Longest time until an order may expire, in seconds: a longer one is not meant for now."""
REASON_CHARACTERS_MAX = 500
"""Longest reason in an acknowledgement, in characters."""
SHOWN_CHARACTERS_MAX = 64
"""Longest excerpt of a malformed order that is quoted in its refusal, in characters."""

_ID = re.compile(r"[\w.:-]{1,128}\Z", re.ASCII)
_KEYS = frozenset({"id", "kind", "host_id", "expires_at", "seconds"})
_HOST_KEYS = ("hostname", "product_uuid", "bmc_guid", "boot_id")
_PROOFS = ("product_uuid", "boot_id")
"""An order must give one of these, because another host may have the same host name."""


class OrderState(Enum):
    """The state of an order."""

    STARTED = "started"
    """The order is being carried out."""
    DONE = "done"
    FAILED = "failed"
    """The order was not carried out, and has changed nothing."""
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """The order may have been carried out; it is not tried again."""

    @property
    def is_final(self) -> bool:
        """Whether the order will not change its state any more."""
        return self is not OrderState.STARTED


@dataclass(frozen=True, slots=True)
class ControllerOrder:
    """One order, checked."""

    order_id: str
    kind: OrderKind
    expires_at: float
    """In seconds since the epoch."""
    seconds: float | None = None
    """The new time-out for `lengthen-watchdog`, the duration for `park`, in seconds."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The entry of an order in a report."""

    order_id: str
    kind: str
    state: OrderState
    reason: str | None = None
    at: float | None = None
    """In seconds since the epoch."""

    def to_json(self) -> dict[str, Any]:
        """Return the object that stands in a report."""
        return {
            "id": self.order_id,
            "kind": self.kind,
            "state": self.state.value,
            "reason": self.reason,
            "at": self.at,
        }


class BadOrder(Refused):
    """An order that is not carried out; `order_id` and `kind` are empty if unreadable."""

    def __init__(self, message: str, order_id: str, kind: str) -> None:
        super().__init__(message[:REASON_CHARACTERS_MAX])
        self.order_id = order_id
        self.kind = kind


def order_id_of(raw: object) -> str | None:
    """Return the id of what may be an order, or None if it has no valid one."""
    found = raw.get("id") if isinstance(raw, dict) else None
    return found if isinstance(found, str) and _ID.match(found) else None


def read_order(raw: object, host_id: Mapping[str, str | None], now: float) -> ControllerOrder:
    """Return the order that a controller sent for this host; `now` is in seconds since the epoch.

    Raises: BadOrder.
    """
    order_id, kind_name = order_id_of(raw) or "", ""

    def refusal(why: str) -> BadOrder:
        return BadOrder(why, order_id, kind_name)

    if not isinstance(raw, dict):
        raise refusal(f"an order is a JSON object, not {_shown(raw)}")
    if not order_id:
        raise refusal(f"id is 1 to 128 letters, digits and . _ : -, not {_shown(raw.get('id'))}")
    name = raw.get("kind")
    kind_name = name[:64] if isinstance(name, str) else ""
    kinds = {kind.value: kind for kind in OrderKind}
    if kind_name not in kinds:
        raise refusal(f"there is no order {kind_name!r}; there are {', '.join(kinds)}")
    if unknown := sorted(map(str, raw.keys() - _KEYS)):
        raise refusal(f"an order has no key {unknown[0][:32]!r}")
    kind = kinds[kind_name]
    why = _reason_other_host(raw.get("host_id"), host_id) or _reason_wrong_time(
        raw.get("expires_at"), now
    )
    if why is not None:
        raise refusal(why)
    expires_at = float(raw["expires_at"])
    seconds = raw.get("seconds")
    if kind is OrderKind.LENGTHEN_WATCHDOG:
        if not _is_number(seconds) or not 0 < seconds <= SECONDS_MAX:
            raise refusal(f"seconds is the watchdog's time-out, up to {SECONDS_MAX:g} s")
        return ControllerOrder(order_id, kind, expires_at, float(seconds))
    if kind is OrderKind.PARK and seconds is not None:
        if not _is_number(seconds) or not PARK_S_MIN <= seconds <= PARK_S_MAX:
            raise refusal(f"seconds is how long to park, {PARK_S_MIN:g} to {PARK_S_MAX:g} s")
        return ControllerOrder(order_id, kind, expires_at, float(seconds))
    if seconds is not None:
        raise refusal(f"seconds has no meaning for {kind_name}")
    return ControllerOrder(order_id, kind, expires_at)


def reason_forbidden(
    order: ControllerOrder, allowed: tuple[str, ...], why_not: str | None
) -> str | None:
    """Return why an order is forbidden on this host, or None if it is allowed.

    `why_not` is the reason why nothing may be changed here at all, or None.
    """
    if order.kind.value not in allowed:
        return f"{order.kind.value} is not in this host's controller.orders_allowed"
    if why_not is not None:
        return f"nothing is changed on this host: {why_not}"
    return None


def _reason_other_host(given: object, ours: Mapping[str, str | None]) -> str | None:
    """Return why an order is for another host, or None if it is for this one."""
    if not isinstance(given, dict) or not given:
        return "host_id is missing: send back the object of the report"
    for key, value in given.items():
        if key not in _HOST_KEYS:
            return f"a host_id has no key {str(key)[:32]!r}"
        if value is not None and value != ours.get(key):
            return f"it is for another host or boot: {key} is {str(value)[:64]!r}"
    if not any(given.get(key) for key in _PROOFS):
        return f"host_id has neither {' nor '.join(_PROOFS)}: it may be another host's"
    return None


def _reason_wrong_time(expires_at: Any, now: float) -> str | None:  # noqa: ANN401 - JSON
    """Return why an order has expired or is valid for too long, or None if it is in time."""
    if not _is_number(expires_at):
        return "expires_at is missing: give seconds since the epoch"
    if expires_at <= now:
        return f"it expired {now - expires_at:.0f} s ago, by this host's clock"
    if expires_at > now + LIFE_S_MAX:
        return f"it is valid for more than {LIFE_S_MAX:.0f} s, by this host's clock"
    return None


def _shown(raw: object) -> str:
    """Return a short excerpt by which a person finds the value; nested values are not shown."""
    if isinstance(raw, str):
        return repr(raw[:SHOWN_CHARACTERS_MAX])
    kinds = {dict: "an object", list: "a list", type(None): "nothing"}
    return kinds.get(type(raw)) or str(raw)[:SHOWN_CHARACTERS_MAX]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
