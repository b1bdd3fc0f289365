"""The real watcher, beside a stand-in for the driver that is stopped, killed, hung and restarted.

The stand-in runs the real pat thread and check thread over a BMC that the test can make silent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmcmedic.driver.watchdog.pretimeout import PretimeoutCallout, Stamps
from bmcmedic.driver.watchdog.pretimeout_process import (
    SYSRQ_TRIGGER,
    PretimeoutAction,
    PretimeoutWatcher,
    StampsFile,
    WatcherSettings,
)
from bmcmedic.driver.watchdog.pretimeout_watcher import CHECK_PERIOD_S
from bmcmedic.errors import ConfigurationError
from tests.support.polling import eventually

LIMIT_S = 2.0
"""Of the stand-in's pretimeout; it pats twice a second."""
RESTART_S = 10.0
"""The limit where it is to be restarted in time: on a busy machine that takes some seconds."""
LATE_S_MAX = 5.0
"""It fires within its limit and 1 s where it may have a processor; a busy machine lets it wait."""
WAIT_S_MAX = 30.0
STAND_IN = Path(__file__).parents[3] / "support" / "driver_stand_in.py"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


class StandIn:
    """A driver in a process of its own, and what its watcher wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "kernel.log"
        self.log.touch()
        self.check = folder / "check"
        self.check.write_text("#!/bin/sh\nexit 0\n")
        self.check.chmod(0o755)
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str, limit_s: float = LIMIT_S) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(STAND_IN), str(self.folder), str(limit_s), *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        eventually(lambda: self.watching)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def stamps(self) -> Stamps:
        return Stamps(bytearray((self.folder / "pretimeout.stamps").read_bytes()))

    @property
    def watcher_pid(self) -> int:
        return self.stamps.watcher.last.pid

    @property
    def watching(self) -> bool:
        stamps = self.stamps
        return (
            stamps.watcher.last.generation == stamps.driver.last.generation
            and stamps.driver.last.state == 1
        )

    @property
    def firings(self) -> int:
        return self.log.read_text().count("has not patted its watchdog")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self) -> None:
        assert self.process is not None
        self.signal(signal.SIGCONT)
        self.process.terminate()
        assert self.process.wait(WAIT_S_MAX) == 0


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[StandIn]:
    driver = StandIn(tmp_path)
    try:
        yield driver
    finally:
        if driver.process is not None:
            driver.process.kill()
            driver.process.communicate()
        with contextlib.suppress(OSError, IndexError):
            if is_running(driver.watcher_pid):
                os.kill(driver.watcher_pid, signal.SIGKILL)


def in_time(driver: StandIn, firings: int = 1, limit_s: float = LIMIT_S) -> None:
    """It fires within its limit, which begins now; the log's own time tells."""
    begun = time.time()
    eventually(lambda: driver.firings == firings)
    assert driver.log.stat().st_mtime <= begun + limit_s + LATE_S_MAX


def test_a_stopped_driver_makes_it_fire_once_and_again_after_a_recovery(driver: StandIn) -> None:
    driver.start()
    driver.signal(signal.SIGSTOP)
    in_time(driver)
    assert f"the driver is process {driver.pid}" in driver.log.read_text()
    eventually(lambda: "the driver's process is stopped" in driver.log.read_text())
    driver.signal(signal.SIGCONT)
    eventually(lambda: "the host pats its watchdog again" in driver.log.read_text())
    assert driver.firings == 1
    driver.signal(signal.SIGSTOP)
    in_time(driver, 2)
    eventually(lambda: driver.stamps.watcher.last.extra == 2)  # it says so after the log
    driver.end()
    eventually(lambda: not is_running(driver.watcher_pid))


def test_a_killed_driver_makes_it_fire_and_then_the_watcher_has_done_its_work(
    driver: StandIn,
) -> None:
    driver.start()
    driver.signal(signal.SIGKILL)
    in_time(driver)
    eventually(lambda: not is_running(driver.watcher_pid))
    assert driver.firings == 1


def test_a_check_that_hangs_makes_it_fire_and_one_that_is_well_again_ends_that(
    driver: StandIn,
) -> None:
    driver.start()
    hanging = driver.folder / "hanging"
    hanging.write_text(f"#!/bin/sh\ntouch {driver.folder}/hangs\nexec sleep 1000\n")
    hanging.chmod(0o755)
    well = driver.check.read_text()
    hanging.rename(driver.check)
    eventually((driver.folder / "hangs").exists)
    in_time(driver)
    (driver.folder / "well").write_text(well)
    (driver.folder / "well").chmod(0o755)
    (driver.folder / "well").rename(driver.check)
    eventually(lambda: "pats its watchdog again" in driver.log.read_text())
    assert driver.firings == 1
    driver.end()


def test_a_silent_bmc_with_the_pat_queued_does_not_make_it_fire(driver: StandIn) -> None:
    driver.start()
    (driver.folder / "silent").touch()
    since = time.monotonic()
    waiting = driver.folder / "waiting"
    # The pat thread counts each time that it finds its pat still queued.
    eventually(lambda: waiting.exists() and driver.stamps.driver.last.at > since + 2 * LIMIT_S)
    assert driver.firings == 0
    driver.signal(signal.SIGSTOP)
    in_time(driver)
    (driver.folder / "silent").unlink()
    driver.end()


def test_a_driver_that_ends_in_order_takes_the_watcher_with_it(driver: StandIn) -> None:
    driver.start()
    pid = driver.watcher_pid
    driver.end()
    eventually(lambda: not is_running(pid))
    assert driver.log.read_text() == ""


def test_a_driver_restarted_in_time_brings_its_own_watcher_and_nothing_fires(
    driver: StandIn,
) -> None:
    driver.start(limit_s=RESTART_S)
    former = driver.watcher_pid
    driver.signal(signal.SIGKILL)
    assert driver.process is not None
    driver.process.communicate()
    driver.start(limit_s=RESTART_S)
    assert driver.watcher_pid != former
    eventually(lambda: not is_running(former))
    assert driver.firings == 0
    driver.signal(signal.SIGSTOP)
    in_time(driver, limit_s=RESTART_S)
    driver.end()


def test_a_watcher_whose_file_was_replaced_lets_the_new_drivers_watch(driver: StandIn) -> None:
    driver.start(limit_s=WAIT_S_MAX)
    former = driver.watcher_pid
    driver.signal(signal.SIGKILL)
    assert driver.process is not None
    driver.process.communicate()
    (driver.folder / "pretimeout.stamps").unlink()
    driver.start(limit_s=WAIT_S_MAX)
    eventually(lambda: not is_running(former))
    assert driver.watcher_pid != former
    assert driver.firings == 0
    driver.end()


def test_a_watcher_whose_file_was_removed_still_fires(driver: StandIn) -> None:
    driver.start()
    (driver.folder / "pretimeout.stamps").unlink()
    driver.signal(signal.SIGKILL)
    in_time(driver)


def test_a_former_watcher_that_is_stopped_is_replaced(driver: StandIn) -> None:
    driver.start()
    former = driver.watcher_pid
    os.kill(former, signal.SIGSTOP)
    driver.signal(signal.SIGKILL)
    assert driver.process is not None
    driver.process.communicate()
    driver.start()
    eventually(lambda: not is_running(former))
    assert driver.watcher_pid != former
    driver.end()


def test_a_watcher_that_died_is_started_again(driver: StandIn) -> None:
    driver.start("--restart-watcher-at-once")
    former = driver.watcher_pid
    os.kill(former, signal.SIGKILL)
    eventually(lambda: driver.watcher_pid != former and is_running(driver.watcher_pid))
    driver.signal(signal.SIGSTOP)
    in_time(driver)
    driver.end()


def test_a_second_driver_is_refused_with_the_name_of_the_first(driver: StandIn) -> None:
    driver.start()
    with pytest.raises(ConfigurationError, match=f"process {driver.pid}, has .*only one may run"):
        StampsFile(driver.folder)
    driver.signal(signal.SIGSTOP)
    with pytest.raises(ConfigurationError, match="only one may run"):
        StampsFile(driver.folder)
    driver.end()


# ------------------------------------------------------------------------- the watcher by itself


class Watched:
    """A watcher whose driver is this test."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.log = folder / "kernel.log"
        self.log.touch()
        self.file = StampsFile(folder)
        self.callout = PretimeoutCallout(self.file.stamps, time.monotonic, 1.0, pid=os.getpid())
        self.said: list[str] = []
        self.watcher = PretimeoutWatcher(
            self.file,
            self.callout.generation,
            WatcherSettings(kernel_log=self.log, **settings),  # type: ignore[arg-type]
            self.said.append,
        )

    def start(self) -> None:
        self.watcher.start()
        self.callout.arm()
        eventually(self._is_watching)

    def _is_watching(self) -> bool:
        self.callout.reset()  # on a busy machine it takes the watcher more than the limit to start
        return self.watcher.is_watching

    def end(self) -> None:
        self.callout.end()
        assert self.watcher.wait_until_gone(WAIT_S_MAX)
        self.file.close()


def test_the_command_is_run_once_an_episode(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    script = f"echo $BMCMEDIC_DRIVER_PID $BMCMEDIC_SILENT_S $1 >> {ran}; exit 7"
    command = ("/bin/sh", "-c", script, "sh", "argument")
    watched = Watched(tmp_path, action=PretimeoutAction.COMMAND, command=command)
    watched.start()
    eventually(lambda: "the command ended with 7" in watched.log.read_text())
    pid, silent_s, argument = ran.read_text().split()
    assert int(pid) == os.getpid()
    assert 1.0 <= float(silent_s) < 1.0 + LATE_S_MAX
    assert argument == "argument"
    eventually(lambda: watched.watcher.status()["fired"] == 1)  # it says so after the log
    assert ran.read_text().count("\n") == 1
    watched.end()


def test_a_panic_is_one_byte_to_what_was_opened_at_the_start(tmp_path: Path) -> None:
    trigger = tmp_path / "sysrq-trigger"
    trigger.touch()
    watched = Watched(tmp_path, action=PretimeoutAction.PANIC, sysrq_trigger=trigger)
    watched.start()
    gone = trigger.rename(tmp_path / "gone")  # nothing is opened any more when it fires
    eventually(lambda: gone.read_bytes() != b"")
    assert gone.read_bytes() == b"c"
    watched.end()


def test_disarmed_it_waits_and_does_not_fire(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.start()
    watched.callout.disarm()
    looked_at = watched.file.stamps.watcher.read().at
    eventually(lambda: watched.file.stamps.watcher.read().at > looked_at + 1.5)
    assert watched.watcher.status()["watching"]
    assert watched.watcher.status()["due_in_s"] is None
    assert watched.log.read_text() == ""
    watched.end()


def test_one_that_cannot_begin_is_told_and_not_started_again_and_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    watched = Watched(tmp_path)
    watched.log.unlink()
    watched.watcher.start()

    def ended() -> bool:
        watched.watcher.restart_if_ended()
        return watched.said != []

    eventually(ended)
    assert watched.said == ["the pretimeout watcher ended with 2; it is restarted"]
    assert "cannot watch: " in capfd.readouterr().err
    watched.watcher.restart_if_ended()
    assert watched.watcher.pid is None, "only after a while"
    watched.file.close()


def test_a_driver_whose_watchdog_is_off_lets_a_former_ones_watcher_go(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.start()
    watched.file.end_older_watcher()
    assert watched.watcher.wait_until_gone(WAIT_S_MAX)
    assert watched.log.read_text() == ""
    watched.file.end_older_watcher()
    watched.file.close()


def test_it_is_small(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.start()
    pid = watched.watcher.status()["watcher_pid"]
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n")
    sizes = {line.split()[0]: int(line.split()[1]) for line in rollup[1:] if line}
    assert sizes["Rss:"] < 12_000, "in kB; a bare interpreter has 8,000"
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "_ssl" not in maps
    watched.end()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"action": PretimeoutAction.COMMAND}, "absolute path: nothing"),
        ({"action": PretimeoutAction.COMMAND, "command": ("sync",)}, "absolute path: sync"),
        ({"action": PretimeoutAction.LOG, "command": ("/bin/sync",)}, "the action command runs it"),
        (
            {"action": PretimeoutAction.PANIC, "sysrq_trigger": Path("/nowhere/sysrq")},
            "/nowhere/sysrq, which cannot be written here: it needs root",
        ),
    ],
)
def test_what_the_watcher_could_not_do_is_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        WatcherSettings(**settings)  # type: ignore[arg-type]


def test_the_stamps_file_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"pretimeout\.stamps: No such file or directory"):
        StampsFile(tmp_path / "nowhere")


def test_a_link_in_the_stamps_files_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "pretimeout.stamps").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="symbolic links"):
        StampsFile(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_the_machines_own_trigger_and_how_often_it_looks() -> None:
    assert Path("/proc/sysrq-trigger") == SYSRQ_TRIGGER
    assert CHECK_PERIOD_S <= 0.5, "within the limit and 1 s"
