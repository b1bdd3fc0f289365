"""The order queue: it takes orders from replies, carries them out, and acknowledges them.

A thread of its own carries the orders out one after the other, through the driver's socket. So a
slow BMC delays no report.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from bmcmedic.agent.config import OrderKind
from bmcmedic.agent.controller.order_store import OrderStore
from bmcmedic.agent.controller.orders import (
    ORDERS_MAX,
    REASON_CHARACTERS_MAX,
    Acknowledgement,
    BadOrder,
    ControllerOrder,
    OrderState,
    order_id_of,
    read_order,
    reason_forbidden,
)
from bmcmedic.agent.log import AgentLog
from bmcmedic.driver.parking import PARK_S_DEFAULT
from bmcmedic.driver.socket.errors import DriverGone, DriverUnavailable
from bmcmedic.driver.socket.protocol import WatchdogAction
from bmcmedic.errors import BmcmedicError, RemoteProtocolError, StoreError, TransportError
from bmcmedic.ipmi.commands.device import ColdResetReq
from bmcmedic.service.log import WARNING
from bmcmedic.service.runtime import Runtime
from bmcmedic.transport.in_band import InterfaceBusy, Interrupted

ACKNOWLEDGEMENTS_MAX = 8192
"""Acknowledgements that wait for a report; the oldest is dropped first.

The limit is above the number of orders that fit into one reply.
"""
ACKNOWLEDGEMENTS_A_REPORT = 128
"""Acknowledgements in one report; the others wait for the next."""
LINES_A_REPLY = 16
"""Log lines for the refused orders of one reply; further ones are only counted."""
SETTLE_S_MAX = 60.0
"""Longest wait for the driver to complete an order, in seconds."""
SETTLE_POLL_S = 0.5
"""Period in which the driver is asked meanwhile, in seconds."""
COLD_RESET_APART_S = 3600.0
"""Shortest time between two cold resets of the BMC by orders, in seconds."""

_WATCHDOG = {
    OrderKind.LENGTHEN_WATCHDOG: WatchdogAction.LENGTHEN,
    OrderKind.DISARM_WATCHDOG: WatchdogAction.DISARM,
    OrderKind.RESUME: WatchdogAction.RESUME,
}


class OrderedDriver(Protocol):
    """The client of the driver's socket, as orders need it."""

    def watchdog(self, action: WatchdogAction, seconds: float | None = None) -> dict[str, Any]:
        """Send an action to the watchdog, and return its status."""

    def status(self) -> dict[str, Any]:
        """Return the status of the driver; its `watchdog` is null if the watchdog is off."""

    def park(self, seconds: float) -> object:
        """Make the driver release the interface."""

    def resume(self) -> None:
        """Make the driver use the interface again."""

    def exchange(self, request: ColdResetReq) -> object:
        """Send the cold reset."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules for orders on this host, and the host that an order must name."""

    allowed: Callable[[], tuple[str, ...]]
    why_not: Callable[[], str | None]
    host_id: Callable[[], Mapping[str, str | None]]
    epoch_s: Callable[[], float]


class OrderQueue:
    """Takes orders, carries them out, and acknowledges them."""

    def __init__(
        self,
        folder: Path,
        rules: Rules,
        driver: Callable[[], OrderedDriver],
        log: AgentLog,
        runtime: Runtime,
        report_soon: Callable[[], None],
    ) -> None:
        """`driver` makes a client for one order; `report_soon` asks for a report at once."""
        self._folder = folder
        self._rules = rules
        self._driver = driver
        self._log = log
        self._runtime = runtime
        self._report_soon = report_soon
        self._wakeup = runtime.signal()
        self._stopping = False
        self._lock = threading.Lock()
        self._waiting: deque[ControllerOrder] = deque()
        self._acknowledgements: OrderedDict[str, Acknowledgement] = OrderedDict()
        self._store: OrderStore | None = None
        self.states: Counter[str] = Counter(
            {state.value: 0 for state in OrderState if state.is_final}
        )
        """Number of orders since the start, by their final state."""
        with self._lock:
            try:
                for each in self._open_store().interrupted():
                    self._acknowledge(each)
            except StoreError as error:
                log.event(WARNING, "orders", f"no order can be carried out: {error}")

    def _open_store(self) -> OrderStore:
        """Return the store, and read it at the first success. Raises: StoreError."""
        if self._store is None:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"cannot make {self._folder}: {error.strerror}") from None
            self._store = OrderStore(self._folder)
        return self._store

    # -------------------------------------------------------------------------- the report's side

    def take(self, raw_orders: list[Any]) -> None:
        """Take the orders of a reply."""
        with self._lock:
            refused = [each for raw in raw_orders if (each := self._take_one(raw)) is not None]
            for each in refused:
                self._acknowledge(each)
                self.states[each.state.value] += 1
            for each in refused[:LINES_A_REPLY]:
                self._log_state(each)
            if len(refused) > LINES_A_REPLY:
                self._log.event(
                    WARNING,
                    "orders",
                    f"{len(refused) - LINES_A_REPLY} more orders of one reply were refused:"
                    f" {refused[-1].reason}",
                    id=refused[-1].order_id,
                )
            self._acknowledge_without_id([each for each in refused if not each.order_id])
        self._wakeup.set()

    def _acknowledge_without_id(self, refused: list[Acknowledgement]) -> None:
        """Acknowledge refused orders without a usable id together, with their number."""
        if len(refused) > 1:
            reason = f"{refused[0].reason} ({len(refused)} of one reply have no usable id)"
            self._acknowledge(replace(refused[0], reason=reason))

    def _take_one(self, raw: object) -> Acknowledgement | None:
        """Queue an order, or return its refusal. None also if the order is known already."""
        order_id = order_id_of(raw)
        if order_id is not None and self._is_known(order_id):
            return None
        now = self._rules.epoch_s()
        try:
            order = read_order(raw, self._rules.host_id(), now)
            forbidden = reason_forbidden(order, self._rules.allowed(), self._rules.why_not())
            if forbidden is not None:
                raise BadOrder(forbidden, order.order_id, order.kind.value)
            if len(self._waiting) >= ORDERS_MAX:
                raise BadOrder(
                    "too many orders are waiting on this host", order.order_id, order.kind.value
                )
        except BadOrder as error:
            return Acknowledgement(error.order_id, error.kind, OrderState.REFUSED, str(error), now)
        self._waiting.append(order)
        return None

    def _is_known(self, order_id: str) -> bool:
        """Return whether an order was sent before; then it is only acknowledged again."""
        if any(each.order_id == order_id for each in self._waiting):
            return True
        try:
            known = self._open_store().get(order_id)
        except StoreError:
            return False  # without the store it will not be started, either
        if known is not None:
            self._acknowledge(known)
        return known is not None

    def acknowledgements(self) -> list[Acknowledgement]:
        """Return the acknowledgements for the next report; later reports have the others."""
        with self._lock:
            # Orders that were carried out come before a flood of refused ones.
            reported = sorted(
                self._acknowledgements.values(), key=lambda each: each.state is OrderState.REFUSED
            )
            return reported[:ACKNOWLEDGEMENTS_A_REPORT]

    def delivered(self, reported: list[Acknowledgement]) -> None:
        """Forget final acknowledgements that a report has delivered."""
        with self._lock:
            for each in reported:
                if each.state.is_final and self._acknowledgements.get(each.order_id) == each:
                    del self._acknowledgements[each.order_id]

    def _acknowledge(self, acknowledgement: Acknowledgement) -> None:
        self._acknowledgements[acknowledgement.order_id] = acknowledgement
        self._acknowledgements.move_to_end(acknowledgement.order_id)
        while len(self._acknowledgements) > ACKNOWLEDGEMENTS_MAX:
            self._acknowledgements.popitem(last=False)

    def _settle(self, acknowledgement: Acknowledgement) -> None:
        """Acknowledge, count and log a final state."""
        self._acknowledge(acknowledgement)
        self.states[acknowledgement.state.value] += 1
        self._log_state(acknowledgement)

    def _log_state(self, acknowledgement: Acknowledgement) -> None:
        self._log.event(
            WARNING,
            "order",
            f"order {acknowledgement.kind or 'of no kind'}: {acknowledgement.state.value}"
            + (f": {acknowledgement.reason}" if acknowledgement.reason else ""),
            id=acknowledgement.order_id,
            state=acknowledgement.state.value,
        )

    # ------------------------------------------------------------------------------ the own thread

    def run(self) -> None:
        """Carry out queued orders until `stop`."""
        while not self._stopping:
            self._wakeup.wait()
            while self.carry_out_next():
                pass

    def stop(self) -> None:
        """Start no further order; one under way is settled at the next start of the agent."""
        self._stopping = True
        self._wakeup.set()

    def carry_out_next(self) -> bool:
        """Carry out the oldest order, and return False if none waits."""
        with self._lock:
            if self._stopping or not self._waiting:
                return False
            order = self._waiting[0]
            begun = self._begin(order)
            self._waiting.popleft()
        if begun:
            state, reason = self._carry_out(order)
            with self._lock:
                self._end(order, state, reason)
        self._report_soon()
        return True

    def _begin(self, order: ControllerOrder) -> bool:
        """Return whether an order may be carried out; if so, it is in the store."""
        now = self._rules.epoch_s()
        why = reason_forbidden(order, self._rules.allowed(), self._rules.why_not())
        if order.expires_at <= now:
            why = "it expired while it waited in the queue"
        if why is None:
            try:
                why = self._reason_too_soon(order.kind, now)
                if why is None:
                    self._open_store().begin(order, now)
            except StoreError as error:
                why = f"the order cannot be stored: {error}"
        if why is not None:
            refused = Acknowledgement(
                order.order_id, order.kind.value, OrderState.REFUSED, why, now
            )
            self._settle(refused)
            return False
        self._acknowledge(
            Acknowledgement(order.order_id, order.kind.value, OrderState.STARTED, None, now)
        )
        return True

    def _reason_too_soon(self, kind: OrderKind, now: float) -> str | None:
        """Return why it is too soon for such an order, or None. Raises: StoreError."""
        last = self._open_store().last_at(kind.value)
        if kind is OrderKind.COLD_RESET and last is not None and now < last + COLD_RESET_APART_S:
            return (
                f"this BMC was sent a cold reset {now - last:.0f} s ago; the next may follow after"
                f" {COLD_RESET_APART_S:.0f} s"
            )
        return None

    def _end(self, order: ControllerOrder, state: OrderState, reason: str | None) -> None:
        if reason is not None:
            reason = reason[:REASON_CHARACTERS_MAX]
        ended = Acknowledgement(
            order.order_id, order.kind.value, state, reason, self._rules.epoch_s()
        )
        try:
            self._open_store().end(ended)
        except StoreError as error:
            # The store has it as started, so it will not be carried out again.
            ended = replace(ended, reason=f"{reason or 'done'}; not stored: {error}")
        self._settle(ended)

    def _carry_out(self, order: ControllerOrder) -> tuple[OrderState, str | None]:
        driver = self._driver()
        try:
            if order.kind is OrderKind.COLD_RESET:
                driver.exchange(ColdResetReq())
                return (
                    OrderState.DONE,
                    "the BMC accepted it; its answers will show whether it restarts",
                )
            if order.kind is OrderKind.PARK:
                return self._park(order, driver)
            if order.kind is OrderKind.RESUME:
                status = driver.status()
                if (status.get("driver") or {}).get("parked"):
                    driver.resume()
                    if status.get("watchdog") is None:
                        return OrderState.DONE, None
            return self._order_watchdog(order, driver)
        except (DriverGone, Interrupted) as error:
            state = OrderState.UNKNOWN if error.may_have_run else OrderState.FAILED
            return state, str(error)
        except (DriverUnavailable, InterfaceBusy) as error:
            return OrderState.FAILED, str(error)
        except (TransportError, RemoteProtocolError) as error:
            return OrderState.UNKNOWN, f"it may have been carried out: {error}"
        except BmcmedicError as error:
            return OrderState.FAILED, str(error)
        finally:
            driver.close()

    def _order_watchdog(
        self, order: ControllerOrder, driver: OrderedDriver
    ) -> tuple[OrderState, str | None]:
        driver.watchdog(_WATCHDOG[order.kind], order.seconds)
        return self._wait_until(lambda: _is_in_effect(order, driver.watchdog(WatchdogAction.GET)))

    def _park(self, order: ControllerOrder, driver: OrderedDriver) -> tuple[OrderState, str | None]:
        driver.park(PARK_S_DEFAULT if order.seconds is None else order.seconds)

        def is_released() -> bool:
            parked = (driver.status().get("driver") or {}).get("parked")
            return bool(parked and parked.get("closed"))

        return self._wait_until(is_released)

    def _wait_until(self, is_done: Callable[[], bool]) -> tuple[OrderState, str | None]:
        """Wait until the driver has completed an order, which may take an exchange or two."""
        until = self._runtime.monotonic() + SETTLE_S_MAX
        while not self._stopping:
            if is_done():
                return OrderState.DONE, None
            if self._runtime.monotonic() >= until:
                break
            self._runtime.sleep(SETTLE_POLL_S)
        why = (
            f"the driver accepted it and keeps trying; it was not complete after {SETTLE_S_MAX:g} s"
        )
        return OrderState.UNKNOWN, why


def _is_in_effect(order: ControllerOrder, watchdog: dict[str, Any]) -> bool:
    if not watchdog.get("settled"):
        return False
    if order.kind is OrderKind.LENGTHEN_WATCHDOG:
        return watchdog.get("timeout_s") == order.seconds
    return watchdog.get("in_charge") is (order.kind is OrderKind.RESUME)
