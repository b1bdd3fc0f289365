"""Chapters 20 and 27: the device itself and its watchdog timer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmcmedic.ipmi.commands.device import (
    ColdResetReq,
    GetDeviceGuidReq,
    GetDeviceGuidRsp,
    GetDeviceIdReq,
    GetSelfTestResultsReq,
    GetSelfTestResultsRsp,
    SelfTestResult,
    WarmResetReq,
)
from bmcmedic.ipmi.commands.watchdog import (
    UNINITIALIZED,
    ExpirationFlags,
    GetWatchdogTimerReq,
    GetWatchdogTimerRsp,
    PretimeoutInterrupt,
    ResetWatchdogTimerReq,
    SetWatchdogTimerReq,
    TimeoutAction,
    TimerUse,
)
from bmcmedic.sim.dispatch import Call, CommandRefusal, NoReply
from bmcmedic.sim.watchdog import SimTimerSettings

if TYPE_CHECKING:
    from bmcmedic.sim.bmc import SimBmc


def get_device_id(bmc: SimBmc, _request: GetDeviceIdReq, _call: Call) -> bytes:
    """Get Device ID (20.1)."""
    return bmc.profile.device_id


def cold_reset(bmc: SimBmc, _request: ColdResetReq, call: Call) -> bytes:
    """Cold Reset (20.2), as sick as the faults say."""
    return _reset(bmc, call, cold=True)


def warm_reset(bmc: SimBmc, _request: WarmResetReq, call: Call) -> bytes:
    """Warm Reset (20.3)."""
    return _reset(bmc, call, cold=False)


def _reset(bmc: SimBmc, call: Call, *, cold: bool) -> bytes:
    if bmc.faults.reset_ignored:
        return b""
    bmc.schedule_restart(call.now, cold=cold)
    if bmc.faults.reset_lost_reply:
        raise NoReply
    return b""


def get_self_test_results(_bmc: SimBmc, _request: GetSelfTestResultsReq, _call: Call) -> bytes:
    """Get Self Test Results (20.4)."""
    return GetSelfTestResultsRsp(SelfTestResult.PASSED).encode()


def get_device_guid(bmc: SimBmc, _request: GetDeviceGuidReq, _call: Call) -> bytes:
    """Get Device GUID (20.8)."""
    return GetDeviceGuidRsp(bmc.guid).encode()


def reset_watchdog_timer(bmc: SimBmc, _request: ResetWatchdogTimerReq, call: Call) -> bytes:
    """Reset Watchdog Timer (27.5)."""
    if bmc.watchdog is None:
        raise CommandRefusal(UNINITIALIZED)
    bmc.watchdog.reset(call.now)
    bmc.reschedule()
    bmc.handle_timer(call.now)
    return b""


def set_watchdog_timer(bmc: SimBmc, request: SetWatchdogTimerReq, call: Call) -> bytes:
    """Set Watchdog Timer (27.6)."""
    settings = SimTimerSettings(
        timer_use=request.use,
        timeout_action=request.action,
        pretimeout_interrupt=request.pretimeout_interrupt,
        pretimeout_interval_s=request.pretimeout_interval_s,
        initial_countdown_s=request.initial_countdown_s,
        dont_log=request.dont_log,
    )
    bmc.set_watchdog(
        settings,
        dont_stop=request.dont_stop,
        clear_flags=request.clear_expiration_flags,
        now=call.now,
    )
    return b""


def get_watchdog_timer(bmc: SimBmc, _request: GetWatchdogTimerReq, call: Call) -> bytes:
    """Get Watchdog Timer (27.7); all zero before the first Set."""
    timer = bmc.watchdog
    if timer is None:
        return bytes(8)
    settings = timer.settings
    return GetWatchdogTimerRsp(
        running=timer.running,
        use=TimerUse(settings.timer_use),
        action=TimeoutAction(settings.timeout_action),
        initial_countdown_s=settings.initial_countdown_s,
        present_countdown_s=timer.present_countdown_s(call.now),
        pretimeout_interrupt=PretimeoutInterrupt(settings.pretimeout_interrupt),
        pretimeout_interval_s=settings.pretimeout_interval_s,
        dont_log=settings.dont_log,
        expiration_flags=ExpirationFlags(timer.expiration_flags),
    ).encode()
