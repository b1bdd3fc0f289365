"""`bmcmedic agent` as a process of its own, as an operator and a controller see it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.agent_controller import Authority, Controller
from tests.support.driver_socket import FakeDriver, FakeWatchdog, serving
from tests.support.host_clients import HostClients
from tests.support.polling import eventually
from tests.support.programs import bmcmedic, run
from tests.support.running import DEADLINE_S, Running

ROOT = Path(__file__).resolve().parents[2]


class RunningAgent(Running):
    """A running agent, with access to its metrics."""

    def scrape(self) -> dict[str, float]:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_S)
            client.connect(str(self.folder / "run" / "m.sock"))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n")
            answer = b""
            while piece := client.recv(65536):
                answer += piece
        text = answer.partition(b"\r\n\r\n")[2].decode()
        return {
            sample.name + "".join(f"{{{key}={value}}}" for key, value in sample.labels.items()):
                sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }  # fmt: skip


def configure(folder: Path, *lines: str, socket_path: str | None = None) -> Path:
    """Write the agent's configuration; everything that the agent writes is below `folder`."""
    own = "\n".join(lines) + "\n"
    if "stuck_after_s" not in own:  # else it tells of what other tests start on this machine
        own += "" if "[relief]\n" in own else "[relief]\n"
        own = own.replace("[relief]\n", "[relief]\nstuck_after_s = 86400\n")
    file = folder / "agent.toml"
    text = f"""
[driver]
socket = "{socket_path or folder / "driver.sock"}"
[triage]
period_s = 1
[metrics]
listen = "unix:{folder}/run/m.sock"
[process]
runtime_dir = "{folder}/run"
state_dir = "{folder}/state"
kill_switch = "{folder}/disabled"
"""
    file.write_text(text + own, encoding="utf-8")
    return file


@contextlib.contextmanager
def agent(
    folder: Path, file: Path, *, environment: dict[str, str] | None = None
) -> Iterator[RunningAgent]:
    process = subprocess.Popen(
        bmcmedic("agent", "--config", str(file)),
        stderr=subprocess.PIPE,
        env=os.environ | (environment or {}),
    )
    try:
        yield RunningAgent(process, folder)
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def process(words: list[str]) -> Iterator[None]:
    """Run a program whose output is not read."""
    started = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    try:
        yield
    finally:
        started.kill()
        started.wait()


def driver_without_bmc(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Run a real driver, which finds no interface."""
    own = ("--real-time-priority", "0", "--lock-memory", "no", "--oom-score-adj", "0")
    device = ("--interface", "dev-ipmi", "--device", str(folder / "no-ipmi0"))
    return process(bmcmedic("driver", "--runtime-dir", str(folder), *device, *own))


def driver_with_bmc(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Run a real driver that pats the timer of a simulated BMC."""
    return process([sys.executable, "-m", "tests.support.driver_process", str(folder), "disarm"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("controller")


def reporting(controller: Controller, authority: Authority, *lines: str) -> list[str]:
    return [
        "[controller]",
        f'url = "{controller.url}"',
        f'ca_file = "{authority.file}"',
        "period_s = 1",
        "back_off_s_max = 1",
        *lines,
    ]


# ---------------------------------------------------------------------------- the command line


def test_the_printed_configuration_is_what_it_would_use(tmp_path: Path) -> None:
    shown = run("agent", "--print-config").stdout
    document = tomllib.loads(shown)
    assert document["relief"]["mode"] == "observe"
    assert document["controller"]["orders_allowed"] == []
    file = tmp_path / "agent.toml"
    file.write_text(shown, encoding="utf-8")
    assert run("agent", "--print-config", "--config", str(file)).stdout == shown


def test_it_is_a_module_too_and_the_help_lists_it() -> None:
    assert "agent" in run("--help").stdout
    own = subprocess.run(
        [sys.executable, "-m", "bmcmedic.agent", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert own.stdout == run("agent", "--help").stdout


def test_a_wrong_configuration_is_reported_at_once_with_its_lines(tmp_path: Path) -> None:
    file = configure(tmp_path, "[relief]", 'mode = "kill"', "[controler]", "url = 5")
    done = run("agent", "--config", str(file))
    assert done.returncode == 2
    assert f"{file}: 2 problems" in done.stderr
    assert "relief.mode is 'kill'" in done.stderr
    assert "there is no section [controler]; did you mean controller?" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--config", "/nowhere/agent.toml"], "/nowhere/agent.toml: cannot be read"),
        (["--install-units", "/nowhere"], "cannot write /nowhere/bmcmedic-driver.service"),
        (["--print-config", "--print-units"], "not allowed with argument"),
        (["--conf", "x"], "unrecognized arguments"),
    ],
)
def test_bad_usage_is_one_message_and_status_2(options: list[str], said: str) -> None:
    done = run("agent", *options)
    assert done.returncode == 2
    assert said in done.stderr


def test_the_units_are_printed_and_installed(tmp_path: Path) -> None:
    shown = run("agent", "--print-units").stdout
    done = run("agent", "--install-units", str(tmp_path))
    assert done.returncode == 0
    assert f"{tmp_path}/bmcmedic-driver.service: new\n" in done.stdout
    for name in ("bmcmedic-driver.service", "bmcmedic-agent.service"):
        assert (tmp_path / name).read_text(encoding="utf-8") in shown


# ------------------------------------------------------------------------------- while it runs


def test_with_its_defaults_it_changes_nothing_and_ends_in_order(tmp_path: Path) -> None:
    with agent(tmp_path, configure(tmp_path)) as running:
        running.wait_for("relief observes; no controller event=start")
        eventually((tmp_path / "run" / "m.sock").exists, lambda: running.said)
        eventually(lambda: "bmcmedic_driver_up" in running.scrape(), lambda: running.said)
        seen = running.scrape()
        assert seen["bmcmedic_driver_up"] == 0
        assert seen["bmcmedic_symptom{symptom=driver-unavailable}"] == 1
        assert seen["bmcmedic_relief_acts"] == 0
        running.wait_for("event=symptom")  # its first round has ended
        assert running.end() == 0
    assert "Traceback" not in running.said
    assert running.said.endswith("bmcmedic agent: ending\n")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"agent.lock"}


def test_two_agents_are_refused(tmp_path: Path) -> None:
    file = configure(tmp_path)
    with agent(tmp_path, file) as first:
        first.wait_for("event=start")
        with agent(tmp_path, file) as second:
            assert second.process.wait(DEADLINE_S) == 2
            second.wait_for("another agent is running")
        eventually((tmp_path / "run" / "m.sock").exists, lambda: first.said)
        assert first.end() == 0


def test_a_crash_loop_only_observes_and_logs_it(tmp_path: Path) -> None:
    file = configure(tmp_path, "starts_max = 3", "[relief]", 'mode = "act"')
    for _ in range(2):
        with agent(tmp_path, file) as running:
            running.wait_for("relief acts")
            assert "event=observe-only" not in running.said
            running.end(signal.SIGKILL)
    with agent(tmp_path, file) as running:
        running.wait_for("error: nothing is changed on this host: this agent was started 3 times")
        assert running.end() == 0
    with agent(tmp_path, file) as running:  # it ended in order, so all is well again
        running.wait_for("event=start")
        assert running.end() == 0
    assert "event=observe-only" not in running.said


def test_systemd_is_notified_of_start_life_and_end(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(DEADLINE_S)
        environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1500000"}
        with agent(tmp_path, configure(tmp_path), environment=environment) as running:
            assert manager.recv(4096) == b"READY=1\nSTATUS=relief observes; no controller"
            assert manager.recv(4096) == b"WATCHDOG=1"
            running.process.send_signal(signal.SIGHUP)
            received = [b""]
            while not received[-1].startswith(b"READY=1"):
                received.append(manager.recv(4096))
            assert any(each.startswith(b"RELOADING=1\nMONOTONIC_USEC=") for each in received)
            assert running.end() == 0
            while received[-1] != b"STOPPING=1":
                received.append(manager.recv(4096))


def test_a_reload_takes_what_it_can_and_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    file = configure(tmp_path)
    with agent(tmp_path, file) as running:
        running.wait_for("event=start")
        eventually((tmp_path / "run" / "m.sock").exists, lambda: running.said)
        configure(tmp_path, "starts_max = 7", "[relief]", 'mode = "act"')
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("process.starts_max has changed; a restart applies it")
        running.wait_for("the configuration was read again: relief.mode")
        eventually(lambda: running.scrape().get("bmcmedic_relief_acts") == 1, lambda: running.said)
        configure(tmp_path, "[relief]", "mode = 5")
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("the configuration was not read again: ")
        assert running.scrape()["bmcmedic_relief_acts"] == 1
        (tmp_path / "disabled").touch()
        eventually(lambda: running.scrape().get("bmcmedic_relief_acts") == 0, lambda: running.said)
        assert running.end() == 0


def test_beside_a_real_driver_without_a_bmc_it_serves_what_there_is(tmp_path: Path) -> None:
    file = configure(tmp_path, "[doors]", "loopback = true", "port = 0")
    with driver_without_bmc(tmp_path), agent(tmp_path, file) as running:
        eventually((tmp_path / "run" / "m.sock").exists, lambda: running.said)
        eventually(lambda: running.scrape().get("bmcmedic_driver_up") == 1, lambda: running.said)
        # The first scrape has let the BMC be asked.
        eventually(lambda: "ipmi_up{collector=sel}" in running.scrape(), lambda: running.said)
        seen = running.scrape()
        assert {seen[f"ipmi_up{{collector={name}}}"] for name in ("bmc", "chassis", "sel")} == {0}
        assert "ipmi_chassis_power_state" not in seen
        eventually(
            lambda: running.scrape().get("ipmi_up{collector=ipmi}") == 0, lambda: running.said
        )
        running.wait_for("the sensors cannot be read: ")
        eventually(
            lambda: running.scrape().get("bmcmedic_symptom{symptom=no-interface}") == 1,
            lambda: running.said,
        )
        assert running.scrape()["bmcmedic_interface_up"] == 0
        state = tmp_path / "run" / "door" / "state"
        eventually(lambda: state.read_text().startswith("no-interface\n"), state.read_text)
        assert running.end() == 0
    assert "Traceback" not in running.said


def test_beside_a_driver_that_pats_a_bmc_it_serves_all_metrics(tmp_path: Path) -> None:
    file = configure(tmp_path)
    # Asked before the first pat, it would say for a minute that the timer stands.
    file.write_text(file.read_text().replace("[metrics]", "[metrics]\nbmc_period_s = 5"))
    with driver_with_bmc(tmp_path), agent(tmp_path, file) as running:
        eventually((tmp_path / "run" / "m.sock").exists, lambda: running.said)
        eventually(
            lambda: running.scrape().get("bmcmedic_pats_total", 0) >= 3, lambda: running.said
        )
        eventually(
            lambda: running.scrape().get("ipmi_up{collector=sel}") == 1, lambda: running.said
        )
        timer = "ipmi_bmc_watchdog_timer_state"
        eventually(lambda: running.scrape().get(timer) == 1, lambda: running.said)
        seen = running.scrape()
        assert seen["ipmi_dcmi_power_consumption_watts"] == 232
        assert seen["ipmi_chassis_power_state"] == 1
        assert seen["ipmi_bmc_watchdog_timer_state"] == 1
        assert seen["ipmi_bmc_watchdog_timer_use_state{name=SMS/OS}"] == 1
        assert seen["ipmi_bmc_watchdog_initial_countdown_seconds"] == 120
        assert seen["bmcmedic_watchdog_timeout_seconds"] == 120
        assert 0 < seen["bmcmedic_pat_latency_seconds"] < DEADLINE_S
        assert [name for name in seen if name.startswith("bmcmedic_symptom")] == []
        up = "ipmi_up{collector=ipmi}"
        eventually(lambda: running.scrape().get(up) == 1, lambda: running.said)
        seen = running.scrape()
        assert seen["ipmi_temperature_celsius{id=4}{name=CPU1 Temp}"] == 47
        assert seen["ipmi_sensor_state{id=19}{name=PS1 Status}{type=Power Supply}"] == 0
        assert running.end() == 0
    assert "Traceback" not in running.said


NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Runs the agent in a pid namespace, where it sees only what the test started."""


def has_namespaces() -> bool:
    with contextlib.suppress(OSError):
        words = [*NAMESPACE, "true"]
        done = subprocess.run(words, stderr=subprocess.DEVNULL, timeout=60, check=False)
        return done.returncode == 0
    return False


@pytest.mark.skipif(not has_namespaces(), reason="no pid namespace of our own (not root?)")
def test_if_it_may_act_it_ends_stuck_clients_and_no_others(tmp_path: Path) -> None:
    clients = HostClients(tmp_path)
    file = configure(tmp_path, "[relief]", 'mode = "act"', "stuck_after_s = 5")
    # Without an interface it scans often only after a triage has found a stuck client.
    file.write_text(file.read_text().replace("[triage]", "[triage]\nfull_every_s = 10"))
    ends, innocent = (tmp_path / "ended", tmp_path / "innocent")
    commands = (
        f"({shlex.join(clients.command())}; touch {ends}) &",
        f"({shlex.join(clients.command(name='python'))}; touch {innocent}) &",
        f"{shlex.join([*bmcmedic('agent', '--config', str(file))])} &",
        "wait",
    )
    script = tmp_path / "host.sh"
    library = "\n".join(
        f"{key}={shlex.quote(value)}" for key, value in clients.environment.items() if key != "PATH"
    )
    script.write_text(
        commands[2] + "\n" + f"export PYTHONHOME LD_LIBRARY_PATH\n{library}\n"
        + "\n".join((*commands[:2], commands[3])) + "\n",
        encoding="utf-8",
    )  # fmt: skip
    with driver_without_bmc(tmp_path):
        host = subprocess.Popen(
            [*NAMESPACE, "sh", str(script)], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        try:
            running = RunningAgent(host, tmp_path)
            eventually((tmp_path / "run" / "m.sock").exists, lambda: running.said)
            running.wait_for("relief: 1 ended")
            eventually(ends.exists, lambda: running.said)
            ended = "bmcmedic_relief_actions_total{outcome=ended}"
            eventually(lambda: running.scrape().get(ended) == 1, lambda: running.said)
            eventually(
                lambda: running.scrape().get("bmcmedic_stuck_clients") == 0, lambda: running.said
            )
            assert not innocent.exists()
        finally:
            host.kill()
            host.communicate()


def test_the_loopback_proxy_is_opened_if_configured(tmp_path: Path) -> None:
    file = configure(
        tmp_path,
        "[doors]",
        "loopback = true",
        "port = 0",
        "shim_deadline_s = 7",
        "shim_share_s = 0",
    )
    with agent(tmp_path, file) as running:
        proxy_file = tmp_path / "run" / "door" / "door"
        eventually(proxy_file.exists, lambda: running.said)
        received = proxy_file.read_text().splitlines()
        assert {"deadline_s=7", "share_s=0", "long_deadline_s=300"} <= set(received)
        assert running.end() == 0
    assert "Traceback" not in running.said


# ------------------------------------------------------------------------------- the controller


def test_reports_arrive_are_held_back_while_it_is_away_and_arrive_again(
    tmp_path: Path, authority: Authority, certificate: tuple[Path, Path]
) -> None:
    controller = Controller()
    with controller.serving(certificate):
        file = configure(tmp_path, *reporting(controller, authority))
        with agent(tmp_path, file) as running:
            eventually(lambda: len(controller.reports) >= 2, lambda: running.said)
            first = controller.reports[0]
            assert first["version"] == 1
            assert first["symptoms"] == ["driver-unavailable"]
            assert first["host_id"]["boot_id"]
            assert first["driver"] is None
            assert first["triage"]["host_id"] == first["host_id"]
            assert "Authorization" not in controller.headers[0]
            controller.status = 503  # it is away, and takes nothing
            running.wait_for("a report was not accepted: the controller answered 503")
            seen = len(controller.reports)
            with driver_without_bmc(tmp_path):
                eventually(
                    lambda: running.scrape().get("bmcmedic_driver_up") == 1, lambda: running.said
                )
                failed = "bmcmedic_reports_total{outcome=failed}"
                eventually(lambda: running.scrape().get(failed, 0) >= 2, lambda: running.said)
                controller.status = 200
                eventually(lambda: len(controller.reports) > seen, lambda: running.said)
                report = controller.reports[seen]
            assert report["reports_missed"] >= 2
            assert report["changes"]
            assert report["driver"]["driver"]["interface"]
            assert running.end() == 0
    assert "Traceback" not in running.said


def test_a_controller_that_is_gone_and_comes_back_is_found_again(
    tmp_path: Path, authority: Authority, certificate: tuple[Path, Path]
) -> None:
    controller = Controller()
    with controller.serving(certificate):
        file = configure(tmp_path, *reporting(controller, authority))
    with agent(tmp_path, file) as running:
        running.wait_for("a report was not accepted: ")
        with controller.serving(certificate):
            eventually(lambda: controller.reports, lambda: running.said)
        seen = len(controller.reports)
        with controller.serving(certificate):
            eventually(lambda: len(controller.reports) > seen, lambda: running.said)
        assert running.end() == 0


def test_a_controller_that_is_not_trusted_gets_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> None:
    other = Authority(tmp_path_factory.mktemp("other"), "other")
    controller = Controller()
    with (
        controller.serving(certificate),
        agent(tmp_path, configure(tmp_path, *reporting(controller, other))) as running,
    ):
        running.wait_for("the controller's certificate is not trusted")
        assert running.end() == 0
    assert controller.reports == []


def test_it_identifies_itself_by_certificate_and_token(
    tmp_path: Path, authority: Authority, certificate: tuple[Path, Path]
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    ours, key = authority.issue("agent")
    (credentials / "controller-certificate").write_bytes(ours.read_bytes())
    (credentials / "controller-key").write_bytes(key.read_bytes())
    (credentials / "controller-token").write_text("t0ken-of-ours\n")
    controller = Controller()
    with controller.serving(certificate, clients=authority):
        file = configure(tmp_path, *reporting(controller, authority))
        environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
        with agent(tmp_path, file, environment=environment) as running:
            eventually(lambda: controller.reports, lambda: running.said)
            assert running.end() == 0
    assert controller.headers[0]["Authorization"] == "Bearer t0ken-of-ours"
    assert "t0ken-of-ours" not in running.said + json.dumps(controller.reports)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"[" * 60_000, "the reply is not JSON"),
        (b'{"orders": "all"}', 'a list of "orders"'),
        (b"x" * 100_000, "the reply has more than 65536 bytes"),
    ],
)
def test_a_broken_controller_costs_a_report_and_nothing_else(
    tmp_path: Path,
    authority: Authority,
    certificate: tuple[Path, Path],
    raw: bytes,
    said: str,
) -> None:
    controller = Controller()
    controller.raw = raw
    with (
        controller.serving(certificate),
        agent(tmp_path, configure(tmp_path, *reporting(controller, authority))) as running,
    ):
        running.wait_for(said)
        controller.raw = None
        running.wait_for("the controller accepts reports")
        assert running.end() == 0


# ---------------------------------------------------------------------------------- its orders


def order(controller: Controller, order_id: str, kind: str, **others: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    made = {
        "id": order_id,
        "kind": kind,
        "host_id": {"boot_id": controller.reports[0]["host_id"]["boot_id"]},
        "expires_at": time.time() + 600,
    }
    return made | others


def test_an_allowed_order_is_done_once_and_all_others_are_refused(
    tmp_path: Path, authority: Authority, certificate: tuple[Path, Path]
) -> None:
    controller, watchdog = Controller(), FakeWatchdog()
    with (
        controller.serving(certificate),
        serving(tmp_path, FakeDriver(), watchdog) as served,
    ):
        allowed = 'orders_allowed = ["disarm-watchdog"]'
        file = configure(
            tmp_path, *reporting(controller, authority, allowed), socket_path=served.path
        )
        with agent(tmp_path, file) as running:
            eventually(lambda: controller.reports, lambda: running.said)
            good = order(controller, "good", "disarm-watchdog")
            controller.orders = [
                good,
                order(controller, "late", "disarm-watchdog", expires_at=time.time() - 1),
                order(controller, "other", "disarm-watchdog", host_id={"boot_id": "another"}),
                order(controller, "reset", "cold-reset"),
                order(controller, "park", "park"),
                {"id": "broken"},
                "nonsense",
            ]
            ids = {"good", "late", "other", "reset", "park", "broken", ""}
            eventually(lambda: ids <= set(controller.acknowledged()), lambda: running.said)
            eventually(
                lambda: controller.acknowledged()["good"]["state"] == "done", lambda: running.said
            )
            received = controller.acknowledged()
            assert {received[each]["state"] for each in ids - {"good"}} == {"refused"}
            assert "it expired" in received["late"]["reason"]
            assert "another host or boot" in received["other"]["reason"]
            assert "orders_allowed" in received["reset"]["reason"]
            running.end(signal.SIGKILL)
        seen = len(controller.reports)
        controller.orders = [good]  # it never heard of it
        with agent(tmp_path, file) as running:
            eventually(
                lambda: any(
                    each["id"] == "good" and each["state"] == "done"
                    for report in controller.reports[seen:]
                    for each in report["orders"]
                ),
                lambda: running.said,
            )
            (tmp_path / "disabled").touch()
            controller.orders = [order(controller, "off", "disarm-watchdog")]
            eventually(lambda: "off" in controller.acknowledged(), lambda: running.said)
            assert "disabled exists" in controller.acknowledged()["off"]["reason"]
            assert running.end() == 0
    assert watchdog.orders == [("disarm", None)]


def test_an_order_that_cannot_be_stored_is_not_started(
    tmp_path: Path, authority: Authority, certificate: tuple[Path, Path]
) -> None:
    (tmp_path / "state" / "orders.json.new").mkdir(parents=True)  # as good as a full disk
    controller, watchdog = Controller(), FakeWatchdog()
    with (
        controller.serving(certificate),
        serving(tmp_path, FakeDriver(), watchdog) as served,
    ):
        allowed = 'orders_allowed = ["disarm-watchdog"]'
        file = configure(
            tmp_path, *reporting(controller, authority, allowed), socket_path=served.path
        )
        with agent(tmp_path, file) as running:
            eventually(lambda: controller.reports, lambda: running.said)
            controller.orders = [order(controller, "a", "disarm-watchdog")]
            eventually(lambda: "a" in controller.acknowledged(), lambda: running.said)
            assert "cannot be stored" in controller.acknowledged()["a"]["reason"]
            assert running.end() == 0
    assert watchdog.orders == []


def test_a_controller_lengthens_disarms_and_resumes_the_timer_of_a_real_driver(
    tmp_path: Path, authority: Authority, certificate: tuple[Path, Path]
) -> None:
    controller = Controller()
    kinds = ("lengthen-watchdog", "disarm-watchdog", "resume", "cold-reset", "park")
    allowed = f"orders_allowed = {json.dumps(kinds)}"
    file = configure(tmp_path, *reporting(controller, authority, allowed))

    def timer() -> tuple[bool, float]:
        watchdog = controller.reports[-1]["driver"]["watchdog"]
        return watchdog["in_charge"], watchdog["timeout_s"]

    with controller.serving(certificate):
        file = configure(tmp_path, *reporting(controller, authority, allowed))
        with driver_with_bmc(tmp_path), agent(tmp_path, file) as running:
            eventually(
                lambda: controller.reports and controller.reports[-1]["driver"],
                lambda: running.said,
            )
            expected = [(True, 3600.0), (False, 120.0), (True, 120.0)]
            for kind, stands in zip(kinds, expected, strict=False):
                seconds = {"seconds": 3600} if kind == "lengthen-watchdog" else {}
                controller.orders = [order(controller, kind, kind, **seconds)]
                eventually(
                    lambda: timer() == stands,  # noqa: B023 - called here
                    lambda: (running.said, controller.reports[-1]),
                )
                eventually(
                    lambda: controller.acknowledged().get(kind, {}).get("state") == "done",  # noqa: B023
                    controller.acknowledged,
                )
            states = {}
            for order_id, kind in (
                ("too-early", "park"),
                ("disarm-again", "disarm-watchdog"),
                ("park", "park"),
                ("while-parked", "cold-reset"),
                ("resume-again", "resume"),
                ("reset", "cold-reset"),
            ):
                controller.orders = [order(controller, order_id, kind)]
                eventually(
                    lambda: (
                        controller.acknowledged().get(order_id, {}).get("state")  # noqa: B023
                        not in (None, "started")
                    ),
                    controller.acknowledged,
                )
                states[order_id] = controller.acknowledged()[order_id]["state"]
            assert states == {
                "too-early": "failed",  # the watchdog pats through it
                "disarm-again": "done",
                "park": "done",
                "while-parked": "failed",
                "resume-again": "done",
                "reset": "done",
            }
            eventually(lambda: timer() == (True, 120.0), lambda: controller.reports[-1])
            assert running.end() == 0
