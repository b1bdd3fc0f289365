"""A BMC's watchdog timer behind a driver, in virtual time, and a pretimeout watcher beside it."""

from __future__ import annotations

from bmcmedic.driver.watchdog.check import HostCheck
from bmcmedic.driver.watchdog.pat_paths import BmcPats, Waiting
from bmcmedic.driver.watchdog.pretimeout import (
    STAMPS_BYTES,
    PretimeoutCallout,
    PretimeoutRule,
    Stamps,
)
from bmcmedic.driver.watchdog.settings import WatchdogSettings
from bmcmedic.driver.watchdog.watchdog import Watchdog
from bmcmedic.errors import NoAnswer
from bmcmedic.ipmi.commands.watchdog import (
    UNINITIALIZED,
    GetWatchdogTimerRsp,
    SetWatchdogTimerReq,
    TimeoutAction,
    TimerUse,
)
from tests.support.virtual_runtime import VirtualRuntime

CHECK_PERIOD_S = 0.25


class TimerBehindDriver:
    """Answers the driver's requests; knobs say how well."""

    def __init__(self, runtime: VirtualRuntime) -> None:
        self.runtime = runtime
        self.latency_s = 0.01
        self.silent = False
        self.never_queues = False
        """The driver does not come back, and says nothing: its caller is stuck before the queue."""
        self.setting: SetWatchdogTimerReq | None = None
        self.running = False
        self.started_at = 0.0
        self.asked: list[str] = []
        self.at: list[float] = []
        self.deadlines: list[float] = []
        self.completion_code = 0
        self.tampered: SetWatchdogTimerReq | None = None

    def driver_request(self, data: bytes, deadline: float, waiting: Waiting | None = None) -> bytes:
        self.asked.append({0x22: "reset", 0x24: "set", 0x25: "get"}[data[1]])
        self.at.append(self.runtime.now)
        self.deadlines.append(deadline - self.runtime.now)
        done_at = self.runtime.now + self.latency_s
        while self.silent or self.never_queues or self.runtime.now < done_at:
            if self.runtime.now >= deadline:
                raise NoAnswer("silent")
            until = deadline if self.silent or self.never_queues else done_at
            self.runtime.sleep(min(1.0, until - self.runtime.now))
            if waiting is not None and not self.never_queues:
                waiting()
        return bytes((data[0] | 4, data[1])) + self._answer(data[1], data[2:])

    def _answer(self, command: int, data: bytes) -> bytes:
        if self.completion_code:
            return bytes((self.completion_code,))
        if command == 0x24:
            self.setting = SetWatchdogTimerReq.decode(data)
            self.running = self.running and self.setting.dont_stop
            return b"\0"
        if command == 0x22:
            if self.setting is None:
                return bytes((UNINITIALIZED,))
            self.running = True
            self.started_at = self.runtime.now
            return b"\0"
        return b"\0" + self._timer().encode()

    def _timer(self) -> GetWatchdogTimerRsp:
        shown = self.tampered or self.setting
        if shown is None:
            return GetWatchdogTimerRsp(
                running=False,
                use=TimerUse.UNSPECIFIED,
                action=TimeoutAction.NONE,
                initial_countdown_s=0,
                present_countdown_s=0,
            )
        return GetWatchdogTimerRsp(
            running=self.running,
            use=shown.use,
            action=shown.action,
            initial_countdown_s=shown.initial_countdown_s,
            present_countdown_s=shown.initial_countdown_s,
            pretimeout_interrupt=shown.pretimeout_interrupt,
            pretimeout_interval_s=shown.pretimeout_interval_s,
        )

    def reboot(self) -> None:
        self.setting = None
        self.running = False

    def pats(self) -> list[float]:
        return [at for at, what in zip(self.at, self.asked, strict=True) if what == "reset"]


class WatchdogBench:
    """The watchdog with all that belongs to it, and what was reported and fired."""

    def __init__(
        self,
        settings: WatchdogSettings,
        *,
        check: HostCheck | None = None,
        runtime: VirtualRuntime | None = None,
        exchange_s_max: float = 10.0,
    ) -> None:
        self.runtime = runtime or VirtualRuntime()
        self.timer = TimerBehindDriver(self.runtime)
        self.said: list[str] = []
        self.fired_at: list[float] = []
        self.pats: list[tuple[float, float, float, bool]] = []
        self.stamps = Stamps(bytearray(STAMPS_BYTES))
        self.rule = PretimeoutRule()
        self.watchdog = Watchdog(
            settings,
            BmcPats(self.timer, "test", exchange_s_max),
            self.runtime,
            self.said.append,
            callout=PretimeoutCallout(
                self.stamps, self.runtime.monotonic, settings.pretimeout_limit_s
            ),
            check=check,
            observer=lambda *pat: self.pats.append(pat),
        )
        self.begun_at = self.runtime.now

    def look(self) -> None:
        if self.rule.should_fire(self.stamps.driver.read(), self.runtime.now):
            self.fired_at.append(self.runtime.now)

    def run(self, seconds: float) -> None:
        """The pat thread's body, for that long; then it is stopped in order."""
        end = self.runtime.now + seconds
        self.runtime.each(CHECK_PERIOD_S, self.look, end)
        self.runtime.at(end, self.watchdog.stop)
        self.watchdog.run()

    def after(self, seconds: float) -> float:
        return self.begun_at + seconds
