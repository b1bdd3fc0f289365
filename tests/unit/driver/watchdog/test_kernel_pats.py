"""Pats through the kernel, on two real threads; the kernel comes back when the test says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from bmcmedic.driver.watchdog.kernel_pats import KernelPats
from bmcmedic.driver.watchdog.settings import ShutdownKind, ShutdownPolicy, WatchdogSettings
from bmcmedic.errors import ConfigurationError, NoAnswer
from bmcmedic.ipmi.commands.watchdog import PretimeoutInterrupt, TimeoutAction
from bmcmedic.service.runtime import ThreadRuntime
from bmcmedic.transport.dev_watchdog import ModuleParameters
from tests.support.polling import eventually

SETTINGS = WatchdogSettings(timeout_s=120.0)
PARAMETERS = ModuleParameters(action="reset", preaction="pre_none", nowayout=False)
WAIT_S_MAX = 30.0


class Kernel:
    name = "/dev/watchdog"

    def __init__(self) -> None:
        self.parameters = PARAMETERS
        self.calls: list[tuple[Any, ...]] = []
        self.come_back = threading.Event()
        self.come_back.set()
        self.entered = threading.Event()
        self.error: Exception | None = None

    def _call(self, *call: object) -> None:
        self.calls.append(call)
        self.entered.set()
        assert self.come_back.wait(WAIT_S_MAX)
        if self.error is not None:
            raise self.error

    def set(self, timeout_s: int, pretimeout_s: int = 0) -> None:
        self._call("set", timeout_s, pretimeout_s)

    def pat(self) -> None:
        self._call("pat")

    def disarm(self) -> None:
        self._call("disarm")

    def close(self, *, disarm: bool) -> None:
        self._call("close", disarm)


class Bench:
    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.kernel = Kernel()
        self.path = KernelPats(self.kernel, SETTINGS, ThreadRuntime())
        self.pool = pool
        self.waited = 0

    def waiting(self) -> None:
        self.waited += 1

    def pat(self, seconds: float = WAIT_S_MAX) -> None:
        self.path.pat(time.monotonic() + seconds, self.waiting)

    def pat_elsewhere(self, seconds: float = WAIT_S_MAX) -> Future[None]:
        return self.pool.submit(self.pat, seconds)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ThreadPoolExecutor(4) as pool:
        bench = Bench(pool)
        thread = threading.Thread(target=bench.path.run)
        thread.start()
        yield bench
        bench.kernel.come_back.set()
        bench.path.stop()
        thread.join(WAIT_S_MAX)
        assert not thread.is_alive()


def test_everything_reaches_the_kernel_in_its_order(bench: Bench) -> None:
    deadline = time.monotonic() + WAIT_S_MAX
    rearmed = WatchdogSettings(timeout_s=120.0, shutdown=ShutdownPolicy.parse("rearm:300.7"))
    bench.path.set(SETTINGS, deadline, bench.waiting)
    bench.pat()
    assert bench.path.get(deadline, bench.waiting) is None
    bench.path.rearm(rearmed, deadline, bench.waiting)
    bench.path.disarm(SETTINGS, deadline, bench.waiting)
    bench.path.close(ShutdownKind.DISARM)
    bench.path.close(ShutdownKind.KEEP)
    assert bench.kernel.calls == [
        ("set", 120, 0),
        ("pat",),
        ("set", 300, 0),
        ("pat",),
        ("disarm",),
        ("close", True),
        ("close", False),
    ]


def test_an_error_of_the_kernels_is_the_pats(bench: Bench) -> None:
    bench.kernel.error = NoAnswer("hosed")
    with pytest.raises(NoAnswer, match="hosed"):
        bench.pat()
    bench.kernel.error = None
    bench.pat()


def test_while_the_kernel_has_it_the_host_is_alive(bench: Bench) -> None:
    bench.kernel.come_back.clear()
    pat = bench.pat_elsewhere()
    eventually(lambda: bench.waited > 0)
    assert not pat.done()
    bench.kernel.come_back.set()
    pat.result(WAIT_S_MAX)


def test_a_pat_that_the_kernel_keeps_is_given_up_and_the_next_waits_for_it(bench: Bench) -> None:
    bench.kernel.come_back.clear()
    with pytest.raises(NoAnswer, match="the kernel has not finished a pat"):
        bench.pat(0.05)
    with pytest.raises(NoAnswer, match="the kernel has not finished a pat"):
        bench.pat(0.05)
    assert bench.kernel.calls == [("pat",)], "the second never got there"
    bench.kernel.come_back.set()
    bench.pat()
    assert bench.kernel.calls == [("pat",), ("pat",)]


def test_a_pat_that_nobody_gives_to_the_kernel_is_no_sign_of_life_and_is_taken_back() -> None:
    with ThreadPoolExecutor(1) as pool:
        bench = Bench(pool)  # and no thread runs
        with pytest.raises(NoAnswer, match="a pat was not given to the kernel in time"):
            bench.pat(0.05)
        assert bench.waited == 0
        bench.path.stop()
        bench.path.run()
        assert bench.kernel.calls == []


@pytest.mark.parametrize(
    ("parameters", "settings", "told"),
    [
        (PARAMETERS, WatchdogSettings(timeout_s=120.5), "whole seconds, not 120.5 s"),
        (
            ModuleParameters("power_cycle", "pre_none", nowayout=False),
            SETTINGS,
            "action is hard reset here and power cycle in the kernel",
        ),
        (
            ModuleParameters("reset", "pre_nmi", nowayout=False),
            SETTINGS,
            "interrupt is none here and nmi in the kernel",
        ),
        (
            ModuleParameters("reset", "pre_none", nowayout=True),
            SETTINGS,
            "would be disarmed, and ipmi_watchdog's nowayout forbids",
        ),
    ],
)
def test_what_the_module_was_told_otherwise_is_refused(
    parameters: ModuleParameters, settings: WatchdogSettings, told: str
) -> None:
    kernel = Kernel()
    kernel.parameters = parameters
    with pytest.raises(ConfigurationError, match=told):
        KernelPats(kernel, settings, ThreadRuntime())


def test_what_the_module_was_told_alike_is_taken() -> None:
    kernel = Kernel()
    kernel.parameters = ModuleParameters("power_off", "pre_nmi", nowayout=True)
    settings = WatchdogSettings(
        action=TimeoutAction.POWER_DOWN,
        pretimeout_s=30,
        pretimeout_interrupt=PretimeoutInterrupt.NMI,
        shutdown=ShutdownPolicy(ShutdownKind.KEEP),
    )
    assert KernelPats(kernel, settings, ThreadRuntime()).name == "/dev/watchdog"
    kernel.parameters = ModuleParameters(None, None, None)
    assert KernelPats(kernel, settings, ThreadRuntime()).exchange_s_max > 50
