"""Chapter 27: the commands of the watchdog timer; the timer itself is `sim.watchdog_timer`."""

from __future__ import annotations

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
from bmcmedic.sim.bmc import SimBmc
from bmcmedic.sim.handler_call import Call, CommandRefusal
from bmcmedic.sim.watchdog_timer import SimTimerSettings


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
    """Get Watchdog Timer (27.7); all bytes are zero before the first Set Watchdog Timer."""
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
