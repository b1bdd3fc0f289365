"""`bmcmedic probe` as users run it: exit status, JSON, secrets, bad input, signals."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.model.probe import ProbeResult
from tests.support.programs import bmcmedic
from tests.support.udp_bmc import UdpBmc, UdpBmcs, closed_address, silent_address, udp_bmcs

TIMEOUT_S = 60.0
KEYS = [
    "target",
    "reachable",
    "power",
    "device_id",
    "firmware",
    "manufacturer_id",
    "guid",
    "self_test",
    "watchdog",
    "latency_s",
    "error",
]


@pytest.fixture
def server() -> Iterator[UdpBmcs]:
    with udp_bmcs() as running:
        yield running


@pytest.fixture
def bmc(server: UdpBmcs) -> UdpBmc:
    return server.add()


def probe(
    *arguments: str, env: dict[str, str] | None = None, credentials: bool = True, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the program with only the given variables in its environment."""
    base = {"PATH": os.environ["PATH"]}
    if credentials:
        base |= {"BMCMEDIC_USER": "admin", "BMCMEDIC_PASSWORD": "secret"}
    done = subprocess.run(
        bmcmedic("probe", *arguments),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=base | (env or {}),
        input=stdin,
        errors="surrogateescape",
    )
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stdout + done.stderr
    return done


def test_a_bmc_that_is_well(bmc: UdpBmc) -> None:
    done = probe(bmc.target)
    assert done.returncode == 0
    assert re.match(rf"{re.escape(bmc.target)}: power on, after \d+\.\d+ s", done.stdout)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_json_has_the_documented_keys_one_object_a_line(server: UdpBmcs) -> None:
    good, bad = server.add(), server.add(users=())
    done = probe(good.target, bad.target, "--json")
    assert done.returncode == 1
    assert done.stderr == ""
    found: dict[str, dict[str, Any]] = {}
    for line in done.stdout.splitlines():
        result = json.loads(line)
        assert list(result) == KEYS
        found[result["target"]] = result
    assert set(found) == {good.target, bad.target}
    assert found[good.target]["power"] == "on"
    assert found[good.target]["error"] is None
    assert isinstance(found[good.target]["latency_s"], float)
    assert found[bad.target]["reachable"] is True
    assert found[bad.target]["power"] is None
    assert "user name" in found[bad.target]["error"]
    assert list(ProbeResult._fields) == [*KEYS, "notes"]  # which is there only if there is one


def test_several_targets_are_summed_up_on_stderr(server: UdpBmcs) -> None:
    good = server.add()
    bad = closed_address()
    done = probe(good.target, f"{bad[0]}:{bad[1]}", "--timeout", "5")
    assert done.returncode == 1
    assert "port closed" in done.stdout
    assert done.stderr == "2 probed: 1 well, 1 not\n"


def test_rounds(bmc: UdpBmc) -> None:
    for session, sessions, repeats_max in (("cold", 3, math.inf), ("warm", 1, 15)):
        before, asked = bmc.datagrams, bmc.executed.total()
        done = probe(bmc.target, "--json", "--count", "3", "--period", "0.05", "--session", session)
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == 3
        # Three datagrams open a session, one asks, one closes; a busy machine repeats some.
        assert 3 * sessions + 3 + sessions <= bmc.datagrams - before < repeats_max
        assert bmc.executed.total() - asked == 3


def test_silence_is_exit_status_1_within_the_timeout() -> None:
    with silent_address() as (host, port):
        done = probe(f"{host}:{port}", "--timeout", "0.5", "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["reachable"] is False
    assert "--timeout" in result["error"]


def test_a_name_without_an_address() -> None:
    done = probe("no-such-host.invalid", "--json")
    assert done.returncode == 1
    assert "no-such-host.invalid" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument"),
        (("bmc 1",), "cannot read target"),
        (("bmc[3-1]",), "bmc[3-1]"),
        (("bmc[1-131073]",), "at most 131072"),
        (("bmc[1-99999999999999999999999]",), "not a range"),
        ((",",), "empty"),
        (("",), "empty"),
        (("bmc1:0",), "port"),
        (("bmc1", "--cipher-suite", "4"), "cipher suite 4"),
        (("bmc1", "--cipher-suite", "x"), "--cipher-suite"),
        (("bmc1", "--timeout", "0"), "--timeout"),
        (("bmc1", "--timeout", "nan"), "--timeout"),
        (("bmc1", "--timeout", "inf"), "--timeout"),
        (("bmc1", "--period", "-1"), "--period"),
        (("bmc1", "--count", "0"), "--count"),
        (("bmc1", "--concurrency", "0"), "--concurrency"),
        (("bmc1", "--concurrency", "99999999"), "--concurrency"),
        (("bmc1", "--session", "luke"), "--session"),
        (("bmc1", "--user", "x" * 17), "user name"),
        (("bmc1", "--password-file", "/no/such/file"), "/no/such/file"),
        (("bmc1", "--password-file", "/"), "cannot read /"),
        (("bmc1", "--kg-file", "/no/such/file"), "/no/such/file"),
        (
            (
                "bmc1",
                "--no-such-option",
            ),
            "--no-such-option",
        ),
    ],
)
def test_bad_input_is_exit_status_2_and_a_message(arguments: tuple[str, ...], message: str) -> None:
    done = probe(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_targets_come_from_a_file_and_from_standard_input(bmc: UdpBmc, tmp_path: Path) -> None:
    file = tmp_path / "rack.txt"
    file.write_bytes(b"\xef\xbb\xbf# rack 7\r\n\r\n  " + bmc.target.encode() + b"  # top\r\n")
    done = probe(f"@{file}", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["target"] == bmc.target
    done = probe("-", "--json", stdin=f"\n{bmc.target}\n")
    assert (done.returncode, json.loads(done.stdout)["target"]) == (0, bmc.target)
    both = probe("-", f"@{file}", bmc.target, "--json", stdin=f"\n{bmc.target}\n")
    assert (both.returncode, both.stdout.count("\n")) == (0, 1)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("a\n\n# c\nb c\n", "line 4: cannot read target 'b c'"),
        ("a\nbmc[3-1]\n", "line 2: "),
        ("a\nb:0\n", "line 2: "),
        ("# none\n\n", "list none"),
        ("", "list none"),
        ("a\n\udcff\n", "line 2: "),
    ],
)
def test_a_wrong_list_is_one_line_with_its_number(
    listed: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "rack.txt"
    file.write_bytes(os.fsencode(listed))
    for done, name in (
        (probe(f"@{file}"), str(file)),
        (probe("-", stdin=listed), "standard input"),
    ):
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert name in done.stderr
        assert message in done.stderr
    for argument, reason in (("@", "cannot read @"), ("@/no/such", "No such file")):
        done = probe(argument)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert reason in done.stderr


def test_credentials_are_asked_for_one_by_one() -> None:
    done = probe("127.0.0.1", credentials=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "BMCMEDIC_USER" in done.stderr
    done = probe("127.0.0.1", "--user", "admin", credentials=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "BMCMEDIC_PASSWORD" in done.stderr


def test_the_password_comes_from_file_environment_or_systemd_in_this_order(
    bmc: UdpBmc, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder, password in ((good, b"secret\r\n"), (bad, b"wrong\n")):
        folder.mkdir()
        (folder / "bmcmedic-password").write_bytes(password)
    file = ("--password-file", str(good / "bmcmedic-password"))
    user = {"BMCMEDIC_USER": "admin"}
    for arguments, env, is_right in (
        (file, {"BMCMEDIC_PASSWORD": "wrong", "CREDENTIALS_DIRECTORY": str(bad)}, True),
        ((), {"BMCMEDIC_PASSWORD": "secret", "CREDENTIALS_DIRECTORY": str(bad)}, True),
        ((), {"CREDENTIALS_DIRECTORY": str(good)}, True),
        ((), {"CREDENTIALS_DIRECTORY": str(bad)}, False),
    ):
        done = probe(bmc.target, *arguments, credentials=False, env=user | env)
        assert done.returncode == (0 if is_right else 1), done.stdout
        assert ("wrong password" in done.stdout) is not is_right
    done = probe(bmc.target, credentials=False, env=user | {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert done.returncode == 2
    assert "no password" in done.stderr


def test_kg_from_environment_and_file_as_text_and_as_digits(
    server: UdpBmcs, tmp_path: Path
) -> None:
    bmc = server.add(kg=b"\x01kg")
    (tmp_path / "bmcmedic-kg").write_text("0x016b67\n")
    file = str(tmp_path / "bmcmedic-kg")
    assert probe(bmc.target, "--kg-file", file).returncode == 0
    assert probe(bmc.target, env={"BMCMEDIC_KG": "0x016B67"}).returncode == 0
    assert probe(bmc.target, env={"BMCMEDIC_KG": "\x01kg"}).returncode == 0
    assert probe(bmc.target, env={"CREDENTIALS_DIRECTORY": str(tmp_path)}).returncode == 0
    done = probe(bmc.target)
    assert done.returncode == 1
    assert "K_g" in done.stdout
    done = probe(bmc.target, env={"BMCMEDIC_KG": "0xsecret"})
    assert done.returncode == 2
    assert "hexadecimal" in done.stderr


def test_secrets_that_are_too_long_or_not_text_are_refused_but_not_shown(
    bmc: UdpBmc, tmp_path: Path
) -> None:
    done = probe(bmc.target, env={"BMCMEDIC_PASSWORD": "secretsecretsecretsecret"})
    assert done.returncode == 2
    assert "20 bytes" in done.stderr
    file = tmp_path / "password"
    file.write_bytes(b"secret" * 100_000)
    file.chmod(0o600)  # the warning of others would name the file, whose path has the word
    assert probe(bmc.target, "--password-file", str(file)).returncode == 2
    # A password may have bytes that are not UTF-8.
    for name in ("BMCMEDIC_PASSWORD", "BMCMEDIC_USER", "BMCMEDIC_KG"):
        done = probe(bmc.target, env={name: os.fsdecode(b"\xff\xfe")})
        assert done.returncode == 1, done.stderr


def test_a_suite_can_be_named(server: UdpBmcs) -> None:
    for suite in (0, 1, 2, 3, 15, 16, 17):
        bmc = server.add(cipher_suites=(suite,))
        assert probe(bmc.target, "-C", str(suite)).returncode == 0
    refused = probe(server.add(cipher_suites=(17,)).target, "-C", "3")
    assert refused.returncode == 1
    assert "cipher suite" in refused.stdout
    unasked = server.add(cipher_suites=(0,))
    assert probe(unasked.target).returncode == 1


def test_a_reader_that_stops_early_ends_it_quietly(server: UdpBmcs) -> None:
    targets = [server.add().target for _ in range(50)]
    process = subprocess.Popen(
        bmcmedic("probe", *targets, "--count", "100000", "--period", "0.01", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"BMCMEDIC_USER": "admin", "BMCMEDIC_PASSWORD": "secret"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(TIMEOUT_S) in (1, 141, -signal.SIGPIPE)
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_ctrl_c_ends_it_at_once_with_what_was_found(
    server: UdpBmcs, arguments: tuple[str, ...]
) -> None:
    bmc = server.add()
    with silent_address() as (host, port):
        process = subprocess.Popen(
            bmcmedic("probe", bmc.target, f"{host}:{port}", "--timeout", "50", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"BMCMEDIC_USER": "admin", "BMCMEDIC_PASSWORD": "secret"},
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert bmc.target in line
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert "Traceback" not in complaint


def test_the_password_is_not_in_the_process_list(server: UdpBmcs) -> None:
    bmc = server.add()
    with silent_address() as (host, port):
        process = subprocess.Popen(
            bmcmedic("probe", bmc.target, f"{host}:{port}", "--timeout", "50"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"BMCMEDIC_USER": "admin", "BMCMEDIC_PASSWORD": "secret"},
        )
        assert process.stdout is not None
        process.stdout.readline()
        assert "secret" not in Path(f"/proc/{process.pid}/cmdline").read_text()
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)


def test_an_output_that_is_full_is_reported_without_a_traceback(bmc: UdpBmc) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            bmcmedic("probe", bmc.target),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=os.environ | {"BMCMEDIC_USER": "admin", "BMCMEDIC_PASSWORD": "secret"},
        )
    assert done.returncode not in (0, -signal.SIGSEGV)
    assert "Traceback" not in done.stderr


def test_the_program_prints_its_version_and_its_help() -> None:
    for arguments, message in ((("--version",), "bmcmedic "), (("probe", "--help"), "TARGET")):
        done = subprocess.run(
            [sys.executable, "-m", "bmcmedic", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0
        assert message in done.stdout
