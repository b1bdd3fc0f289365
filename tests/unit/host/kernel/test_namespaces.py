"""Relief and containers: with the first process of one, the kernel ends all that live in it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.host.kernel.proc import Tree
from bmcmedic.host.kernel.signals import Sender
from bmcmedic.host.relieve.end_client import Outcome
from bmcmedic.host.relieve.relieve import Relief, Report
from tests.support.host_clients import (
    IGNORES_SIGTERM,
    HostClients,
    host_clients,
    wait_until_still,
)
from tests.support.polling import eventually
from tests.support.relief_host import Fake, FakeHost
from tests.unit.host.relieve.test_relieve_processes import OnlyThese, is_alive, outcomes, relieve

STUCK_AFTER_S = 60.0
INNER = ("host", "box")


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def first(pid: int = 1001, spaces: tuple[str, ...] = INNER, **changes: Any) -> Fake:  # noqa: ANN401 - any field of it
    numbers = (pid, *range(40, 38 + len(spaces)), 1)
    return Fake(pid, spaces=spaces, numbers=numbers, **changes)


def fellow(pid: int, spaces: tuple[str, ...] = INNER, **changes: Any) -> Fake:  # noqa: ANN401 - any field of it
    numbers = (pid, *range(50, 49 + len(spaces)))
    return Fake(pid, spaces=spaces, numbers=numbers, **changes)


def innocent(pid: int, spaces: tuple[str, ...] = INNER) -> Fake:
    return fellow(pid, spaces, exe="/usr/bin/sleep", comm="sleep")


def relieved(host: FakeHost, *, may_act: bool = True) -> Report:
    return Relief(host.trees(), STUCK_AFTER_S).relieve(may_act)


@pytest.mark.parametrize(
    "other",
    [innocent(2001), innocent(2001, ("host", "box", "box in it")), fellow(2001, start_s=9_990.0)],
    ids=["innocent", "deeper", "young"],
)
def test_a_client_that_would_take_others_along_is_spared(host: FakeHost, other: Fake) -> None:
    host.add(first())
    host.add(other)
    report = relieved(host)
    assert host.sent == []
    assert outcomes(report) == {1001: Outcome.EXCLUDED}
    (case,) = report.stuck
    assert case.ending is not None
    assert case.ending.why == (
        "the first process of a container: 1 other that is not proven stuck would end with it,"
        f" such as {other.comm} (pid 2001)"
    )
    assert report.left(STUCK_AFTER_S) == [case]


def test_a_dry_run_reports_that_too(host: FakeHost) -> None:
    host.add(first())
    host.add(innocent(2001))
    host.add(first(1002, ("host", "box of its own")))
    report = relieved(host, may_act=False)
    assert outcomes(report) == {1001: Outcome.EXCLUDED}
    assert len(report.stuck) == 2


def test_the_first_process_of_a_container_of_its_own_is_ended(host: FakeHost) -> None:
    host.add(first())
    host.add(innocent(2001, ("host", "another box")))
    host.add(innocent(2002, ("host",)))
    host.add(innocent(2003, ()))
    host.processes[2003].flags = 0x0020_0000
    host.write(host.processes[2003])
    host.add(fellow(2004, exe=None, comm="sh", state="Z"))
    report = relieved(host)
    assert host.sent == [(1001, "TERM")]
    assert outcomes(report) == {1001: Outcome.ENDED}


def test_where_all_are_stuck_the_first_comes_last(host: FakeHost) -> None:
    host.add(first(1001, term="ignores"))
    host.add(first(1002, (*INNER, "box in it")))
    host.add(fellow(1003))
    host.add(fellow(1004, term="ignores"))
    report = relieved(host)
    assert host.sent == [
        (1003, "TERM"), (1004, "TERM"), (1002, "TERM"), (1001, "TERM"), (1004, "KILL"),
        (1001, "KILL"),
    ]  # fmt: skip
    assert set(outcomes(report).values()) == {Outcome.ENDED, Outcome.KILLED}


def test_a_fellow_that_is_at_work_again_keeps_the_first_from_being_killed(host: FakeHost) -> None:
    host.add(first(1001, term="ignores"))
    host.add(fellow(1002, term="runs"))
    report = relieved(host)
    assert host.sent == [(1002, "TERM"), (1001, "TERM")]
    assert set(outcomes(report).values()) == {Outcome.SURVIVED}
    whys = [case.ending.why for case in report.stuck if case.ending is not None]
    assert any("would end with it" in (why or "") for why in whys)


def test_a_process_that_comes_in_after_the_scan_is_seen_before_the_signal(host: FakeHost) -> None:
    host.add(first(1001, term="ignores"))
    relief = Relief(host.trees(), STUCK_AFTER_S)

    def somebody_comes_in() -> None:
        if host.sent and 2001 not in host.processes:
            host.add(innocent(2001))

    host.when_slept.append(somebody_comes_in)
    report = relief.relieve(may_act=True)
    assert host.sent == [(1001, "TERM")]
    assert outcomes(report) == {1001: Outcome.SURVIVED}


def test_a_kernel_without_these_numbers_is_asked_for_the_namespaces_alone(host: FakeHost) -> None:
    host.add(Fake(1000, exe="/usr/bin/runc", comm="runc", spaces=("host",)))
    host.add(Fake(1001, parent=1000, spaces=INNER))
    host.add(Fake(1002, parent=1001, spaces=INNER, exe="/usr/bin/sleep", comm="sleep"))
    host.add(Fake(1003, parent=1001, spaces=INNER))
    report = relieved(host)
    assert host.sent == [(1003, "TERM")]
    assert outcomes(report) == {1001: Outcome.EXCLUDED, 1003: Outcome.ENDED}


@pytest.mark.parametrize(
    ("hidden", "outcome"),
    [
        (Fake(1, exe="/sbin/init", comm="init", numbers=(1,)), Outcome.ENDED),
        (fellow(2001, (), exe="/bin/sh", comm="sh"), Outcome.ENDED),
        (Fake(2001, exe="/bin/sh", comm="sh", numbers=(2001, 2)), Outcome.EXCLUDED),
        (Fake(2001, exe="/bin/sh", comm="sh", numbers=(2001, 3, 2)), Outcome.EXCLUDED),
        (Fake(2001, exe="/bin/sh", comm="sh"), Outcome.EXCLUDED),
    ],
)
def test_a_process_with_a_hidden_namespace_lives_no_deeper_than_its_numbers(
    host: FakeHost, hidden: Fake, outcome: Outcome
) -> None:
    host.add(first())
    host.add(hidden)
    assert outcomes(relieved(host)) == {1001: outcome}


def test_a_namespace_that_cannot_be_read_proves_nothing(host: FakeHost) -> None:
    host.add(Fake(1001, numbers=(1001, 1)))
    report = relieved(host)
    assert host.sent == []
    (case,) = report.stuck
    assert case.ending is not None
    assert case.ending.why == "the other processes in its pid namespace cannot be read"


def test_an_agent_counts_it_once(host: FakeHost) -> None:
    host.add(first())
    host.add(innocent(2001))
    relief = Relief(host.trees(), STUCK_AFTER_S)
    relief.scan()
    earlier = []
    for _ in range(3):
        host.pass_time(5.0)
        (case,) = relief.step(may_act=True).stuck
        earlier.append(case.is_earlier)
    assert earlier == [False, True, True]
    host.remove(2001)
    host.pass_time(5.0)
    (case,) = relief.step(may_act=True).stuck
    assert not case.is_earlier
    assert host.sent == [(1001, "TERM")]


# ------------------------------------------------------------------------------- a real container


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[HostClients]:
    with host_clients(tmp_path) as started:
        yield started


def child_of(pid: int) -> int | None:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return None


def test_in_a_real_container_the_innocent_lives_on(clients: HostClients, tmp_path: Path) -> None:
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no pid namespaces here")
    command = clients.command(code=IGNORES_SIGTERM)
    sender = Sender.of_this_system()
    with subprocess.Popen(
        [*apart, *command], env=clients.environment, stdin=subprocess.DEVNULL
    ) as box:
        try:
            eventually(lambda: child_of(box.pid) is not None)
            stuck = child_of(box.pid)
            assert stuck is not None
            wait_until_still(stuck)
            into = ["nsenter", "--target", str(stuck), "--pid", "sleep", "777"]
            with subprocess.Popen(into, stdin=subprocess.DEVNULL) as entered:
                eventually(lambda: child_of(entered.pid) is not None)
                sleeper = child_of(entered.pid)
                assert sleeper is not None
                report = relieve(tmp_path, OnlyThese(), {stuck, sleeper}, sender)
                assert outcomes(report) == {stuck: Outcome.EXCLUDED}
                assert is_alive(stuck)
                assert is_alive(sleeper)
                os.kill(sleeper, signal.SIGKILL)
            report = relieve(tmp_path, OnlyThese(), {stuck}, sender)
            assert outcomes(report) == {stuck: Outcome.KILLED}
            eventually(lambda: not is_alive(stuck))
        finally:
            box.kill()
    assert Tree("/proc").stat_or_none(box.pid) is None
