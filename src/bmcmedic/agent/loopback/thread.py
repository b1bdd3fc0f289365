"""The loopback door in a thread of its own, with the event loop that it needs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from bmcmedic.agent.config import AgentConfig
from bmcmedic.agent.loopback.server import LoopbackServer, LoopbackSettings


class LoopbackThread:
    """Opens the door, and holds it open until `stop`."""

    def __init__(self, config: AgentConfig, report: Callable[[str], None]) -> None:
        doors = config.doors
        settings = LoopbackSettings(
            port=doors.port,
            request_s=doors.request_s,
            old_answer_s_max=doors.old_answer_s_max,
            shim={
                "deadline_s": f"{doors.shim_deadline_s:g}",
                "long_deadline_s": f"{doors.shim_long_deadline_s:g}",
                "share_s": f"{doors.shim_share_s:g}",
                "old_output_s_max": f"{doors.shim_old_output_s_max:g}",
            },
        )
        self._door = LoopbackServer(
            settings,
            driver_path=config.driver.socket,
            runtime_dir=config.process.runtime_dir,
            report=report,
        )
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_to_stop = False
        self._stop: asyncio.Event | None = None

    def run(self) -> None:
        """Raises: ConfigurationError when it cannot be opened."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        stop = asyncio.Event()
        with self._lock:
            self._loop, self._stop = asyncio.get_running_loop(), stop
            if self._is_to_stop:
                return
        try:
            async with self._door:
                await stop.wait()
        finally:
            with self._lock:
                self._loop = None

    def stop(self) -> None:
        """Close it soon; any thread."""
        with self._lock:
            self._is_to_stop = True
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
