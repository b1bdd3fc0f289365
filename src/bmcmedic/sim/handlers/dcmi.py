"""DCMI: the power that the simulated server draws."""

from __future__ import annotations

from bmcmedic.ipmi.commands.dcmi import (
    SYSTEM_POWER_STATISTICS,
    GetPowerReadingReq,
    GetPowerReadingRsp,
)
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.handler_call import Call, CommandRefusal

POWER_ON_W = 232
POWER_OFF_W = 9
PERIOD_MS = 1000
_TIMESTAMP_MAX = 0xFFFFFFFF


def get_power_reading(bmc: SimBmc, request: GetPowerReadingReq, call: Call) -> bytes:
    """Get Power Reading (DCMI 6.6.1)."""
    if request.mode != SYSTEM_POWER_STATISTICS:
        raise CommandRefusal(CompletionCode.INVALID_DATA_FIELD)
    watts = POWER_ON_W if bmc.host.power_on else POWER_OFF_W
    return GetPowerReadingRsp(
        current_w=watts,
        minimum_w=watts,
        maximum_w=watts,
        average_w=watts,
        timestamp=bmc.sel_time(call.now) & _TIMESTAMP_MAX,
        period_ms=PERIOD_MS,
    ).encode()
