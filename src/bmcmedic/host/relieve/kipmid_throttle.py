"""`kipmid_max_busy_us`: the limit on the kernel's polling thread while its BMC does not answer.

The kernel keeps one number for each interface, and shows as many as were written. Before the first
write it shows none, which means the same as zeros (no limit). Relief puts back only what it set
itself, and only if its own value is still there. A value that an operator has set since then stays.
"""

import os
import re
from enum import Enum

from bmcmedic.host.kernel.interface import InterfaceActivity
from bmcmedic.host.kernel.kipmid import PARAMETER, Kipmi
from bmcmedic.host.relieve.undo_journal import Change, JournalError, UndoJournal
from bmcmedic.host.typed import Callable, Dict, List, NamedTuple, Optional

MAX_BUSY_US = 100
"""The limit that relief sets, in µs. A thread that spins at 100 % of a core falls to 2 to 3 %."""

INTERFACES_MAX = 4
"""Number of interfaces in the kernel's list, which is the kernel's own limit."""

HOT_PERCENT = 5.0
"""Share of a core above which a polling thread waits for a BMC, in percent; idle it is at 0."""
IDLE_PERCENT = 0.5
"""Share of a core above which a thread is at work, in percent.

On a busy host it may get no more, because the kernel runs it with a high nice value.
"""

_LIST = re.compile(r"-?[0-9]{1,10}(?:,-?[0-9]{1,10})*\Z")
_NUMBER = re.compile(r"kipmi([0-9]{1,3})\Z")


class ThrottleAction(Enum):
    """What relief does to the parameter."""

    NONE = "none"
    SET = "set"
    KEEP = "keep"
    """It has set the limit, and leaves it set."""
    PUT_BACK = "put back"

    @property
    def is_change(self) -> bool:
        """Whether the parameter gets another value."""
        return self in (ThrottleAction.SET, ThrottleAction.PUT_BACK)


class ThrottleSetting(NamedTuple):
    """What was done to the parameter, or would be done."""

    action: ThrottleAction
    before: Optional[str]
    after: Optional[str]
    why: str
    failed: bool = False


class KipmidThrottle:
    """The parameter of one host, changed under its undo journal."""

    def __init__(self, sys_root: str, journal: UndoJournal, now: Callable[[], float]) -> None:
        """`now` returns epoch seconds."""
        self.path = os.path.join(sys_root, PARAMETER)
        self._journal = journal
        self._now = now

    def apply(
        self,
        kipmi: List[Kipmi],
        interfaces: List[InterfaceActivity],
        is_stuck: bool,
        may_act: bool,
        is_still: bool = False,
    ) -> ThrottleSetting:
        """Set the limit in a hang, and put it back afterwards. Never raises: see `failed`.

        Without `may_act`, only return what would be done. `is_still`: nothing has completed for
        long, so a thread that takes a smaller share works in vain as well.
        """
        from_percent = IDLE_PERCENT if is_still else HOT_PERCENT
        busy = [each for each in kipmi if (each.cpu_percent or 0.0) >= from_percent]
        hung = is_hung(busy, interfaces) if is_stuck else None
        if hung is not None:
            return self.set(busy, interfaces, hung, may_act)
        try:
            changes = [change for change in self._journal.peek() if change.path == self.path]
        except JournalError as error:
            return ThrottleSetting(ThrottleAction.NONE, self.read(), None, str(error), failed=True)
        if not changes:
            return ThrottleSetting(
                ThrottleAction.NONE, self.read(), None, "no hang that it would ease"
            )
        recovered = None if is_stuck else has_recovered(changes[-1], kipmi, interfaces)
        if recovered is None:
            return ThrottleSetting(
                ThrottleAction.KEEP, self.read(), None, "set here; the BMC has not recovered yet"
            )
        return self.put_back(recovered, may_act)

    def set(
        self, kipmi: List[Kipmi], interfaces: List[InterfaceActivity], why: str, may_act: bool
    ) -> ThrottleSetting:
        """Set the limit for these threads; never raises."""
        before = self.read()
        if before is None:
            reason = "this kernel has no kipmid_max_busy_us"
            return ThrottleSetting(ThrottleAction.NONE, None, None, reason, failed=may_act)
        after = throttled(before, kipmi)
        if after == before:
            return ThrottleSetting(ThrottleAction.KEEP, before, before, f"{why}; limited already")
        if not may_act:
            return ThrottleSetting(ThrottleAction.SET, before, after, why)
        completed = {each.name: each.completed for each in interfaces if each.completed is not None}
        change = Change(self.path, before, after, before, self._now(), completed)
        try:
            with self._journal as journal:
                self._set_journalled(journal, change)
        except JournalError as error:
            # Relief changes nothing that it could not put back after a crash of its own.
            return ThrottleSetting(
                ThrottleAction.NONE, before, before, f"not set: {error}", failed=True
            )
        except OSError as error:
            return ThrottleSetting(
                ThrottleAction.NONE, before, self.read(), f"not set: {error.strerror}", failed=True
            )
        return ThrottleSetting(ThrottleAction.SET, before, self.read(), why)

    def _set_journalled(self, journal: UndoJournal, change: Change) -> None:
        earlier = journal.changes()
        kept = [each for each in earlier if each.path != self.path]
        for each in earlier:
            if each.path == self.path and change.was in (each.ours, each.was):
                change = change._replace(former=each.former)
        journal.write([*kept, change])
        try:
            self._write(change.ours)
        except OSError:
            journal.write(earlier)
            raise

    def put_back(self, why: str, may_act: bool) -> ThrottleSetting:
        """Put back what relief set; never raises."""
        before = self.read()
        try:
            changes = [each for each in self._journal.peek() if each.path == self.path]
            if not may_act or not (changes or self._journal.is_torn()):
                return self._undo(changes, before, why, may_act=False)
            with self._journal as journal:
                changes = journal.changes()
                ours = [each for each in changes if each.path == self.path]
                done = self._undo(ours, before, why, may_act=True)
                if ours:
                    journal.write([each for each in changes if each.path != self.path])
        except JournalError as error:
            return ThrottleSetting(
                ThrottleAction.NONE, before, self.read(), str(error), failed=True
            )
        except OSError as error:
            reason = f"not put back: {error.strerror}"
            return ThrottleSetting(ThrottleAction.NONE, before, self.read(), reason, failed=True)
        return done

    def _undo(
        self, changes: List[Change], before: Optional[str], why: str, may_act: bool
    ) -> ThrottleSetting:
        if not changes:
            return ThrottleSetting(ThrottleAction.NONE, before, None, "nothing was changed here")
        change = changes[-1]
        if before is None:
            return ThrottleSetting(
                ThrottleAction.NONE,
                None,
                None,
                "the kernel's module is gone, and its limit with it",
            )
        if before == change.former:
            return ThrottleSetting(ThrottleAction.NONE, before, before, "it is as it was")
        if before not in (change.ours, change.was):
            reason = f"changed since by another program (relief had set {change.ours}): kept"
            return ThrottleSetting(ThrottleAction.NONE, before, before, reason)
        # A parameter that was never written cannot be made so again; zeros mean the same.
        former = change.former or ",".join("0" for _ in change.ours.split(","))
        if may_act:
            self._write(former)
        return ThrottleSetting(
            ThrottleAction.PUT_BACK, before, self.read() if may_act else former, why
        )

    def read(self) -> Optional[str]:
        """Return the list as the kernel shows it; None: there is none, or it cannot be read."""
        try:
            with open(self.path, encoding="ascii") as parameter:
                text = parameter.read(256).strip()
        except (OSError, UnicodeDecodeError):
            return None
        return text if not text or _LIST.match(text) else None

    def _write(self, text: str) -> None:
        # The kernel takes each write as one setting, and its file cannot be replaced.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, text.encode("ascii"))
        finally:
            os.close(descriptor)


def throttled(before: str, kipmi: List[Kipmi]) -> str:
    """Return the list with a limit for each of these threads; other interfaces keep theirs."""
    values = [int(each) for each in before.split(",")] if before else []
    for thread in kipmi:
        found = _NUMBER.match(thread.name)
        number = int(found.group(1)) if found else INTERFACES_MAX
        if number >= INTERFACES_MAX:
            continue
        values += [0] * (number + 1 - len(values))
        if not 0 < values[number] <= MAX_BUSY_US:
            values[number] = MAX_BUSY_US
    return ",".join(str(value) for value in values)


def is_hung(busy: List[Kipmi], interfaces: List[InterfaceActivity]) -> Optional[str]:
    """Return what shows that these threads poll a BMC that does not answer; None: nothing does.

    Call it for a host that has stuck clients. A busy BMC keeps its thread busy too, but answers.
    """
    if not busy or any(each.completed_delta for each in interfaces):
        return None
    shares = ", ".join(f"{thread.name} at {thread.cpu_percent:g} %" for thread in busy)
    known = [each for each in interfaces if each.completed_delta is not None]
    return f"{shares}, and no transaction completed" if known else shares


def is_silent(interfaces: List[InterfaceActivity]) -> bool:
    """Whether the kernel had a message waiting all the time, and none completed."""
    if any(each.completed_delta for each in interfaces):
        return False
    return any(
        each.queued and each.was_queued and each.completed_delta is not None for each in interfaces
    )


def is_still(interfaces: List[InterfaceActivity]) -> bool:
    """Whether the kernel counted no completed message."""
    return bool(interfaces) and all(each.completed_delta == 0 for each in interfaces)


def has_recovered(
    change: Change, kipmi: List[Kipmi], interfaces: List[InterfaceActivity]
) -> Optional[str]:
    """Return what shows that the BMC answers again; None: nothing does."""
    counted = {each.name: each.completed for each in interfaces if each.completed is not None}
    known = [name for name in change.completed if name in counted]
    is_polling = any((thread.cpu_percent or 0.0) >= IDLE_PERCENT for thread in kipmi)
    has_completed = any(each.completed_delta for each in interfaces)
    # One answer is no recovery: the answer for which the kernel waits now must come, too.
    if any(each.hosed_delta for each in interfaces) or (is_polling and not has_completed):
        return None
    if known:
        answered = _completed_since(change.completed, counted)
        return f"{answered} transactions completed since it was set" if answered else None
    if kipmi and all(
        thread.cpu_percent is not None and thread.cpu_percent < IDLE_PERCENT for thread in kipmi
    ):
        return "kipmid is idle"
    return None


def _completed_since(then: Dict[str, int], now: Dict[str, int]) -> int:
    # A count that fell belongs to a reloaded module, and has grown from zero since.
    return sum(
        now[name] - count if now[name] >= count else now[name]
        for name, count in then.items()
        if name in now
    )
