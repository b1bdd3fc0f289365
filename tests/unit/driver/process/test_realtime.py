"""Priority, memory and the rest: done where it is allowed, and said where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bmcmedic.driver.process import realtime

TIMEOUT_S = 90

TRY_ALL = """
import ctypes, json, os, resource, sys, threading
from bmcmedic.driver.process import realtime
if sys.argv[1] == "without rights":
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 * 1024, 64 * 1024))
    version_3, no_rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version_3, no_rights) == 0
warnings = list(realtime.prepare(lock_memory=True, oom_score_adj=-900))
seen = []
def body():
    seen.append(realtime.schedule_this_thread(7))
    seen.append(os.sched_getscheduler(0))
    child = os.posix_spawn("/proc/self/exe", [sys.executable, "-c",
        "import os; raise SystemExit(os.sched_getscheduler(0))"], os.environ)
    seen.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread = threading.Thread(target=body)
thread.start(); thread.join()
realtime.settle_collector()
status = open("/proc/self/status").read().split()
print(json.dumps({
    "warnings": warnings, "seen": seen, "interval": sys.getswitchinterval(),
    "locked": int(status[status.index("VmLck:") + 1]),
}))
"""


def tried(*, without_rights: bool) -> dict[str, object]:
    source = Path(realtime.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", TRY_ALL, "without rights" if without_rights else "with them"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=os.environ | {"PYTHONPATH": str(source)},
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, object] = json.loads(done.stdout)
    return seen


def test_what_is_not_allowed_is_said_and_does_not_end_it() -> None:
    got = tried(without_rights=True)
    assert got["locked"] == 0
    assert got["interval"] == realtime.SWITCH_INTERVAL_S
    warnings = str(got["warnings"])
    assert "it needs CAP_IPC_LOCK, or LimitMEMLOCK=infinity (it is 64 KiB)" in warnings
    assert "lowering it needs CAP_SYS_RESOURCE" in warnings
    assert str(got["seen"]).startswith(
        "['no real-time priority: it needs CAP_SYS_NICE, or LimitRTPRIO=7 (it is 0)"
    )


def test_what_is_allowed_is_done_and_children_are_ordinary() -> None:
    got = tried(without_rights=False)
    seen = got["seen"]
    assert isinstance(seen, list)
    if realtime.has_capability(realtime.CAP_SYS_NICE) and seen[0] is None:
        assert seen == [None, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.SCHED_OTHER]
    else:
        assert "no real-time priority" in str(seen[0])
        assert seen[2] == os.SCHED_OTHER
    if realtime.has_capability(realtime.CAP_IPC_LOCK):
        assert isinstance(got["locked"], int)
        assert got["locked"] > 0
        assert "memory is not locked" not in str(got["warnings"])


def test_capabilities_are_read_from_the_kernel(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t0000000000804000\n")
    assert realtime.capabilities(status) == 1 << realtime.CAP_SYS_NICE | (
        1 << realtime.CAP_IPC_LOCK
    )
    status.write_text("CapEff:\n")
    assert realtime.capabilities(status) == 0
    assert realtime.capabilities(tmp_path / "nowhere") == 0


def test_no_priority_is_no_warning() -> None:
    before = os.sched_getscheduler(0)
    assert realtime.schedule_this_thread(0) is None
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize("priority", [1000])
def test_an_impossible_priority_is_a_warning(priority: int) -> None:
    said = realtime.schedule_this_thread(priority)
    assert said is not None
    assert said.startswith("no real-time priority: Invalid argument")
