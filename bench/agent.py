"""Measure the cost of driver and agent on a host: CPU and memory, idle and in a hang.

    sudo make bench-agent ARGS="[--seconds 120] [--others 300] [--clients 200]
        [--sensors 19]"

Everything runs: the driver with its watchdog over the registers of a simulated BMC, and the agent
with metrics, the loopback proxy and a controller that accepts its reports over HTTPS. The driver's
figures include the work of the simulated BMC, so they are too high. In the hang the registers stop
answering, and stuck clients stay, because the agent only observes: the worst case. In the same
minutes Debian's prometheus-ipmi-exporter asks another simulated BMC over LAN, scraped as often.
All of it has a pid namespace of its own, with idle processes to scan.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
import urllib.request
from pathlib import Path

from bench.support.hanging_driver import SOCKET, hang, hanging_driver, running
from bench.support.pid_namespace import crowd, run_apart, until
from tests.support.agent_controller import Authority, Controller
from tests.support.host_clients import HostClients
from tests.support.programs import bmcmedic, simulator

COMPARES = "prometheus-ipmi-exporter, scraped as often in the same minutes"
FIGURE = "CPU of driver and agent, idle and in a hang, in % of one core; memory (PSS) in MiB"

EXPORTER = "prometheus-ipmi-exporter"
SCRAPE_S = 15.0
SETTLE_S = 20.0
"""Time between the start of a phase and its measurement, in seconds.

The breaker opens in it, and each client is seen twice.
"""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int, *, with_children: bool = False) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks = sum(map(int, fields[11 : 15 if with_children else 13]))
    return ticks / TICKS_PER_S


def pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(word) for word in text.split()]


def family(pid: int) -> list[int]:
    return [pid, *(each for child in children(pid) for each in family(child))]


def scrape_agent(folder: Path) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(folder / "metrics.sock"))
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        text = b""
        while piece := client.recv(65536):
            text += piece
    return text.decode()


def scrape_exporter(url: str) -> str:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own
        return str(answer.read().decode())
    return ""


class Bench:
    def __init__(self, folder: Path, driver: int, agent: int) -> None:
        self.folder = folder
        self.pids = {"driver": driver, "agent": agent}
        self.exporter: int | None = None
        self.exporter_url = ""
        self._faults_url = ""

    def start_exporter(self, stack: contextlib.ExitStack) -> None:
        bmc = stack.enter_context(simulator())
        listens = f"127.0.0.1:{free_port()}"
        config = f"--config.file={exporter_config(self.folder)}"
        self.exporter = stack.enter_context(
            running(EXPORTER, config, f"--web.listen-address={listens}")
        )
        self.exporter_url = f"http://{listens}/ipmi?target={bmc.target}"
        self._faults_url = f"http://{bmc.control}/bmcs/bmc1/faults"
        until(lambda: "ipmi_up" in scrape_exporter(self.exporter_url))

    def silence_exporters_bmc(self) -> None:
        if self._faults_url:
            body = json.dumps({"faults": ["dead"]}).encode()
            request = urllib.request.Request(self._faults_url, body)  # noqa: S310 - our own
            urllib.request.urlopen(request, timeout=30).close()  # noqa: S310

    def _spent(self) -> dict[str, float]:
        spent = {name: sum(map(cpu_s, family(pid))) for name, pid in self.pids.items()}
        if self.exporter is not None:
            spent["exporter"] = cpu_s(self.exporter, with_children=True)
        return spent

    def phase(self, name: str, seconds: float) -> None:
        self._scrape_for(SETTLE_S)
        before, began = self._spent(), time.monotonic()
        self._scrape_for(seconds)
        took_s = time.monotonic() - began
        after = self._spent()
        share = {key: 100 * (after[key] - before[key]) / took_s for key in after}
        both = share["driver"] + share["agent"]
        memory = {key: sum(map(pss_mib, family(pid))) for key, pid in self.pids.items()}
        print(f"{name}, {took_s:.0f} s:")
        print(
            f"  CPU % of a core: driver {share['driver']:.2f}, agent {share['agent']:.2f},", end=""
        )
        print(f" both {both:.2f}; exporter {share.get('exporter', float('nan')):.2f}")
        print(
            f"  PSS MiB: driver {memory['driver']:.1f} ({len(family(self.pids['driver']))}", end=""
        )
        print(f" processes), agent {memory['agent']:.1f}, both {sum(memory.values()):.1f}", end="")
        if self.exporter is not None:
            print(f"; exporter {sum(map(pss_mib, family(self.exporter))):.1f}", end="")
        print(flush=True)

    def _scrape_for(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            next_at = time.monotonic() + SCRAPE_S
            scrape_agent(self.folder)
            if self.exporter_url:
                scrape_exporter(self.exporter_url)
            time.sleep(max(0.0, min(next_at, until_s) - time.monotonic()))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def exporter_config(folder: Path) -> Path:
    file = folder / "exporter.yml"
    file.write_text(
        "modules:\n  default:\n    user: admin\n    pass: secret\n    privilege: user\n"
        "    driver: LAN_2_0\n    timeout: 5000\n    collectors: [bmc, ipmi, chassis, sel]\n",
        encoding="utf-8",
    )
    return file


def agent_config(
    folder: Path, controller: Controller, authority: Authority, *, sensors: bool
) -> Path:
    file = folder / "agent.toml"
    file.write_text(
        f"""
[driver]
socket = "{folder / SOCKET}"
[relief]
stuck_after_s = 5
[controller]
url = "{controller.url}"
ca_file = "{authority.file}"
[doors]
loopback = true
port = 0
[metrics]
listen = "unix:{folder}/metrics.sock"
sensors = {str(sensors).lower()}
[process]
runtime_dir = "{folder}"
state_dir = "{folder}/state"
""",
        encoding="utf-8",
    )
    return file


def measure(seconds: float, others: int, clients: int, sensors: int) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        programs = HostClients(folder)
        crowd(programs, "python", others)
        authority, controller = Authority(folder), Controller()
        stack.enter_context(controller.serving(authority.issue("controller")))
        driver = stack.enter_context(hanging_driver(folder, sensors))
        file = agent_config(folder, controller, authority, sensors=sensors > 0)
        agent = stack.enter_context(running(*bmcmedic("agent", "--config", str(file))))
        until((folder / "metrics.sock").exists)
        bench = Bench(folder, driver, agent)
        if shutil.which(EXPORTER) is None:
            print(f"{EXPORTER} is not installed: measured without it")
        else:
            bench.start_exporter(stack)
        until(lambda: "bmcmedic_pats_total" in scrape_agent(folder))
        until(lambda: "bmcmedic_stuck_clients" in scrape_agent(folder))  # its first look has ended
        print(
            f"{sensors} sensors, {others} other processes,"
            f" scraped each {SCRAPE_S:g} s, reported each 10 s"
        )
        bench.phase("idle", seconds)
        hang(folder)
        crowd(programs, "ipmitool", clients)
        bench.silence_exporters_bmc()
        bench.phase(f"hang, {clients} stuck clients", seconds)
        seen = [line for line in scrape_agent(folder).splitlines() if line[:1] != "#"]
        print(*(f"  {line}" for line in seen if "symptom" in line or "stuck" in line), sep="\n")
        print(f"  {len(controller.reports)} reports arrived")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--others", type=int, default=300)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--sensors", type=int, default=19, help="0: none is read")
    options = parser.parse_args()
    run_apart(lambda: measure(options.seconds, options.others, options.clients, options.sensors))


if __name__ == "__main__":
    main()
