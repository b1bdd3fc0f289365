"""The loopback proxy in a thread of its own, with its event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from bmcmedic.agent.config import AgentConfig
from bmcmedic.agent.loopback.server import LoopbackServer, LoopbackSettings


class LoopbackThread:
    """The thread's work: open the proxy, and serve it until `stop`."""

    def __init__(self, config: AgentConfig, report: Callable[[str], None]) -> None:
        proxy = config.doors
        settings = LoopbackSettings(
            port=proxy.port,
            request_s=proxy.request_s,
            stale_answer_s_max=proxy.old_answer_s_max,
            shim={
                "deadline_s": f"{proxy.shim_deadline_s:g}",
                "long_deadline_s": f"{proxy.shim_long_deadline_s:g}",
                "share_s": f"{proxy.shim_share_s:g}",
                "old_output_s_max": f"{proxy.shim_old_output_s_max:g}",
            },
        )
        self._server = LoopbackServer(
            settings,
            driver_path=config.driver.socket,
            runtime_dir=config.process.runtime_dir,
            report=report,
        )
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._must_stop = False
        self._stop: asyncio.Event | None = None

    def run(self) -> None:
        """Serve the proxy. Raises: ConfigurationError if it cannot be opened."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        stop = asyncio.Event()
        with self._lock:
            self._loop, self._stop = asyncio.get_running_loop(), stop
            if self._must_stop:
                return
        try:
            async with self._server:
                await stop.wait()
        finally:
            with self._lock:
                self._loop = None

    def stop(self) -> None:
        """Ask the proxy to close; any thread may call this."""
        with self._lock:
            self._must_stop = True
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
