"""Which orders were begun here: kept on the disk, so that none is ever carried out twice.

It is written before an order is begun. What is found begun and not ended at a start may have been
carried out, and is never tried again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bmcmedic.agent.controller.orders import (
    REASON_CHARACTERS_MAX,
    Acknowledgement,
    ControllerOrder,
    OrderState,
)
from bmcmedic.agent.small_file import read_json, write_json
from bmcmedic.errors import StoreError

FILE = "orders.json"
FILE_BYTES_MAX = 1 << 20
REMEMBERED_MAX = 512
KEPT_S = 7 * 86_400.0
"""How long after its expiry an order is remembered, where there is room."""
INTERRUPTED = "the agent ended while it was carried out: it may have been"


class OrderStore:
    """The orders of one host; not for two threads at once."""

    def __init__(self, folder: Path) -> None:
        """Raises: StoreError when what is there cannot be read: no order may be begun then."""
        self._path = folder / FILE
        self._known: dict[str, tuple[Acknowledgement, float]] = {}
        for order_id, entry in self._entries():
            try:
                self._known[order_id] = _read(order_id, entry)
            except (KeyError, TypeError, ValueError):
                raise StoreError(f"{self._path} is not what this program writes") from None

    def _entries(self) -> list[tuple[str, Any]]:
        found = read_json(self._path, FILE_BYTES_MAX)
        if found is None:
            return []
        orders = found.get("orders")
        if not isinstance(orders, dict):
            raise StoreError(f"{self._path} is not what this program writes")
        return list(orders.items())

    def get(self, order_id: str) -> Acknowledgement | None:
        """What became of an order that was begun here."""
        known = self._known.get(order_id)
        return None if known is None else known[0]

    def last_at(self, kind: str) -> float | None:
        """When an order of this kind was last carried out, or may have been; epoch seconds."""
        undone = (OrderState.FAILED, OrderState.REFUSED)
        times = [
            known.at
            for known, _ in self._known.values()
            if known.kind == kind and known.at is not None and known.state not in undone
        ]
        return max(times, default=None)

    def interrupted(self) -> list[Acknowledgement]:
        """Those that were begun by an agent that is gone; from now on they count as unknown."""
        found = []
        for order_id, (known, expires_at) in list(self._known.items()):
            if not known.state.is_final:
                ended = Acknowledgement(
                    order_id, known.kind, OrderState.UNKNOWN, INTERRUPTED, known.at
                )
                self._known[order_id] = (ended, expires_at)
                found.append(ended)
        return found

    def begin(self, order: ControllerOrder, now: float) -> None:
        """Note that it is about to be carried out. Raises: StoreError, and it must not be."""
        kept = {
            order_id: entry for order_id, entry in self._known.items() if now < entry[1] + KEPT_S
        }
        if len(kept) >= REMEMBERED_MAX:  # the oldest of those that nobody can send again
            expired = sorted(
                (entry[1], order_id) for order_id, entry in kept.items() if entry[1] <= now
            )
            if not expired:
                raise StoreError(
                    f"{REMEMBERED_MAX} orders are remembered that may still come again"
                )
            del kept[expired[0][1]]
        begun = Acknowledgement(order.order_id, order.kind.value, OrderState.STARTED, None, now)
        kept[order.order_id] = (begun, order.expires_at)
        self._write(kept)
        self._known = kept

    def end(self, acknowledgement: Acknowledgement) -> None:
        """Note what became of it. Raises: StoreError; it is known until the agent ends, then."""
        _, expires_at = self._known[acknowledgement.order_id]
        self._known[acknowledgement.order_id] = (acknowledgement, expires_at)
        self._write(self._known)

    def _write(self, known: dict[str, tuple[Acknowledgement, float]]) -> None:
        orders = {
            order_id: {**each.to_json(), "expires_at": expires_at}
            for order_id, (each, expires_at) in known.items()
        }
        write_json(self._path, {"version": 1, "orders": orders})


def _read(order_id: str, entry: dict[str, Any]) -> tuple[Acknowledgement, float]:
    reason = entry["reason"]
    acknowledgement = Acknowledgement(
        order_id,
        str(entry["kind"]),
        OrderState(entry["state"]),
        None if reason is None else str(reason)[:REASON_CHARACTERS_MAX],
        None if entry["at"] is None else float(entry["at"]),
    )
    return acknowledgement, float(entry["expires_at"])
