"""A process with the driver's pat thread, check thread and watcher, over a BMC made of a file.

`driver_stand_in.py FOLDER LIMIT_S [--restart-watcher-at-once]`; while FOLDER/silent is there, the
BMC does not answer.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import bmcmedic.driver.watchdog.pretimeout_process
from bmcmedic.driver.watchdog.check import CheckLoop, ProcessCheck
from bmcmedic.driver.watchdog.pat_paths import BmcPats, Waiting
from bmcmedic.driver.watchdog.pretimeout import PretimeoutCallout
from bmcmedic.driver.watchdog.pretimeout_process import (
    PretimeoutWatcher,
    StampsFile,
    WatcherSettings,
)
from bmcmedic.driver.watchdog.settings import CheckSettings, WatchdogSettings
from bmcmedic.driver.watchdog.watchdog import Watchdog
from bmcmedic.errors import NoAnswer
from bmcmedic.service.runtime import ThreadRuntime

LOOK_AFTER_S = 0.1
WAITING_S = 0.2
"""How often it says that its pat is still queued; the shipped driver says it each second."""


class FileBmc:
    """Answers everything with 0, or nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def driver_request(self, data: bytes, deadline: float, waiting: Waiting | None = None) -> bytes:
        while (self.folder / "silent").exists():
            if time.monotonic() > deadline:
                raise NoAnswer("silent")
            time.sleep(WAITING_S)
            (self.folder / "waiting").touch()
            assert waiting is not None
            waiting()
        return bytes((data[0] | 4, data[1], 0))


def main(folder: Path, limit_s: float, *, restart_at_once: bool) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if restart_at_once:
        bmcmedic.driver.watchdog.pretimeout_process.RESTART_S = 0.0
    runtime = ThreadRuntime()
    settings = WatchdogSettings(
        pat_period_s=0.5,
        pretimeout_limit_s=limit_s,
        verify_every_pats=10**9,
        check=CheckSettings((str(folder / "check"),), period_s=0.3, deadline_s=0.5),
    )
    assert settings.check is not None
    file = StampsFile(folder)
    callout = PretimeoutCallout(file.stamps, runtime.monotonic, limit_s, pid=os.getpid())
    watching = WatcherSettings(kernel_log=folder / "kernel.log", real_time_priority=1)
    watcher = PretimeoutWatcher(file, callout.generation, watching, lambda _: None)
    checks = CheckLoop(settings.check, ProcessCheck(settings.check.argv), runtime, lambda _: None)
    watchdog = Watchdog(
        settings,
        BmcPats(FileBmc(folder), "a file", 10.0),
        runtime,
        lambda _: None,
        callout=callout,
        check=checks,
    )
    watcher.start()
    threads = [threading.Thread(target=body, daemon=True) for body in (watchdog.run, checks.run)]
    for thread in threads:
        thread.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while signal.SIGTERM not in signal.sigpending():  # sigtimedwait is confused by a SIGCONT
        watcher.restart_if_ended()
        time.sleep(LOOK_AFTER_S)
    checks.stop()
    watchdog.stop()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), restart_at_once=len(sys.argv) > 3)
