"""Whether the agent may act on its host: alone, not switched off, and not in a crash loop.

A mark in the runtime directory says that an agent acted here: it is made before the first change,
and taken away when all is put back, so that nothing is put back that an operator has changed.
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


class Permission:
    """What one agent process may do."""

    def __init__(self, config: AgentProcessConfig, now: Callable[[], float]) -> None:
        """`now`: seconds since the boot, so that a clock that is set does not count.

        Raises: ConfigurationError when another agent runs here, or its directory cannot be made.
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
                f"another agent runs here: it holds {self._folder / LOCK}"
            ) from None
        self._open_until: float | None = None
        self._why_open = ""
        self._count_this_start()

    # ------------------------------------------------------------------------------ crash loops

    def _count_this_start(self) -> None:
        now, window_s = self._now(), self._config.starts_window_s
        try:
            kept = (read_json(self._starts, STARTS_BYTES_MAX) or {}).get("starts")
        except StoreError:
            kept = None  # it is written anew below, or that fails and says why
        # Times of another boot may be later than now.
        starts = (
            [at for at in kept if _is_time(at) and now - window_s <= at <= now]
            if (isinstance(kept, list))
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
            self._fail_open(f"starts cannot be counted, so it only observes: {error}")

    @property
    def _starts(self) -> Path:
        return self._folder / STARTS

    def _fail_open(self, why: str) -> None:
        self._open_until = self._now() + self._config.starts_window_s
        self._why_open = why

    @property
    def failed_open(self) -> str | None:
        """Why it only observes, whatever the configuration says; None: it need not."""
        if self._open_until is None or self._now() >= self._open_until:
            return None
        return self._why_open

    def why_not(self) -> str | None:
        """Why nothing may be changed on this host now; None: it may."""
        return why_disabled(self._config.kill_switch) or self.failed_open

    # ------------------------------------------------------------------------------- what is left

    @property
    def acted(self) -> bool:
        """Whether an agent has changed something here that may not be put back yet."""
        return os.path.lexists(self._folder / MARK)

    def note_act(self) -> bool:
        """Leave the mark; False where that cannot be done: nothing may be changed then."""
        try:
            (self._folder / MARK).touch(mode=0o600)
        except OSError:
            return False
        return True

    def note_undone(self) -> None:
        """All is put back."""
        with contextlib.suppress(OSError):
            (self._folder / MARK).unlink()

    def close(self, *, in_order: bool) -> None:
        """Let another agent run here; an orderly end is no part of a crash loop."""
        if in_order:
            with contextlib.suppress(OSError):
                self._starts.unlink()
        os.close(self._lock_fd)


def has_acted(runtime_dir: str) -> bool:
    """Whether an agent left changes behind; for who puts them back after a crash."""
    return os.path.lexists(Path(runtime_dir) / MARK)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
