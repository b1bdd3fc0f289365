"""What driver and agent have in common as processes: threads, signals, a reload, an end."""

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
    """The settings of a process, as far as both have them."""

    @property
    def log_level(self) -> str:
        """The least that is written to stderr."""


class ServiceConfig(Protocol):
    """A configuration, as far as both have the same."""

    @property
    def process(self) -> ProcessConfig:
        """The process itself."""


ConfigT = TypeVar("ConfigT", bound=ServiceConfig)
LogT = TypeVar("LogT", bound=Log)


class ProcessService(ABC, Generic[ConfigT, LogT]):
    """A process that runs until a signal ends it or one of its threads does."""

    tick_s: float
    """How often `_tick` is called at least."""

    def __init__(
        self,
        config: ConfigT,
        reread: Callable[[], ConfigT],
        log: Callable[[Runtime], LogT],
        environment: Mapping[str, str],
    ) -> None:
        """`reread` gives the configuration as it stands now, `log` makes the log."""
        self._config = config
        self._reread = reread
        self._environment = environment
        self._runtime = ThreadRuntime()
        self._log = log(self._runtime)
        self._log.level = LEVELS[config.process.log_level]
        self._manager = ServiceManager(environment)
        self._supervisor = Supervisor(self._log, self._schedule)

    def run(self) -> int:
        """Run until a signal asks for the end, or a thread died; returns the exit status."""
        with self._supervisor.signals_handled():
            self._start()
            self._manager.ready(self._told())
            every_s = min(self.tick_s, self._manager.alive_every_s or self.tick_s)
            died = self._supervisor.wait(every_s, self._tick, self._reload)
            self._manager.stopping()
            self._supervisor.expect_ends()
            self._log.info("ending" if died is None else f"ending, since the {died} thread is gone")
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
                self._log.warning(f"{each.name} has changed, and needs a restart")
            self._log.level = LEVELS[new.process.log_level]
            self._take(new)
            told = ", ".join(each.name for each in now) or "nothing that a reload can change"
            self._log.info(f"the configuration was read again: {told}")
        self._manager.ready(self._told())

    def _schedule(self, urgency: int) -> str | None:  # noqa: ARG002 - for who has priorities
        """Give the calling thread its priority; what it could not do."""
        return None

    @abstractmethod
    def _start(self) -> None:
        """Start the threads; signals are handled from now on."""

    @abstractmethod
    def _tick(self) -> None:
        """Look after it; called by the main thread, which waits for signals otherwise."""

    @abstractmethod
    def _told(self) -> str:
        """What it does, in a line for systemd's status."""

    @abstractmethod
    def _changed(self, new: ConfigT) -> tuple[Sequence[Setting], Sequence[Setting]]:
        """The settings that differ: those that a reload changes, and those that it does not."""

    @abstractmethod
    def _take(self, new: ConfigT) -> None:
        """Change what a reload can change."""

    @abstractmethod
    def _end(self, died: str | None) -> None:
        """End the threads in their order; `died` names the one that ended by itself."""
