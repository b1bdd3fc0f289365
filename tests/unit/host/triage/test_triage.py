"""Whole triages of captured trees and of this host, and what comes out of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.fleet.host_evidence.triage_document import REPORT_BYTES_MAX, parse_host_report
from bmcmedic.host.client.stuck import TOO_LONG, WATCHED_TOO_BRIEFLY
from bmcmedic.host.kernel.proc import Tree
from bmcmedic.host.triage import capture
from bmcmedic.host.triage import main as triage_main
from bmcmedic.host.triage.report import encoded, screen, to_json
from bmcmedic.host.triage.triage import NoTree, Roots, triage
from tests.support.host_clients import HostClients, host_clients, wait_until_still
from tests.support.proc_tree import (
    BOOTED_AT,
    KTHREADD,
    UPTIME_S,
    FakeProcess,
    kipmi,
    stuck_ipmitool,
    write_capture,
    write_proc,
)
from tests.support.programs import bmcmedic

TIMEOUT_S = 60
HUNG = ({"complete_transactions": 5000, "hosed_count": 7, "nr_msgs": 9},) * 2
_SESSION = "/user.slice/user-0.slice/session-42.scope"
CRON = f"1:name=systemd:{_SESSION}\n0::{_SESSION}\n"


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[HostClients]:
    with host_clients(tmp_path) as started:
        yield started


def report(root: Path, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - triage's own
    return dict(json.loads(encoded(triage(Roots.captured(str(root)), **options))))


def unpack(path: Path) -> Path:
    """A capture, as its reader unpacks it."""
    folder = path.with_name("unpacked")
    with tarfile.open(path) as tar:
        tar.extraction_filter = staticmethod(lambda member, _path: member)  # our own
        tar.extractall(folder)  # noqa: S202
    return folder


def the_incident(tmp_path: Path) -> Path:
    """kipmi0 at 100 %, orphans weeks apart, a guest that waits for its CPUs, and innocents."""
    others = [
        KTHREADD,
        stuck_ipmitool(65_113, age_s=86_400.0),
        stuck_ipmitool(65_200, "-b", "6", "-t", "0x2c", "raw", "0x4", "0x2d", "0xbe"),
        FakeProcess(70, "vim", ["vim", "ipmitool.sh"], exe="/usr/bin/vim", wchan="do_select"),
        FakeProcess(71, "grep", ["grep", "ipmitool"], exe="/usr/bin/grep"),
        stuck_ipmitool(72, "sol", "activate"),
        stuck_ipmitool(73, age_s=5.0),
        FakeProcess(
            74,
            "bmc-watchdog",
            ["bmc-watchdog", "-d"],
            exe="/usr/sbin/bmc-watchdog",
            files={"3": "/dev/ipmi0"},
        ),
    ]
    others[1].cgroup = CRON
    first = [*others, kipmi(1000.0), guest(10**9, 10**9)]
    again = [*others, kipmi(1002.0), guest(2 * 10**9, 3 * 10**9)]
    root = write_capture(tmp_path / "incident", first, again, counters=HUNG)
    (root / "run/systemd/sessions").mkdir(parents=True)
    (root / "run/systemd/sessions/42").write_text("UID=0\nUSER=root\nSERVICE=crond\n")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/:\nalice:x:1000:1000::/:\n")
    return root


def guest(run_ns: int, delay_ns: int) -> FakeProcess:
    return FakeProcess(
        900,
        "qemu-system-x86",
        [
            "qemu-system-x86_64",
            "-name",
            "guest=web7,debug-threads=on",
            "-object",
            "secret,data=s3cret",
        ],
        exe="/usr/bin/qemu-system-x86_64",
        threads={900: ("qemu-system-x86", 5, 5), 901: ("CPU 0/KVM", run_ns, delay_ns)},
    )


def test_the_incident_is_reported(tmp_path: Path) -> None:
    seen = report(the_incident(tmp_path))
    assert seen["symptoms"] == ["kipmi-busy", "stuck-clients", "bmc-not-answering"]
    assert seen["kipmi"] == [
        {"name": "kipmi0", "pid": 512, "cpu_percent": 100.0, "cpu_total_s": 1002.0}
    ]
    assert [row["pid"] for row in seen["stuck"]] == [65_113, 65_200]
    assert seen["captured_at"] == BOOTED_AT + UPTIME_S + 2.0
    assert seen["hung_since"] == pytest.approx(BOOTED_AT + UPTIME_S - 86_400.0, abs=0.1)
    assert {row["pid"]: row["finding"] for row in seen["spared"]} == {
        72: "left alone",
        73: "young",
    }
    assert 74 in {row["pid"] for row in seen["direct_openers"]}
    assert seen["host_id"] == {
        "hostname": "sick-host",
        "product_uuid": "4c4c4544-0051-3010-8057-b8c04f4d3232",
        "bmc_guid": None,
        "boot_id": "0a8b9a1e-93ee-4d0a-9ac7-2c94c4c5e9a1",
    }
    assert seen["guests"] == [
        {"name": "web7", "pid": 900, "vcpus": 1, "cpu_percent": 50.0, "run_delay_percent": 100.0}
    ]
    assert (seen["load"], seen["cpus"]) == ([190.0, 150.0, 100.0], 64)
    assert seen["pressure"] == {"cpu": 55.5}
    assert seen["port80"] == {"io_delay_type": 0, "openers": []}
    (interface,) = seen["interfaces"]
    assert (interface["completed_delta"], interface["queued"]) == (0, 9)


def test_the_launcher_of_a_stuck_client_is_reported_though_its_parent_is_gone(
    tmp_path: Path,
) -> None:
    stuck = report(the_incident(tmp_path))["stuck"][0]
    assert (stuck["started_by"], stuck["unit"], stuck["session"]) == ("root", "crond.service", "42")
    assert (stuck["parent_pid"], stuck["parent"]) == (None, None)
    assert stuck["argv"] == ["ipmitool", "mc", "info"]
    assert (stuck["state"], stuck["wchan"]) == ("S", "do_select")
    assert stuck["stack"] == ["do_select", "core_sys_select"]
    assert stuck["age_s"] == pytest.approx(86_402.0)
    assert stuck["devices"] == ["/dev/ipmi0"]


def test_the_controllers_side_understands_it(tmp_path: Path) -> None:
    line = encoded(triage(Roots.captured(str(the_incident(tmp_path))))).encode()
    read = parse_host_report(line, source="triage")
    assert read.stuck_clients == 2
    assert read.kipmi_percent_max == 100.0
    assert read.hung_since is not None


def test_the_screen_is_one_screen_and_has_the_diagnosis(tmp_path: Path) -> None:
    shown = screen(triage(Roots.captured(str(the_incident(tmp_path)))))
    assert "The BMC does not answer its host: 2 clients stuck." in shown
    assert "1 x ipmitool mc info" in shown
    assert "crond.service" in shown
    assert "it is one thread, and takes one core of 64 at most" in shown
    assert "web7" in shown
    assert len(shown.splitlines()) <= 50
    assert max(len(line) for line in shown.splitlines()) <= 110


def test_many_alike_stand_in_one_line(tmp_path: Path) -> None:
    crowd = [stuck_ipmitool(1000 + n, age_s=100.0 + n) for n in range(300)]
    root = write_capture(tmp_path / "crowd", crowd, crowd)
    seen = triage(Roots.captured(str(root)))
    assert "300 x ipmitool mc info" in screen(seen)
    assert to_json(seen)["stuck_count"] == 300


def test_a_report_stays_below_what_its_readers_take(tmp_path: Path) -> None:
    crowd = [stuck_ipmitool(1000 + n, "ü" * 1900) for n in range(700)]
    root = write_capture(tmp_path / "crowd", crowd, crowd)
    line = encoded(triage(Roots.captured(str(root))))
    assert len(line) < REPORT_BYTES_MAX
    document = json.loads(line)
    assert document["stuck_count"] == 700
    assert 0 < len(document["stuck"]) < 700


def test_a_bare_proc_tree_has_one_sample(tmp_path: Path) -> None:
    root = write_proc(tmp_path / "bare", [KTHREADD, kipmi(50.0), stuck_ipmitool()])
    seen = report(root)
    assert seen["interval_s"] is None
    assert seen["kipmi"] == [
        {"name": "kipmi0", "pid": 512, "cpu_percent": None, "cpu_total_s": 50.0}
    ]
    assert [row["pid"] for row in seen["stuck"]] == [65_113]
    assert "bmc-not-answering" in seen["symptoms"]
    assert seen["interfaces"] == []


@pytest.mark.parametrize(("age_s", "is_stuck"), [(300.0, True), (60.0, False)])
def test_in_a_bare_proc_tree_the_latest_turn_is_the_time(
    tmp_path: Path, age_s: float, *, is_stuck: bool
) -> None:
    client = stuck_ipmitool(age_s=age_s)
    client.processor = 1
    other = FakeProcess(70, "sh", ["sh"], exe="/bin/sh", idle_s=30.0, processor=1)
    root = write_proc(tmp_path / "bare", [KTHREADD, client, other])
    shutil.rmtree(root / "self")
    seen = report(root)
    assert [row["idle_s"] for row in seen["stuck"]] == ([269.99] if is_stuck else [])
    if not is_stuck:
        assert seen["spared"][0]["reason"] == "it ran 30.0 s ago"


@pytest.mark.parametrize(("interval_s", "kind"), [(2.0, "undecided"), (17.0, "hung")])
def test_a_client_whose_last_turn_is_unknown_must_be_watched(
    tmp_path: Path, interval_s: float, kind: str
) -> None:
    client = stuck_ipmitool()
    client.processor = 1
    processes = [KTHREADD, client]
    root = write_capture(tmp_path / "x", processes, processes, interval_s=interval_s)
    shutil.rmtree(root / "proc.2/self/task/77001")
    seen = report(root)
    assert seen["diagnosis"]["kind"] == kind
    assert [row["idle_s"] for row in seen["stuck"]] == ([] if kind == "undecided" else [None])
    if kind == "undecided":
        assert WATCHED_TOO_BRIEFLY in seen["blind"][0]
        assert seen["diagnosis"]["advice"] == ["watch the clients for longer: --interval 17"]


def stuck_without(device: str | None) -> FakeProcess:
    """A client like the incident's, whose device is this; no kipmi is there."""
    process = stuck_ipmitool()
    process.files = {"0": "/dev/null", **({"3": device} if device is not None else {})}
    return process


@pytest.mark.parametrize("device", [None, "/dev/ipmi0 (deleted)", "/dev/ipmi0"])
def test_on_a_host_without_an_interface_a_stuck_client_is_no_hang(
    tmp_path: Path, device: str | None
) -> None:
    client = stuck_without(device)
    root = write_capture(tmp_path / "x", [KTHREADD, client], [KTHREADD, client])
    for name in ("sys", "sys.2"):  # what a capture holds of such a host
        (root / name / "class/ipmi").mkdir(parents=True)
    seen = report(root)
    assert seen["diagnosis"]["kind"] == "no-interface"
    assert seen["symptoms"] == ["stuck-clients", "no-interface"]
    assert (seen["stuck_count"], seen["hung_since"]) == (1, None)


@pytest.mark.parametrize(
    ("device", "kind"),
    [(None, "no-interface"), ("/dev/ipmi0 (deleted)", "no-interface"), ("/dev/ipmi0", "hung")],
)
def test_in_a_bare_proc_tree_an_open_device_speaks_for_an_interface(
    tmp_path: Path, device: str | None, kind: str
) -> None:
    root = write_proc(tmp_path / "bare", [KTHREADD, stuck_without(device)])
    assert report(root)["diagnosis"]["kind"] == kind


def test_a_module_that_is_unloaded_while_clients_hang_leaves_no_hang_behind(tmp_path: Path) -> None:
    there, gone = stuck_without("/dev/ipmi0"), stuck_without("/dev/ipmi0 (deleted)")
    first, again = [KTHREADD, kipmi(1000.0), there], [KTHREADD, gone]
    root = write_capture(tmp_path / "unloaded", first, again, counters=HUNG)
    shutil.rmtree(root / "sys.2/class/ipmi/ipmi0")
    seen = report(root)
    assert seen["diagnosis"]["kind"] == "no-interface"
    assert "ipmi0 went away during triage" in seen["diagnosis"]["evidence"]
    assert seen["interfaces"] == []
    assert seen["kipmi"] == []


@pytest.mark.parametrize("wchan", ["poll_schedule_timeout", "0", "pipe_read", None])
@pytest.mark.parametrize("frame", ["do_select", "pipe_read", None])
def test_the_verdict_is_the_same_with_stacks_and_without(
    tmp_path: Path, wchan: str | None, frame: str | None
) -> None:
    stack = f"[<0>] __switch_to+0xbc/0x118\n[<0>] {frame}+0x1/0x2\n" if frame else ""
    client = FakeProcess(**{**vars(stuck_ipmitool()), "wchan": wchan, "stack": stack})
    roots = Roots.captured(str(write_capture(tmp_path / "arm", [client], [client])))
    found = [triage(roots, with_stacks=with_stacks) for with_stacks in (True, False)]
    assert len({repr([each.evidence for each in seen.stuck]) for seen in found}) == 1
    assert found[0].spared == found[1].spared
    waits_in = wchan if wchan not in ("0", None) else frame
    assert bool(found[0].stuck) is (waits_in != "pipe_read")


@pytest.mark.parametrize("words", [["ab"] * 3000, ["-P", *["x"] * 3000], ["x" * 9000]])
def test_what_is_too_long_to_be_judged_is_so_in_a_capture_too(
    tmp_path: Path, words: list[str]
) -> None:
    client = stuck_ipmitool(65_113, *words)
    root = write_capture(tmp_path / "long", [client], [client])
    record: dict[str, bytes | str] = {}
    roots = Roots.captured(str(root))._replace(proc=Tree(str(root / "proc"), record))
    spared = triage(roots).spared
    assert spared[0].verdict.evidence == [TOO_LONG]
    capture.write(roots, str(tmp_path / "capture.tar.gz"))
    with tarfile.open(tmp_path / "capture.tar.gz") as tar:
        member = tar.extractfile("proc/65113/cmdline")
        assert member is not None
        shown = member.read()
    (root / "proc/65113/cmdline").write_bytes(shown)
    assert triage(Roots.captured(str(root))).spared == spared


def test_an_interface_that_counts_nothing_is_one_in_a_capture_too(tmp_path: Path) -> None:
    root = the_incident(tmp_path)
    for folder in ("sys", "sys.2"):
        for counter in (root / folder / "class/ipmi/ipmi0/device").iterdir():
            counter.unlink()
    roots = Roots.captured(str(root))
    for tree in (roots.sys, roots.sys_again):
        assert tree is not None
        tree.record = {}
    triage(roots)
    capture.write(roots, str(tmp_path / "capture.tar.gz"))
    unpacked = unpack(tmp_path / "capture.tar.gz")
    assert (unpacked / "sys/class/ipmi/ipmi0").is_dir()
    assert (unpacked / "sys.2/class/ipmi/ipmi0").is_dir()


def test_what_no_kernel_would_write_breaks_nothing(tmp_path: Path) -> None:
    root = write_proc(tmp_path / "bare", [stuck_ipmitool(), FakeProcess(9, "x")])
    for name in ("uptime", "stat", "loadavg", "pressure/cpu", "self/sched", "9/stat"):
        (root / name).write_bytes(b"\xff\0 nonsense \n 1e999 avg10=inf")
    (root / "10").write_text("no folder")
    (root / "11").mkdir()
    seen = report(root)
    assert seen["load"] == []
    assert seen["pressure"] == {}
    assert seen["processes"] == 4


def test_hostile_names_steer_no_terminal(tmp_path: Path) -> None:
    evil = stuck_ipmitool(65_113, "\x1b[2J\nmc", "\x9b31m")
    evil.argv.append(b"\xff\xfe")
    shown = screen(triage(Roots.captured(str(write_proc(tmp_path / "bare", [evil])))))
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "\\xff\\xfe" in shown


def test_no_tree_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NoTree, match="expected a proc tree"):
            Roots.captured(str(folder))


def of_another_user(process: FakeProcess, root: Path) -> None:
    """Its executable cannot be read, as that of another user's cannot."""
    for folder in ("proc", "proc.2"):
        link = root / folder / str(process.pid) / "exe"
        link.unlink()
        link.write_text("no link")


@pytest.mark.parametrize(
    ("ages_s", "kind", "blind", "status"),
    [
        ([90.0, 90.0], "undecided", "whether 2 IPMI clients hang (its executable: exe: ", 1),
        ([90.0, 5.0], "undecided", "whether 1 IPMI client hang", 1),
        # What is young needs no proof to be no stuck client.
        ([5.0], "no-symptom", None, 0),
    ],
)
def test_a_triage_that_saw_nothing_does_not_report_that_nothing_is_wrong(
    tmp_path: Path, ages_s: list[float], kind: str, blind: str | None, status: int
) -> None:
    others = [stuck_ipmitool(900 + n, age_s=age_s) for n, age_s in enumerate(ages_s)]
    root = write_capture(tmp_path / "x", [KTHREADD, *others], [KTHREADD, *others])
    for each in others:
        of_another_user(each, root)
    done = run("--proc-root", str(root), "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["symptoms"], document["diagnosis"]["kind"]) == (
        status,
        [],
        kind,
    )
    assert len(document["blind"]) == (blind is not None)
    if blind is not None:
        assert document["blind"][0].startswith(blind)
        assert parse_host_report(done.stdout.encode(), source="triage").undecided
        shown = run("--proc-root", str(root)).stdout
        assert "cannot be judged" in shown
        assert "run it as root" in shown
        assert "Symptoms: none seen" in shown


def test_a_process_with_nothing_open_has_nothing_open_in_a_capture_too(tmp_path: Path) -> None:
    client = stuck_ipmitool()
    client.files = {}
    root = write_capture(tmp_path / "x", [KTHREADD, client], [KTHREADD, client])
    roots = Roots.captured(str(root))
    for tree in (roots.proc, roots.again):
        assert tree is not None
        tree.record = {}
    seen = to_json(triage(roots))
    capture.write(roots, str(tmp_path / "capture.tar.gz"))
    unpacked = unpack(tmp_path / "capture.tar.gz")
    again = report(unpacked)
    assert [row["devices"] for row in seen["stuck"]] == [[]]
    assert (again["stuck"], again["unread"]) == (seen["stuck"], seen["unread"])


def test_a_client_that_is_meant_to_wait_makes_no_triage_blind(tmp_path: Path) -> None:
    remote = stuck_ipmitool(65_113, "-I", "lanplus", "-H", "h", "mc", "info")
    root = write_capture(tmp_path / "x", [KTHREADD, remote], [KTHREADD, remote])
    of_another_user(remote, root)
    seen = report(root)
    assert (seen["blind"], seen["diagnosis"]["kind"]) == ([], "no-symptom")


def test_a_capture_of_a_blind_triage_is_as_blind(tmp_path: Path) -> None:
    other = stuck_ipmitool()
    root = write_capture(tmp_path / "x", [KTHREADD, other], [KTHREADD, other])
    of_another_user(other, root)
    roots = Roots.captured(str(root))
    for tree in (roots.proc, roots.again):
        assert tree is not None
        tree.record = {}
    seen = triage(roots)
    capture.write(roots, str(tmp_path / "capture.tar.gz"))
    unpacked = unpack(tmp_path / "capture.tar.gz")
    again = triage(Roots.captured(str(unpacked)))
    assert seen.facts.blind
    assert again.facts.blind == seen.facts.blind
    assert again.diagnosis.kind.value == "undecided"


def test_a_proc_that_hides_others_is_no_host_without_symptoms(tmp_path: Path) -> None:
    root = write_capture(tmp_path / "x", [FakeProcess(70, "sh", ["sh"], exe="/bin/sh")], [])
    hidden = Roots.captured(str(root))._replace(is_live=True)
    seen = triage(hidden, interval_s=0.1, sleep=lambda _seconds: None)
    assert seen.facts.blind == ["the processes of others, which are hidden here (hidepid)"]
    (root / "proc/1").mkdir()
    (root / "proc/1/stat").write_text("nothing that tells")
    seen = triage(hidden, interval_s=0.1, sleep=lambda _seconds: None)
    assert seen.facts.blind == ["what the processes are that cannot be read (1)"]
    assert seen.diagnosis.kind.value == "undecided"


def test_a_proc_without_processes_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "proc").mkdir()
    empty = Roots.live()._replace(proc=Tree(str(tmp_path / "proc")))
    monkeypatch.setattr(Roots, "live", lambda recording: empty if not recording else None)
    assert triage_main.main(["--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"bmcmedic triage: {tmp_path}/proc: no processes; is it mounted?\n"


def test_a_captured_proc_without_processes_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    assert triage_main.main(["--proc-root", str(tmp_path)]) == 2
    assert "no processes; is it mounted?" in capsys.readouterr().err


def test_old_kernels_counters_are_read(tmp_path: Path) -> None:
    stats = "hosed_count:           7\ncomplete_transactions: {}\n"
    root = write_capture(tmp_path / "old", [stuck_ipmitool()], [stuck_ipmitool()])
    for folder, number in (("proc", 100), ("proc.2", 103)):
        (root / folder / "ipmi/0").mkdir(parents=True)
        (root / folder / "ipmi/0/si_stats").write_text(stats.format(number))
    (interface,) = report(root)["interfaces"]
    assert (interface["name"], interface["completed_delta"], interface["hosed"]) == ("ipmi0", 3, 7)


def test_the_queue_is_glanced_at_while_it_waits(tmp_path: Path) -> None:
    root = the_incident(tmp_path)
    slept: list[float] = []
    device = root / "sys.2/class/ipmi/ipmi0/device/nr_msgs"

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        device.write_text("1\n" if len(slept) <= 7 else "0\n")

    live = Roots.captured(str(root))._replace(is_live=True)
    seen = triage(live, interval_s=2.0, sleep=sleep, epoch_s=lambda: 5.0)
    assert slept == [pytest.approx(0.2)] * 10
    assert seen.facts.queued_share == 0.7
    assert seen.facts.captured_at == 5.0


def test_only_files_that_the_kernel_answers_by_itself_are_read(tmp_path: Path) -> None:
    root = the_incident(tmp_path)
    forbidden = root / "sys/devices/platform/ipmi_bmc.0"
    forbidden.mkdir(parents=True)
    (forbidden / "guid").write_text("x")
    roots = Roots.captured(str(root))
    assert roots.sys is not None
    roots.sys.record = {}
    triage(roots)
    assert set(roots.sys.record) == {
        "class/dmi/id/product_uuid",
        "class/ipmi/",
        "class/ipmi/ipmi0/",
        "class/ipmi/ipmi0/device/complete_transactions",
        "class/ipmi/ipmi0/device/hosed_count",
        "class/ipmi/ipmi0/device/nr_msgs",
    }


# ---------------------------------------------------------------------------------- this host


def live(*options: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        bmcmedic("triage", "--json", "--interval", "0.3", *options),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_real_stuck_clients_are_found_and_processes_that_resemble_them_are_not(
    clients: HostClients,
) -> None:
    stuck = {
        clients.start("-b", "6", "raw", "0x4", "0x2d", "0xbe"),
        clients.start_orphan("-P", "s3cret", "mc", "info"),
    }
    innocent = {clients.start("sol", "activate"), clients.start_on_terminal("mc", "info")}
    for pid in stuck | innocent:
        wait_until_still(pid)
    seen = triage(Roots.live(), interval_s=0.3, stuck_after_s=0.1)
    found = {each.client.identity.pid for each in seen.stuck}
    assert stuck <= found
    assert not innocent & found
    assert innocent <= {each.client.identity.pid for each in seen.spared}
    status, shown = live("--stuck-after", "0.1")
    assert "s3cret" not in json.dumps(shown)
    assert status == 1
    assert "stuck-clients" in shown["symptoms"]
    assert shown["stuck_count"] >= len(stuck)


def test_a_capture_gives_the_same_report_and_holds_no_secret(
    clients: HostClients, tmp_path: Path
) -> None:
    pid = clients.start("-Ps3cret", "mc", "info")
    wait_until_still(pid)
    roots = Roots.live(recording=True)
    seen = triage(roots, interval_s=0.3, stuck_after_s=0.1)
    path = tmp_path / "capture.tar.gz"
    assert capture.write(roots, str(path)) > 10
    assert path.stat().st_mode & 0o777 == 0o600
    unpacked = unpack(path)
    again = triage(Roots.captured(str(unpacked)), stuck_after_s=0.1)
    assert pid in {each.client.identity.pid for each in again.stuck}
    assert [each.evidence for each in again.stuck] == [each.evidence for each in seen.stuck]
    assert again.diagnosis.kind is seen.diagnosis.kind
    assert again.host.host_id == seen.host.host_id
    held = b"".join(
        p.read_bytes() for p in unpacked.rglob("*") if p.is_file() and not p.is_symlink()
    )
    assert b"s3cret" not in held
    assert b"mc\0info" in held
    assert not list(unpacked.rglob("environ"))


def test_a_capture_keeps_of_a_guest_no_more_than_its_name(tmp_path: Path) -> None:
    process = guest(1, 1)
    process.argv = [
        *("qemu-system-x86_64", "-name", "guest=web7", "-uuid", "4c4c4544"),
        *("-object", '{"qom-type":"secret","id":"a","data":"s3cret"}'),
        *("-object", "secret,id=b,data=s3cret", "-drive", "file=rbd:p/i:id=x:key=s3cret"),
        *("-vnc", ":1,password=s3cret", "-spice", "password=s3cret"),
        *("-append", "x" * 5000),
    ]
    process.files = {"9": "/dev/ipmi0"}
    roots = Roots.captured(str(write_capture(tmp_path / "x", [process], [process])))
    roots.proc.record = {}
    seen = triage(roots)
    assert [each.name for each in seen.facts.guests] == ["web7"]
    kept = ["qemu-system-x86_64", "-name", "guest=web7", "-uuid", "4c4c4544"]
    assert [each.argv for each in seen.scan.openers] == [kept]
    capture.write(roots, str(tmp_path / "capture.tar.gz"))
    with tarfile.open(tmp_path / "capture.tar.gz") as tar:
        held = tar.extractfile("proc/900/cmdline")
        assert held is not None
        assert held.read() == "".join(word + "\0" for word in kept).encode()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        bmcmedic("triage", *arguments),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_a_capture_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_text("mine")
    done = run("--capture", str(path))
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--proc-root", "/nowhere"],
        ["--proc-root", "/proc", "--capture", "x"],
        ["--interval", "0"],
        ["--interval", "nan"],
        ["--stuck-after", "-1"],
        ["--stuck-after", "soon"],
        ["--capture", "/nowhere/x", "--interval", "0.1"],
        ["extra"],
    ],
)
def test_wrong_usage_is_reported(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr


def test_the_screen_and_the_exit_status(tmp_path: Path) -> None:
    done = run("--proc-root", str(the_incident(tmp_path)))
    assert done.returncode == 1
    assert "Symptoms: kipmi-busy, stuck-clients, bmc-not-answering" in done.stdout
    well = write_capture(tmp_path / "well", [KTHREADD], [KTHREADD])
    assert run("--proc-root", str(well)).returncode == 0


def test_it_starts_without_what_it_does_not_need() -> None:
    done = subprocess.run(
        [*bmcmedic()[:-2], "-X", "importtime", *bmcmedic("triage", "--help")[1:]],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert "typer" not in done.stderr
    assert "asyncio" not in done.stderr


def other_opener(name: str, *, files: dict[str, str], **changes: Any) -> FakeProcess:  # noqa: ANN401 - any field
    return FakeProcess(70, name, [name], exe=f"/usr/bin/{name}", files=files, **changes)


@pytest.mark.parametrize(
    ("changes", "is_still"), [({}, True), ({"turns": 13}, False), ({"state": "R"}, False)]
)
def test_whoever_stands_still_with_the_device_open_is_named(
    tmp_path: Path, changes: dict[str, Any], *, is_still: bool
) -> None:
    first = other_opener("freeipmi.plugin", files={"3": "/dev/ipmi0"})
    again = other_opener("freeipmi.plugin", files={"3": "/dev/ipmi0"}, **changes)
    seen = report(write_capture(tmp_path / "x", [KTHREADD, first], [KTHREADD, again]))
    assert seen["stuck"] == []
    (row,) = seen["direct_openers"]
    assert (row["waits"] is not None) is is_still
    assert row["waits"] is None or "waits in do_select" in row["waits"]


METER = "/sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI000D:00/power1_average"


@pytest.mark.parametrize(
    ("changes", "is_named"),
    [
        ({"state": "D"}, True),
        ({"state": "S"}, False),
        ({"state": "D", "files": {}}, False),
    ],
)
def test_whoever_sleeps_in_the_power_meter_is_named(
    tmp_path: Path, changes: dict[str, Any], *, is_named: bool
) -> None:
    first = other_opener("node_exporter", files={"9": METER}, state="D")
    again = other_opener("node_exporter", **{"files": {"9": METER}, **changes})
    seen = report(write_capture(tmp_path / "x", [KTHREADD, first], [KTHREADD, again]))
    assert (seen["stuck"], seen["symptoms"]) == ([], [])
    assert [row["pid"] for row in seen["power_meter"]] == ([70] if is_named else [])
