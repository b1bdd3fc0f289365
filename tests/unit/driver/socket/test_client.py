"""The Python client against a server of ours, and against things that are none."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bmcmedic.driver.socket import client as client_module
from bmcmedic.driver.socket.client import DriverAnswer, DriverClient
from bmcmedic.driver.socket.errors import (
    Cancelled,
    DriverGone,
    DriverUnavailable,
    ErrorKind,
    NoRights,
    details_of,
    kind_of,
    message_of,
    to_error,
)
from bmcmedic.driver.socket.policy import Rights
from bmcmedic.driver.socket.protocol import WatchdogAction
from bmcmedic.errors import (
    BmcmedicError,
    BmcRefusal,
    BreakerOpen,
    CompletionCodeError,
    LocalProtocolError,
    NoAnswer,
    QueueFull,
    Refused,
    RemoteProtocolError,
    TransportError,
)
from bmcmedic.ipmi.commands.device import ColdResetReq, GetDeviceIdReq
from bmcmedic.ipmi.commands.watchdog import ResetWatchdogTimerReq
from bmcmedic.transport.in_band import InterfaceBusy, InterfaceGone, Interrupted, Ipmb
from tests.support.driver_socket import (
    WAIT_S_MAX,
    Everybody,
    FakeDriver,
    FakeWatchdog,
    serving,
)
from tests.support.polling import eventually

DEVICE_ID = bytes.fromhex("2001017302df57010062010000 0000")


@contextlib.contextmanager
def answering(driver: FakeDriver, answer: Callable[[], object]) -> Iterator[None]:
    """Play the driver's worker in a thread beside the client that blocks."""
    thread = threading.Thread(target=answer)
    thread.start()
    yield
    thread.join(WAIT_S_MAX)
    assert not thread.is_alive()
    assert driver.open_requests == []


@contextlib.contextmanager
def impostor(path: Path, *says: bytes) -> Iterator[str]:
    """Something else that listens there: says this for each line that it hears, and hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for each in says:
                connected, _ = listener.accept()
                with connected:
                    connected.recv(9999)
                    connected.sendall(each)

        thread = threading.Thread(target=serve)
        thread.start()
        yield str(path)
        thread.join(WAIT_S_MAX)
        assert not thread.is_alive()


def test_a_request_is_exchanged_for_its_response(tmp_path: Path) -> None:
    driver = FakeDriver()
    with serving(tmp_path, driver) as served, DriverClient(served.path) as client:
        with answering(driver, lambda: driver.answer(DEVICE_ID)):
            assert client.exchange(GetDeviceIdReq()).device_id == 0x20
        with (
            answering(driver, lambda: driver.answer(completion_code=0xC3)),
            pytest.raises(CompletionCodeError, match="0xc3") as caught,
        ):
            client.exchange(GetDeviceIdReq())
        assert caught.value.is_temporary


def test_a_raw_request_goes_as_it_is(tmp_path: Path) -> None:
    driver = FakeDriver()
    with serving(tmp_path, driver) as served, DriverClient(served.path, 7) as client:
        with answering(driver, lambda: driver.answer(b"\x01\x02", 0xC1, age_s=2.0)):
            answer = client.raw(4, 0x2D, b"\xbe", lun=1, bridge=Ipmb(6, 0x2C, 2), accept_old=True)
        assert answer == DriverAnswer(0xC1, b"\x01\x02", 2.0)
        (request,) = driver.submitted
        assert request.data == b"\x11\x2d\xbe"
        assert request.target == Ipmb(6, 0x2C, 2)


def test_what_the_driver_itself_refuses_is_no_completion_code(tmp_path: Path) -> None:
    with (
        serving(tmp_path, FakeDriver(room=0), FakeWatchdog()) as served,
        DriverClient(served.path) as client,
    ):
        with pytest.raises(QueueFull, match="requests are waiting already"):
            client.exchange(GetDeviceIdReq())
        with pytest.raises(Refused, match="watchdog is in charge"):
            client.exchange(ResetWatchdogTimerReq())
        raw = client.raw(6, 0x22)
        assert raw.completion_code == 0xD5
        assert raw.reason is not None
        assert client.status()["driver"]["interface"] == "fake"


def test_a_reader_is_told_what_it_may_not(tmp_path: Path) -> None:
    readers = Everybody(given=Rights.READ)
    with (
        serving(tmp_path, FakeDriver(), FakeWatchdog(), access=readers) as served,
        DriverClient(served.path) as client,
    ):
        with pytest.raises(Refused, match="not allowed for readers"):
            client.exchange(ColdResetReq())
        with pytest.raises(NoRights, match="not allowed for readers"):
            client.watchdog(WatchdogAction.DISARM)
        assert client.watchdog()["in_charge"] is True


def test_orders_are_given_and_answered(tmp_path: Path) -> None:
    watchdog = FakeWatchdog()
    with (
        serving(tmp_path, FakeDriver(), watchdog) as served,
        DriverClient(served.path) as client,
    ):
        client.watchdog(WatchdogAction.LENGTHEN, 1800)
        assert client.watchdog(WatchdogAction.DISARM)["in_charge"] is False
    assert watchdog.orders == [("lengthen", 1800.0), ("disarm", None)]


def test_where_no_driver_is_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "driver.sock"
    with pytest.raises(DriverUnavailable, match="there is no"):
        DriverClient(str(path)).status()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with pytest.raises(DriverUnavailable, match="left over"):
        DriverClient(str(path)).status()


def test_a_driver_that_takes_no_more_connections_is_not_waited_for_for_ever(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "driver.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(DriverUnavailable, match="accepts no more connections"):
            DriverClient(path, 0.05).status()


def test_no_rights_at_all_are_an_error_of_their_own(tmp_path: Path) -> None:
    nobody = Everybody(given=Rights.NONE)
    with (
        serving(tmp_path, FakeDriver(), access=nobody) as served,
        DriverClient(served.path) as client,
        pytest.raises(NoRights, match="has no rights on this socket"),
    ):
        client.status()


def test_a_driver_that_goes_away_with_the_request_is_told_and_its_successor_found(
    tmp_path: Path,
) -> None:
    driver = FakeDriver()
    path = tmp_path / "driver.sock"
    client = DriverClient(str(path))

    def stop_with_the_request() -> None:
        driver.next_request()
        served.stop()

    with (
        serving(tmp_path, driver) as served,
        answering(driver, stop_with_the_request),
        pytest.raises(DriverUnavailable, match="stopping"),
    ):
        client.raw(6, 1)
    with pytest.raises(DriverUnavailable, match="there is no"):
        client.raw(6, 1)
    with serving(tmp_path, driver):
        assert client.status()["driver"]["interface"] == "fake"
    with serving(tmp_path, driver):  # it restarted between two calls
        assert client.status()["driver"]["interface"] == "fake"
    with pytest.raises(DriverUnavailable):
        client.status()
    client.close()


def test_a_driver_that_dies_leaves_an_open_question(tmp_path: Path) -> None:
    with impostor(tmp_path / "s", b"") as path, DriverClient(path) as client:
        with pytest.raises(DriverGone, match="went away") as caught:
            client.raw(6, 2)
        assert caught.value.may_have_run


@pytest.mark.parametrize(
    "said",
    [
        b"220 mail.example ESMTP\r\n",
        b"x" * 20_000,
        b'{"id":1,"cancelled":true}\n',
        b'{"id":1,"status":{}}\n',
        b'{"id":1,"completion_code":0,"data":"0"}\n',
    ],
)
def test_what_is_no_driver_is_not_believed(tmp_path: Path, said: bytes) -> None:
    with (
        impostor(tmp_path / "s", said) as path,
        DriverClient(path) as client,
        pytest.raises(DriverGone),
    ):
        client.raw(6, 1)


def test_an_answer_to_another_question_is_not_ours(tmp_path: Path) -> None:
    other = b'{"id":99,"completion_code":0,"data":"ff","age_s":null}\n'
    ours = b'{"id":1,"completion_code":0,"data":"20","age_s":null}\n'
    with impostor(tmp_path / "s", other + ours) as path, DriverClient(path) as client:
        assert client.raw(6, 1).data == b"\x20"


def test_a_silent_driver_is_waited_for_a_little_beyond_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_GRACE_S", 0.05)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with (
            DriverClient(path, 0.05) as client,
            pytest.raises(DriverGone, match="has not answered") as got,
        ):
            client.raw(6, 1)
    assert got.value.may_have_run


def test_who_gave_up_leaves_nothing_with_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_GRACE_S", -0.4)  # before the driver does
    driver = FakeDriver()
    with serving(tmp_path, driver) as served, DriverClient(served.path, 0.5) as client:
        with pytest.raises((DriverGone, NoAnswer)):
            client.raw(6, 1)
        eventually(lambda: served.socket_status()["connections"] == 1)
        assert served.socket_status()["in_flight"] == 0
        assert driver.open_requests == []
        assert driver.abandoned == driver.submitted


@pytest.mark.parametrize("timeout_s", [0, -1, 301])
def test_a_timeout_has_its_limits(timeout_s: float) -> None:
    with pytest.raises(LocalProtocolError, match="time-out"):
        DriverClient("/nowhere", timeout_s)


ERRORS: list[BmcmedicError] = [
    NoAnswer("silent", "look"),
    RemoteProtocolError("odd", section="9", raw=b"\x1c"),
    Interrupted("a pat came", may_have_run=False),
    Interrupted("a pat came", may_have_run=True),
    InterfaceGone("no device"),
    InterfaceBusy("maintenance"),
    BreakerOpen("open"),
    QueueFull("full"),
    Refused("no"),
    NoRights("not you"),
    Cancelled("given up"),
    TransportError("otherwise"),
    BmcRefusal("the BMC said no"),
    LocalProtocolError("ours"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_the_way(error: BmcmedicError) -> None:
    again = to_error(kind_of(error), message_of(error), details_of(error) or {})
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert details_of(again) == details_of(error)


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_kind_becomes_an_error(kind: ErrorKind) -> None:
    assert "why" in str(to_error(kind, "why", {"raw": 7}))
