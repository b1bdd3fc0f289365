"""`heal` and `reset` over real UDP against each fault; the BMC is asked what reached it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import Simulator, run, simulated_rack, simulator

BOOT = "boot:1"
TIMES = ("--quiet-time", "1.5", "--return-time", "60", "--steady-time", "1")
"""Short times; a BMC that comes back needs no longer ones, even on a busy machine."""
SHORT_RETURN = ("--return-time", "15")
"""A shorter return time for BMCs that do not restart."""


@dataclass(frozen=True)
class Healed:
    """The result of one `heal` or `reset`: its exit status, JSON and progress."""

    status: int
    document: dict[str, Any]
    progress: str

    @property
    def verdict(self) -> str:
        return str(self.document["verdict"])

    def outcome(self, name: str) -> str:
        return next(str(s["outcome"]) for s in self.document["steps"] if s["name"] == name)


def result_of(done: subprocess.CompletedProcess[str]) -> Healed:
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    document = json.loads(lines[0])
    assert {
        "target",
        "verdict",
        "steps",
        "power_before",
        "power_after",
        "host_untouched",
    } <= set(document)
    assert all(set(step) == {"name", "outcome", "at", "detail"} for step in document["steps"])
    return Healed(done.returncode, document, done.stderr)


def heal(sim: Simulator, *options: str, stdin: str = "") -> Healed:
    return result_of(run("heal", sim.target, "--json", "--yes", *TIMES, *options, stdin=stdin))


WITH_HOST = ("--triage-command", "HOST")
IN_BAND_HUNG = ("--in-band-hung",)


@dataclass(frozen=True)
class SickBmc:
    """A sick BMC: its faults, and the command that is run on it."""

    faults: tuple[str, ...]
    command: tuple[str, ...] = ("heal", *WITH_HOST)
    watchdog_armed_s: int | None = None


SICK_BMCS = {
    "healthy": SickBmc((BOOT,)),
    "hang": SickBmc((BOOT, "hang")),
    "kcs-stuck": SickBmc((BOOT, "kcs-stuck:ibf")),
    "armed": SickBmc((BOOT, "hang:timer"), watchdog_armed_s=120),
    "lost-reply": SickBmc((BOOT, "hang", "reset-lost-reply"), ("heal", *IN_BAND_HUNG)),
    "ignored": SickBmc(("hang:timer", "reset-ignored"), ("heal", *WITH_HOST, *SHORT_RETURN)),
    "reboots-host": SickBmc((BOOT, "hang", "reset-reboots-host")),
    "reboots-host-lan-only": SickBmc((BOOT, "hang", "reset-reboots-host"), ("heal", *IN_BAND_HUNG)),
    "dead": SickBmc(("dead",), ("heal", *IN_BAND_HUNG)),
    "boots-for-ever": SickBmc(("boot:600", "hang"), ("heal", *IN_BAND_HUNG, "--return-time", "4")),
    "slow": SickBmc((BOOT, "hang", "slow:0.3"), ("heal", *IN_BAND_HUNG)),
    "lan-loss": SickBmc((BOOT, "hang", "lan-loss:0.15"), ("heal", *IN_BAND_HUNG)),
    "garbage": SickBmc((BOOT, "hang", "garbage:0.15"), ("heal", *IN_BAND_HUNG)),
    "one-slot": SickBmc((BOOT, "hang", "sessions:1"), ("heal", *IN_BAND_HUNG)),
    "no-slot": SickBmc((BOOT, "hang", "sessions:0"), ("heal", *IN_BAND_HUNG)),
    "reset-cold": SickBmc((BOOT,), ("reset", "--cold")),
    "reset-warm": SickBmc((BOOT,), ("reset", "--warm")),
    "reset-cold-reboots-host": SickBmc((BOOT, "reset-reboots-host"), ("reset", "--cold")),
    "reset-cold-ignored": SickBmc((BOOT, "reset-ignored"), ("reset", "--cold", *SHORT_RETURN)),
    "reset-warm-ignored": SickBmc((BOOT, "reset-ignored"), ("reset", "--warm", *SHORT_RETURN)),
    "reset-cold-dead": SickBmc((BOOT, "dead"), ("reset", "--cold", *SHORT_RETURN)),
}
AT_ONCE_MAX = 8
"""Most commands that run at the same time."""


def run_on(bmc: Simulator, sick_bmc: SickBmc) -> Healed:
    name, *options = (bmc.triage_command if w == "HOST" else w for w in sick_bmc.command)
    return result_of(run(name, bmc.target, "--json", "--yes", *TIMES, *options))


@dataclass(frozen=True)
class SickRack:
    """A rack of sick BMCs, on all of which the commands run at the same time."""

    bmcs: dict[str, Simulator]
    results: dict[str, Future[Healed]]

    def __getitem__(self, name: str) -> tuple[Simulator, Healed]:
        return self.bmcs[name], self.results[name].result()


@pytest.fixture(scope="module")
def sick_rack() -> Iterator[SickRack]:
    options = ["--seed", "7"]
    for number, sick_bmc in enumerate(SICK_BMCS.values(), 1):
        name = f"bmc{number:05d}"
        options += [f"--fault={name}={fault}" for fault in sick_bmc.faults]
        if sick_bmc.watchdog_armed_s is not None:
            options.append(f"--watchdog-armed={name}={sick_bmc.watchdog_armed_s}")
    with (
        simulated_rack(len(SICK_BMCS), "127.9.7.1", *options) as rack,
        ThreadPoolExecutor(AT_ONCE_MAX) as pool,
    ):
        bmcs = dict(zip(SICK_BMCS, (rack[name] for name in sorted(rack)), strict=True))
        results = {name: pool.submit(run_on, bmcs[name], SICK_BMCS[name]) for name in SICK_BMCS}
        yield SickRack(bmcs, results)


def test_a_healthy_bmc_is_left_alone(sick_rack: SickRack) -> None:
    bmc, healed = sick_rack["healthy"]
    assert (healed.status, healed.verdict) == (0, "healthy")
    assert healed.document["target"] == bmc.target
    assert bmc.changes == 0


@pytest.mark.parametrize("name", ["hang", "kcs-stuck"])
def test_a_wedge_is_healed_with_one_cold_reset(sick_rack: SickRack, name: str) -> None:
    bmc, healed = sick_rack[name]
    assert (healed.status, healed.verdict) == (0, "healed")
    assert healed.document["host_untouched"] is True
    state = bmc.get()
    assert state["cold_resets"] == 1
    assert state["host_power_changes"] == 0


def test_the_host_survives_its_own_watchdog(sick_rack: SickRack) -> None:
    bmc, healed = sick_rack["armed"]
    assert (healed.status, healed.verdict) == (0, "healed")
    assert healed.outcome("watchdog") == "held"
    state = bmc.get()
    assert state["cold_resets"] == 1
    assert state["host_boots"] == state["host_power_changes"] == 0
    assert state["watchdog"]["running"]


def test_a_timer_that_cannot_be_read_at_first_is_held_before_it_expires() -> None:
    faults = (BOOT, "hang:timer", "refuse:06/25:0xff:4")
    options = [f"--fault={fault}" for fault in faults]
    with simulator("--watchdog-armed", "20", *options) as sim:
        healed = heal(sim, *IN_BAND_HUNG)
        assert (healed.status, healed.verdict) == (0, "healed-lan-only")
        assert healed.outcome("watchdog") == "held"
        state = sim.get()
        assert state["cold_resets"] == 1
        assert state["host_boots"] == state["host_power_changes"] == 0
        assert sim.requests("06/25") > 4


def test_a_timer_that_may_run_forbids_the_reset_but_for_the_operators_word() -> None:
    with simulator("--fault", BOOT, "--fault", "hang", "--fault", "refuse:06/25:0xff") as sim:
        healed = heal(sim, *IN_BAND_HUNG)
        assert (healed.status, healed.verdict) == (3, "refused")
        assert any(line.startswith("watchdog-armed: ") for line in healed.document["evidence"])
        assert sim.changes == 0
        healed = heal(sim, *IN_BAND_HUNG, "--watchdog-unknown-ok")
        assert (healed.status, healed.verdict) == (0, "healed-lan-only")
        assert healed.outcome("watchdog") == "overridden"
        assert sim.get()["cold_resets"] == 1


def test_a_lost_reply_never_means_two_resets(sick_rack: SickRack) -> None:
    bmc, healed = sick_rack["lost-reply"]
    assert (healed.status, healed.verdict) == (0, "healed-lan-only")
    assert healed.outcome("cold-reset") == "unknown"
    assert healed.document["host_untouched"] is None
    assert bmc.get()["cold_resets"] == 1
    assert bmc.requests("06/02") == 1


def test_a_reset_that_is_ignored_is_found_out(sick_rack: SickRack) -> None:
    bmc, healed = sick_rack["ignored"]
    assert (healed.status, healed.verdict) == (1, "needs-repair")
    assert healed.outcome("restart-evidence") == "disproven"
    assert bmc.get()["cold_resets"] == 0
    assert bmc.requests("06/02") == 1


@pytest.mark.parametrize("name", ["reboots-host", "reboots-host-lan-only"])
def test_a_host_that_restarts_with_its_bmc_is_never_called_healed(
    sick_rack: SickRack, name: str
) -> None:
    bmc, healed = sick_rack[name]
    assert (healed.status, healed.verdict) == (1, "needs-repair")
    assert healed.document["host_untouched"] is False
    assert healed.document["power_before"] == healed.document["power_after"] == "on"
    assert bmc.get()["cold_resets"] == 1


def test_a_dead_bmc_gets_nothing(sick_rack: SickRack) -> None:
    bmc, healed = sick_rack["dead"]
    assert (healed.status, healed.verdict) == (1, "needs-repair")
    assert bmc.get()["requests"] == {}


def test_a_bmc_that_does_not_come_back_is_for_repair(sick_rack: SickRack) -> None:
    bmc, healed = sick_rack["boots-for-ever"]
    assert (healed.status, healed.verdict) == (1, "needs-repair")
    assert healed.outcome("poll") == "not-back"
    assert bmc.get()["cold_resets"] == 1


def test_a_leak_is_healed() -> None:
    with simulator("--fault", BOOT, "--fault", "port80-flood:2000") as sim:
        symptoms = sim.get("/triage") | {"symptoms": ["bmc-slow"]}
        healed = heal(sim, "--symptoms", "-", stdin=json.dumps(symptoms))
        assert (healed.status, healed.verdict) == (0, "healed-lan-only")
        assert sim.get()["cold_resets"] == 1
        assert sim.get()["memory_free_fraction"] > 0.75


def test_a_slow_bmc_is_healed_of_its_hang_and_stays_slow(sick_rack: SickRack) -> None:
    bmc, healed = sick_rack["slow"]
    assert (healed.status, healed.verdict) == (0, "healed-lan-only")
    assert bmc.get()["cold_resets"] == 1


@pytest.mark.parametrize("name", ["lan-loss", "garbage"])
def test_a_bad_network_never_means_two_resets(sick_rack: SickRack, name: str) -> None:
    bmc, healed = sick_rack[name]
    resets = bmc.get()["cold_resets"]
    assert bmc.requests("06/02") == resets <= 1
    # The one reset may be lost on the way: then it did not happen, and that is found out. A
    # damaged session set-up looks like a wrong password, which is refused.
    if resets:
        assert (healed.status, healed.verdict) == (0, "healed-lan-only")
    else:
        assert (healed.status, healed.verdict) in ((1, "needs-repair"), (3, "refused"))


def test_one_session_slot_is_enough_and_none_is_for_repair(sick_rack: SickRack) -> None:
    bmc, healed = sick_rack["one-slot"]
    assert healed.verdict == "healed-lan-only"
    assert bmc.get()["cold_resets"] == 1
    bmc, healed = sick_rack["no-slot"]
    assert (healed.status, healed.verdict) == (1, "needs-repair")
    assert "insufficient resources" in healed.progress
    assert bmc.changes == 0


# ---------------------------------------------------------------------------- what is refused


def test_symptoms_of_another_host_send_nothing() -> None:
    with (
        simulator("--name", "bmc1", "--seed", "1", "--fault", "hang") as one,
        simulator("--name", "bmc1", "--seed", "2", "--fault", "hang") as other,
    ):
        symptoms = json.dumps(other.get("/triage"))
        healed = heal(one, "--symptoms", "-", "--in-band-hung", stdin=symptoms)
        assert (healed.status, healed.verdict) == (3, "refused")
        assert any(line.startswith("other-host") for line in healed.document["evidence"])
        assert one.changes == 0


def test_old_symptoms_send_nothing(tmp_path: Path) -> None:
    with simulator("--fault", "hang") as sim:
        seen = sim.get("/triage")
        file = tmp_path / "symptoms.json"
        file.write_text(json.dumps(seen | {"captured_at": seen["captured_at"] - 301}))
        healed = heal(sim, "--symptoms", str(file))
        assert (healed.status, healed.verdict) == (3, "refused")
        assert sim.changes == 0


def test_two_heals_at_once_send_one_reset() -> None:
    with simulator("--fault", BOOT, "--fault", "hang") as sim, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(heal, sim, "--in-band-hung") for _ in range(2)]
        ends = sorted((end.result().status, end.result().verdict) for end in both)
        assert ends == [(0, "healed-lan-only"), (3, "refused")]
        assert sim.requests("06/02") == 1


def test_without_a_terminal_and_without_yes_nothing_is_sent() -> None:
    with simulator("--fault", "hang") as sim:
        done = run("heal", sim.target, "--in-band-hung", *TIMES)
        assert done.returncode == 3
        assert "Plan: cold-reset" in done.stdout
        assert "--yes" in done.stdout
        assert run("reset", sim.target, "--cold", *TIMES).returncode == 3
        assert sim.changes == 0


def test_wrong_credentials_are_refused_and_not_shown() -> None:
    with simulator("--fault", "hang") as sim:
        done = run("heal", sim.target, "--in-band-hung", "--yes", password="hunter2-hunter2")
        assert done.returncode == 3
        assert "wrong password" in done.stdout
        assert sim.changes == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sh -c 'exit 7'", "ended with status 7"),
        ("true", "empty"),
        ("/nonexistent/triage", "No such file"),
        ("echo not-json", "not JSON"),
    ],
)
def test_a_triage_command_that_fails_is_refused(command: str, message: str) -> None:
    with simulator("--fault", "hang") as sim:
        healed = heal(sim, "--triage-command", command)
        assert (healed.status, healed.verdict) == (3, "refused")
        assert message in healed.document["reason"]
        assert sim.changes == 0


# -------------------------------------------------------------------------------------- reset


@pytest.mark.parametrize(
    ("name", "status", "verdict"),
    [
        ("reset-cold", 0, "back"),
        ("reset-warm", 0, "back"),
        ("reset-cold-reboots-host", 1, "back-host-changed"),
        ("reset-cold-ignored", 1, "not-back"),
        ("reset-warm-ignored", 1, "not-back"),
        ("reset-cold-dead", 1, "not-back"),
    ],
)
def test_reset(sick_rack: SickRack, name: str, status: int, verdict: str) -> None:
    bmc, done = sick_rack[name]
    assert (done.status, done.verdict) == (status, verdict)
    state = bmc.get()
    assert state["cold_resets"] + state["warm_resets"] <= 1
