"""What a controller may order, and whether it is carried out here. Pure: the time comes in.

An order is carried out only if it is whole, for this very host and boot, in time, and allowed. In
doubt it is refused, and the next report says why.
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
"""That wait here at once; what is beyond is refused."""
LIFE_S_MAX = 3600.0
"""An order that would be good for longer is none that somebody wants now."""
REASON_CHARACTERS_MAX = 500
SHOWN_CHARACTERS_MAX = 64
"""Of what stands in the place of an order or its id, in the reason why it is none."""

_ID = re.compile(r"[\w.:-]{1,128}\Z", re.ASCII)
_KEYS = frozenset({"id", "kind", "host_id", "expires_at", "seconds"})
_HOST_KEYS = ("hostname", "product_uuid", "bmc_guid", "boot_id")
_PROOFS = ("product_uuid", "boot_id")
"""A host name may be another's too: one of these must be given."""


class OrderState(Enum):
    """What became of an order."""

    STARTED = "started"
    """It is being carried out."""
    DONE = "done"
    FAILED = "failed"
    """It was not carried out, and has changed nothing."""
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """It may have been carried out; it is not tried again."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more is to come."""
        return self is not OrderState.STARTED


@dataclass(frozen=True, slots=True)
class ControllerOrder:
    """One order."""

    order_id: str
    kind: OrderKind
    expires_at: float
    """Epoch seconds."""
    seconds: float | None = None
    """For `lengthen-watchdog` how long the time-out is to be, for `park` how long it lasts."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What the report says of an order."""

    order_id: str
    kind: str
    state: OrderState
    reason: str | None = None
    at: float | None = None
    """Epoch seconds."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in a report."""
        return {
            "id": self.order_id,
            "kind": self.kind,
            "state": self.state.value,
            "reason": self.reason,
            "at": self.at,
        }


class BadOrder(Refused):
    """No order that can be carried out; `order_id` and `kind` are what could be read of it."""

    def __init__(self, message: str, order_id: str, kind: str) -> None:
        super().__init__(message[:REASON_CHARACTERS_MAX])
        self.order_id = order_id
        self.kind = kind


def order_id_of(raw: object) -> str | None:
    """The id of what may be an order."""
    found = raw.get("id") if isinstance(raw, dict) else None
    return found if isinstance(found, str) and _ID.match(found) else None


def read_order(raw: object, host_id: Mapping[str, str | None], now: float) -> ControllerOrder:
    """The order that a controller sent for this host; `now` in epoch seconds.

    Raises: BadOrder.
    """
    order_id, kind_name = order_id_of(raw) or "", ""

    def no(why: str) -> BadOrder:
        return BadOrder(why, order_id, kind_name)

    if not isinstance(raw, dict):
        raise no(f"an order is a JSON object, not {_shown(raw)}")
    if not order_id:
        raise no(f"id is 1 to 128 letters, digits and . _ : -, not {_shown(raw.get('id'))}")
    name = raw.get("kind")
    kind_name = name[:64] if isinstance(name, str) else ""
    kinds = {kind.value: kind for kind in OrderKind}
    if kind_name not in kinds:
        raise no(f"there is no order {kind_name!r}; there are {', '.join(kinds)}")
    if unknown := sorted(map(str, raw.keys() - _KEYS)):
        raise no(f"there is no key {unknown[0][:32]!r} in an order")
    kind = kinds[kind_name]
    why = _not_ours(raw.get("host_id"), host_id) or _not_now(raw.get("expires_at"), now)
    if why is not None:
        raise no(why)
    expires_at = float(raw["expires_at"])
    seconds = raw.get("seconds")
    if kind is OrderKind.LENGTHEN_WATCHDOG:
        if not _is_number(seconds) or not 0 < seconds <= SECONDS_MAX:
            raise no(f"seconds is the watchdog's time-out, up to {SECONDS_MAX:g} s")
        return ControllerOrder(order_id, kind, expires_at, float(seconds))
    if kind is OrderKind.PARK and seconds is not None:
        if not _is_number(seconds) or not PARK_S_MIN <= seconds <= PARK_S_MAX:
            raise no(f"seconds is how long to park, {PARK_S_MIN:g} to {PARK_S_MAX:g} s")
        return ControllerOrder(order_id, kind, expires_at, float(seconds))
    if seconds is not None:
        raise no(f"seconds has no meaning for {kind_name}")
    return ControllerOrder(order_id, kind, expires_at)


def why_forbidden(
    order: ControllerOrder, allowed: tuple[str, ...], why_not: str | None
) -> str | None:
    """Why an order is not carried out on this host; None: it is.

    `why_not`: why nothing may be changed here at all.
    """
    if order.kind.value not in allowed:
        return f"{order.kind.value} is not in this host's controller.orders_allowed"
    if why_not is not None:
        return f"nothing is changed on this host: {why_not}"
    return None


def _not_ours(given: object, ours: Mapping[str, str | None]) -> str | None:
    """Why an order is for another host; None: it is for this one."""
    if not isinstance(given, dict) or not given:
        return "host_id is missing: the object that stands in the report"
    for key, value in given.items():
        if key not in _HOST_KEYS:
            return f"there is no {str(key)[:32]!r} in a host_id"
        if value is not None and value != ours.get(key):
            return f"it is for another host or boot: {key} is {str(value)[:64]!r}"
    if not any(given.get(key) for key in _PROOFS):
        return f"host_id has neither {' nor '.join(_PROOFS)}: it may be another host's"
    return None


def _not_now(expires_at: Any, now: float) -> str | None:  # noqa: ANN401 - JSON
    """Why an order is not for this hour; None: it is."""
    if not _is_number(expires_at):
        return "expires_at is missing: epoch seconds"
    if expires_at <= now:
        return f"it expired {now - expires_at:.0f} s ago, by this host's clock"
    if expires_at > now + LIFE_S_MAX:
        return f"it would be good for more than {LIFE_S_MAX:.0f} s, by this host's clock"
    return None


def _shown(raw: object) -> str:
    """Enough of it for a person to find it; what is nested is not looked into."""
    if isinstance(raw, str):
        return repr(raw[:SHOWN_CHARACTERS_MAX])
    kinds = {dict: "an object", list: "a list", type(None): "nothing"}
    return kinds.get(type(raw)) or str(raw)[:SHOWN_CHARACTERS_MAX]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
