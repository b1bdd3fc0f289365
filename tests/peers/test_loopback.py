"""Real tools through the loopback proxy and the shim, with the driver over a simulated BMC."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyghmi.ipmi.command import Command

from bmcmedic.agent.loopback.server import LoopbackSettings
from bmcmedic.agent.shim import start
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.kcs_host import KcsLimits
from tests.support.polling import eventually
from tests.support.ports import unused_port
from tests.support.programs import bmcmedic
from tests.support.sim_host import (
    HANG_LIMITS,
    KCS_LIMITS,
    RunningProxy,
    SimHost,
    running_proxy,
    sim_host,
)

TIMEOUT_S = 60.0
AT_ONCE_S = 1.0
"""Longest wait for an error, in seconds: one second, and more because the machine may be busy."""
SLACK_S = 10.0
EXPORTER = "prometheus-ipmi-exporter"

pytestmark = [
    pytest.mark.skipif(shutil.which("ipmitool") is None, reason="ipmitool is not installed"),
    pytest.mark.skipif(shutil.which("bmc-info") is None, reason="FreeIPMI is not installed"),
    # pyghmi keeps its sockets for the life of the process.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]

Done = subprocess.CompletedProcess[str]


@dataclass
class Bench:
    """A host, its loopback proxy, and the tools on it."""

    host: SimHost
    proxy: RunningProxy
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        runtime = {"BMCMEDIC_RUNTIME_DIR": str(self.proxy.runtime_dir)}
        return {**os.environ, **runtime, "TZ": "UTC", "HOME": str(self.home)}

    def run(self, *words: str) -> Done:
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=self.environment,
        )

    def ipmitool(self, *words: str) -> Done:
        proxy = ("-I", "lanplus", "-H", "127.0.0.1", "-p", str(self.proxy.port), "-C", "17")
        return self.run(
            "ipmitool", *proxy, "-U", "bmcmedic", "-f", self.proxy.password_file, *words
        )

    def free_ipmi(self, program: str, *words: str) -> Done:
        config = str(self.proxy.runtime_dir / "door" / "freeipmi.conf")
        return self.run(
            program, "-h", f"127.0.0.1:{self.proxy.port}", "--config-file", config, *words
        )

    def shim_words(self, *words: str) -> list[str]:
        real = shutil.which("ipmitool")
        assert real is not None
        return [sys.executable, "-IS", str(Path(start.__file__)), real, *words]

    def shim(self, *words: str) -> Done:
        return self.run(*self.shim_words(*words))

    def hang(self) -> None:
        """Let the BMC fall silent towards the host, and wait until the driver has noticed."""
        self.host.set_faults("hang")
        self.ipmitool("raw", "0", "1")  # a request must reach the driver first
        self.ipmitool("raw", "0", "1")
        eventually(lambda: self.proxy.state() == "silent")


@contextlib.contextmanager
def bench_in(
    directory: Path,
    settings: LoopbackSettings | None = None,
    kcs_limits: KcsLimits = HANG_LIMITS,
) -> Iterator[Bench]:
    with (
        sim_host(directory, kcs_limits) as host,
        running_proxy(host.socket_path, directory / "run", settings) as proxy,
    ):
        eventually(lambda: proxy.state() == "well")
        yield Bench(host, proxy, directory)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_in(tmp_path_factory.mktemp("healthy"), kcs_limits=KCS_LIMITS) as made:
        yield made


@pytest.fixture
def sick_bench(tmp_path: Path) -> Iterator[Bench]:
    with bench_in(tmp_path) as made:
        yield made


# ------------------------------------------------------------------------------------- healthy


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mc", "info"), "Firmware Revision         : 3.23"),
        (("power", "status"), "Chassis Power is on"),
        (("mc", "guid"), "f0debc9a-7856-3412-def0-9abc12345678"),
        (("sdr", "list"), "CPU1 Temp        | 47 degrees C"),
        (("sel", "list"), "Initiated by power up"),
        (("fru", "print"), "B-bmc1"),
        (("-b", "6", "-t", "0x2c", "raw", "0x4", "0x2d", "0xbe"), " 33 c0 00"),
        (("sdr", "elist", "all"), "Dynamic MC @ 2Ch"),
        (("-c", "sdr", "list"), "CPU1 Temp,47,degrees C,ok"),
    ],
)
def test_ipmitool_prints_the_same_through_the_proxy_and_the_shim(
    bench: Bench, words: tuple[str, ...], said: str
) -> None:
    by_door, by_shim = bench.ipmitool(*words), bench.shim(*words)
    assert said in by_door.stdout
    shown = (by_door.returncode, by_door.stdout, by_door.stderr)
    assert (by_shim.returncode, by_shim.stdout, by_shim.stderr) == shown


def test_the_shims_failures_are_ipmitools(bench: Bench) -> None:
    refused = bench.shim("raw", "0x2e", "0x77")
    assert refused.returncode == 1
    assert "rsp=0xc1" in refused.stderr
    nonsense = bench.shim("sdr", "nonsense")
    by_door = bench.ipmitool("sdr", "nonsense")
    assert (nonsense.returncode, nonsense.stderr) == (by_door.returncode, by_door.stderr)


@pytest.mark.parametrize(
    ("request_words", "key"),
    [("raw 0x0a 0x42", "0a/42"), ("-b 6 -t 0x2c raw 0x0a 0x42", "06/34")],
    ids=["bmc", "bridged"],
)
def test_a_request_that_a_session_repeats_later_is_carried_out_each_time(
    bench: Bench, request_words: str, key: str
) -> None:
    *bridge, raw, netfn, command = request_words.split()
    script = bench.home / "script"

    def cost_of(times: int) -> int:
        script.write_text(f"{raw} {netfn} {command}\n" * times, encoding="ascii")
        before = bench.host.requests(key)
        bench.ipmitool(*bridge, "exec", str(script))
        return bench.host.requests(key) - before

    assert cost_of(140) - cost_of(1) == 139


def test_a_bridge_to_nobody_is_an_error_at_once(bench: Bench) -> None:
    done = bench.ipmitool("-b", "6", "-t", "0x2e", "raw", "0x4", "0x2d", "0xbe")
    assert done.returncode == 1
    assert "rsp=0xc3" in done.stderr


def test_cipher_suite_3_works_and_a_wrong_password_does_not(bench: Bench) -> None:
    again = bench.ipmitool("-C", "3", "power", "status")
    assert again.stdout == "Chassis Power is on\n"
    other = bench.home / "other-password"
    other.write_text("wrong\n", encoding="ascii")
    assert bench.ipmitool("-f", str(other), "power", "status").returncode == 1


def test_free_ipmi(bench: Bench) -> None:
    info = bench.free_ipmi("bmc-info")
    assert "Firmware Revision     : 3.23" in info.stdout
    sensors = bench.free_ipmi("ipmi-sensors", "--quiet-cache")
    assert sensors.returncode == 0, sensors.stderr
    assert "CPU1 Temp" in sensors.stdout
    assert "boot completed" in bench.free_ipmi("ipmi-sel", "--quiet-cache").stdout


def test_pyghmi(bench: Bench) -> None:
    client = pyghmi_client(bench)
    assert client.get_power() == {"powerstate": "on"}
    readings = {reading.name: reading.value for reading in client.get_sensor_data()}
    assert readings["CPU1 Temp"] == 47
    client.ipmi_session.logout()


def test_64_at_once_cost_the_bmc_no_more_than_one(tmp_path: Path) -> None:
    # On a machine that is busy enough, the last of them starts long after the first has ended.
    settings = LoopbackSettings(port=0, request_s=5.0, shim={"share_s": "300"})
    with bench_in(tmp_path, settings, KCS_LIMITS) as bench:
        before = bench.host.requests()
        with_one = bench.ipmitool("mc", "info")
        cost = bench.host.requests() - before
        assert (cost > 0, with_one.returncode) == (True, 0)
        bench.host.set_faults("slow:0.05")
        before = bench.host.requests()
        crowd = [
            subprocess.Popen(
                bench.shim_words("mc", "info"),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=bench.environment,
            )
            for _ in range(64)
        ]
        said = [process.communicate(timeout=3 * TIMEOUT_S)[0] for process in crowd]
        assert {process.returncode for process in crowd} == {0}
        assert set(said) == {with_one.stdout}
        assert bench.host.requests() - before == cost


def test_by_its_name_the_shim_is_the_same(bench: Bench) -> None:
    done = bench.run(*bmcmedic("ipmitool", "power", "status"))
    assert (done.returncode, done.stdout) == (0, "Chassis Power is on\n")


# ------------------------------------------------------------------------------ slow and wedged


def test_on_a_slow_bmc_all_tools_wait_and_get_their_answers(sick_bench: Bench) -> None:
    sick_bench.host.set_faults("slow:0.3")
    assert sick_bench.ipmitool("power", "status").stdout == "Chassis Power is on\n"
    assert sick_bench.shim("power", "status").stdout == "Chassis Power is on\n"
    assert "3.23" in sick_bench.free_ipmi("bmc-info", "--get-device-id").stdout
    client = pyghmi_client(sick_bench)
    assert client.get_power() == {"powerstate": "on"}
    client.ipmi_session.logout()
    sick_bench.host.set_faults("slow:0.03")  # it asks a hundred times
    assert "CPU1 Temp" in sick_bench.free_ipmi("ipmi-sensors", "--quiet-cache").stdout


def test_a_silent_bmc_is_an_error_at_once_and_no_process_stays_behind(sick_bench: Bench) -> None:
    bench = sick_bench
    kept = bench.shim("mc", "info")
    bench.hang()
    before = bench.host.requests()

    began = time.monotonic()
    error = bench.shim("sdr", "list")
    command = bench.shim("power", "off")
    old = bench.shim("mc", "info")
    took_s = time.monotonic() - began
    assert took_s < 3 * AT_ONCE_S + SLACK_S
    assert (error.returncode, error.stdout) == (1, "")
    assert "the BMC does not answer" in error.stderr
    assert command.returncode == 1
    assert "nothing was sent" in command.stderr
    assert (old.returncode, old.stdout) == (0, kept.stdout)
    assert "this is its answer from" in old.stderr

    # The other tools get completion codes.
    assert "Destination unavailable" in bench.ipmitool("raw", "6", "4").stderr
    assert bench.free_ipmi("ipmi-sensors", "--quiet-cache").returncode == 1
    assert bench.free_ipmi("bmc-info").returncode == 1
    bridged = bench.ipmitool("-b", "6", "-t", "0x2c", "raw", "0x4", "0x2d", "0xbe")
    assert bridged.returncode == 1
    client = pyghmi_client(bench)
    assert client.raw_command(netfn=6, command=4)["code"] == CompletionCode.DESTINATION_UNAVAILABLE
    client.ipmi_session.logout()
    assert bench.host.bmc.host.power_changes == 0
    assert bench.host.requests() == before


def test_before_a_hang_is_noticed_a_cached_answer_is_never_given_as_fresh(
    tmp_path: Path,
) -> None:
    settings = LoopbackSettings(port=0, request_s=5.0, shim={"share_s": "-1000"})
    with bench_in(tmp_path, settings) as bench:
        kept = bench.shim("power", "status")
        assert kept.stdout == "Chassis Power is on\n"
        bench.host.set_faults("hang")
        for _ in range(2):
            old = bench.shim("power", "status")
            assert (old.returncode, old.stdout) == (0, kept.stdout)
            assert "this is its answer from" in old.stderr


def test_it_answers_again_by_itself(sick_bench: Bench) -> None:
    sick_bench.hang()
    sick_bench.host.set_faults()
    eventually(lambda: sick_bench.proxy.state() == "well")
    done = sick_bench.shim("mc", "info")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_restarted_driver_is_found_again(sick_bench: Bench) -> None:
    assert sick_bench.ipmitool("power", "status").returncode == 0
    sick_bench.host.stop_driver()
    away = sick_bench.ipmitool("power", "status")
    assert away.returncode == 1
    eventually(lambda: sick_bench.proxy.state() == "no-driver")
    # Now the shim is out of the way; what the real one says of this machine is its own business.
    assert (
        sick_bench.shim("-I", "nonsense").returncode
        == sick_bench.run("ipmitool", "-I", "nonsense").returncode
    )
    sick_bench.host.start_driver()
    assert sick_bench.ipmitool("power", "status").returncode == 0


# ---------------------------------------------------------------------------------- the exporter


@pytest.mark.skipif(shutil.which(EXPORTER) is None, reason="ipmi_exporter is not installed")
def test_ipmi_exporter(tmp_path: Path) -> None:
    settings = LoopbackSettings(port=0, request_s=5.0, stale_answer_s_max=0.0)
    with bench_in(tmp_path, settings) as bench:
        listens = f"127.0.0.1:{unused_port(kind=socket.SOCK_STREAM)}"
        config = tmp_path / "run" / "door" / "ipmi_exporter.yml"
        with subprocess.Popen(
            [EXPORTER, f"--config.file={config}", f"--web.listen-address={listens}"],
            env=bench.environment,
            stderr=subprocess.DEVNULL,
        ) as exporter:
            try:
                eventually(lambda: scraped(listens, bench) is not None)
                healthy = scraped(listens, bench)
                assert healthy is not None
                assert 'ipmi_temperature_celsius{id="4",name="CPU1 Temp"} 47' in healthy
                assert collectors(healthy) == {1}
                bench.host.set_faults("slow:0.02")
                assert collectors(scraped(listens, bench)) == {1}
                bench.host.set_faults()
                bench.hang()
                began = time.monotonic()
                assert collectors(scraped(listens, bench)) == {0}
                assert time.monotonic() - began < AT_ONCE_S + SLACK_S
            finally:
                exporter.terminate()


def scraped(listens: str, bench: Bench) -> str | None:
    url = f"http://{listens}/ipmi?target=127.0.0.1:{bench.proxy.port}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except urllib.error.URLError:
        return None


def collectors(text: str | None) -> set[int]:
    lines = (text or "").splitlines()
    return {int(line.split()[-1]) for line in lines if line.startswith("ipmi_up{")}


def pyghmi_client(bench: Bench) -> Command:
    return Command(
        bmc="127.0.0.1", userid="bmcmedic", password=bench.proxy.password, port=bench.proxy.port
    )
