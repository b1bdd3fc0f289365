"""Orders from the reply that brought them to the report that acknowledges them.

They are carried out one after the other, by a thread of their own and through the driver's socket,
so that a BMC that is slow to obey holds up no report.
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
    why_forbidden,
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
"""That wait for a report, more than orders fit into one reply; the oldest goes first."""
ACKNOWLEDGEMENTS_A_REPORT = 128
LINES_A_REPLY = 16
"""Of the log, for refused orders; what is beyond is counted."""
SETTLE_S_MAX = 60.0
"""So long an order to the driver is waited for until all is as it was ordered."""
SETTLE_POLL_S = 0.5
COLD_RESET_APART_S = 3600.0
"""Between two cold resets of one BMC from here, whatever is ordered."""

_WATCHDOG = {
    OrderKind.LENGTHEN_WATCHDOG: WatchdogAction.LENGTHEN,
    OrderKind.DISARM_WATCHDOG: WatchdogAction.DISARM,
    OrderKind.RESUME: WatchdogAction.RESUME,
}


class OrderedDriver(Protocol):
    """What orders need of the driver's socket."""

    def watchdog(self, action: WatchdogAction, seconds: float | None = None) -> dict[str, Any]:
        """Give the watchdog an order, or ask how it stands."""

    def status(self) -> dict[str, Any]:
        """How the driver is; `watchdog` is null where that is off."""

    def park(self, seconds: float) -> object:
        """Let the interface go."""

    def resume(self) -> None:
        """Use the interface again."""

    def exchange(self, request: ColdResetReq) -> object:
        """Send the cold reset."""

    def close(self) -> None:
        """Hang up."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is allowed here, and for whom orders must be."""

    allowed: Callable[[], tuple[str, ...]]
    why_not: Callable[[], str | None]
    host_id: Callable[[], Mapping[str, str | None]]
    epoch_s: Callable[[], float]


class OrderQueue:
    """Takes orders, carries them out, and says what became of them."""

    def __init__(
        self,
        folder: Path,
        rules: Rules,
        driver: Callable[[], OrderedDriver],
        log: AgentLog,
        runtime: Runtime,
        news: Callable[[], None],
    ) -> None:
        """`driver` makes a client for one order; `news`: there is something to report at once."""
        self._folder = folder
        self._rules = rules
        self._driver = driver
        self._log = log
        self._runtime = runtime
        self._news = news
        self._wakeup = runtime.signal()
        self._stopping = False
        self._lock = threading.Lock()
        self._waiting: deque[ControllerOrder] = deque()
        self._reported: OrderedDict[str, Acknowledgement] = OrderedDict()
        self._memory: OrderStore | None = None
        self.states: Counter[str] = Counter(
            {state.value: 0 for state in OrderState if state.is_final}
        )
        """What became of orders since the start."""
        with self._lock:
            try:
                for each in self._remembered().interrupted():
                    self._acknowledge(each)
            except StoreError as error:
                log.event(WARNING, "orders", f"no order can be carried out: {error}")

    def _remembered(self) -> OrderStore:
        """The memory, read when it can be; raises StoreError."""
        if self._memory is None:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{self._folder} cannot be made: {error.strerror}") from None
            self._memory = OrderStore(self._folder)
        return self._memory

    # -------------------------------------------------------------------------- the report's side

    def take(self, raw_orders: list[Any]) -> None:
        """What a reply brought."""
        with self._lock:
            refused = [each for raw in raw_orders if (each := self._take(raw)) is not None]
            for each in refused:
                self._acknowledge(each)
                self.states[each.state.value] += 1
            for each in refused[:LINES_A_REPLY]:
                self._tell(each)
            if len(refused) > LINES_A_REPLY:
                self._log.event(
                    WARNING,
                    "orders",
                    f"{len(refused) - LINES_A_REPLY} more orders of one reply were refused:"
                    f" {refused[-1].reason}",
                    id=refused[-1].order_id,
                )
            self._sum_up_nameless([each for each in refused if not each.order_id])
        self._wakeup.set()

    def _sum_up_nameless(self, refused: list[Acknowledgement]) -> None:
        """Those without a usable id share one acknowledgement, which says how many they are."""
        if len(refused) > 1:
            reason = f"{refused[0].reason} ({len(refused)} of one reply have no usable id)"
            self._acknowledge(replace(refused[0], reason=reason))

    def _take(self, raw: object) -> Acknowledgement | None:
        """Let it wait for its turn, or say why it is refused."""
        order_id = order_id_of(raw)
        if order_id is not None and self._is_known(order_id):
            return None
        now = self._rules.epoch_s()
        try:
            order = read_order(raw, self._rules.host_id(), now)
            forbidden = why_forbidden(order, self._rules.allowed(), self._rules.why_not())
            if forbidden is not None:
                raise BadOrder(forbidden, order.order_id, order.kind.value)
            if len(self._waiting) >= ORDERS_MAX:
                raise BadOrder("too many orders wait here", order.order_id, order.kind.value)
        except BadOrder as error:
            return Acknowledgement(error.order_id, error.kind, OrderState.REFUSED, str(error), now)
        self._waiting.append(order)
        return None

    def _is_known(self, order_id: str) -> bool:
        """Whether it was sent before; then it is only acknowledged again."""
        if any(each.order_id == order_id for each in self._waiting):
            return True
        try:
            known = self._remembered().get(order_id)
        except StoreError:
            return False  # it cannot be begun, either
        if known is not None:
            self._acknowledge(known)
        return known is not None

    def acknowledgements(self) -> list[Acknowledgement]:
        """What the next report says of orders; the others are told by those after it."""
        with self._lock:
            # What was done here goes before a flood of what was not.
            told = sorted(
                self._reported.values(), key=lambda each: each.state is OrderState.REFUSED
            )
            return told[:ACKNOWLEDGEMENTS_A_REPORT]

    def delivered(self, told: list[Acknowledgement]) -> None:
        """A report with these has arrived: what is final need not be said again."""
        with self._lock:
            for each in told:
                if each.state.is_final and self._reported.get(each.order_id) == each:
                    del self._reported[each.order_id]

    def _acknowledge(self, acknowledgement: Acknowledgement) -> None:
        self._reported[acknowledgement.order_id] = acknowledgement
        self._reported.move_to_end(acknowledgement.order_id)
        while len(self._reported) > ACKNOWLEDGEMENTS_MAX:
            self._reported.popitem(last=False)

    def _settle(self, acknowledgement: Acknowledgement) -> None:
        """Report it, log it, count it."""
        self._acknowledge(acknowledgement)
        self.states[acknowledgement.state.value] += 1
        self._tell(acknowledgement)

    def _tell(self, acknowledgement: Acknowledgement) -> None:
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
        """Carry out what was taken, until `stop`."""
        while not self._stopping:
            self._wakeup.wait()
            while self.carry_out_next():
                pass

    def stop(self) -> None:
        """Begin no more; what is under way is recorded as it is found at the next start."""
        self._stopping = True
        self._wakeup.set()

    def carry_out_next(self) -> bool:
        """Carry out the order that has waited longest; False when none waits."""
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
        self._news()
        return True

    def _begin(self, order: ControllerOrder) -> bool:
        """Whether it is to be carried out; it is noted on the disk then."""
        now = self._rules.epoch_s()
        why = why_forbidden(order, self._rules.allowed(), self._rules.why_not())
        if order.expires_at <= now:
            why = "it expired while it waited here"
        if why is None:
            try:
                why = self._why_not_again(order.kind, now)
                if why is None:
                    self._remembered().begin(order, now)
            except StoreError as error:
                why = f"that it was begun cannot be remembered: {error}"
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

    def _why_not_again(self, kind: OrderKind, now: float) -> str | None:
        """Why it is too soon for the next of its kind; raises StoreError."""
        last = self._remembered().last_at(kind.value)
        if kind is OrderKind.COLD_RESET and last is not None and now < last + COLD_RESET_APART_S:
            return (
                f"this BMC was sent a cold reset {now - last:.0f} s ago; there are at least"
                f" {COLD_RESET_APART_S:.0f} s between two"
            )
        return None

    def _end(self, order: ControllerOrder, state: OrderState, reason: str | None) -> None:
        if reason is not None:
            reason = reason[:REASON_CHARACTERS_MAX]
        ended = Acknowledgement(
            order.order_id, order.kind.value, state, reason, self._rules.epoch_s()
        )
        try:
            self._remembered().end(ended)
        except StoreError as error:
            # It stands there as begun, so it will not be carried out again.
            ended = replace(ended, reason=f"{reason or 'done'}; not kept on the disk: {error}")
        self._settle(ended)

    def _carry_out(self, order: ControllerOrder) -> tuple[OrderState, str | None]:
        driver = self._driver()
        try:
            if order.kind is OrderKind.COLD_RESET:
                driver.exchange(ColdResetReq())
                return OrderState.DONE, "the BMC took it; whether it restarts shows in its answers"
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
        return self._settled(lambda: _is_as_ordered(order, driver.watchdog(WatchdogAction.GET)))

    def _park(self, order: ControllerOrder, driver: OrderedDriver) -> tuple[OrderState, str | None]:
        driver.park(PARK_S_DEFAULT if order.seconds is None else order.seconds)

        def is_let_go() -> bool:
            parked = (driver.status().get("driver") or {}).get("parked")
            return bool(parked and parked.get("closed"))

        return self._settled(is_let_go)

    def _settled(self, is_so: Callable[[], bool]) -> tuple[OrderState, str | None]:
        """Wait until the driver has carried it out, which may take it an exchange or two."""
        until = self._runtime.monotonic() + SETTLE_S_MAX
        while not self._stopping:
            if is_so():
                return OrderState.DONE, None
            if self._runtime.monotonic() >= until:
                break
            self._runtime.sleep(SETTLE_POLL_S)
        why = f"the driver took it and goes on trying; after {SETTLE_S_MAX:g} s it was not settled"
        return OrderState.UNKNOWN, why


def _is_as_ordered(order: ControllerOrder, watchdog: dict[str, Any]) -> bool:
    if not watchdog.get("settled"):
        return False
    if order.kind is OrderKind.LENGTHEN_WATCHDOG:
        return watchdog.get("timeout_s") == order.seconds
    return watchdog.get("in_charge") is (order.kind is OrderKind.RESUME)
