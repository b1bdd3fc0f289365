"""Reads a whole SDR repository (chapter 33), one request at a time.

`walk_repository` is a generator: it yields the next request, is sent its response, and has a
CompletionCodeError thrown into it where the BMC refused. Any other error ends it. What it returns
is the repository; a BMC that leads in circles costs a bounded number of requests.
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
"""Real servers have 40 to 500."""
REQUESTS_MAX = 8 * RECORDS_MAX
"""A record of 64 bytes takes 5 requests where a BMC gives 16 bytes at a time."""
SETBACKS_MAX = 32
"""Whoever else reserves the repository cancels our reservation, and a BMC may be busy: so many
of those are borne."""
PART_BYTES: Final = (WHOLE_RECORD, 32, 16, 8)
"""How much is asked for at a time: less, for the rest of the walk, once a BMC cannot give it."""
_OFFSET_MAX: Final = 0xFF

RepositoryWalk: TypeAlias = Generator[Command[Any], Any, "SdrRepository"]


@dataclass(frozen=True, slots=True)
class RepositoryStamp:
    """What changes when the repository does (33.9)."""

    record_count: int
    last_addition: int
    last_erase: int

    @classmethod
    def of(cls, info: GetSdrRepositoryInfoRsp) -> RepositoryStamp:
        """As the BMC says."""
        return cls(info.record_count, info.last_addition, info.last_erase)


@dataclass(frozen=True, slots=True)
class SdrRepository:
    """All records, by the ids under which they were read."""

    stamp: RepositoryStamp
    """From before the first was read: what changes meanwhile shows the next time."""
    records: tuple[tuple[int, bytes], ...]


def walk_repository(info: GetSdrRepositoryInfoRsp) -> RepositoryWalk:
    """Read every record of the repository that `info` tells of.

    Spec: 33.9 to 33.12. Raises: RemoteProtocolError for one that cannot be read to its end;
    CompletionCodeError where the BMC refuses a record in every way.
    """
    walked = () if info.record_count == 0 else (yield from _Walk().all_records())
    return SdrRepository(RepositoryStamp.of(info), walked)


class _Walk:
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
            # Only the first is asked for by another id than its own.
            own_id = asked_id or int.from_bytes(record[:2], "little")
            records[own_id] = record
            if len(records) > RECORDS_MAX:
                raise _unusable(f"has more than {RECORDS_MAX} records", record)
            if next_id in records or next_id == FIRST_RECORD_ID:
                raise _unusable(
                    f"leads in a circle: after record {own_id:#06x} comes {next_id:#06x} again",
                    record,
                )
            asked_id = next_id
        return tuple(records.items())

    def _record(self, record_id: int) -> Generator[Command[Any], Any, tuple[int, bytes]]:
        """One record, and the id of the next."""
        data = b""
        next_id = LAST_RECORD_ID
        while (missing := _missing(data)) > 0:
            if len(data) > _OFFSET_MAX:
                raise _unusable(
                    f"gives record {record_id:#06x} in parts too small to reach its end"
                )
            asked = PART_BYTES[self._part]
            if asked != WHOLE_RECORD:
                asked = min(asked, missing)
            elif data:
                asked = missing  # it gave less than the whole, as if that were all it can
            try:
                answer: GetSdrRsp = yield self._counted(
                    GetSdrReq(record_id, self._reservation_id, len(data), asked)
                )
            except CompletionCodeError as error:
                yield from self._refused(error)
                # What was read may be of a record that has changed since.
                data = b""
                continue
            if not answer.record_data:
                raise _unusable(f"gives no bytes of record {record_id:#06x}", data)
            data += answer.record_data
            next_id = answer.next_record_id
        return next_id, data[: SDR_HEADER_BYTES + data[4]]

    def _refused(self, error: CompletionCodeError) -> Generator[Command[Any], Any, None]:
        """Make it so that it may be asked again, or give up."""
        if error.code == CompletionCode.RESERVATION_CANCELLED:
            self._set_back("cancelled the reservation")
            yield from self._reserve()
        elif error.is_temporary:
            self._set_back(f"was not there ({error})")
        elif error.code == CompletionCode.NOT_PRESENT or self._part + 1 == len(PART_BYTES):
            raise error
        else:
            # 0xCA is the word for it; BMCs have others, 0xFF and 0xC7 among them.
            self._part += 1

    def _reserve(self) -> Generator[Command[Any], Any, None]:
        while True:
            try:
                answer: ReserveSdrRepositoryRsp = yield self._counted(ReserveSdrRepositoryReq())
            except CompletionCodeError as error:
                if error.is_temporary:
                    self._set_back(f"was not there ({error})")
                    continue
                self._reservation_id = 0  # it has no reservations, then, and needs none
            else:
                self._reservation_id = answer.reservation_id
            return

    def _set_back(self, what: str) -> None:
        self._setbacks += 1
        if self._setbacks > SETBACKS_MAX:
            raise _unusable(f"was not read for {SETBACKS_MAX} setbacks; the last: it {what}")

    def _counted(self, request: Command[Any]) -> Command[Any]:
        self._requests += 1
        if self._requests > REQUESTS_MAX:
            raise _unusable(f"is not read to its end with {REQUESTS_MAX} requests")
        return request


def _missing(data: bytes) -> int:
    """How many bytes a record still lacks, as far as its header tells."""
    if len(data) < SDR_HEADER_BYTES:
        return SDR_HEADER_BYTES - len(data)
    return SDR_HEADER_BYTES + data[4] - len(data)


def _unusable(what: str, raw: bytes = b"") -> RemoteProtocolError:
    return RemoteProtocolError(f"the SDR repository {what}", section="33.12", raw=raw)
