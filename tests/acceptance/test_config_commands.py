"""`--print-config`, `--write-config` and `--check-config` of driver and agent."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO

import pytest

from tests.support.programs import bmcmedic

TIMEOUT_S = 90
PROGRAMS = ["driver", "agent"]
LOG_LEVEL = '[process]\nlog_level = "error"\n'


def run(*words: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        bmcmedic(*words),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_file_in_use_cannot_be_the_output(program: str, tmp_path: Path) -> None:
    file = tmp_path / "used.toml"
    file.write_text(LOG_LEVEL)
    with file.open("a") as output:  # unlike `>`, so that the test sees that nothing is written
        done = run(program, "--config", str(file), "--print-config", stdout=output)
    assert done.returncode == 2
    assert f"{file} is the configuration in use" in done.stderr
    assert "--write-config" in done.stderr
    assert file.read_text() == LOG_LEVEL


@pytest.mark.parametrize("program", PROGRAMS)
def test_another_file_can_be_the_output(program: str, tmp_path: Path) -> None:
    file, other = tmp_path / "used.toml", tmp_path / "other.toml"
    file.write_text(LOG_LEVEL)
    with other.open("w") as output:
        assert run(program, "--config", str(file), "--print-config", stdout=output).returncode == 0
    assert 'log_level = "error"' in other.read_text()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_written_configuration_is_the_printed_one_and_replaces_none(
    program: str, tmp_path: Path
) -> None:
    file = tmp_path / "new" / "made.toml"
    done = run(program, "--write-config", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert file.read_text() == run(program, "--print-config").stdout
    file.write_text(LOG_LEVEL)
    again = run(program, "--config", str(file), "--write-config", str(file))
    assert again.returncode == 2
    assert again.stderr == (
        f"bmcmedic {program}: --write-config: {file} exists and is not replaced;"
        " give another name\n"
    )
    assert file.read_text() == LOG_LEVEL


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_place_that_cannot_be_written_is_one_line(program: str, tmp_path: Path) -> None:
    done = run(program, "--write-config", str(tmp_path / "no" / "no" / "made.toml"))
    assert done.returncode == 2
    assert "made.toml cannot be written: No such file or directory" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_check_reports_every_fault(program: str, tmp_path: Path) -> None:
    file = tmp_path / "used.toml"
    file.write_text(LOG_LEVEL)
    done = run(program, "--config", str(file), "--check-config")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: no fault found\n", "")
    file.write_text('[process]\nlog_level = "loud"\nruntime_dir = "run"\n')
    done = run(program, "--config", str(file), "--check-config")
    assert done.returncode == 2
    assert f"{file}: 2 problems" in done.stderr
    assert "line 2: process.log_level" in done.stderr
    assert "line 3: process.runtime_dir" in done.stderr


def test_a_device_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    device = tmp_path / "ipmi0"
    for kind in ("dev-ipmi", "auto"):
        words = ("driver", "--interface", kind, "--device", str(device), "--check-config")
        device.unlink(missing_ok=True)
        assert run(*words).returncode == 0  # its module may be loaded later
        device.write_text("")
        done = run(*words)
        assert done.returncode == 2
        assert f"--device: {device} is no device" in done.stderr


def test_files_for_the_controller_are_checked(tmp_path: Path) -> None:
    file, token = tmp_path / "agent.toml", tmp_path / "token"
    file.write_text(
        f'[controller]\ntoken_file = "{token}"\nclient_certificate = "{tmp_path}/certificate"\n'
    )
    for option in (["--check-config"], []):
        done = run("agent", "--config", str(file), *option)
        assert done.returncode == 2
        assert f"controller.token_file: {token} cannot be read: No such file" in done.stderr
        assert "controller.client_certificate: " in done.stderr
    file.write_text(f'[controller]\ntoken_file = "{token}"\n')
    token.write_text("secret")
    token.chmod(0o644)
    done = run("agent", "--config", str(file), "--check-config")
    assert done.returncode == 0
    assert f"every user of this machine can read {token}" in done.stderr
    token.chmod(0o600)
    assert run("agent", "--config", str(file), "--check-config").stderr == ""
