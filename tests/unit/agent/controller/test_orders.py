"""Orders: only complete, timely, allowed ones for this host are carried out, each at most once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.agent.config import OrderKind
from bmcmedic.agent.controller import order_store
from bmcmedic.agent.controller.https_link import REPLY_BYTES_MAX
from bmcmedic.agent.controller.order_queue import COLD_RESET_APART_S, OrderQueue, Rules
from bmcmedic.agent.controller.order_store import FILE, INTERRUPTED, OrderStore
from bmcmedic.agent.controller.orders import BadOrder, OrderState, read_order
from bmcmedic.agent.log import AgentLog
from bmcmedic.driver.socket.errors import DriverGone, DriverUnavailable
from bmcmedic.driver.socket.protocol import WatchdogAction
from bmcmedic.errors import (
    BmcmedicError,
    BreakerOpen,
    CompletionCodeError,
    NoAnswer,
    Refused,
    StoreError,
)
from bmcmedic.ipmi.commands.device import ColdResetReq
from bmcmedic.service.runtime import ThreadRuntime

NOW = 1_700_000_000.0
HOST: dict[str, str | None] = {
    "hostname": "node1",
    "product_uuid": "uuid-1",
    "bmc_guid": None,
    "boot_id": "boot-1",
}
ALL = tuple(kind.value for kind in OrderKind)


def order(order_id: str = "o1", kind: object = "resume", **others: object) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": order_id,
        "kind": kind,
        "host_id": {"boot_id": "boot-1", "product_uuid": "uuid-1"},
        "expires_at": NOW + 60,
        **others,
    }
    return {key: value for key, value in made.items() if value is not ...}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("resume", "an order is a JSON object"),
        (order(id=5), "id is 1 to 128"),
        (order("x" * 129), "id is 1 to 128"),
        (order("a\nb"), "id is 1 to 128"),
        (order(kind="reboot"), "there is no order 'reboot'"),
        (order(kind=...), "there is no order ''"),
        (order(force=True), "an order has no key 'force'"),
        (order(host_id=...), "host_id is missing"),
        (order(host_id={}), "host_id is missing"),
        (order(host_id="uuid-1"), "host_id is missing"),
        (order(host_id={"hostname": "node1"}), "it may be another host's"),
        (order(host_id={"boot_id": None}), "it may be another host's"),
        (order(host_id={"boot_id": "boot-2"}), "another host or boot: boot_id is 'boot-2'"),
        (order(host_id={"boot_id": "boot-1", "hostname": "node2"}), "another host or boot"),
        (order(host_id={"boot_id": "boot-1", "bmc_guid": "g"}), "another host or boot"),
        (order(host_id={"serial": "1"}), "a host_id has no key 'serial'"),
        (order(expires_at=...), "expires_at is missing"),
        (order(expires_at="soon"), "expires_at is missing"),
        (order(expires_at=True), "expires_at is missing"),
        (order(expires_at=float("nan")), "expires_at is missing"),
        (order(expires_at=10**400), "expires_at is missing"),
        (order(expires_at=NOW), "it expired 0 s ago"),
        (order(expires_at=NOW + 3601), "valid for more than 3600 s"),
        (order(seconds=5), "seconds has no meaning for resume"),
        (order(kind="park", seconds=0), "seconds is how long to park, 1 to 3600 s"),
        (order(kind="park", seconds=3601), "seconds is how long to park"),
        (order(kind="park", seconds=True), "seconds is how long to park"),
        (order(kind="lengthen-watchdog"), "seconds is the watchdog's time-out"),
        (order(kind="lengthen-watchdog", seconds=0), "seconds is the watchdog's time-out"),
        (order(kind="lengthen-watchdog", seconds=7000), "seconds is the watchdog's time-out"),
    ],
)
def test_a_bad_order_is_refused_with_its_reason(raw: object, said: str) -> None:
    with pytest.raises(BadOrder, match=said):
        read_order(raw, HOST, NOW)


def test_an_unknown_host_id_matches_no_order() -> None:
    with pytest.raises(BadOrder, match="another host or boot"):
        read_order(order(), {"boot_id": None, "product_uuid": None}, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["id", "kind", "host_id", "expires_at", "seconds"]), JSON))
def test_garbage_is_a_bad_order_and_nothing_else(raw: dict[str, Any]) -> None:
    with pytest.raises(BadOrder):
        read_order(raw, HOST, NOW)


# ------------------------------------------------------------------------------------- the queue


class FakeDriver:
    """Records its orders, and fails as the test wants."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, float | None]] = []
        self.error: BaseException | None = None
        self.settles = True
        self.timer: dict[str, Any] = {"in_charge": True, "settled": True, "timeout_s": 120.0}
        self.parked: dict[str, Any] | None = None
        self.has_watchdog = True

    def status(self) -> dict[str, Any]:
        watchdog = self.timer if self.has_watchdog else None
        return {"driver": {"parked": self.parked}, "watchdog": watchdog}

    def park(self, seconds: float) -> object:
        if self.error is not None:
            raise self.error
        self.orders.append(("park", seconds))
        self.parked = {"closed": self.settles}
        return self.parked

    def resume(self) -> None:
        self.orders.append(("resume interface", None))
        self.parked = None

    def watchdog(self, action: WatchdogAction, seconds: float | None = None) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        if action is not WatchdogAction.GET:
            self.orders.append((action.value, seconds))
            self.timer = {
                "in_charge": action is not WatchdogAction.DISARM,
                "settled": self.settles,
                "timeout_s": seconds if seconds is not None else 120.0,
            }
        return self.timer

    def exchange(self, request: ColdResetReq) -> object:
        self.orders.append((type(request).__name__, None))
        if self.error is not None:
            raise self.error
        return None

    def close(self) -> None: ...


class Time(ThreadRuntime):
    """A clock that advances only when a thread sleeps."""

    def __init__(self) -> None:
        self.now = NOW
        self.monotonic = lambda: self.now
        self.sleep = self.pass_time

    def pass_time(self, seconds: float | SupportsIndex) -> None:
        self.now += float(seconds)


class Bench:
    def __init__(self, folder: Path, *, allowed: tuple[str, ...] = ALL) -> None:
        self.driver = FakeDriver()
        self.time = Time()
        self.why_not: str | None = None
        self.news = 0
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - its descriptor is not used
            self.log = AgentLog(self.time, fd=nowhere.fileno())
        self.queue = OrderQueue(
            folder,
            Rules(
                allowed=lambda: allowed,
                why_not=lambda: self.why_not,
                host_id=lambda: HOST,
                epoch_s=lambda: self.time.now,
            ),
            lambda: self.driver,
            self.log,
            self.time,
            self._note_news,
        )

    def _note_news(self) -> None:
        self.news += 1

    def send(self, *raw: object) -> dict[str, tuple[str, str | None]]:
        """Queue orders, carry them out, and return the state of each in the next report."""
        self.queue.take(list(raw))
        while self.queue.carry_out_next():
            pass
        return self.acknowledged()

    def acknowledged(self) -> dict[str, tuple[str, str | None]]:
        return {
            each.order_id: (each.state.value, each.reason) for each in self.queue.acknowledgements()
        }


def test_each_kind_reaches_the_driver_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    acknowledged = bench.send(
        order("a", "lengthen-watchdog", seconds=3600),
        order("b", "disarm-watchdog"),
        order("c", "resume"),
        order("d", "cold-reset"),
    )
    assert [state for state, _ in acknowledged.values()] == ["done"] * 4
    assert bench.driver.orders == [
        ("lengthen", 3600.0), ("disarm", None), ("resume", None), ("ColdResetReq", None)
    ]  # fmt: skip
    assert bench.news == 4
    bench.queue.delivered(bench.queue.acknowledgements())
    assert bench.acknowledged() == {}


def test_an_order_that_comes_again_is_acknowledged_again_and_not_done_again(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    first = bench.send(order("a", "cold-reset"))
    bench.queue.delivered(bench.queue.acknowledgements())
    assert bench.send(order("a", "cold-reset")) == first
    again = Bench(tmp_path)  # after a restart
    assert again.send(order("a", "cold-reset")) == first
    assert (len(bench.driver.orders), again.driver.orders) == (1, [])


def test_the_same_order_twice_in_one_reply_is_done_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.send(order("a", "disarm-watchdog"), order("a", "disarm-watchdog"))
    assert bench.driver.orders == [("disarm", None)]


@pytest.mark.parametrize("kind", ALL)
def test_an_order_that_is_not_allowed_is_refused(tmp_path: Path, kind: str) -> None:
    seconds = {"seconds": 300} if kind == "lengthen-watchdog" else {}
    bench = Bench(tmp_path, allowed=tuple(each for each in ALL if each != kind))
    (state, reason) = bench.send(order("a", kind, **seconds))["a"]
    assert (state, bench.driver.orders) == ("refused", [])
    assert reason == f"{kind} is not in this host's controller.orders_allowed"
    assert not (tmp_path / FILE).exists()


def test_a_host_with_the_kill_switch_carries_out_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.queue.take([order("b", "cold-reset")])
    bench.why_not = "/etc/bmcmedic/disabled exists"  # it came between order and act
    acknowledged = bench.send(order("a", "cold-reset"))
    assert {state for state, _ in acknowledged.values()} == {"refused"}
    assert bench.driver.orders == []


def test_an_order_that_expires_while_it_waits_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.queue.take([order("a", "cold-reset")])
    bench.time.now += 61
    assert bench.send()["a"] == ("refused", "it expired while it waited in the queue")
    assert bench.driver.orders == []


def test_there_is_time_between_two_cold_resets_over_a_restart_too(tmp_path: Path) -> None:
    assert Bench(tmp_path).send(order("a", "cold-reset"))["a"][0] == "done"
    bench = Bench(tmp_path)
    bench.time.now += 30
    state, reason = bench.send(order("b", "cold-reset"))["b"]
    assert (state, bench.driver.orders) == ("refused", [])
    assert "was sent a cold reset 30 s ago" in str(reason)
    bench.time.now += COLD_RESET_APART_S
    later = order("c", "cold-reset", expires_at=bench.time.now + 60)
    assert bench.send(later)["c"][0] == "done"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (NoAnswer("silence"), "unknown"),
        (DriverGone("gone", may_have_run=True), "unknown"),
        (DriverGone("gone", may_have_run=False), "failed"),
        (DriverUnavailable("no driver"), "failed"),
        (BreakerOpen("open"), "failed"),
        (Refused("no"), "failed"),
        (CompletionCodeError("ColdResetReq", 0xD4, "no", is_temporary=False), "failed"),
    ],
)
def test_an_order_that_may_have_run_is_unknown_and_never_tried_again(
    tmp_path: Path, error: BmcmedicError, state: str
) -> None:
    bench = Bench(tmp_path)
    bench.driver.error = error
    acknowledged, reason = bench.send(order("a", "cold-reset"))["a"]
    assert acknowledged == state
    assert str(error) in str(reason)
    bench.driver.error = None
    bench.send(order("a", "cold-reset"))
    assert len(bench.driver.orders) == 1


def test_a_timer_that_does_not_settle_is_not_called_done(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.driver.settles = False
    state, reason = bench.send(order("a", "disarm-watchdog"))["a"]
    assert state == "unknown"
    assert "keeps trying" in str(reason)
    assert bench.time.now <= NOW + 61


def test_an_agent_that_ends_in_the_middle_leaves_it_unknown(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.driver.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bench.send(order("a", "cold-reset"))
    again = Bench(tmp_path)
    assert again.acknowledged() == {"a": ("unknown", INTERRUPTED)}
    assert again.send(order("a", "cold-reset")) == {"a": ("unknown", INTERRUPTED)}
    assert again.driver.orders == []
    state, reason = again.send(order("b", "cold-reset"))["b"]
    assert (state, "was sent a cold reset" in str(reason)) == ("refused", True)


def no_room(folder: Path) -> None:
    """Make replacing the file fail, as on a full disk."""
    (folder / f"{FILE}.new").mkdir(parents=True)


def corrupt(folder: Path) -> None:
    (folder / FILE).write_text("{]")


def no_folder(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("a file")


@pytest.mark.parametrize("break_store", [no_room, corrupt, no_folder])
def test_an_order_that_cannot_be_stored_is_not_started(
    tmp_path: Path, break_store: Callable[[Path], None]
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    break_store(folder)
    bench = Bench(folder)
    state, reason = bench.send(order("a", "cold-reset"))["a"]
    assert (state, bench.driver.orders) == ("refused", [])
    assert "cannot be stored" in str(reason)


def test_a_park_is_done_when_the_interface_is_released_and_resume_ends_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.send(order("a", "park", seconds=60), order("b", "park"))["b"] == ("done", None)
    assert bench.driver.orders == [("park", 60.0), ("park", 600.0)]
    assert bench.send(order("c", "resume"))["c"] == ("done", None)
    assert bench.driver.orders[2:] == [("resume interface", None), ("resume", None)]


def test_resume_needs_no_watchdog_where_there_was_a_park(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.driver.has_watchdog = False
    assert bench.send(order("a", "park"), order("b", "resume"))["b"] == ("done", None)
    assert bench.driver.orders == [("park", 600.0), ("resume interface", None)]


def test_a_park_that_does_not_settle_is_unknown_and_one_that_is_refused_has_failed(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.driver.error = Refused("the driver's watchdog pats through this interface")
    assert bench.send(order("a", "park"))["a"] == ("failed", str(bench.driver.error))
    bench.driver.error = None
    bench.driver.settles = False
    assert bench.send(order("b", "park"))["b"][0] == "unknown"


def test_a_flood_of_orders_is_bounded(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    acknowledged = bench.send(*[order(f"o{number}", "resume") for number in range(1000)])
    assert len(bench.driver.orders) == 16
    assert [state for state, _ in acknowledged.values()].count("done") == 16
    assert len(acknowledged) == 128
    for start in range(0, 10_000, 100):
        bench.queue.take([{"id": f"q{start + number}"} for number in range(100)])
    assert len(bench.queue.acknowledgements()) == 128
    assert len(acknowledged_by_all_reports(bench)) == 8192


def acknowledged_by_all_reports(bench: Bench) -> dict[str, tuple[str, str | None]]:
    """Return the acknowledgements of report after report, each of which arrives."""
    acknowledged: dict[str, tuple[str, str | None]] = {}
    while now := bench.acknowledged():
        acknowledged |= now
        bench.queue.delivered(bench.queue.acknowledgements())
    return acknowledged


def test_all_orders_that_fit_into_a_reply_are_acknowledged(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert dict(bench.queue.states) == {"done": 0, "failed": 0, "refused": 0, "unknown": 0}
    bench.send(*[order(f"o{number}", "resume") for number in range(40)])
    acknowledged = acknowledged_by_all_reports(bench)
    assert list(acknowledged) == [f"o{number}" for number in range(40)]
    assert [state for state, _ in acknowledged.values()] == ["done"] * 16 + ["refused"] * 24
    assert acknowledged["o39"][1] == "too many orders are waiting on this host"
    assert bench.queue.states == {"done": 16, "failed": 0, "refused": 24, "unknown": 0}


def test_as_many_as_a_reply_can_hold_are_acknowledged_over_several_reports(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    names = [f"{number:x}" for number in range(6000)]
    assert len(json.dumps({"orders": [{"id": name} for name in names]}, separators=(",", ":"))) > (
        REPLY_BYTES_MAX
    )
    bench.queue.take([{"id": name} for name in names])
    assert set(acknowledged_by_all_reports(bench)) == set(names)


def test_orders_without_a_usable_id_are_logged_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    lines: list[str] = []
    monkeypatch.setattr(bench.log, "event", lambda *given, **_: lines.append(given[2]))
    bench.queue.take(
        [order("a b\n"), order(id=7), "resume", order(id=...), order("good", "resume")]
    )
    assert [line.partition("not ")[2] for line in lines] == [
        "'a b\\n'", "7", "'resume'", "nothing"
    ]  # fmt: skip
    state, reason = bench.acknowledged()[""]
    assert (state, bench.queue.states["refused"]) == ("refused", 4)
    assert "not 'a b\\n' (4 of one reply have no usable id)" in str(reason)


def test_a_flood_of_refusals_does_not_flood_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    lines: list[str] = []
    monkeypatch.setattr(bench.log, "event", lambda *given, **_: lines.append(given[2]))
    bench.queue.take([5] * 30_000)
    assert len(lines) == 17
    assert lines[-1].startswith("29984 more orders of one reply were refused: an order is a JSON")


def test_the_store_drops_only_expired_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_store, "ORDERS_MAX", 8)
    store = OrderStore(tmp_path)
    for number in range(8):
        store.begin(read_order(order(f"o{number}"), HOST, NOW), NOW)
    with pytest.raises(StoreError, match="the store is full: 8 orders"):
        store.begin(read_order(order("more"), HOST, NOW), NOW)
    late = read_order(order("more", expires_at=NOW + 100), HOST, NOW)
    store.begin(late, NOW + 61)
    assert store.get("more") is not None
    assert len(json.loads((tmp_path / FILE).read_text())["orders"]) == 8
    assert OrderStore(tmp_path).get("o7") is not None


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"orders": []}', '{"orders": {"a": {}}}', '{"orders": {"a": 5}}', "\x00"],
)
def test_a_corrupt_store_is_not_trusted(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(StoreError, match="was not written by this program"):
        OrderStore(tmp_path)


def test_a_final_state_has_no_next_state() -> None:
    assert [state for state in OrderState if not state.is_final] == [OrderState.STARTED]
