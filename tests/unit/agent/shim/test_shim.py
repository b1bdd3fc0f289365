"""The shim, with scripts in place of the real ipmitool and a proxy that exists only as files."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bmcmedic.agent import proxy_files
from bmcmedic.agent.proxy_files import (
    NO_DRIVER,
    NO_INTERFACE,
    SILENT,
    WELL,
    ProxyFiles,
)
from bmcmedic.agent.shim import start as shim_start
from bmcmedic.agent.shim.install import script
from bmcmedic.agent.shim.main import find_real, is_shim
from bmcmedic.agent.shim.result_cache import FILES_MAX, Result, ResultCache, now, process_started_at
from tests.support.polling import eventually

WAIT_S_MAX = 90.0
PROXY_ARGUMENTS = ["-I", "lanplus", "-H", "127.0.0.1", "-p", "6230", "-U", "bmcmedic-shim"]
NOTHING: Mapping[str, str] = {}
THE_SCRIPT = Path(shim_start.__file__)
FORMER_START = THE_SCRIPT.parents[1] / "shim_start.py"
"""The file that a shim names which was installed before `agent/shim/` existed."""


class Shimmed:
    """A runtime directory with the files of a proxy, and a script as the real ipmitool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime_dir = folder / "run"
        self.real = folder / "ipmitool"
        self.files = ProxyFiles(str(self.runtime_dir))
        self.runs = folder / "runs"
        self.runs.touch()
        self.settings: dict[str, str] = {}
        self.set_real("echo out; echo err >&2")

    def open(self, state: str = WELL, reason: str = "") -> None:
        assert self.files.acquire()
        self.set_state(state, reason)
        self.files.publish("127.0.0.1", 6230, 15.0, self.settings)

    def set_state(self, state: str, reason: str = "") -> None:
        """Publish a state with a time in the future, because nobody renews it during a test."""
        later = time.monotonic() + 600.0
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(time, "monotonic", lambda: later)
            self.files.publish_state(state, reason)

    def set_real(self, script: str) -> None:
        self.real.write_text(f'#!/bin/sh\necho "$@" >> {self.runs}\n{script}\n', encoding="utf-8")
        self.real.chmod(0o755)

    def ran(self) -> list[str]:
        return self.runs.read_text(encoding="utf-8").splitlines()

    def start(
        self, *words: str, environment: Mapping[str, str] = NOTHING
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-IS", str(THE_SCRIPT), str(self.real), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "BMCMEDIC_RUNTIME_DIR": str(self.runtime_dir),
                "BMCMEDIC_KILL_SWITCH": str(self.folder / "disabled"),
                **environment,
            },
        )

    def run(
        self, *words: str, stdin: bytes = b"", environment: Mapping[str, str] = NOTHING
    ) -> tuple[int, bytes, bytes]:
        process = self.start(*words, environment=environment)
        output, error = process.communicate(stdin, WAIT_S_MAX)
        return process.returncode, output, error


@pytest.fixture
def shimmed(tmp_path: Path) -> Iterator[Shimmed]:
    made = Shimmed(tmp_path)
    made.open()
    yield made
    made.files.release()


# ----------------------------------------------------------------------------- what is passed on


@pytest.mark.parametrize("words", [("mc", "info"), ("power", "on")], ids=["read", "change"])
def test_bytes_and_exit_status_are_the_real_ones(shimmed: Shimmed, words: tuple[str, str]) -> None:
    shimmed.set_real("printf 'a\\000b\\377'; printf 'e\\n\\n' >&2; exit 7")
    assert shimmed.run(*words) == (7, b"a\0b\xff", b"e\n\n")


def test_the_real_one_gets_the_address_of_the_proxy_and_no_secret(shimmed: Shimmed) -> None:
    shimmed.run("-v", "mc", "info")
    password_file = shimmed.runtime_dir / "door" / "password"
    words = shimmed.ran()[0].split()
    assert words[:8] == PROXY_ARGUMENTS
    assert words[8:12] == ["-f", str(password_file), "-C", "17"]
    assert words[-3:] == ["-v", "mc", "info"]
    assert password_file.read_text(encoding="ascii").splitlines()[0] not in shimmed.ran()[0]
    # It waits longer than the proxy does.
    assert int(words[words.index("-N") + 1]) * int(words[words.index("-R") + 1]) > 15


def test_what_changes_something_gets_its_input(shimmed: Shimmed) -> None:
    shimmed.set_real("cat")
    assert shimmed.run("event", "1", stdin=b"\0yes\n") == (0, b"\0yes\n", b"")


def test_a_read_has_no_input_to_wait_for(shimmed: Shimmed) -> None:
    shimmed.set_real("cat")
    process = shimmed.start("mc", "info")
    assert process.wait(WAIT_S_MAX) == 0
    process.communicate()


@pytest.mark.skipif(shutil.which("script") is None, reason="there is no script(1)")
def test_on_a_terminal_it_can_be_typed_to_and_is_seen_at_once(shimmed: Shimmed) -> None:
    shimmed.set_real("read typed < /dev/tty; echo got $typed")
    words = [sys.executable, "-IS", str(THE_SCRIPT), str(shimmed.real), "mc", "info"]
    done = subprocess.run(
        ["script", "-qec", shlex.join(words), "/dev/null"],
        input=b"hello\n",
        capture_output=True,
        timeout=WAIT_S_MAX,
        check=True,
        env={
            **os.environ,
            "BMCMEDIC_RUNTIME_DIR": str(shimmed.runtime_dir),
            "BMCMEDIC_KILL_SWITCH": str(shimmed.folder / "disabled"),
        },
    )
    assert b"got hello" in done.stdout
    assert shimmed.ran()[0].split()[:8] == PROXY_ARGUMENTS


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_not_mixed_up(shimmed: Shimmed, closed: str) -> None:
    shimmed.settings = {"share_s": "-1000"}
    shimmed.files.publish("127.0.0.1", 6230, 15.0, shimmed.settings)
    words = [sys.executable, "-IS", str(THE_SCRIPT), str(shimmed.real), "mc", "info"]
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(words)} {closed}"],
        capture_output=True,
        timeout=WAIT_S_MAX,
        check=False,
        env={
            **os.environ,
            "BMCMEDIC_RUNTIME_DIR": str(shimmed.runtime_dir),
            "BMCMEDIC_KILL_SWITCH": str(shimmed.folder / "disabled"),
        },
    )
    assert done.stdout == (b"" if ">&-" in closed.split() else b"out\n")
    assert done.stderr == (b"" if "2>&-" in closed else b"err\n")
    assert len(shimmed.ran()) == 1


def test_more_output_than_is_stored_is_passed_on_all_the_same(shimmed: Shimmed) -> None:
    shimmed.set_real("head -c 6000000 /dev/zero")
    status, output, _ = shimmed.run("sel", "list")
    assert (status, len(output)) == (0, 6_000_000)
    shimmed.run("sel", "list")
    assert len(shimmed.ran()) == 2


def test_whoever_has_enough_may_close_the_pipe(shimmed: Shimmed) -> None:
    shimmed.set_real("head -c 1000000 /dev/zero")
    process = shimmed.start("sel", "list")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(WAIT_S_MAX) == 0
    for pipe in (process.stdin, process.stderr):
        assert pipe is not None
        pipe.close()


def test_a_script_from_before_an_upgrade_still_goes_through_the_proxy(shimmed: Shimmed) -> None:
    installed = shimmed.folder / "installed"
    installed.write_text(script(sys.executable, str(FORMER_START), str(shimmed.real)))
    done = subprocess.run(
        ["/bin/sh", installed, "power", "on"],
        capture_output=True,
        timeout=WAIT_S_MAX,
        check=False,
        env={
            **os.environ,
            "BMCMEDIC_RUNTIME_DIR": str(shimmed.runtime_dir),
            "BMCMEDIC_KILL_SWITCH": str(shimmed.folder / "disabled"),
        },
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"err\n")
    words = shimmed.ran()[0].split()
    assert (words[:8], words[-2:]) == (PROXY_ARGUMENTS, ["power", "on"])


# -------------------------------------------------------------------------------- it fails open


def is_as_called(shimmed: Shimmed, *words: str) -> bool:
    status, output, _ = shimmed.run(*words)
    return (status, output, shimmed.ran()[-1]) == (0, b"out\n", " ".join(words))


def test_remote_uses_are_the_real_ones(shimmed: Shimmed) -> None:
    assert is_as_called(shimmed, "-I", "lanplus", "-H", "bmc1", "mc", "info")
    assert is_as_called(shimmed, "sol", "activate")


def test_without_a_proxy_it_is_bypassed(shimmed: Shimmed) -> None:
    shimmed.files.release()
    assert is_as_called(shimmed, "mc", "info")
    shutil.rmtree(shimmed.runtime_dir)
    assert is_as_called(shimmed, "mc", "info")


def test_the_files_of_a_dead_agent_are_ignored(shimmed: Shimmed) -> None:
    os.close(shimmed.files._lock_fd)
    shimmed.files._lock_fd = -1
    assert (shimmed.runtime_dir / "door" / "door").exists()
    assert is_as_called(shimmed, "mc", "info")


def test_without_a_driver_it_is_bypassed(shimmed: Shimmed) -> None:
    shimmed.set_state(NO_DRIVER, "no driver")
    assert is_as_called(shimmed, "mc", "info")


def test_without_a_driver_the_real_one_has_the_same_deadline(shimmed: Shimmed) -> None:
    shimmed.settings = {"deadline_s": "0.5"}
    shimmed.files.publish("127.0.0.1", 6230, 15.0, shimmed.settings)
    shimmed.set_state(NO_DRIVER, "no driver")
    shimmed.set_real("exec sleep 600")
    assert shimmed.run("mc", "info")[0] == -signal.SIGALRM


def left_s(shimmed: Shimmed, *words: str) -> float:
    """Return the time until the real one's own alarm, in seconds; 0 if it has none."""
    code = "import signal; print(signal.getitimer(signal.ITIMER_REAL)[0])"
    shimmed.set_real(f"exec {sys.executable} -IS -c '{code}'")
    return float(shimmed.run(*words)[1])


def test_without_an_agent_the_real_one_has_a_deadline_where_it_goes_in_band(
    shimmed: Shimmed,
) -> None:
    shimmed.files.release()
    assert 0 < left_s(shimmed, "mc", "info") <= 60
    assert 60 < left_s(shimmed, "sdr", "list") <= 300
    assert left_s(shimmed, "-I", "lanplus", "-H", "bmc1", "mc", "info") == 0
    assert left_s(shimmed, "hpm", "upgrade", "x") == 0
    (shimmed.folder / "disabled").touch()
    assert left_s(shimmed, "mc", "info") == 0


def test_with_the_kill_switch_it_is_bypassed(shimmed: Shimmed) -> None:
    (shimmed.folder / "disabled").touch()
    assert is_as_called(shimmed, "mc", "info")


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_files_that_others_may_write_are_not_trusted(shimmed: Shimmed, mode: int) -> None:
    (shimmed.runtime_dir / "door").chmod(mode)
    assert is_as_called(shimmed, "mc", "info")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"host=x\nport=y\n", b"host=127.0.0.1\n"])
def test_a_corrupt_proxy_file_is_no_proxy(shimmed: Shimmed, content: bytes) -> None:
    (shimmed.runtime_dir / "door" / "door").write_bytes(content)
    assert is_as_called(shimmed, "mc", "info")


@pytest.mark.parametrize("start", [THE_SCRIPT, FORMER_START], ids=["now", "former"])
def test_half_a_package_runs_the_real_one(shimmed: Shimmed, tmp_path: Path, start: Path) -> None:
    half = tmp_path / "lib" / "bmcmedic" / "agent"
    half.mkdir(parents=True)
    (half.parent / "__init__.py").touch()
    shutil.copy(start, half)
    done = subprocess.run(
        [sys.executable, "-IS", str(half / start.name), str(shimmed.real), "mc", "info"],
        capture_output=True,
        timeout=WAIT_S_MAX,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"out\n")
    assert shimmed.ran() == ["mc info"]


def test_the_shim_as_its_own_real_one_is_noticed(shimmed: Shimmed) -> None:
    status, _, error = shimmed.run("mc", "info", environment={"BMCMEDIC_INSIDE_SHIM": "1"})
    assert status == 127
    assert b"no ipmitool to run" in error


def test_the_real_one_is_found_behind_the_shim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bmcmedic.agent.shim.main.DIVERTED", str(tmp_path / "none"))
    for name, text in (("a", "#!/bin/sh\n# bmcmedic shim\n"), ("b", "#!/bin/sh\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ipmitool").write_text(text, encoding="ascii")
        (tmp_path / name / "ipmitool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/a:{tmp_path}/b")
    assert is_shim(str(tmp_path / "a" / "ipmitool"))
    assert find_real() == str(tmp_path / "b" / "ipmitool")
    monkeypatch.setenv("PATH", f"{tmp_path}/a")
    assert find_real() is None


# --------------------------------------------------------------------------------------- it ends


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("words", [("mc", "info"), ("power", "on")], ids=["read", "change"])
def test_at_the_deadline_the_whole_group_is_ended(shimmed: Shimmed, words: tuple[str, str]) -> None:
    shimmed.settings = {"deadline_s": "2"}
    shimmed.files.publish("127.0.0.1", 6230, 15.0, shimmed.settings)
    pids = shimmed.folder / "pids"
    # A program that ignores SIGTERM, with a child.
    shimmed.set_real(f"trap '' TERM; sleep 600 & echo $$ > {pids}; wait; sleep 600")
    status, output, error = shimmed.run(*words)
    assert (status, output) == (1, b"")
    assert b"ended after 2 s" in error
    group = int(pids.read_text(encoding="ascii"))
    eventually(lambda: group_is_gone(group))


@pytest.mark.parametrize("words", [("mc", "info"), ("power", "on")], ids=["read", "change"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_ends_the_shim_ends_the_real_one(
    shimmed: Shimmed, words: tuple[str, str], number: int
) -> None:
    pids = shimmed.folder / "pids"
    shimmed.set_real(f"echo $$ > {pids}; exec sleep 600")
    process = shimmed.start(*words)
    eventually(lambda: pids.exists() and pids.read_text(encoding="ascii").strip())
    process.send_signal(number)
    process.communicate(timeout=WAIT_S_MAX)
    assert process.returncode == -number
    eventually(lambda: group_is_gone(int(pids.read_text(encoding="ascii"))))


@pytest.mark.parametrize("words", [("mc", "info"), ("power", "on")], ids=["read", "change"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_two_signals_end_the_whole_group_as_well(
    shimmed: Shimmed, words: tuple[str, str], second: int
) -> None:
    pids = shimmed.folder / "pids"
    shimmed.set_real(f"trap '' TERM INT; sleep 600 & echo $$ > {pids}; wait; sleep 600")
    process = shimmed.start(*words)
    eventually(lambda: pids.exists() and pids.read_text(encoding="ascii").strip())
    process.send_signal(signal.SIGTERM)

    def is_over() -> bool:
        process.send_signal(second)  # while it waits for the group to end after the first one
        return process.poll() is not None

    group = int(pids.read_text(encoding="ascii"))
    try:
        eventually(is_over)
        assert process.returncode in (-signal.SIGTERM, -second)
        eventually(lambda: group_is_gone(group))
    finally:
        if not group_is_gone(group):
            os.killpg(group, signal.SIGKILL)
        process.communicate(timeout=WAIT_S_MAX)


def test_a_real_one_that_dies_of_a_signal_has_the_exit_status_of_a_shell(shimmed: Shimmed) -> None:
    shimmed.set_real("kill -SEGV $$")
    assert shimmed.run("mc", "info")[0] == 128 + signal.SIGSEGV


def test_a_missing_real_one_is_reported(shimmed: Shimmed) -> None:
    shimmed.real.unlink()
    status, _, error = shimmed.run("mc", "info")
    assert status == 1
    assert b"No such file" in error


# --------------------------------------------------------------------------------- single flight


def test_callers_that_ask_the_same_at_the_same_time_share_a_run(shimmed: Shimmed) -> None:
    gate = shimmed.folder / "gate"
    shimmed.set_real(f"while [ ! -e {gate} ]; do sleep 0.01; done; echo answer; echo e >&2; exit 3")
    crowd = [shimmed.start("mc", "info") for _ in range(8)]
    other = shimmed.start("mc", "guid")
    eventually(lambda: len(shimmed.ran()) == 2)
    gate.touch()
    outputs = {process.communicate(timeout=WAIT_S_MAX) for process in crowd}
    assert outputs == {(b"answer\n", b"e\n")}
    assert {process.returncode for process in crowd} == {3}
    other.communicate(timeout=WAIT_S_MAX)
    assert len(shimmed.ran()) == 2


def test_when_the_caller_that_runs_for_all_is_killed_another_one_runs(shimmed: Shimmed) -> None:
    gate = shimmed.folder / "gate"
    shimmed.set_real(f"[ -e {gate} ] && echo answer && exit; touch {gate}; exec sleep 600")
    first = shimmed.start("mc", "info")
    eventually(gate.exists)
    second = shimmed.start("mc", "info")
    first.kill()
    first.communicate(timeout=WAIT_S_MAX)
    assert second.communicate(timeout=WAIT_S_MAX)[0] == b"answer\n"
    (stuck,) = children_of_init_named(str(shimmed.real), "sleep")
    os.kill(stuck, signal.SIGKILL)


def children_of_init_named(*names: str) -> list[int]:
    """Find processes of a killed caller: a real ipmitool ends by itself, `sleep` does not."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            inside = b"BMCMEDIC_RUNTIME_DIR=" + str(Path(names[0]).parent).encode() + b"/run"
            if words[0] == names[1].encode() and inside in environment:
                found.append(int(folder.name))
    return found


def test_a_result_that_is_too_old_is_not_shared(shimmed: Shimmed) -> None:
    shimmed.settings = {"share_s": "-1000"}
    shimmed.files.publish("127.0.0.1", 6230, 15.0, shimmed.settings)
    shimmed.run("mc", "info")
    shimmed.run("mc", "info")
    assert len(shimmed.ran()) == 2


def test_a_result_from_before_a_change_is_not_shared(shimmed: Shimmed) -> None:
    shimmed.settings = {"share_s": "1000"}
    shimmed.files.publish("127.0.0.1", 6230, 15.0, shimmed.settings)
    for words in (("power", "status"), ("power", "status"), ("power", "on"), ("power", "status")):
        shimmed.run(*words)
    assert [line.split()[-1] for line in shimmed.ran()] == ["status", "on", "status"]


def test_another_time_zone_or_language_has_a_cache_of_its_own(shimmed: Shimmed) -> None:
    shimmed.settings = {"share_s": "1000"}
    shimmed.files.publish("127.0.0.1", 6230, 15.0, shimmed.settings)
    for environment in ({"TZ": "UTC"}, {"TZ": "UTC"}, {"TZ": "CET"}, {"TZ": "UTC", "LC_ALL": "C"}):
        shimmed.run("sel", "list", environment=environment)
    assert len(shimmed.ran()) == 3


def test_a_folder_that_is_not_private_is_not_used(shimmed: Shimmed) -> None:
    (shimmed.runtime_dir / "shim").mkdir(mode=0o755)
    assert shimmed.run("mc", "info")[:2] == (0, b"out\n")
    assert shimmed.run("mc", "info")[:2] == (0, b"out\n")
    assert len(shimmed.ran()) == 2


# ---------------------------------------------------------------------------- the BMC is silent


def test_while_the_bmc_is_silent_the_cached_answer_is_printed_with_its_age(
    shimmed: Shimmed,
) -> None:
    shimmed.run("mc", "info")
    shimmed.set_real("exit 1")
    shimmed.set_state(SILENT, "no answer")
    status, output, error = shimmed.run("mc", "info")
    assert (status, output) == (0, b"out\n")
    assert error.startswith(b"err\nbmcmedic ipmitool: the BMC does not answer (no answer); this is")
    assert len(shimmed.ran()) == 1


def test_while_the_bmc_is_silent_a_command_without_a_cached_answer_fails(shimmed: Shimmed) -> None:
    shimmed.set_real("exit 1")
    shimmed.run("mc", "info")
    shimmed.set_state(SILENT, "no answer")
    for words in (("mc", "info"), ("mc", "guid"), ("power", "off")):
        status, output, error = shimmed.run(*words)
        assert (status, output) == (1, b"")
        assert b"the BMC does not answer" in error
    assert len(shimmed.ran()) == 1


def test_without_an_interface_it_reports_that_and_sends_nothing(shimmed: Shimmed) -> None:
    shimmed.run("mc", "info")
    shimmed.set_state(NO_INTERFACE, "no device")
    assert b"there is no interface to the BMC (no device); nothing was" in shimmed.run("mc", "x")[2]
    status, output, error = shimmed.run("mc", "info")
    assert (status, output) == (0, b"out\n")
    assert b"there is no interface to the BMC (no device); this is its answer from" in error
    assert len(shimmed.ran()) == 1


def falls_silent(shimmed: Shimmed, then: str) -> None:
    """Let the BMC fall silent during the run."""
    state = shimmed.runtime_dir / "door" / "state"
    shimmed.set_real(f"echo {SILENT} > {state}; chmod 600 {state}; {then}")


def test_a_run_in_which_the_bmc_fell_silent_is_replaced_by_the_cached_answer(
    shimmed: Shimmed,
) -> None:
    shimmed.settings = {"share_s": "-1000"}
    shimmed.files.publish("127.0.0.1", 6230, 15.0, shimmed.settings)
    shimmed.run("mc", "info")
    falls_silent(shimmed, "echo half; exit 1")
    status, output, error = shimmed.run("mc", "info")
    assert (status, output) == (0, b"out\n")
    assert b"the BMC does not answer; this is its answer from" in error
    shimmed.set_state(WELL)
    falls_silent(shimmed, "echo half; exit 1")
    status, output, error = shimmed.run("mc", "guid")  # never asked before
    assert (status, output) == (1, b"half\n")
    assert b"the BMC does not answer, and there is no cached answer" in error


def test_a_run_in_which_the_bmc_fell_silent_is_never_cached(shimmed: Shimmed) -> None:
    shimmed.settings = {"share_s": "-1000"}
    shimmed.files.publish("127.0.0.1", 6230, 15.0, shimmed.settings)
    falls_silent(shimmed, "echo half")
    assert shimmed.run("mc", "info")[:2] == (0, b"half\n")
    assert shimmed.run("mc", "info")[:2] == (1, b"")
    assert len(shimmed.ran()) == 1


def test_the_age_is_that_of_the_answers_oldest_part(shimmed: Shimmed) -> None:
    shimmed.run("mc", "info")
    (stored,) = (shimmed.runtime_dir / "shim").glob("*.ok")
    words = stored.read_bytes().split(b" ")
    words[1] = repr(float(words[1]) - 40).encode()  # as if the run had begun 40 s earlier
    stored.write_bytes(b" ".join(words))
    shimmed.set_state(SILENT)
    assert b"answer from 4" in shimmed.run("mc", "info")[2]


def test_after_a_change_a_cached_answer_from_before_is_not_printed(shimmed: Shimmed) -> None:
    shimmed.run("power", "status")
    shimmed.run("power", "off")
    shimmed.set_state(SILENT)
    status, output, error = shimmed.run("power", "status")
    assert (status, output) == (1, b"")
    assert b"no cached answer from the last 300 s and since the last change" in error


def test_the_state_of_a_stalled_proxy_is_not_believed(
    shimmed: Shimmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    shimmed.run("mc", "info")
    real_now = time.monotonic
    with monkeypatch.context() as earlier:
        earlier.setattr(time, "monotonic", lambda: real_now() - 60)
        shimmed.files.publish_state(WELL)
    status, output, error = shimmed.run("mc", "info")
    assert (status, output) == (0, b"out\n")
    assert (
        b"the agent that serves the proxy to the BMC does not respond"
        b" (it has published no state for" in error
    )
    for words in (("mc", "guid"), ("power", "off")):
        assert shimmed.run(*words)[:2] == (1, b"")
    assert len(shimmed.ran()) == 1
    shimmed.set_state(WELL)
    assert proxy_files.read_state(str(shimmed.runtime_dir)) == (WELL, "")


@pytest.mark.parametrize("words", [("mc", "info"), ("power", "on")], ids=["read", "change"])
def test_a_run_ends_when_the_proxy_stalls(shimmed: Shimmed, words: tuple[str, str]) -> None:
    pids = shimmed.folder / "pids"
    shimmed.set_real(f"echo $$ > {pids}; exec sleep 600")
    shimmed.files.publish_state(WELL)
    status, output, error = shimmed.run(*words)  # nothing renews the state
    assert (status, output) == (1, b"")
    assert b"does not respond" in error
    eventually(lambda: group_is_gone(int(pids.read_text(encoding="ascii"))))


def test_a_cached_answer_that_is_too_old_is_not_printed(shimmed: Shimmed) -> None:
    shimmed.run("mc", "info")
    shimmed.settings = {"old_output_s_max": "0"}
    shimmed.files.publish("127.0.0.1", 6230, 15.0, shimmed.settings)
    shimmed.set_state(SILENT)
    status, output, error = shimmed.run("mc", "info")
    assert (status, output) == (1, b"")
    assert b"no cached answer from the last 0 s" in error


def test_calls_of_remote_bmcs_ignore_the_state(shimmed: Shimmed) -> None:
    shimmed.set_state(SILENT)
    assert is_as_called(shimmed, "-I", "lanplus", "-H", "bmc1", "mc", "info")


# ---------------------------------------------------------------------------- the stored results


def cache_in(folder: Path, key: bytes = b"key") -> ResultCache:
    folder.mkdir(exist_ok=True)
    return ResultCache(str(folder), key)


def test_a_result_is_stored_as_it_is_and_the_later_one_counts(tmp_path: Path) -> None:
    cache = cache_in(tmp_path / "run")
    assert cache.latest() is None
    cache.store(Result(0, b"good", b"\n", 1.0, 2.5), is_good=True)
    cache.store(Result(1, b"", b"bad", 3.0, 4.0), is_good=False)
    latest, good = cache.latest(), cache.last_good()
    assert latest is not None
    assert good is not None
    assert (latest.status, latest.error, latest.finished_at) == (1, b"bad", 4.0)
    assert (good.output, good.error, good.started_at) == (b"good", b"\n", 1.0)


def test_a_result_of_another_command_line_is_not_returned(tmp_path: Path) -> None:
    cache_in(tmp_path / "run").store(Result(0, b"good", b"", 1.0, 2.0), is_good=True)
    other = cache_in(tmp_path / "run", b"other")
    assert other.latest() is None
    (stored,) = (tmp_path / "run" / "shim").glob("*.ok")
    stored.rename(other._name + ".ok")  # as if both keys had the same hash
    assert other.latest() is None


@pytest.mark.parametrize("corrupt", [b"", b"bmcmedic-shim-1\n", b"bmcmedic-shim-1\n0 1 2 3 4 5\nk"])
def test_a_corrupt_result_is_not_returned(tmp_path: Path, corrupt: bytes) -> None:
    cache = cache_in(tmp_path / "run")
    cache.store(Result(0, b"good", b"", 1.0, 2.0), is_good=True)
    (stored,) = (tmp_path / "run" / "shim").glob("*.ok")
    stored.write_bytes(corrupt)
    assert cache.latest() is None


def test_the_number_of_files_is_limited(tmp_path: Path) -> None:
    cache = cache_in(tmp_path / "run")
    folder = tmp_path / "run" / "shim"
    for number in range(FILES_MAX + 1):
        (folder / str(number)).touch()
    cache.store(Result(0, b"good", b"", 1.0, 2.0), is_good=True)
    assert len(list(folder.iterdir())) <= FILES_MAX // 2 + 2
    assert cache.last_good() is not None


def test_one_caller_at_a_time_has_the_lock(tmp_path: Path) -> None:
    mine, others = cache_in(tmp_path / "run"), cache_in(tmp_path / "run")
    assert mine.try_lock()
    assert not others.try_lock()
    mine.unlock()
    assert others.try_lock()
    others.unlock()


def test_a_process_knows_when_it_was_started() -> None:
    assert 0 < process_started_at() < now()
