"""One simulated BMC, sans-I/O: requests and the time come in, answers and the next timer go out.

The BMC knows its front ends by their `Interface` only. LAN, KCS and QEMU's VM protocol can all
serve it, in real or in virtual time. A rack holds thousands of these in one process. So they have
slots, share templates that are copied when they change, and set a timer only for what will happen.
"""

from __future__ import annotations

import uuid
from enum import Enum
from typing import Any

from bmcmedic.ipmi.commands.chassis import LastPowerEvent, RestartCause
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.sim import event_log
from bmcmedic.sim.command_faults import CommandFault
from bmcmedic.sim.event_log import EventLog, SelEvent
from bmcmedic.sim.faults import NO_FAULTS, FaultSet, Hang, KcsStuck
from bmcmedic.sim.handler_call import Interface
from bmcmedic.sim.host import OS_BOOT_S, POWER_CYCLE_OFF_S, SimHost
from bmcmedic.sim.leak import FREE_FRACTION_FRESH, MEMORY_BYTES, MemoryLeak
from bmcmedic.sim.profile import Lan, Profile
from bmcmedic.sim.watchdog_timer import SimTimerSettings, WatchdogEvent, WatchdogTimer

RESTART_DELAY_S = 0.05
"""Delay from a reset command to the reset, in seconds: the answer leaves before it."""

WARM_BOOT_SHARE = 1 / 3
"""Boot time after a warm reset, as a share of that after a cold reset."""

HOST_OFF_AT_SHARE = 0.2
HOST_ON_AT_SHARE = 0.5
"""When `reset-reboots-host` turns the host off and on again, as shares of the BMC's boot time."""

QUEUED_REQUESTS_MAX = 32
"""Most requests that wait for a slow BMC; it answers any more with node busy."""

PATS_PER_TIMEOUT = 4
"""How often the host's daemon pats within one time-out of the watchdog timer."""

_NMI = 2
"""The pretimeout interrupt that is an NMI (27.6)."""


class HostStep(Enum):
    """A planned event of the host: a change of its power, or an entry in the event log."""

    OFF = "off"
    ON = "on"
    LOG_BOOT_INITIATED = "log boot initiated"
    LOG_OS_BOOT = "log os boot"


class VolatileState:
    """The state that a restart of the BMC sets back to its defaults."""

    __slots__ = ("event_receiver", "global_enables", "message_flags", "messages", "sdr_reservation")

    def __init__(self) -> None:
        self.global_enables = 0x08  # event logging
        self.message_flags = 0
        self.messages: tuple[bytes, ...] = ()
        self.sdr_reservation = 0
        self.event_receiver = 0x20


class SimBmc:
    """A simulated BMC together with its host."""

    __slots__ = (
        "boot_until",
        "cold_resets",
        "epoch_offset_s",
        "faults",
        "guid",
        "host",
        "lan",
        "last_power_event",
        "log",
        "name",
        "own_watchdog_reboots",
        "profile",
        "requests",
        "restart_cause",
        "restarts",
        "sel_time_offset_s",
        "timer",
        "volatile",
        "warm_resets",
        "watchdog",
        "_busy_until",
        "_command_faults_taken",
        "_daemon",
        "_host_plan",
        "_leak",
        "_memory_bytes",
        "_next_pat_at",
        "_restart_at",
        "_restart_is_cold",
    )

    def __init__(
        self,
        name: str,
        profile: Profile,
        *,
        now: float,
        epoch_offset_s: float,
        host_uuid: uuid.UUID,
        power_on: bool = True,
        faults: FaultSet = NO_FAULTS,
        watchdog_daemon: SimTimerSettings | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """Create the BMC at the time `now`.

        `watchdog_daemon`: the host runs a daemon that arms this watchdog timer and pats it.
        """
        self.name = name
        self.profile = profile
        self.guid = host_uuid.bytes_le  # SMBIOS order: the first three fields LSB first
        self.host = SimHost(name, host_uuid, power_on=power_on)
        self.epoch_offset_s = epoch_offset_s
        self.faults = NO_FAULTS
        self.log = EventLog(profile.factory_log)
        self.lan: Lan = profile.lan
        self.watchdog: WatchdogTimer | None = None
        self.volatile = VolatileState()
        self.requests: dict[int, int] = {}
        self.cold_resets = 0
        self.warm_resets = 0
        self.own_watchdog_reboots = 0
        self.restarts = 0
        """Restarts of any kind; a front end forgets its sessions when this number changes."""
        self.restart_cause = RestartCause.POWER_BUTTON
        self.last_power_event = LastPowerEvent(0)
        self.sel_time_offset_s = 0
        self.boot_until: float | None = None
        self.timer: float | None = None
        """When `handle_timer` is next due; None: no event is planned."""
        self._busy_until = now
        self._command_faults_taken: dict[CommandFault, int] | None = None
        self._leak: MemoryLeak | None = None
        self._memory_bytes = memory_bytes
        self._restart_at: float | None = None
        self._restart_is_cold = True
        self._host_plan: tuple[tuple[float, HostStep], ...] = ()
        self._daemon = watchdog_daemon
        self._next_pat_at = now if watchdog_daemon else None
        # The daemon comes before the faults: a BMC that hangs from the start has an armed timer.
        self.reschedule()
        self.handle_timer(now)
        self.set_faults(faults, now)

    # ---- for the front ends

    def answers(self, interface: Interface) -> bool:
        """Return whether the BMC answers over that interface at present."""
        if self.boot_until is not None or self.faults.dead:
            return False
        return interface is Interface.LAN or not self.faults.silences_kcs

    def count_request(self, request: RequestMessage) -> None:
        """Count a request that reached the BMC, under its NetFn and command."""
        key = request.netfn << 8 | request.command
        self.requests[key] = self.requests.get(key, 0) + 1

    def take_command_faults(self, request: RequestMessage) -> tuple[CommandFault, ...]:
        """Return the faults that this request meets, and count them."""
        key = request.netfn << 8 | request.command
        taken = self._command_faults_taken = self._command_faults_taken or {}
        met = []
        for fault in self.faults.command_faults:
            count = taken.get(fault, 0)
            if fault.key == key and (fault.times is None or count < fault.times):
                taken[fault] = count + 1
                met.append(fault)
        return tuple(met)

    def take_turn(self, now: float) -> float | None:
        """Queue one more request; return how long until it is done, in seconds.

        None: the queue is full, and the request is not taken.
        """
        own_s = self.answer_latency_s(now)
        waiting_s = self._busy_until - now
        if own_s <= 0 and waiting_s <= 0:
            return 0.0
        if waiting_s > own_s * QUEUED_REQUESTS_MAX:
            return None
        self._busy_until = max(now, self._busy_until) + own_s
        return self._busy_until - now

    def answer_latency_s(self, now: float) -> float:
        """Return how long the BMC works on one answer at present, in seconds."""
        leak_s = self._leak.latency_s(now) if self._leak else 0.0
        return self.faults.slow_s + leak_s

    # ---- planned events

    def handle_timer(self, now: float) -> None:
        """Handle every event that was due up to `now`, in order."""
        while self.timer is not None and self.timer <= now:
            self._fire(self.timer)
            self.reschedule()

    def reschedule(self) -> None:
        """Compute `timer` again. Call this after a change to anything that it depends on."""
        candidates = (
            self._restart_at,
            self.boot_until,
            self._host_plan[0][0] if self._host_plan else None,
            self.watchdog.next_event_at() if self.watchdog else None,
            self._leak.exhausted_at() if self._leak else None,
            self._next_pat_at,
        )
        self.timer = min((due for due in candidates if due is not None), default=None)

    def _fire(self, now: float) -> None:
        if self._restart_at is not None and self._restart_at <= now:
            if self._restart_is_cold:
                self.cold_resets += 1
            else:
                self.warm_resets += 1
            self._restart(now, cold=self._restart_is_cold)
        if self.boot_until is not None and self.boot_until <= now:
            self._boot_done(now)
        while self._host_plan and self._host_plan[0][0] <= now:
            (_, step), self._host_plan = self._host_plan[0], self._host_plan[1:]
            self._host_step(step, now)
        if self.watchdog is not None:
            while event := self.watchdog.handle_timer(now):
                self._watchdog_event(event, self.watchdog.settings, now)
        leaked_at = self._leak.exhausted_at() if self._leak else None
        if leaked_at is not None and leaked_at <= now:
            self.own_watchdog_reboots += 1
            self._restart(now, cold=True)
        if self._next_pat_at is not None and self._next_pat_at <= now:
            self._pat(now)

    def schedule_restart(self, now: float, *, cold: bool) -> None:
        """Plan the reset that a command asked for, after its answer has left.

        A second reset command before then has no effect.
        """
        if self._restart_at is not None:
            return
        self._restart_at = max(now, self._busy_until) + RESTART_DELAY_S
        self._restart_is_cold = cold
        self.reschedule()

    def _restart(self, now: float, *, cold: bool) -> None:
        self.restarts += 1
        self._restart_at = None
        boot_s = self.faults.boot_s if cold else self.faults.boot_s * WARM_BOOT_SHARE
        self.boot_until = now + boot_s
        self._busy_until = now
        self.volatile = VolatileState()
        if cold:
            self._leak = None
            self.watchdog = None
            self.faults = self.faults.without(Hang, KcsStuck)
        if self.faults.reset_reboots_host and self.host.power_on:
            self._plan_host((now + boot_s * HOST_OFF_AT_SHARE, HostStep.OFF))
            self._plan_host((now + boot_s * HOST_ON_AT_SHARE, HostStep.ON))
            self.restart_cause = RestartCause.POWER_POLICY_ALWAYS_ON
            self.last_power_event = LastPowerEvent.AC_FAILED
        self.host.kcs_answers(False, now)

    def _boot_done(self, now: float) -> None:
        self.boot_until = None
        self._sync_faults(now)

    # ---- the host

    def power_off(self, now: float, delay_s: float = 0.0) -> None:
        """Turn the host off, at once or after a soft shutdown."""
        self._plan_host((now + delay_s, HostStep.OFF))
        self.handle_timer(now)

    def power_on(self, now: float, cause: RestartCause, delay_s: float = 0.0) -> None:
        """Turn the host on, at once or after a delay."""
        self.restart_cause = cause
        self._plan_host((now + delay_s, HostStep.ON))
        self.handle_timer(now)

    def hard_reset(self, now: float, cause: RestartCause) -> None:
        """Pull the host's reset line."""
        if not self.host.power_on:
            return
        self.restart_cause = cause
        self.host.reset(now)
        self._host_boots(now, power_up=False)

    def _host_step(self, step: HostStep, now: float) -> None:
        if step is HostStep.OFF and self.host.power_on:
            self.host.turn_off(comes_back=any(s is HostStep.ON for _, s in self._host_plan))
            self._stop_watchdog()
            if self.boot_until is None:
                self.log_event(event_log.power_unit(0), now)
        elif step is HostStep.ON and not self.host.power_on:
            self.host.turn_on(now)
            self._host_boots(now, power_up=True)
        elif step is HostStep.LOG_BOOT_INITIATED and self.host.power_on:
            offset = 0 if self.restart_cause != RestartCause.WATCHDOG_EXPIRATION else 1
            self.log_event(event_log.boot_initiated(offset, self.restart_cause), now)
        elif step is HostStep.LOG_OS_BOOT and self.host.power_on:
            self.log_event(event_log.os_boot(), now)

    def _host_boots(self, now: float, *, power_up: bool) -> None:
        """Plan the log entries of BIOS and system, not before the BMC itself is up."""
        self._stop_watchdog()
        if self.boot_until is None and not power_up:
            self.log_event(event_log.boot_initiated(1, self.restart_cause), now)
        else:
            self._plan_host((max(now, self.boot_until or now), HostStep.LOG_BOOT_INITIATED))
        self._plan_host((max(now + OS_BOOT_S, self.boot_until or now), HostStep.LOG_OS_BOOT))

    def _plan_host(self, *steps: tuple[float, HostStep]) -> None:
        self._host_plan = tuple(sorted(self._host_plan + steps, key=lambda step: step[0]))
        self.reschedule()

    def log_event(self, event: SelEvent, now: float) -> None:
        """Add an event to the SEL; a full log drops it and sets its overflow flag."""
        self.log.add(event, self.sel_time(now))

    def sel_time(self, now: float) -> int:
        """Return the BMC's clock, in seconds since 1970."""
        return int(now + self.epoch_offset_s) + self.sel_time_offset_s

    # ---- the watchdog timer

    def _watchdog_event(self, event: WatchdogEvent, settings: SimTimerSettings, now: float) -> None:
        if event is WatchdogEvent.PRETIMEOUT:
            self.volatile.message_flags |= 0x08  # watchdog pre-timeout interrupt occurred
            self.host.pretimeout(nmi=settings.pretimeout_interrupt == _NMI)
        offset = 8 if event is WatchdogEvent.PRETIMEOUT else settings.timeout_action
        if not settings.dont_log:
            self.log_event(
                event_log.watchdog_2(offset, settings.pretimeout_interrupt, settings.timer_use),
                now,
            )
        if event is WatchdogEvent.PRETIMEOUT or not self.host.power_on:
            return
        if settings.timeout_action == 1:
            self.hard_reset(now, RestartCause.WATCHDOG_EXPIRATION)
        elif settings.timeout_action in (2, 3):
            self._plan_host((now, HostStep.OFF))
            if settings.timeout_action == 3:
                self.restart_cause = RestartCause.WATCHDOG_EXPIRATION
                self._plan_host((now + POWER_CYCLE_OFF_S, HostStep.ON))

    def set_watchdog(
        self, settings: SimTimerSettings, *, dont_stop: bool, clear_flags: int, now: float
    ) -> None:
        """Apply a Set Watchdog Timer (27.6)."""
        if self.watchdog is None:
            self.watchdog = WatchdogTimer(settings, frozen=self.faults.stops_watchdog_timer)
        else:
            self.watchdog.set(settings, dont_stop=dont_stop, clear_flags=clear_flags, now=now)
        self.reschedule()

    def _stop_watchdog(self) -> None:
        """Stop the timer, as a reset or a loss of power of the host does (27.1)."""
        if self.watchdog is not None and self.watchdog.running:
            self.watchdog.stop()

    def _pat(self, now: float) -> None:
        """Pat as the host's daemon, which also sets a timer that the BMC has lost."""
        daemon = self._daemon
        if daemon is None:
            return
        self._next_pat_at = now + daemon.initial_countdown_s / PATS_PER_TIMEOUT
        if not (self.host.system_is_up(now) and self.answers(Interface.SYSTEM_INTERFACE)):
            return
        if self.watchdog is None:
            self.watchdog = WatchdogTimer(daemon)
        self.watchdog.reset(now)

    def daemon_gives_up(self) -> None:
        """End the host's watchdog daemon: the timer is not patted again, and may run out."""
        self._daemon = None
        self._next_pat_at = None
        self.reschedule()

    # ---- faults, and what can be seen from outside

    def set_faults(self, faults: FaultSet, now: float) -> None:
        """Replace all faults of the BMC."""
        self.handle_timer(now)
        self.faults = faults
        self._command_faults_taken = None
        if self.boot_until is None:
            self._sync_faults(now)
        self.reschedule()
        self.handle_timer(now)

    def port80_written(self, count: int, now: float) -> None:
        """Count writes of a real machine to port 0x80; a running BMC leaks memory with each."""
        self.handle_timer(now)
        if self.boot_until is not None or self.faults.dead:
            return
        if self._leak is None:
            self._leak = MemoryLeak(now, self.faults.flood_writes_per_s, self._memory_bytes)
        self._leak.add_writes(count, now)
        self.reschedule()
        self.handle_timer(now)

    def _sync_faults(self, now: float) -> None:
        flood = 0.0 if self.faults.dead else self.faults.flood_writes_per_s
        if self._leak is not None:
            self._leak.set_rate(flood, now)
        elif flood:
            self._leak = MemoryLeak(now, flood, self._memory_bytes)
        if self.watchdog is not None:
            self.watchdog.freeze(self.faults.stops_watchdog_timer, now)
        self.host.kcs_answers(self.answers(Interface.SYSTEM_INTERFACE), now)

    @property
    def state(self) -> str:
        """The state of the BMC: `up`, `booting`, `hung` (towards its host) or `dead`."""
        if self.faults.dead:
            return "dead"
        if self.boot_until is not None:
            return "booting"
        return "hung" if self.faults.silences_kcs else "up"

    def memory_free_fraction(self, now: float) -> float:
        """Return the share of the BMC's memory that is free, 0 to 1."""
        return self._leak.free_fraction(now) if self._leak else FREE_FRACTION_FRESH

    def triage(self, now: float) -> dict[str, Any] | None:
        """Return what `bmcmedic triage --json` would print on the host; None: it is not up."""
        self.handle_timer(now)
        if not self.host.system_is_up(now):
            return None
        return self.host.triage(now, self.epoch_offset_s, self.answer_latency_s(now))

    def describe(self, now: float) -> dict[str, Any]:
        """Return the object with which the control endpoint describes this BMC."""
        self.handle_timer(now)
        timer = self.watchdog
        return {
            "name": self.name,
            "state": self.state,
            "faults": self.faults.specs,
            "guid": self.guid.hex(),
            "cold_resets": self.cold_resets,
            "warm_resets": self.warm_resets,
            "own_watchdog_reboots": self.own_watchdog_reboots,
            "requests": {
                f"{key >> 8:02x}/{key & 0xFF:02x}": count
                for key, count in sorted(self.requests.items())
            },
            "host_power": "on" if self.host.power_on else "off",
            "host_power_changes": self.host.power_changes,
            "host_boots": self.host.boots,
            "host_boot_id": self.host.boot_id,
            "memory_free_fraction": round(self.memory_free_fraction(now), 6),
            "answer_latency_s": round(self.answer_latency_s(now), 6),
            "watchdog": None
            if timer is None
            else {
                "running": timer.running,
                "present_countdown_s": round(timer.present_countdown_s(now), 1),
                "timeout_action": timer.settings.timeout_action,
                "expiration_flags": timer.expiration_flags,
            },
            "sel_entries": len(self.log),
        }
