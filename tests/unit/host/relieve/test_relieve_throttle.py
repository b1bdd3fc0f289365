"""`kipmid_max_busy_us`: set in a hang, put back after it, and what the undo journal survives."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bmcmedic.host.kernel.kipmid import Kipmi
from bmcmedic.host.relieve.kipmid_throttle import KipmidThrottle, ThrottleAction, throttled
from bmcmedic.host.relieve.relieve import Relief
from bmcmedic.host.relieve.undo_journal import Change, JournalError, UndoJournal
from tests.support.relief_host import BOOT_ID, Fake, FakeHost

STUCK_AFTER_S = 60.0


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def relief_of(host: FakeHost) -> Relief:
    return Relief(host.trees(), STUCK_AFTER_S)


def shown(host: FakeHost) -> str:
    return host.parameter.read_text().strip()


def journal_file(host: FakeHost) -> Path:
    return host.journal / "undo.json"


def hung(host: FakeHost, max_busy_us: str = "") -> Relief:
    """A host with one stuck client and a polling thread that spins, relieved."""
    host.add(Fake(1001))
    host.add_interface(max_busy_us)
    relief = relief_of(host)
    report = relief.relieve(may_act=True)
    assert report.setting.action is ThrottleAction.SET
    return relief


def test_it_is_set_in_a_hang_and_put_back_after_it(host: FakeHost) -> None:
    relief = hung(host, "500")
    assert shown(host) == "100"
    host.pass_time(1.0)
    assert (
        relief.step(may_act=True).setting.action is ThrottleAction.KEEP
    )  # nothing has completed yet
    assert shown(host) == "100"
    host.complete(1)
    host.pass_time(1.0)
    done = relief.step(may_act=True).setting
    assert (done.action, done.before, done.after) == (ThrottleAction.PUT_BACK, "100", "500")
    assert shown(host) == "500"
    assert not journal_file(host).exists()


def test_one_answer_in_a_hang_is_no_recovery(host: FakeHost) -> None:
    relief = hung(host, "0")
    host.complete(1)
    host.pass_time(1.0)
    relief.scan()
    host.pass_time(1.0)
    assert relief.step(may_act=True).setting.action is ThrottleAction.KEEP
    host.processes[200].core_percent = 0.0
    host.pass_time(1.0)
    assert relief.step(may_act=True).setting.action is ThrottleAction.PUT_BACK


def test_what_was_never_written_becomes_zeros(host: FakeHost) -> None:
    relief = hung(host)
    assert shown(host) == "100"
    setting = relief.undo(may_act=True)
    assert (setting.action, setting.after) == (ThrottleAction.PUT_BACK, "0")
    assert shown(host) == "0"


def test_a_crash_of_ours_is_survived_by_the_journal(host: FakeHost) -> None:
    hung(host, "0")
    setting = relief_of(host).undo(may_act=True)
    assert setting.action is ThrottleAction.PUT_BACK
    assert shown(host) == "0"
    assert relief_of(host).undo(may_act=True).action is ThrottleAction.NONE


def test_a_crash_before_the_setting_leaves_nothing_to_put_back(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(Exception):
        pass

    def crash(_self: KipmidThrottle, _text: str) -> None:
        raise Crash

    host.add(Fake(1001))
    host.add_interface("700")
    with monkeypatch.context() as patched:
        patched.setattr(KipmidThrottle, "_write", crash)
        with pytest.raises(Crash):
            relief_of(host).relieve(may_act=True)
    assert journal_file(host).exists()
    setting = relief_of(host).undo(may_act=True)
    assert (setting.action, setting.failed) == (ThrottleAction.NONE, False)
    assert shown(host) == "700"
    assert not journal_file(host).exists()


class Killed(BaseException):
    """What no code of ours catches, as it catches no SIGKILL."""


STEPS = ("open", "write", "fsync", "rename", "unlink")


def killed_before_step(
    number: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]
) -> bool:
    """Let it make so many steps that the kernel would see; False when it makes no more."""
    left = number
    os_open = os.open

    def dying(step: Callable[..., object]) -> Callable[..., object]:
        def take(*arguments: object, **named: object) -> object:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            if step is os_open:  # to the kernel's parameters cutting them off means nothing
                path, flags, *mode = arguments
                assert isinstance(flags, int)
                arguments = (path, flags & ~os.O_TRUNC, *mode)
            return step(*arguments, **named)

        return take

    with monkeypatch.context() as patched:
        for name in STEPS:
            patched.setattr(os, name, dying(getattr(os, name)))
        try:
            act()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("what", ["set", "put back"])
def test_a_kill_at_any_step_leaves_nothing_that_undo_does_not_put_back(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    host.add_interface("700")
    hot = [Kipmi("kipmi0", 7, 100.0, 1.0)]
    for number in itertools.count():
        relief = relief_of(host)
        set_it = partial(relief.throttle.set, hot, [], "it hangs", may_act=True)
        undo = partial(relief.undo, may_act=True)
        if what == "put back":
            set_it()
        was_killed = killed_before_step(number, monkeypatch, undo if what == "put back" else set_it)
        assert not relief_of(host).undo(may_act=True).failed
        assert shown(host) == "700", f"killed before step {number}"
        assert {path.name for path in host.journal.glob("*")} <= {"undo.lock"}, number
        if not was_killed:
            break
    assert number > len(STEPS)


def test_what_an_operator_has_set_since_stays(host: FakeHost) -> None:
    relief = hung(host, "0")
    host.parameter.write_text("250\n")
    setting = relief.undo(may_act=True)
    assert setting.action is ThrottleAction.NONE
    assert "changed since by another program" in setting.why
    assert shown(host) == "250"
    assert not journal_file(host).exists()


def test_where_nothing_was_changed_nothing_is_made(host: FakeHost) -> None:
    host.add_interface("0")
    assert relief_of(host).undo(may_act=True).action is ThrottleAction.NONE
    assert not host.journal.exists()


def test_a_second_hang_keeps_what_stood_before_the_first(host: FakeHost) -> None:
    hung(host, "0")
    host.add(Fake(1002))
    host.add(Fake(201, argv=[], exe=None, comm="kipmi1", flags=0x0020_0000, core_percent=50.0))
    report = relief_of(host).relieve(may_act=True)
    assert (report.setting.before, report.setting.after) == ("100", "100,100")
    assert relief_of(host).undo(may_act=True).after == "0"
    assert shown(host) == "0"


def test_a_busy_bmc_is_not_throttled(host: FakeHost) -> None:
    host.add(Fake(1001))
    host.add_interface("0")
    host.when_slept.append(lambda: host.complete(3))
    report = relief_of(host).relieve(may_act=True)
    assert report.stuck
    assert report.setting.action is ThrottleAction.NONE
    assert shown(host) == "0"


def test_a_spinning_thread_without_stuck_clients_is_not_throttled(host: FakeHost) -> None:
    host.add_interface("0")
    assert relief_of(host).relieve(may_act=True).setting.action is ThrottleAction.NONE
    assert shown(host) == "0"


def test_a_hang_is_seen_without_stuck_clients_where_the_kernel_counts_what_waits(
    host: FakeHost,
) -> None:
    # As on a host with driver and shim: one message waits in the kernel, and no client gets stuck.
    host.add_interface("0")
    waiting = host.root / "sys/class/ipmi/ipmi0/device/nr_msgs"
    waiting.write_text("1\n")
    relief = relief_of(host)
    relief.scan()
    for _ in range(3):
        host.pass_time(3.0)
        assert relief.step(may_act=True).setting.action is ThrottleAction.NONE
    host.complete(1)
    host.pass_time(3.0)
    assert relief.step(may_act=True).setting.action is ThrottleAction.NONE  # it was slow, not hung
    for _ in range(3):
        host.pass_time(3.0)
        assert relief.step(may_act=True).setting.action is ThrottleAction.NONE
    host.pass_time(3.0)
    assert relief.step(may_act=True).setting.action is ThrottleAction.SET
    assert shown(host) == "100"
    host.complete(1)
    waiting.write_text("0\n")
    host.pass_time(3.0)
    assert relief.step(may_act=True).setting.action is ThrottleAction.PUT_BACK


def starved(host: FakeHost, core_percent: float) -> Relief:
    """A hang with a client that stays, and a thread that others leave next to nothing."""
    host.add_interface("0", core_percent=core_percent)
    host.add(Fake(1001, term="blocks", kill="blocks"))
    relief = relief_of(host)
    relief.scan()
    return relief


def test_a_thread_that_is_starved_is_throttled_when_nothing_has_completed_for_long(
    host: FakeHost,
) -> None:
    relief = starved(host, core_percent=0.8)
    actions = []
    for _ in range(5):
        host.pass_time(2.5)
        actions.append(relief.step(may_act=True).setting.action.value)
    assert actions == ["none", "none", "none", "set", "keep"]
    assert shown(host) == "100"


@pytest.mark.parametrize("is_answering", [True, False])
def test_a_thread_at_rest_or_a_bmc_that_answers_is_not_throttled(
    host: FakeHost, is_answering: bool
) -> None:
    relief = starved(host, core_percent=4.0 if is_answering else 0.1)
    for number in range(20):
        if is_answering and number % 3 == 0:
            host.complete(1)
        host.pass_time(2.5)
        assert relief.watch(may_act=True).setting.action is ThrottleAction.NONE
    assert shown(host) == "0"


def test_a_starved_thread_is_not_throttled_where_the_kernel_does_not_count(host: FakeHost) -> None:
    relief = starved(host, core_percent=0.8)
    shutil.rmtree(host.root / "sys/class/ipmi/ipmi0/device")
    for _ in range(10):
        host.pass_time(2.5)
        assert relief.step(may_act=True).setting.action is ThrottleAction.NONE


def test_a_change_within_a_moment_proves_nothing(host: FakeHost) -> None:
    host.add_interface("0")
    host.add(Fake(1001, term="blocks", kill="blocks"))
    relief = relief_of(host)
    host.pass_time(1.0)
    relief.scan()
    host.complete(1)
    host.pass_time(1.0)
    relief.scan()
    host.pass_time(0.3)
    assert relief.step(may_act=True).setting.action is ThrottleAction.NONE
    host.pass_time(1.0)
    assert relief.watch(may_act=True).setting.action is ThrottleAction.SET


def test_what_is_limited_already_stays(host: FakeHost) -> None:
    host.add(Fake(1001))
    host.add_interface("50")
    report = relief_of(host).relieve(may_act=True)
    assert (report.setting.action, report.setting.failed) == (ThrottleAction.KEEP, False)
    assert shown(host) == "50"
    assert not host.journal.exists()


def test_a_kernel_without_the_parameter_is_reported(host: FakeHost) -> None:
    host.add(Fake(1001))
    host.add_interface()
    host.parameter.unlink()
    report = relief_of(host).relieve(may_act=True)
    assert report.setting.failed
    assert not host.processes.keys() & {1001}  # the client is ended all the same


@pytest.mark.parametrize(
    ("before", "threads", "after"),
    [
        ("", {"kipmi0": 98.0}, "100"),
        ("", {"kipmi1": 98.0}, "0,100"),
        ("0,0", {"kipmi0": 98.0}, "100,0"),
        ("700", {"kipmi0": 12.0, "kipmi2": 33.0}, "100,0,100"),
        ("100,40", {"kipmi0": 98.0, "kipmi1": 98.0}, "100,40"),
        ("-1", {"kipmi0": 98.0}, "100"),
        ("0", {"kipmi7": 98.0}, "0"),
    ],
)
def test_each_interface_has_a_number_of_its_own(
    before: str, threads: dict[str, float | None], after: str
) -> None:
    kipmi = [Kipmi(name, 200, percent, 1.0) for name, percent in threads.items()]
    assert throttled(before, kipmi) == after


def test_a_full_disk_changes_nothing(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(descriptor: int, raw: bytes) -> int:
        if "undo.json" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device")
        return write(descriptor, raw)

    monkeypatch.setattr(os, "write", full)
    host.add(Fake(1001))
    host.add_interface("0")
    report = relief_of(host).relieve(may_act=True)
    assert report.setting.failed
    assert "No space left" in report.setting.why
    assert shown(host) == "0"
    assert [each.name for each in host.journal.iterdir()] == ["undo.lock"]
    assert 1001 not in host.processes


# ----------------------------------------------------------------------------------- the journal


def journal_of(host: FakeHost, boot_id: str = BOOT_ID) -> UndoJournal:
    return UndoJournal(boot_id, lambda: host.uptime_s, host.pass_time, str(host.journal))


CHANGE = Change("/sys/x", "0", "100", "0", 1_700_000_000.5, {"ipmi0": 4711})


def test_the_journal_gives_back_what_was_written(host: FakeHost) -> None:
    with journal_of(host) as journal:
        assert journal.changes() == []
        journal.write([CHANGE])
        assert journal.changes() == [CHANGE]
    assert journal_of(host).peek() == [CHANGE]
    assert stat.S_IMODE(journal_file(host).stat().st_mode) == 0o600


def test_another_boots_changes_ended_with_it(host: FakeHost) -> None:
    with journal_of(host) as journal:
        journal.write([CHANGE])
    assert journal_of(host, "another").peek() == []


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", '{"version": 1}', "\xff"),
        '{"version": 1, "boot_id": "%s", "changes": [{}]}',
        '{"version": 2, "boot_id": "%s", "changes": []}',
    ],
)
def test_a_broken_journal_is_reported_and_kept(host: FakeHost, content: str) -> None:
    host.journal.mkdir(parents=True)
    raw = content.replace("%s", BOOT_ID).encode("latin-1")
    journal_file(host).write_bytes(raw)
    with pytest.raises(JournalError):
        journal_of(host).peek()
    host.add(Fake(1001))
    host.add_interface("0")
    assert relief_of(host).relieve(may_act=True).setting.failed
    assert shown(host) == "0"
    assert journal_file(host).read_bytes() == raw


def test_a_directory_that_others_can_write_is_not_used(host: FakeHost) -> None:
    host.journal.mkdir(parents=True)
    host.journal.chmod(0o777)
    with pytest.raises(JournalError, match="others"), journal_of(host):
        pass


def test_a_link_in_its_place_is_not_followed(host: FakeHost, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    host.journal.mkdir(parents=True)
    (host.journal / "undo.lock").symlink_to(elsewhere)
    with pytest.raises(JournalError), journal_of(host):
        pass
    assert elsewhere.read_text() == "untouched"


def test_two_at_once_wait_for_each_other_and_not_for_ever(host: FakeHost) -> None:
    with journal_of(host) as first:
        first.write([CHANGE])
        with pytest.raises(JournalError, match="another run"), journal_of(host):
            pass
    with journal_of(host) as second:
        assert second.changes() == [CHANGE]


def test_the_file_is_json_that_a_person_can_read(host: FakeHost) -> None:
    hung(host, "0")
    written = json.loads(journal_file(host).read_text())
    assert written["boot_id"] == BOOT_ID
    assert written["changes"][0]["path"] == str(host.parameter)
    assert written["changes"][0]["former"] == "0"
