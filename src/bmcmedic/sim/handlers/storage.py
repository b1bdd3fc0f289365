"""Chapters 31, 33 and 34: the event log, the sensor data records, the FRU inventory."""

from __future__ import annotations

from bmcmedic.ipmi.commands.fru import (
    GetFruInventoryAreaInfoReq,
    GetFruInventoryAreaInfoRsp,
    ReadFruDataReq,
    ReadFruDataRsp,
)
from bmcmedic.ipmi.commands.sdr import (
    GetSdrRepositoryAllocationInfoReq,
    GetSdrRepositoryAllocationInfoRsp,
    GetSdrRepositoryInfoReq,
    GetSdrRepositoryInfoRsp,
    GetSdrReq,
    GetSdrRsp,
    ReserveSdrRepositoryReq,
    ReserveSdrRepositoryRsp,
    SdrOperations,
)
from bmcmedic.ipmi.commands.sel import (
    LAST_RECORD_ID,
    WHOLE_RECORD,
    AddSelEntryReq,
    AddSelEntryRsp,
    ClearSelAction,
    ClearSelReq,
    ClearSelRsp,
    GetSelAllocationInfoReq,
    GetSelAllocationInfoRsp,
    GetSelEntryReq,
    GetSelEntryRsp,
    GetSelInfoReq,
    GetSelInfoRsp,
    GetSelTimeReq,
    GetSelTimeRsp,
    ReserveSelReq,
    ReserveSelRsp,
    SelErasure,
    SelOperations,
    SetSelTimeReq,
)
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.event_log import RECORD_BYTES, RECORDS_MAX, log_cleared
from bmcmedic.sim.handler_call import Call, CommandRefusal
from bmcmedic.sim.profile import fru_inventory

SDR_REPOSITORY_BYTES = 16_384
SDR_READ_BYTES_MAX = 0x40
FRU_READ_BYTES_MAX = 0x80
_SDR_UNIT_BYTES = 64
_TIMESTAMP_MAX = 0xFFFFFFFF


def get_sel_info(bmc: SimBmc, _request: GetSelInfoReq, _call: Call) -> bytes:
    """Get SEL Info (31.2)."""
    operations = SelOperations.GET_ALLOCATION_INFO | SelOperations.RESERVE
    if bmc.log.overflow:
        operations |= SelOperations.OVERFLOW
    return GetSelInfoRsp(
        entries=len(bmc.log),
        free_bytes=(RECORDS_MAX - len(bmc.log)) * RECORD_BYTES,
        last_addition=bmc.log.added_at_s & _TIMESTAMP_MAX,
        last_erase=bmc.log.erased_at_s & _TIMESTAMP_MAX,
        operations=operations,
    ).encode()


def get_sel_allocation_info(bmc: SimBmc, _request: GetSelAllocationInfoReq, _call: Call) -> bytes:
    """Get SEL Allocation Info (31.3)."""
    free = RECORDS_MAX - len(bmc.log)
    return GetSelAllocationInfoRsp(RECORDS_MAX, RECORD_BYTES, free, free, 1).encode()


def reserve_sel(bmc: SimBmc, _request: ReserveSelReq, _call: Call) -> bytes:
    """Reserve SEL (31.4)."""
    return ReserveSelRsp(bmc.log.reserve()).encode()


def get_sel_entry(bmc: SimBmc, request: GetSelEntryReq, _call: Call) -> bytes:
    """Get SEL Entry (31.5)."""
    if request.offset and request.reservation_id != bmc.log.reservation_id:
        raise CommandRefusal(CompletionCode.RESERVATION_CANCELLED)
    found = bmc.log.find(request.record_id)
    if found is None:
        raise CommandRefusal(CompletionCode.NOT_PRESENT)
    record, next_id = found
    if request.offset >= RECORD_BYTES:
        raise CommandRefusal(CompletionCode.PARAMETER_OUT_OF_RANGE)
    count = RECORD_BYTES if request.byte_count == WHOLE_RECORD else request.byte_count
    return GetSelEntryRsp(next_id, record[request.offset :][:count]).encode()


def add_sel_entry(bmc: SimBmc, request: AddSelEntryReq, call: Call) -> bytes:
    """Add SEL Entry (31.6)."""
    record_id = bmc.log.add_record(request.record_data, bmc.sel_time(call.now))
    if record_id is None:
        raise CommandRefusal(CompletionCode.OUT_OF_SPACE)
    return AddSelEntryRsp(record_id).encode()


def clear_sel(bmc: SimBmc, request: ClearSelReq, call: Call) -> bytes:
    """Clear SEL (31.9); the log then holds one entry, that it was cleared."""
    if request.reservation_id != bmc.log.reservation_id:
        raise CommandRefusal(CompletionCode.RESERVATION_CANCELLED)
    if request.action is ClearSelAction.INITIATE:
        bmc.log.clear(bmc.sel_time(call.now))
        bmc.log_event(log_cleared(), call.now)
    return ClearSelRsp(SelErasure.COMPLETED).encode()


def get_sel_time(bmc: SimBmc, _request: GetSelTimeReq, call: Call) -> bytes:
    """Get SEL Time (31.10)."""
    return GetSelTimeRsp(bmc.sel_time(call.now) & _TIMESTAMP_MAX).encode()


def set_sel_time(bmc: SimBmc, request: SetSelTimeReq, call: Call) -> bytes:
    """Set SEL Time (31.11)."""
    bmc.sel_time_offset_s += request.time - bmc.sel_time(call.now)
    return b""


def get_sdr_repository_info(bmc: SimBmc, _request: GetSdrRepositoryInfoReq, _call: Call) -> bytes:
    """Get SDR Repository Info (33.9)."""
    return GetSdrRepositoryInfoRsp(
        record_count=len(bmc.profile.sdrs),
        free_bytes=_sdr_free_units(bmc) * _SDR_UNIT_BYTES,
        last_addition=bmc.profile.built_at_s,
        last_erase=0,
        operations=SdrOperations.GET_ALLOCATION_INFO | SdrOperations.RESERVE,
    ).encode()


def _sdr_free_units(bmc: SimBmc) -> int:
    return SDR_REPOSITORY_BYTES // _SDR_UNIT_BYTES - len(bmc.profile.sdrs)


def get_sdr_repository_allocation_info(
    bmc: SimBmc, _request: GetSdrRepositoryAllocationInfoReq, _call: Call
) -> bytes:
    """Get SDR Repository Allocation Info (33.10)."""
    free = _sdr_free_units(bmc)
    units = SDR_REPOSITORY_BYTES // _SDR_UNIT_BYTES
    return GetSdrRepositoryAllocationInfoRsp(units, _SDR_UNIT_BYTES, free, free, 1).encode()


def reserve_sdr_repository(bmc: SimBmc, _request: ReserveSdrRepositoryReq, _call: Call) -> bytes:
    """Reserve SDR Repository (33.11)."""
    bmc.volatile.sdr_reservation = bmc.volatile.sdr_reservation % 0xFFFF + 1
    return ReserveSdrRepositoryRsp(bmc.volatile.sdr_reservation).encode()


def get_sdr(bmc: SimBmc, request: GetSdrReq, _call: Call) -> bytes:
    """Get SDR (33.12)."""
    if request.offset and request.reservation_id != bmc.volatile.sdr_reservation:
        raise CommandRefusal(CompletionCode.RESERVATION_CANCELLED)
    sdrs = bmc.profile.sdrs
    index = request.record_id - 1
    if request.record_id == 0:
        index = 0
    elif request.record_id == LAST_RECORD_ID:
        index = len(sdrs) - 1
    if not 0 <= index < len(sdrs):
        raise CommandRefusal(CompletionCode.NOT_PRESENT)
    record = sdrs[index]
    if request.offset >= len(record):
        raise CommandRefusal(CompletionCode.PARAMETER_OUT_OF_RANGE)
    whole = request.byte_count == WHOLE_RECORD
    if not whole and request.byte_count > SDR_READ_BYTES_MAX:
        raise CommandRefusal(CompletionCode.CANNOT_RETURN_BYTES)
    part = record[request.offset :] if whole else record[request.offset :][: request.byte_count]
    next_id = index + 2 if index + 1 < len(sdrs) else LAST_RECORD_ID
    return GetSdrRsp(next_id, part).encode()


def get_fru_inventory_area_info(
    bmc: SimBmc, request: GetFruInventoryAreaInfoReq, _call: Call
) -> bytes:
    """Get FRU Inventory Area Info (34.1)."""
    if request.fru_device_id != 0:
        raise CommandRefusal(CompletionCode.NOT_PRESENT)
    return GetFruInventoryAreaInfoRsp(len(fru_inventory(bmc.name))).encode()


def read_fru_data(bmc: SimBmc, request: ReadFruDataReq, _call: Call) -> bytes:
    """Read FRU Data (34.2)."""
    if request.fru_device_id != 0:
        raise CommandRefusal(CompletionCode.NOT_PRESENT)
    inventory = fru_inventory(bmc.name)
    if request.offset >= len(inventory):
        raise CommandRefusal(CompletionCode.PARAMETER_OUT_OF_RANGE)
    if request.count > FRU_READ_BYTES_MAX:
        raise CommandRefusal(CompletionCode.CANNOT_RETURN_BYTES)
    return ReadFruDataRsp(inventory[request.offset :][: request.count]).encode()
