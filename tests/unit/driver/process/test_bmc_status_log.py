"""What the driver says of its way to the BMC: what is so now, in the log and to systemd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bmcmedic.driver.breaker import Breaker, BreakerLimits
from bmcmedic.driver.process.bmc_status_log import BmcStatus, BmcStatusLog
from bmcmedic.service.log import Log
from bmcmedic.service.runtime import ThreadRuntime

DRIVING = "driving /dev/ipmi0"
LOOKING = "looking for an interface to a BMC"
NO_DEVICE = "/dev/ipmi0 is not there"


class Kept(Log):
    """A log that a test reads."""

    def __init__(self) -> None:
        super().__init__(ThreadRuntime())
        self.lines: list[str] = []

    def __call__(self, level: int, message: str) -> None:  # noqa: ARG002
        self.lines.append(message.partition(";")[0])


class Bench:
    def __init__(self) -> None:
        self.breaker = Breaker(BreakerLimits(failures_max=1))
        self.log = Kept()
        self.statuses: list[str] = []
        self.way = BmcStatusLog(self.breaker, lambda: "/dev/ipmi0", self.log, self.statuses.append)
        self._now = iter(range(0, 10_000, 100))

    def goes(self) -> None:
        self.breaker.failed(next(self._now), NO_DEVICE, missing=True)
        self.way.update()

    def hangs(self) -> None:
        self.breaker.failed(next(self._now), "no answer in 5 s")
        self.way.update()

    def answers(self) -> None:
        self.breaker.succeeded()
        self.way.update()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    said = list(bench.log.lines)
    bench.way.update()
    assert bench.log.lines == said  # nothing is said twice


def test_a_bmc_that_hangs_and_comes_back(bench: Bench) -> None:
    bench.hangs()
    bench.answers()
    assert bench.log.lines == [
        "the BMC does not answer any more: no answer in 5 s",
        "the BMC answers again",
    ]
    assert bench.statuses[-1] == DRIVING


def test_an_interface_that_goes_and_comes_back(bench: Bench) -> None:
    bench.goes()
    assert (bench.statuses, bench.way.status()) == ([LOOKING], LOOKING)
    bench.answers()
    assert bench.log.lines == [
        f"there is no interface to a BMC any more: {NO_DEVICE}",
        "there is an interface to a BMC now: /dev/ipmi0",
    ]
    assert bench.statuses[-1] == DRIVING


def test_an_interface_that_comes_to_a_bmc_that_hangs(bench: Bench) -> None:
    bench.way.reported = BmcStatus.MISSING  # it was said when the driver began
    bench.goes()
    assert bench.log.lines == []
    bench.hangs()
    assert bench.statuses == [DRIVING]
    bench.goes()
    assert bench.statuses[-1] == LOOKING
    bench.hangs()
    bench.answers()
    hangs = (
        "there is an interface to a BMC now: /dev/ipmi0, but the BMC does not answer: "
        "no answer in 5 s"
    )
    assert bench.log.lines == [
        hangs,
        f"there is no interface to a BMC any more: {NO_DEVICE}",
        hangs,
        "the BMC answers again",
    ]
