"""The whole repository is read, however small the parts and whoever else reserves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from bmcmedic.errors import CompletionCodeError, RemoteProtocolError
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.sdr import (
    LAST_RECORD_ID,
    WHOLE_RECORD,
    GetSdrRepositoryInfoRsp,
    GetSdrReq,
    GetSdrRsp,
    ReserveSdrRepositoryReq,
    ReserveSdrRepositoryRsp,
)
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.sdr_walk import REQUESTS_MAX, SETBACKS_MAX, RepositoryStamp
from tests.support.sdr_walks import walked, walked_sim
from tests.support.sim import sim_bmc

RECORDS = {
    number: bytes((number, 0, 0x51, 0xC0, 40)) + bytes(range(number, number + 40))
    for number in (3, 4, 9)
}


def info(count: int = len(RECORDS)) -> GetSdrRepositoryInfoRsp:
    return GetSdrRepositoryInfoRsp(count, 0, last_addition=7, last_erase=5)


@dataclass
class Repository:
    """A BMC that follows the specification, with the given limits."""

    part_bytes_max: int = WHOLE_RECORD
    refusal: int = CompletionCode.CANNOT_RETURN_BYTES
    whole_is_cut_at: int | None = None
    reserves: bool = True
    cancelled_at: Iterator[int] = field(default_factory=lambda: iter(()))
    """Another reader reserves the repository before the requests with these numbers."""
    asked: Counter[type[Any]] = field(default_factory=Counter)
    _reservation: int = 0
    _next_cancelled_at: int | None = None

    def __post_init__(self) -> None:
        self._next_cancelled_at = next(self.cancelled_at, None)

    def __call__(self, request: Command[Any]) -> Any:  # noqa: ANN401 - each its own
        if sum(self.asked.values()) == self._next_cancelled_at:
            self._reservation += 1
            self._next_cancelled_at = next(self.cancelled_at, None)
        self.asked[type(request)] += 1
        if isinstance(request, ReserveSdrRepositoryReq):
            if not self.reserves:
                raise request.completion_code_error(CompletionCode.INVALID_COMMAND)
            self._reservation += 1
            return ReserveSdrRepositoryRsp(self._reservation)
        assert isinstance(request, GetSdrReq)
        if request.offset and request.reservation_id != self._reservation:
            raise request.completion_code_error(CompletionCode.RESERVATION_CANCELLED)
        if request.byte_count > self.part_bytes_max:
            raise request.completion_code_error(self.refusal)
        ids = [*RECORDS, LAST_RECORD_ID]
        record_id = request.record_id or ids[0]
        data = RECORDS[record_id][request.offset :][: request.byte_count]
        if request.byte_count == WHOLE_RECORD:
            data = data[: self.whole_is_cut_at]
        return GetSdrRsp(ids[ids.index(record_id) + 1], data)


def test_one_request_per_record_if_the_bmc_returns_whole_records() -> None:
    repository = Repository()
    found = walked(info(), repository)
    assert dict(found.records) == RECORDS
    assert found.stamp == RepositoryStamp(3, 7, 5)
    assert repository.asked == {ReserveSdrRepositoryReq: 1, GetSdrReq: 3}


@pytest.mark.parametrize("refusal", [0xCA, 0xFF, 0xC7, 0xC9])
@pytest.mark.parametrize("part_bytes_max", [32, 20, 16, 8])
def test_records_in_parts_if_the_bmc_cannot_return_whole_ones(
    part_bytes_max: int, refusal: int
) -> None:
    repository = Repository(part_bytes_max=part_bytes_max, refusal=refusal)
    assert dict(walked(info(), repository).records) == RECORDS


def test_a_bmc_that_refuses_every_read_size_gives_a_clear_error() -> None:
    with pytest.raises(CompletionCodeError, match="cannot return the number of bytes"):
        walked(info(), Repository(part_bytes_max=4))


@pytest.mark.parametrize("cut", [1, 5, 6, 44])
def test_the_rest_of_an_incomplete_whole_read_is_fetched(cut: int) -> None:
    assert dict(walked(info(), Repository(whole_is_cut_at=cut)).records) == RECORDS


def test_a_bmc_without_reservations_is_read_too() -> None:
    repository = Repository(reserves=False, part_bytes_max=16)
    assert dict(walked(info(), repository).records) == RECORDS


def test_another_reader_may_reserve_the_repository_meanwhile() -> None:
    repository = Repository(part_bytes_max=16, cancelled_at=iter(range(3, 40, 6)))
    assert dict(walked(info(), repository).records) == RECORDS
    assert repository.asked[ReserveSdrRepositoryReq] > 3


def test_an_empty_repository_is_not_asked_for_records() -> None:
    repository = Repository()
    assert walked(info(0), repository).records == ()
    assert not repository.asked


def test_the_simulated_servers_repository() -> None:
    bmc = sim_bmc()
    assert [record for _, record in walked_sim(bmc).records] == list(bmc.profile.sdrs)


# ----------------------------------------------------------------------------------- what is broken


def failing(code: int) -> tuple[Counter[str], Any]:
    """Return a BMC that answers every Get SDR with that code, and a count of its requests."""
    asked: Counter[str] = Counter()

    def answer(request: Command[Any]) -> Any:  # noqa: ANN401 - each its own
        asked[type(request).__name__] += 1
        if isinstance(request, GetSdrReq):
            raise request.completion_code_error(code)
        return ReserveSdrRepositoryRsp(asked["ReserveSdrRepositoryReq"])

    return asked, answer


@pytest.mark.parametrize(
    ("code", "reason"),
    [(0xC5, "cancelled the reservation"), (0xC0, "node busy"), (0xD0, "was unavailable")],
)
def test_the_walk_gives_up_on_a_bmc_that_never_lets_it_read(code: int, reason: str) -> None:
    asked, answer = failing(code)
    with pytest.raises(
        RemoteProtocolError, match=f"{SETBACKS_MAX} setbacks; at the last one it .*{reason}"
    ):
        walked(info(), answer)
    assert asked["GetSdrReq"] == SETBACKS_MAX + 1


def test_a_missing_record_ends_the_walk() -> None:
    asked, answer = failing(0xCB)
    with pytest.raises(CompletionCodeError, match="not present"):
        walked(info(), answer)
    assert asked["GetSdrReq"] == 1


def linked(next_ids: dict[int, int]) -> Any:  # noqa: ANN401 - it answers as it is asked
    def answer(request: Command[Any]) -> Any:  # noqa: ANN401 - each its own
        if isinstance(request, ReserveSdrRepositoryReq):
            return ReserveSdrRepositoryRsp(1)
        assert isinstance(request, GetSdrReq)
        own = request.record_id or 1
        return GetSdrRsp(next_ids[own], own.to_bytes(2, "little") + bytes((0x51, 0xC0, 0)))

    return answer


@pytest.mark.parametrize(
    "next_ids", [{1: 1}, {1: 2, 2: 1}, {1: 2, 2: 3, 3: 2}, {1: 2, 2: 0}], ids=str
)
def test_a_circle_is_detected_at_once(next_ids: dict[int, int]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"has a circle of records: .* comes again"):
        walked(info(), linked(next_ids))


def test_the_number_of_records_is_bounded() -> None:
    with pytest.raises(RemoteProtocolError, match="more than 1024 records"):
        walked(info(), linked({each: each + 1 for each in range(1, 2000)}))


def test_the_number_of_requests_is_bounded() -> None:
    count = 0

    def drip(request: Command[Any]) -> Any:  # noqa: ANN401 - each its own
        nonlocal count
        count += 1
        if isinstance(request, ReserveSdrRepositoryReq):
            return ReserveSdrRepositoryRsp(1)
        assert isinstance(request, GetSdrReq)
        byte = bytes((0xFA,)) if request.offset == 4 else bytes((1,))
        return GetSdrRsp(min(request.record_id + 1, 0xFFFE), byte)

    with pytest.raises(RemoteProtocolError, match=f"end with {REQUESTS_MAX} requests"):
        walked(info(), drip)
    assert count == REQUESTS_MAX


def test_a_response_without_bytes_is_an_error() -> None:
    def empty(request: Command[Any]) -> Any:  # noqa: ANN401 - each its own
        if isinstance(request, ReserveSdrRepositoryReq):
            return ReserveSdrRepositoryRsp(1)
        return GetSdrRsp(2, b"")

    with pytest.raises(RemoteProtocolError, match="returns no bytes of record 0x0000"):
        walked(info(), empty)


def test_a_record_that_is_too_long_for_its_parts_is_an_error() -> None:
    def drip(request: Command[Any]) -> Any:  # noqa: ANN401 - each its own
        if isinstance(request, ReserveSdrRepositoryReq):
            return ReserveSdrRepositoryRsp(1)
        return GetSdrRsp(2, bytes((0xFF,)))

    with pytest.raises(RemoteProtocolError, match="0x0000 in parts too small"):
        walked(info(), drip)
