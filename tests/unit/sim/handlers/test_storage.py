from __future__ import annotations

import pytest

from bmcmedic.errors import CompletionCodeError
from bmcmedic.ipmi.commands.fru import GetFruInventoryAreaInfoReq, ReadFruDataReq
from bmcmedic.ipmi.commands.fru_data import FruInventory
from bmcmedic.ipmi.commands.sdr import (
    GetSdrRepositoryAllocationInfoReq,
    GetSdrRepositoryInfoReq,
    GetSdrReq,
    ReserveSdrRepositoryReq,
)
from bmcmedic.ipmi.commands.sdr_records import (
    CompactSensorRecord,
    FruDeviceLocatorRecord,
    FullSensorRecord,
    McDeviceLocatorRecord,
    decode_sdr_record,
)
from bmcmedic.ipmi.commands.sel import (
    AddSelEntryReq,
    ClearSelReq,
    GetSelAllocationInfoReq,
    GetSelEntryReq,
    GetSelInfoReq,
    GetSelTimeReq,
    ReserveSelReq,
    SelOperations,
    SetSelTimeReq,
)
from bmcmedic.ipmi.commands.sensor import GetSensorReadingReq, GetSensorThresholdsReq
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.event_log import RECORDS_MAX
from bmcmedic.sim.profile import SENSORS
from bmcmedic.sim.sdr_build import AnalogSensor
from tests.support.sim import EPOCH_OFFSET_S, START, ask, sim_bmc

RECORD = bytes.fromhex("0000020000000020000408ff6f01ffff")


def refused_with(bmc: SimBmc, request: object) -> int:
    with pytest.raises(CompletionCodeError) as caught:
        ask(bmc, request, START)  # type: ignore[arg-type]
    return caught.value.code


def test_the_log_is_shared_until_it_changes() -> None:
    one, other = sim_bmc(), sim_bmc()
    ask(one, AddSelEntryReq(RECORD), START)
    assert ask(one, GetSelInfoReq(), START).entries == 4
    assert ask(other, GetSelInfoReq(), START).entries == 3


def test_entries_are_chained_and_a_wrong_id_is_refused() -> None:
    bmc = sim_bmc()
    first = ask(bmc, GetSelEntryReq(0), START)
    assert first.next_record_id == 2
    assert ask(bmc, GetSelEntryReq(2), START).next_record_id == 3
    last = ask(bmc, GetSelEntryReq(0xFFFF), START)
    assert last.next_record_id == 0xFFFF
    assert last == ask(bmc, GetSelEntryReq(3), START)
    assert refused_with(bmc, GetSelEntryReq(4)) == CompletionCode.NOT_PRESENT


def test_an_added_entry_gets_its_id_and_the_bmcs_time() -> None:
    bmc = sim_bmc()
    record_id = ask(bmc, AddSelEntryReq(RECORD), START).record_id
    raw = ask(bmc, GetSelEntryReq(record_id), START).record_data
    assert raw[:2] == record_id.to_bytes(2, "little")
    assert int.from_bytes(raw[3:7], "little") == int(START + EPOCH_OFFSET_S)
    assert raw[7:] == RECORD[7:]


def test_clear_needs_the_latest_reservation_and_leaves_one_entry() -> None:
    bmc = sim_bmc()
    old = ask(bmc, ReserveSelReq(), START).reservation_id
    new = ask(bmc, ReserveSelReq(), START).reservation_id
    assert refused_with(bmc, ClearSelReq(old)) == CompletionCode.RESERVATION_CANCELLED
    ask(bmc, ClearSelReq(new), START)
    info = ask(bmc, GetSelInfoReq(), START)
    assert info.entries == 1
    assert info.last_erase == int(START + EPOCH_OFFSET_S)
    assert ask(bmc, GetSelEntryReq(0), START).record_data[10] == 0x10


def test_a_full_log_sets_its_overflow_flag_and_takes_no_more() -> None:
    bmc = sim_bmc()
    for _ in range(RECORDS_MAX - 3):
        ask(bmc, AddSelEntryReq(RECORD), START)
    assert refused_with(bmc, AddSelEntryReq(RECORD)) == CompletionCode.OUT_OF_SPACE
    info = ask(bmc, GetSelInfoReq(), START)
    assert (info.entries, info.free_bytes) == (RECORDS_MAX, 0)
    assert SelOperations.OVERFLOW in info.operations
    assert ask(bmc, GetSelAllocationInfoReq(), START).free_units == 0


def test_the_clock_can_be_set() -> None:
    bmc = sim_bmc()
    ask(bmc, SetSelTimeReq(1_800_000_000), START)
    assert ask(bmc, GetSelTimeReq(), START + 5).time == 1_800_000_005


def test_every_sdr_reads_as_what_it_was_built_from() -> None:
    bmc = sim_bmc()
    info = ask(bmc, GetSdrRepositoryInfoReq(), START)
    assert info.version == 0x51
    assert ask(bmc, GetSdrRepositoryAllocationInfoReq(), START).units > info.record_count
    records = []
    record_id = 0
    while record_id != 0xFFFF:
        answer = ask(bmc, GetSdrReq(record_id), START)
        records.append(decode_sdr_record(answer.record_data))
        record_id = answer.next_record_id
    assert len(records) == info.record_count
    kinds = [type(record) for record in records]
    assert kinds.count(McDeviceLocatorRecord) == 2
    assert kinds.count(FruDeviceLocatorRecord) == 1
    assert kinds.count(FullSensorRecord) == 15
    assert kinds.count(CompactSensorRecord) == 4


def test_partial_sdr_reads_need_the_reservation() -> None:
    bmc = sim_bmc()
    whole = ask(bmc, GetSdrReq(4), START).record_data
    reservation = ask(bmc, ReserveSdrRepositoryReq(), START).reservation_id
    parts = b"".join(
        ask(bmc, GetSdrReq(4, reservation, offset, 16), START).record_data
        for offset in range(0, len(whole), 16)
    )
    assert parts == whole
    cancelled = GetSdrReq(4, reservation + 1, 16, 16)
    assert refused_with(bmc, cancelled) == CompletionCode.RESERVATION_CANCELLED
    assert refused_with(bmc, GetSdrReq(99)) == CompletionCode.NOT_PRESENT
    too_much = GetSdrReq(4, reservation, 0, 0x80)
    assert refused_with(bmc, too_much) == CompletionCode.CANNOT_RETURN_BYTES


def test_readings_are_within_the_thresholds_and_end_with_the_power() -> None:
    on, off = sim_bmc(), sim_bmc(power_on=False)
    for sensor in SENSORS:
        reading = ask(on, GetSensorReadingReq(sensor.number), START)
        assert reading.available
        dark = ask(off, GetSensorReadingReq(sensor.number), START)
        assert dark.available != sensor.needs_power
        if isinstance(sensor, AnalogSensor):
            assert reading.comparisons == 0, sensor.name
            thresholds = ask(on, GetSensorThresholdsReq(sensor.number), START)
            assert thresholds.readable == sensor.readable_mask
    assert refused_with(on, GetSensorReadingReq(0x7E)) == CompletionCode.NOT_PRESENT


def test_the_fru_inventory_names_the_machine() -> None:
    bmc = sim_bmc()
    size = ask(bmc, GetFruInventoryAreaInfoReq(), START).size_bytes
    data = b"".join(
        ask(bmc, ReadFruDataReq(offset, 32), START).data for offset in range(0, size, 32)
    )
    inventory = FruInventory.decode(data)
    assert inventory.board is not None
    assert inventory.product is not None
    assert inventory.board.serial_number == "B-bmc1"
    assert inventory.product.product_name == "Simulated server"
    assert refused_with(bmc, ReadFruDataReq(size, 1)) == CompletionCode.PARAMETER_OUT_OF_RANGE
    assert refused_with(bmc, GetFruInventoryAreaInfoReq(1)) == CompletionCode.NOT_PRESENT
