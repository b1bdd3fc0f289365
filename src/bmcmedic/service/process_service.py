"""The process frame that driver and agent share: threads, signals, reload, and end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from bmcmedic.errors import ConfigurationError
from bmcmedic.service.log import LEVELS, Log
from bmcmedic.service.runtime import Runtime, ThreadRuntime
from bmcmedic.service.settings_table import Setting
from bmcmedic.service.supervisor import ServiceManager, Supervisor

EXIT_ASKED = 0
EXIT_DIED = 1


class ProcessConfig(Protocol):
    """The part of the process settings that driver and agent share."""

    @property
    def log_level(self) -> str:
        """The lowest level that is written to stderr."""


class ServiceConfig(Protocol):
    """The part of the configuration that driver and agent share."""

    @property
    def process(self) -> ProcessConfig:
        """The settings of the process itself."""


ConfigT = TypeVar("ConfigT", bound=ServiceConfig)
LogT = TypeVar("LogT", bound=Log)


class ProcessService(ABC, Generic[ConfigT, LogT]):
    """A process that runs until a signal ends it or one of its threads does."""

    tick_s: float
    """Longest time between two calls of `_tick`, in seconds."""

    def __init__(
        self,
        config: ConfigT,
        reread: Callable[[], ConfigT],
        log: Callable[[Runtime], LogT],
        environment: Mapping[str, str],
    ) -> None:
        """`reread` returns the configuration as it is now; `log` makes the log."""
        self._config = config
        self._reread = reread
        self._environment = environment
        self._runtime = ThreadRuntime()
        self._log = log(self._runtime)
        self._log.level = LEVELS[config.process.log_level]
        self._manager = ServiceManager(environment)
        self._supervisor = Supervisor(self._log, self._schedule)

    def run(self) -> int:
        """Run until a signal asks for the end or a thread dies; return the exit status."""
        with self._supervisor.signals_handled():
            self._start()
            self._manager.ready(self._status_line())
            every_s = min(self.tick_s, self._manager.alive_every_s or self.tick_s)
            died = self._supervisor.wait(every_s, self._tick, self._reload)
            self._manager.stopping()
            self._supervisor.expect_ends()
            reason = "" if died is None else f", because the {died} thread is gone"
            self._log.info(f"ending{reason}")
            self._end(died)
            self._log.stop()
            self._log.write_waiting()
        return EXIT_ASKED if died is None else EXIT_DIED

    def _reload(self) -> None:
        self._manager.reloading(int(self._runtime.monotonic() * 1e6))
        try:
            new = self._reread()
        except ConfigurationError as error:
            self._log.error(f"the configuration was not read again: {error}")
        else:
            now, later = self._changed(new)
            for each in later:
                self._log.warning(f"{each.name} has changed; a restart applies it")
            self._log.level = LEVELS[new.process.log_level]
            self._apply(new)
            changes = ", ".join(each.name for each in now) or "nothing that a reload can change"
            self._log.info(f"the configuration was read again: {changes}")
        self._manager.ready(self._status_line())

    def _schedule(self, urgency: int) -> str | None:  # noqa: ARG002 - for subclasses with priorities
        """Give the calling thread its priority; return what could not be done, or None."""
        return None

    @abstractmethod
    def _start(self) -> None:
        """Start the threads; signals are handled from now on."""

    @abstractmethod
    def _tick(self) -> None:
        """Do periodic work; the main thread calls it, and waits for signals otherwise."""

    @abstractmethod
    def _status_line(self) -> str:
        """Return what the process is doing, in one line for systemd's status."""

    @abstractmethod
    def _changed(self, new: ConfigT) -> tuple[Sequence[Setting], Sequence[Setting]]:
        """Return the changed settings: those a reload can apply, and those that need a restart."""

    @abstractmethod
    def _apply(self, new: ConfigT) -> None:
        """Apply what a reload can change."""

    @abstractmethod
    def _end(self, died: str | None) -> None:
        """End the threads in their order; `died` names the thread that ended by itself."""
