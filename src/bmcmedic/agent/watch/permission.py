"""Whether the agent may act: it must be the only one, not disabled, and not in a crash loop.

A mark in the runtime directory records that an agent changed something. It is made before the first
change and removed when everything is put back. So the agent never overwrites a value that an
operator has set.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from bmcmedic.agent.config import AgentProcessConfig
from bmcmedic.agent.small_file import read_json, write_json
from bmcmedic.errors import ConfigurationError, StoreError
from bmcmedic.host.relieve.kill_switch import why_disabled

LOCK = "agent.lock"
MARK = "agent.acted"
STARTS = "agent.starts"
STARTS_BYTES_MAX = 16_384
"""Largest file of starts that is read, in bytes."""


class Permission:
    """The permission of one agent process to change its host."""

    def __init__(self, config: AgentProcessConfig, now: Callable[[], float]) -> None:
        """`now` returns seconds since the boot, which setting the clock does not change.

        Raises: ConfigurationError if another agent runs here, or the directory cannot be made.
        """
        self._config = config
        self._now = now
        self._folder = Path(config.runtime_dir)
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._lock_fd = os.open(
                self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise ConfigurationError(
                f"cannot use the runtime directory {self._folder}: {error.strerror}; run as root,"
                " or set process.runtime_dir"
            ) from None
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            raise ConfigurationError(
                f"another agent is running: it holds {self._folder / LOCK}"
            ) from None
        self._open_until: float | None = None
        self._why_open = ""
        self._count_this_start()

    # ------------------------------------------------------------------------------ crash loops

    def _count_this_start(self) -> None:
        now, window_s = self._now(), self._config.starts_window_s
        try:
            recorded = (read_json(self._starts, STARTS_BYTES_MAX) or {}).get("starts")
        except StoreError:
            recorded = None  # the file is written anew below; if that fails, the error says why
        # A time from another boot may be later than now.
        starts = (
            [at for at in recorded if _is_time(at) and now - window_s <= at <= now]
            if isinstance(recorded, list)
            else []
        )
        starts = [*starts, now][-self._config.starts_max :]
        if len(starts) >= self._config.starts_max:
            self._fail_open(
                f"this agent was started {len(starts)} times in {now - starts[0]:.0f} s without an"
                f" orderly end: it only observes for {window_s:g} s"
            )
        try:
            write_json(self._starts, {"starts": starts})
        except StoreError as error:
            self._fail_open(f"starts cannot be counted, so the agent only observes: {error}")

    @property
    def _starts(self) -> Path:
        return self._folder / STARTS

    def _fail_open(self, why: str) -> None:
        self._open_until = self._now() + self._config.starts_window_s
        self._why_open = why

    @property
    def failed_open(self) -> str | None:
        """Why the agent only observes, whatever the configuration says; None if it may act."""
        if self._open_until is None or self._now() >= self._open_until:
            return None
        return self._why_open

    def why_not(self) -> str | None:
        """Return why nothing may be changed on this host now, or None if it may."""
        return why_disabled(self._config.kill_switch) or self.failed_open

    # ---------------------------------------------------------------------------------- the mark

    @property
    def acted(self) -> bool:
        """Whether an agent has changed something that may not be put back yet."""
        return os.path.lexists(self._folder / MARK)

    def note_act(self) -> bool:
        """Make the mark. If that fails, return False, and nothing may be changed."""
        try:
            (self._folder / MARK).touch(mode=0o600)
        except OSError:
            return False
        return True

    def note_undone(self) -> None:
        """Remove the mark: everything is put back."""
        with contextlib.suppress(OSError):
            (self._folder / MARK).unlink()

    def close(self, *, in_order: bool) -> None:
        """Release the lock; an orderly end also clears the count of starts."""
        if in_order:
            with contextlib.suppress(OSError):
                self._starts.unlink()
        os.close(self._lock_fd)


def has_acted(runtime_dir: str) -> bool:
    """Return whether an agent left changes behind, which `--undo` must put back."""
    return os.path.lexists(Path(runtime_dir) / MARK)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
