"""The order store: the orders that were started here, on disk, so that none is carried out twice.

An order is written before it is started. If the agent finds an order at its start that did not end,
that order may have been carried out, and is never tried again.
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
"""Largest file that is read, in bytes."""
ORDERS_MAX = 512
"""Orders in the store."""
RETENTION_S = 7 * 86_400.0
"""How long an order is stored after its expiry if there is room, in seconds."""
INTERRUPTED = "the agent ended during the order, which may have been carried out"


class OrderStore:
    """The stored orders of one host; one thread at a time may use it."""

    def __init__(self, folder: Path) -> None:
        """Raises: StoreError if the file cannot be read; no order may be started then."""
        self._path = folder / FILE
        self._known: dict[str, tuple[Acknowledgement, float]] = {}
        for order_id, entry in self._entries():
            try:
                self._known[order_id] = _read(order_id, entry)
            except (KeyError, TypeError, ValueError):
                raise StoreError(f"{self._path} was not written by this program") from None

    def _entries(self) -> list[tuple[str, Any]]:
        found = read_json(self._path, FILE_BYTES_MAX)
        if found is None:
            return []
        orders = found.get("orders")
        if not isinstance(orders, dict):
            raise StoreError(f"{self._path} was not written by this program")
        return list(orders.items())

    def get(self, order_id: str) -> Acknowledgement | None:
        """Return the acknowledgement of an order that was started here, or None."""
        known = self._known.get(order_id)
        return None if known is None else known[0]

    def last_at(self, kind: str) -> float | None:
        """Return when an order of this kind was last carried out, or may have been.

        Units: seconds since the epoch.
        """
        undone = (OrderState.FAILED, OrderState.REFUSED)
        times = [
            known.at
            for known, _ in self._known.values()
            if known.kind == kind and known.at is not None and known.state not in undone
        ]
        return max(times, default=None)

    def interrupted(self) -> list[Acknowledgement]:
        """Mark orders that a former agent left unfinished as unknown, and return them."""
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
        """Store an order that is about to be carried out.

        Raises: StoreError, and then the order must not be carried out.
        """
        stored = {
            order_id: entry
            for order_id, entry in self._known.items()
            if now < entry[1] + RETENTION_S
        }
        if len(stored) >= ORDERS_MAX:  # drop the oldest of those that have expired
            expired = sorted(
                (entry[1], order_id) for order_id, entry in stored.items() if entry[1] <= now
            )
            if not expired:
                raise StoreError(f"the store is full: {ORDERS_MAX} orders in it have not expired")
            del stored[expired[0][1]]
        begun = Acknowledgement(order.order_id, order.kind.value, OrderState.STARTED, None, now)
        stored[order.order_id] = (begun, order.expires_at)
        self._write(stored)
        self._known = stored

    def end(self, acknowledgement: Acknowledgement) -> None:
        """Store how an order ended. Raises: StoreError; the result is then known in memory only."""
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
