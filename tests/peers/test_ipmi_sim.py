"""The program against OpenIPMI's `ipmi_sim`: suite 3 only, no self-test, no cold reset."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.errors import CompletionCodeError
from bmcmedic.ipmi.commands.chassis import ChassisControlAction, ChassisControlReq
from bmcmedic.ipmi.commands.session import SetSessionPrivilegeLevelReq
from bmcmedic.ipmi.commands.watchdog import SetWatchdogTimerReq, TimeoutAction, TimerUse
from bmcmedic.ipmi.constants import CompletionCode, PrivilegeLevel
from bmcmedic.ipmi.credentials import Credentials
from bmcmedic.transport.lanplus import LanPlus
from tests.support.ipmi_sim import GUID, IpmiSim, ipmi_sim
from tests.support.ports import unused_port
from tests.support.programs import bmcmedic, run

TIMES = ("--quiet-time", "1", "--return-time", "10", "--steady-time", "1")
DEADLINE_S = 60.0
USER, ADMINISTRATOR = 2, 4


@pytest.fixture(scope="module")
def bmc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpmiSim]:
    with ipmi_sim(tmp_path_factory.mktemp("ipmi_sim") / "bmc") as running:
        yield running


def document(output: str) -> dict[str, Any]:
    (line,) = output.splitlines()
    decoded: dict[str, Any] = json.loads(line)
    return decoded


def test_it_is_healthy_in_every_detail(bmc: IpmiSim) -> None:
    done = run("probe", bmc.target, "--detail", "--json")
    assert done.returncode == 0, done.stdout
    output = document(done.stdout)
    assert 0 < output.pop("latency_s") < 5
    assert output == {
        "target": bmc.target,
        "reachable": True,
        "power": "off",
        "device_id": 0,
        "firmware": "9.08",
        "manufacturer_id": 0x1291,
        "guid": GUID,
        "self_test": "unsupported",
        "watchdog": {"running": False, "present_countdown_s": 0.0, "action": "none"},
        "error": None,
    }


def test_it_falls_back_to_suite_3_unless_17_was_requested(bmc: IpmiSim) -> None:
    assert run("probe", bmc.target).returncode == 0
    assert run("probe", bmc.target, "--cipher-suite", "3").returncode == 0
    done = run("probe", bmc.target, "--cipher-suite", "17")
    assert done.returncode == 1
    assert "invalid authentication algorithm (RMCP+ status 0x04)" in done.stdout
    assert "--cipher-suite" in done.stdout


def test_wrong_credentials_are_distinguished(bmc: IpmiSim) -> None:
    wrong_password = run("probe", bmc.target, password="not-it")
    assert wrong_password.returncode == 1
    assert "wrong password for user 'admin'" in wrong_password.stdout
    wrong_user = run("probe", bmc.target, "--user", "nobody")
    assert wrong_user.returncode == 1
    assert "unauthorized user name (RMCP+ status 0x0d)" in wrong_user.stdout


def test_a_password_may_be_longer_than_16_bytes(bmc: IpmiSim) -> None:
    password = "nineteen-bytes-long"
    assert run("probe", bmc.target, "--user", "long", password=password).returncode == 0
    done = run("probe", bmc.target, "--user", "long", password=password[:-1])
    assert done.returncode == 1
    assert "wrong password for user 'long'" in done.stdout


def test_a_bmc_key_is_required_if_one_is_set(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("0x" + b"nineteen-bytes-key!".hex() + "\n")
    wrong.write_text("another key")
    with ipmi_sim(tmp_path / "bmc", kg="nineteen-bytes-key!") as bmc:
        assert run("probe", bmc.target, "--kg-file", str(right)).returncode == 0
        for options in ((), ("--kg-file", str(wrong))):
            done = run("probe", bmc.target, *options)
            assert done.returncode == 1
            assert "K_g" in done.stdout


def test_a_session_as_a_plain_user_can_change_nothing(bmc: IpmiSim) -> None:
    async def refusals() -> list[CompletionCodeError]:
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        credentials = Credentials("admin", b"secret")
        refused = []
        async with await LanPlus.connect(bmc.address, credentials, deadline=deadline) as session:
            for request in (
                SetWatchdogTimerReq(TimerUse.SMS_OS, TimeoutAction.NONE, 60.0),
                ChassisControlReq(ChassisControlAction.POWER_DOWN),
                SetSessionPrivilegeLevelReq(PrivilegeLevel.ADMINISTRATOR),
            ):
                with pytest.raises(CompletionCodeError) as refusal:
                    await session.exchange(request, deadline)
                refused.append(refusal.value)
        return refused

    by_the_timer, by_the_power, by_the_level = asyncio.run(refusals())
    assert by_the_timer.code == CompletionCode.INSUFFICIENT_PRIVILEGE
    assert by_the_power.code == CompletionCode.INSUFFICIENT_PRIVILEGE
    assert "insufficient privilege" in str(by_the_power)
    assert by_the_level.code == 0x81
    assert "exceeds the limit" in str(by_the_level)


def test_warm_sessions_are_set_up_once(bmc: IpmiSim) -> None:
    before = len(bmc.privileges())
    arguments = ("--session", "warm", "--count", "5", "--period", "0.1", "--json")
    done = run("probe", bmc.target, *arguments)
    assert done.returncode == 0, done.stdout
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert [output["power"] for output in rounds] == ["off"] * 5
    assert len(bmc.privileges()) == before + 1


def test_a_restart_between_two_rounds_costs_a_new_session_and_nothing_else(tmp_path: Path) -> None:
    port = unused_port()
    arguments = ("probe", f"127.0.0.1:{port}", "--session", "warm", "--json")
    with contextlib.ExitStack() as stack:
        with ipmi_sim(tmp_path / "before", port):
            watching = stack.enter_context(
                subprocess.Popen(
                    bmcmedic(*arguments, "--count", "2", "--period", "4", "--timeout", "8"),
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"BMCMEDIC_USER": "admin", "BMCMEDIC_PASSWORD": "secret"},
                )
            )
            assert watching.stdout is not None
            first = json.loads(watching.stdout.readline())
        after = stack.enter_context(ipmi_sim(tmp_path / "after", port))
        second = json.loads(watching.stdout.readline())
        assert watching.wait(DEADLINE_S) == 0
        assert (first["power"], first["error"]) == ("off", None)
        assert (second["power"], second["error"]) == ("off", None)
        assert after.privileges() == [USER]


def test_a_sweep_over_several(tmp_path: Path) -> None:
    with contextlib.ExitStack() as running:
        bmcs = [running.enter_context(ipmi_sim(tmp_path / name)) for name in "abc"]
        targets = [bmc.target for bmc in bmcs]
        done = run("probe", *targets, "--detail", "--json")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(result["target"] for result in results) == sorted(targets)
    assert [result["power"] for result in results] == ["off"] * 3
    assert done.returncode == 0


def test_heal_finds_it_healthy_as_a_plain_user(bmc: IpmiSim) -> None:
    before = len(bmc.privileges())
    done = run("heal", bmc.target, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    output = document(done.stdout)
    assert (output["verdict"], output["resets_sent"]) == ("healthy-lan-only", 0)
    # As the test above shows, such a session could not change anything.
    assert set(bmc.privileges()[before:]) == {USER}


def test_heal_reports_that_a_bmc_which_cannot_restart_needs_repair(bmc: IpmiSim) -> None:
    before = len(bmc.privileges())
    done = run("heal", bmc.target, "--in-band-hung", "--yes", "--json", *TIMES)
    assert done.returncode == 1, done.stderr
    output = document(done.stdout)
    assert ADMINISTRATOR in bmc.privileges()[before:]
    assert set(output) == {
        "target",
        "verdict",
        "reason",
        "steps",
        "power_before",
        "power_after",
        "host_untouched",
        "evidence",
        "resets_sent",
        "run_id",
        "version",
        "began_at",
        "ended_at",
        "operator",
        "reference",
        "diagnosis",
        "rule",
        "firmware",
        "manufacturer_id",
        "product_id",
    }
    assert (output["target"], output["verdict"]) == (bmc.target, "needs-repair")
    assert (output["power_before"], output["power_after"]) == ("off", "off")
    assert output["resets_sent"] == 1
    assert "0xc1" in output["reason"]
    steps = {step["name"]: step for step in output["steps"]}
    assert all(set(step) == {"name", "outcome", "at", "detail"} for step in output["steps"])
    assert steps["diagnose"]["outcome"] == "in-band-hung"
    assert steps["watchdog"]["outcome"] == "untouched"
    assert steps["cold-reset"]["outcome"] == "denied"
    assert list(steps)[-1] == "verdict"
    assert "needs-repair" in done.stderr


def test_an_unsupported_warm_reset_does_not_count_as_recovery(bmc: IpmiSim) -> None:
    done = run("reset", bmc.target, "--warm", "--yes", "--json", *TIMES)
    assert done.returncode == 3, done.stderr
    output = document(done.stdout)
    assert (output["verdict"], output["resets_sent"]) == ("refused", 1)
    assert "--cold" in output["reason"]


def test_nothing_is_sent_without_yes_or_a_terminal(bmc: IpmiSim) -> None:
    done = run("heal", bmc.target, "--in-band-hung", "--json", *TIMES)
    assert done.returncode == 3
    output = document(done.stdout)
    assert (output["verdict"], output["resets_sent"]) == ("refused", 0)
