"""Reads a whole SDR repository (chapter 33), one request at a time.

`walk_repository` is a generator. It yields the next request; the caller sends it the response, or
throws a CompletionCodeError into it when the BMC refuses. Any other error ends it. It returns the
repository. The number of requests is bounded, even for a BMC whose record ids form a circle.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from bmcmedic.errors import CompletionCodeError, RemoteProtocolError
from bmcmedic.ipmi.commands.command import Command
from bmcmedic.ipmi.commands.sdr import (
    FIRST_RECORD_ID,
    LAST_RECORD_ID,
    WHOLE_RECORD,
    GetSdrRepositoryInfoRsp,
    GetSdrReq,
    GetSdrRsp,
    ReserveSdrRepositoryReq,
    ReserveSdrRepositoryRsp,
)
from bmcmedic.ipmi.commands.sdr_records import SDR_HEADER_BYTES
from bmcmedic.ipmi.constants import CompletionCode

RECORDS_MAX = 1024
"""Most records in a repository; real servers have 40 to 500."""
REQUESTS_MAX = 8 * RECORDS_MAX
"""Most requests of one walk; a record of 64 bytes takes 5 if a BMC sends 16 bytes at a time."""
SETBACKS_MAX = 32
"""Most setbacks of one walk: cancelled reservations and temporary refusals.

Another reader that reserves the repository cancels our reservation, and a BMC may be busy.
"""
PART_BYTES: Final = (WHOLE_RECORD, 32, 16, 8)
"""Sizes of a read, in bytes; once a BMC refuses one, the rest of the walk uses the next smaller."""
_OFFSET_MAX: Final = 0xFF

RepositoryWalk: TypeAlias = Generator[Command[Any], Any, "SdrRepository"]


@dataclass(frozen=True, slots=True)
class RepositoryStamp:
    """The values that change whenever the repository changes (33.9)."""

    record_count: int
    last_addition: int
    last_erase: int

    @classmethod
    def of(cls, info: GetSdrRepositoryInfoRsp) -> RepositoryStamp:
        """Return the stamp that a Get SDR Repository Info response gives."""
        return cls(info.record_count, info.last_addition, info.last_erase)


@dataclass(frozen=True, slots=True)
class SdrRepository:
    """All records, with the ids by which they were read."""

    stamp: RepositoryStamp
    """The stamp from before the first read, so that a change during the walk shows next time."""
    records: tuple[tuple[int, bytes], ...]


def walk_repository(info: GetSdrRepositoryInfoRsp) -> RepositoryWalk:
    """Read every record of the repository that `info` describes.

    Spec: 33.9 to 33.12.
    Raises: RemoteProtocolError for a repository that cannot be read to its end;
    CompletionCodeError when the BMC refuses a record at every read size.
    """
    walked = () if info.record_count == 0 else (yield from _Walker().all_records())
    return SdrRepository(RepositoryStamp.of(info), walked)


class _Walker:
    def __init__(self) -> None:
        self._requests = 0
        self._setbacks = 0
        self._reservation_id = 0
        self._part = 0

    def all_records(
        self,
    ) -> Generator[Command[Any], Any, tuple[tuple[int, bytes], ...]]:
        records: dict[int, bytes] = {}
        yield from self._reserve()
        asked_id = FIRST_RECORD_ID
        while asked_id != LAST_RECORD_ID:
            next_id, record = yield from self._record(asked_id)
            # Only the first record is requested by an id other than its own.
            own_id = asked_id or int.from_bytes(record[:2], "little")
            records[own_id] = record
            if len(records) > RECORDS_MAX:
                raise _unusable(f"has more than {RECORDS_MAX} records", record)
            if next_id in records or next_id == FIRST_RECORD_ID:
                raise _unusable(
                    f"has a circle of records: {next_id:#06x} comes again, after {own_id:#06x}",
                    record,
                )
            asked_id = next_id
        return tuple(records.items())

    def _record(self, record_id: int) -> Generator[Command[Any], Any, tuple[int, bytes]]:
        """Read one record; return the id of the next one, and the record."""
        data = b""
        next_id = LAST_RECORD_ID
        while (missing := _missing(data)) > 0:
            if len(data) > _OFFSET_MAX:
                raise _unusable(
                    f"returns record {record_id:#06x} in parts too small to reach its end"
                )
            asked = PART_BYTES[self._part]
            if asked != WHOLE_RECORD:
                asked = min(asked, missing)
            elif data:
                asked = missing  # it returned less than the whole record: ask for the rest
            try:
                answer: GetSdrRsp = yield self._counted(
                    GetSdrReq(record_id, self._reservation_id, len(data), asked)
                )
            except CompletionCodeError as error:
                yield from self._handle_refusal(error)
                # The part read so far may belong to a record that has changed since.
                data = b""
                continue
            if not answer.record_data:
                raise _unusable(f"returns no bytes of record {record_id:#06x}", data)
            data += answer.record_data
            next_id = answer.next_record_id
        return next_id, data[: SDR_HEADER_BYTES + data[4]]

    def _handle_refusal(self, error: CompletionCodeError) -> Generator[Command[Any], Any, None]:
        """Prepare for another attempt, or raise when there is none left."""
        if error.code == CompletionCode.RESERVATION_CANCELLED:
            self._count_setback("cancelled the reservation")
            yield from self._reserve()
        elif error.is_temporary:
            self._count_setback(f"was unavailable ({error})")
        elif error.code == CompletionCode.NOT_PRESENT or self._part + 1 == len(PART_BYTES):
            raise error
        else:
            # 0xCA means that the size is too large. Field: BMCs also use other codes, such as 0xFF
            # and 0xC7.
            self._part += 1

    def _reserve(self) -> Generator[Command[Any], Any, None]:
        while True:
            try:
                answer: ReserveSdrRepositoryRsp = yield self._counted(ReserveSdrRepositoryReq())
            except CompletionCodeError as error:
                if error.is_temporary:
                    self._count_setback(f"was unavailable ({error})")
                    continue
                self._reservation_id = 0  # the BMC has no reservations, so it needs none
            else:
                self._reservation_id = answer.reservation_id
            return

    def _count_setback(self, what: str) -> None:
        self._setbacks += 1
        if self._setbacks > SETBACKS_MAX:
            raise _unusable(
                f"was not read after {SETBACKS_MAX} setbacks; at the last one it {what}"
            )

    def _counted(self, request: Command[Any]) -> Command[Any]:
        self._requests += 1
        if self._requests > REQUESTS_MAX:
            raise _unusable(f"cannot be read to its end with {REQUESTS_MAX} requests")
        return request


def _missing(data: bytes) -> int:
    """Return how many bytes of a record are still missing, as far as its header is known."""
    if len(data) < SDR_HEADER_BYTES:
        return SDR_HEADER_BYTES - len(data)
    return SDR_HEADER_BYTES + data[4] - len(data)


def _unusable(what: str, raw: bytes = b"") -> RemoteProtocolError:
    return RemoteProtocolError(f"the SDR repository {what}", section="33.12", raw=raw)
