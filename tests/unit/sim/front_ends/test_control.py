from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from bmcmedic.errors import ConfigurationError
from bmcmedic.sim.front_ends.control import BODY_BYTES_MAX
from bmcmedic.sim.rack import BmcSpec
from tests.support.sim import RunningRack, running_bmc, running_rack

CONTRACT = {
    "name",
    "state",
    "faults",
    "cold_resets",
    "warm_resets",
    "requests",
    "host_power",
    "host_power_changes",
    "memory_free_fraction",
}
TRIAGE_KEYS = {
    "host_id",
    "captured_at",
    "kipmi",
    "stuck",
    "direct_openers",
    "guests",
    "symptoms",
    "hung_since",
}


@pytest.fixture
def rack() -> Iterator[RunningRack]:
    with running_bmc() as running:
        yield running


def test_a_bmc_is_described_with_the_documented_keys(rack: RunningRack) -> None:
    status = rack.status()
    assert set(status) >= CONTRACT
    assert (status["name"], status["state"], status["faults"]) == ("bmc1", "up", [])
    assert (status["host_power"], status["cold_resets"]) == ("on", 0)
    assert 0 < status["memory_free_fraction"] <= 1


def test_faults_are_replaced_and_cleared(rack: RunningRack) -> None:
    answer = rack.set_faults("hang", "slow:2.5")
    assert (answer["state"], answer["faults"]) == ("hung", ["hang", "slow:2.5"])
    assert set(answer) == set(rack.status())
    assert rack.set_faults("dead")["state"] == "dead"
    assert rack.set_faults()["faults"] == []
    assert rack.status()["state"] == "up"


def test_triage_is_that_of_the_host(rack: RunningRack) -> None:
    status, healthy = rack.get("/bmcs/bmc1/triage")
    assert status == http.client.OK
    assert set(healthy) == TRIAGE_KEYS
    assert healthy["symptoms"] == []
    rack.set_faults("hang")
    _, sick = rack.get("/bmcs/bmc1/triage")
    assert "bmc-not-answering" in sick["symptoms"]
    assert set(sick["host_id"]) == {"hostname", "product_uuid", "bmc_guid", "boot_id"}


def test_triage_of_a_host_without_power_is_a_conflict() -> None:
    with running_rack([BmcSpec("b", power_on=False)]) as rack:
        status, answer = rack.get("/bmcs/b/triage")
        assert status == http.client.CONFLICT
        assert "nothing runs on the host of b" in answer["error"]


def test_the_list_has_all_names_and_addresses() -> None:
    specs = [BmcSpec("a", ("127.0.0.1", 0)), BmcSpec("b c")]
    with running_rack(specs) as rack:
        _, answer = rack.get("/bmcs")
        assert [row["name"] for row in answer["bmcs"]] == ["a", "b c"]
        assert answer["bmcs"][0]["port"] == rack.address("a")[1]
        assert answer["bmcs"][1]["address"] is None
        assert rack.get("/bmcs/b%20c")[1]["lan"] is None


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/", None, 404, "no such page"),
        ("GET", "/bmcs/bmc9", None, 404, "there is no BMC 'bmc9'"),
        ("GET", "/bmcs/bmc9/triage", None, 404, "there is no BMC 'bmc9'"),
        ("GET", "/bmcs/bmc1/faults", None, 404, "no such page"),
        ("PUT", "/bmcs/bmc1/faults", b"{}", 501, "Unsupported method"),
        ("POST", "/bmcs/bmc9/faults", b'{"faults": []}', 404, "there is no BMC 'bmc9'"),
        ("POST", "/bmcs/bmc1", b"{}", 404, "no such page"),
        ("POST", "/bmcs/bmc1/faults", b"{", 400, "not JSON"),
        ("POST", "/bmcs/bmc1/faults", b"\xff", 400, "not JSON"),
        ("POST", "/bmcs/bmc1/faults", b"[" * 50_000, 400, "not JSON"),
        ("POST", "/bmcs/bmc1/faults", b"[]", 400, "the body must be"),
        ("POST", "/bmcs/bmc1/faults", b'{"faults": "hang"}', 400, "the body must be"),
        ("POST", "/bmcs/bmc1/faults", b'{"faults": [1]}', 400, "the body must be"),
        ("POST", "/bmcs/bmc1/faults", b'{"faults": ["slow"]}', 400, "such as slow:2.5"),
    ],
)
def test_a_wrong_request_gets_an_error_in_json(
    rack: RunningRack, method: str, path: str, body: bytes | None, status: int, said: str
) -> None:
    answered, answer = rack.request(method, path, body)
    assert answered == status
    assert said in answer["error"]
    assert rack.status()["faults"] == []


def test_a_body_that_is_too_long_is_not_read(rack: RunningRack) -> None:
    address = rack.control
    with socket.create_connection(address, 10) as raw:
        head = f"POST /bmcs/bmc1/faults HTTP/1.1\r\nContent-Length: {BODY_BYTES_MAX + 1}\r\n\r\n"
        raw.sendall(head.encode())
        answer = b""
        while chunk := raw.recv(4096):
            answer += chunk
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b"at most 65536 bytes" in answer


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(
                ConfigurationError,
                match=f"at 127.0.0.1:{port}/tcp: .*use another port",
            ),
            running_rack([BmcSpec()], control=("127.0.0.1", port)),
        ):
            pass
