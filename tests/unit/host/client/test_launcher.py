from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from bmcmedic.host.client.launcher import Launcher, UserDatabase, launcher_of
from bmcmedic.host.kernel.proc import Tree
from tests.support.proc_tree import FakeProcess, stuck_ipmitool, write_proc

CONTAINER = "3f4e0c7a9b1d2e5f" * 4


def launcher(tmp_path: Path, **changes: object) -> Launcher:
    process = FakeProcess(**{**vars(stuck_ipmitool()), **changes})
    parent = FakeProcess(50, "check_ipmi.sh", exe="/bin/sh")
    tree = Tree(str(write_proc(tmp_path / "proc", [process, parent])))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:\nalice:x:1000:1000::/:\nodd line\n")
    users = UserDatabase(Tree(str(tmp_path / "etc")))
    with tree.hold(process.pid) as held:
        return launcher_of(held, held.stat(), tree, users, None)


@pytest.mark.parametrize(
    ("cgroup", "unit", "session", "container"),
    [
        ("0::/system.slice/cron.service\n", "cron.service", None, None),
        ("0::/\n1:name=systemd:/system.slice/zabbix.service\n", "zabbix.service", None, None),
        (
            "0::/user.slice/user-1000.slice/session-c7.scope\n",
            "session-c7.scope",
            "c7",
            None,
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n",
            "x.scope",
            None,
            None,
        ),
        (
            f"0::/system.slice/docker-{CONTAINER}.scope\n",
            f"docker-{CONTAINER}.scope",
            None,
            CONTAINER,
        ),
        (f"4:memory:/docker/{CONTAINER}\n8:pids:/docker/{CONTAINER}\n", None, None, CONTAINER),
        (
            f"0::/kubepods/burstable/pod12-34/{CONTAINER}\n",
            None,
            None,
            CONTAINER,
        ),
        (
            f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{CONTAINER}.scope\n",
            f"cri-containerd-{CONTAINER}.scope",
            None,
            CONTAINER,
        ),
        ("0::/lxc/web7\n", None, None, "web7"),
        ("", None, None, None),
        ("nonsense\n::::\n", None, None, None),
    ],
)
def test_the_cgroup_names_the_launcher(
    tmp_path: Path, cgroup: str, unit: str | None, session: str | None, container: str | None
) -> None:
    found = launcher(tmp_path, cgroup=cgroup)
    assert (found.unit, found.session, found.container) == (unit, session, container)


def test_a_dozen_hierarchies_of_nested_containers_are_read_to_the_end(tmp_path: Path) -> None:
    nested = "/docker/" + "/docker/".join([CONTAINER] * 5)
    lines = [f"{number}:controller{number}:{nested}" for number in range(12, 1, -1)]
    unit = "/system.slice/zabbix.service"
    cgroup = "\n".join([*lines, f"1:name=systemd:{unit}", ""])
    assert cgroup.index("name=systemd") > 4096
    assert launcher(tmp_path, cgroup=cgroup).unit == "zabbix.service"


def test_long_cgroups_are_not_remembered(tmp_path: Path) -> None:
    processes = [
        FakeProcess(pid, "x", cgroup=f"0::/{pid}.service\n9:x:/" + "y" * 60_000)
        for pid in range(100, 140)
    ]
    tree = Tree(str(write_proc(tmp_path / "proc", processes)))
    tracemalloc.start()
    try:
        for process in processes:
            with tree.hold(process.pid) as held:
                found = launcher_of(held, held.stat(), tree, UserDatabase(None), None)
            assert found.unit == f"{process.pid}.service"
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


def test_the_login_counts_more_than_the_user_it_runs_as(tmp_path: Path) -> None:
    found = launcher(tmp_path, uid=0, login_uid=1000)
    assert (found.user, found.uid, found.login_uid) == ("alice", 0, 1000)


def test_without_a_login_it_is_the_user_it_runs_as(tmp_path: Path) -> None:
    found = launcher(tmp_path, uid=4242)
    assert (found.user, found.uid, found.login_uid) == ("uid 4242", 4242, None)


def test_a_parent_that_is_there_is_named(tmp_path: Path) -> None:
    found = launcher(tmp_path, parent_pid=50)
    assert (found.parent_pid, found.parent) == (50, "check_ipmi.sh")


@pytest.mark.parametrize("parent_pid", [0, 1, 51])
def test_a_parent_that_is_gone_is_none(tmp_path: Path, parent_pid: int) -> None:
    found = launcher(tmp_path, parent_pid=parent_pid)
    assert (found.parent_pid, found.parent) == (None, None)
