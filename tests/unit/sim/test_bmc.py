from __future__ import annotations

from dataclasses import replace

import pytest

from bmcmedic.errors import CompletionCodeError
from bmcmedic.ipmi.commands.chassis import (
    ChassisControlAction,
    ChassisControlReq,
    GetChassisStatusReq,
    GetSystemRestartCauseReq,
    LastPowerEvent,
    RestartCause,
)
from bmcmedic.ipmi.commands.device import (
    ColdResetReq,
    GetDeviceGuidReq,
    GetDeviceIdReq,
    GetSelfTestResultsReq,
    WarmResetReq,
)
from bmcmedic.ipmi.commands.sel_records import SystemEventRecord, decode_sel_record
from bmcmedic.ipmi.commands.watchdog import (
    ExpirationFlags,
    GetWatchdogTimerReq,
    PretimeoutInterrupt,
    ResetWatchdogTimerReq,
    SetWatchdogTimerReq,
    TimeoutAction,
    TimerUse,
)
from bmcmedic.ipmi.constants import CompletionCode
from bmcmedic.ipmi.guid import guid_matches
from bmcmedic.ipmi.message import RequestMessage
from bmcmedic.sim.bmc import QUEUED_REQUESTS_MAX, RESTART_DELAY_S, SimBmc
from bmcmedic.sim.dispatch import execute
from bmcmedic.sim.faults import FaultSet
from bmcmedic.sim.handler_call import HandlerAnswer, Interface
from bmcmedic.sim.leak import FREE_FRACTION_FRESH
from bmcmedic.sim.watchdog_timer import SimTimerSettings
from tests.support.sim import START, ask, send_command, sim_bmc

KCS = Interface.SYSTEM_INTERFACE
DAEMON = SimTimerSettings(
    timer_use=4,
    timeout_action=1,
    pretimeout_interrupt=0,
    pretimeout_interval_s=0,
    initial_countdown_s=60.0,
)


def armed(action: TimeoutAction = TimeoutAction.HARD_RESET) -> SetWatchdogTimerReq:
    return SetWatchdogTimerReq(TimerUse.SMS_OS, action, 60.0)


def events(bmc: SimBmc) -> list[tuple[int, int]]:
    """Return sensor type and offset of each entry after the three of the factory's log."""
    found = []
    record_id = 0
    while record_id != 0xFFFF:
        entry = bmc.log.find(record_id)
        assert entry is not None
        raw, record_id = entry
        assert isinstance(decode_sel_record(raw), SystemEventRecord)
        found.append((raw[10], raw[13] & 0x0F))
    return found[3:]


# ---- dispatch


def test_it_identifies_itself() -> None:
    bmc = sim_bmc()
    device_id = ask(bmc, GetDeviceIdReq(), START)
    assert (device_id.ipmi_version, device_id.firmware, device_id.available) == (2, "3.23", True)
    assert ask(bmc, GetSelfTestResultsReq(), START).passed
    guid = ask(bmc, GetDeviceGuidReq(), START).guid
    assert guid_matches(guid, str(bmc.host.product_uuid))
    assert guid == bmc.host.product_uuid.bytes_le


def test_unknown_commands_wrong_lengths_and_wrong_fields_have_their_codes() -> None:
    bmc = sim_bmc()
    cases = [
        (RequestMessage(0x06, 0xEE), CompletionCode.INVALID_COMMAND),
        (RequestMessage(0x2C, 0x01, b"\xdc"), CompletionCode.INVALID_COMMAND),
        (RequestMessage(0x06, 0x01, b"\x00"), CompletionCode.DATA_LENGTH_INVALID),
        (RequestMessage(0x06, 0x24, b"\x04\x01"), CompletionCode.DATA_LENGTH_INVALID),
        (RequestMessage(0x00, 0x02, b"\x0e"), CompletionCode.INVALID_DATA_FIELD),
    ]
    for message, code in cases:
        answer = execute(bmc, message, Interface.LAN, START)
        assert answer is not None
        assert answer.completion_code == code, message


def test_requests_are_counted_by_their_numbers() -> None:
    bmc = sim_bmc()
    for _ in range(3):
        ask(bmc, GetDeviceIdReq(), START)
    send_command(bmc, ColdResetReq(), START)
    execute(bmc, RequestMessage(0x06, 0xEE), Interface.LAN, START)
    assert bmc.describe(START)["requests"] == {"06/01": 3, "06/02": 1, "06/ee": 1}


# ---- resets


def test_a_cold_reset_is_answered_then_done_and_takes_its_boot_time() -> None:
    bmc = sim_bmc("boot:30")
    assert ask(bmc, ColdResetReq(), START) is not None
    assert bmc.cold_resets == 0
    down = START + RESTART_DELAY_S
    bmc.handle_timer(down)
    assert (bmc.cold_resets, bmc.state, bmc.restarts) == (1, "booting", 1)
    for interface in Interface:
        assert send_command(bmc, GetDeviceIdReq(), down + 29.9, interface) is None
    assert ask(bmc, GetDeviceIdReq(), down + 30.1).available
    assert bmc.state == "up"
    assert bmc.host.power_changes == 0
    assert bmc.host.boots == 0


def test_a_reset_that_comes_before_the_one_in_hand_is_done_is_lost_with_the_restart() -> None:
    bmc = sim_bmc("boot:3")
    ask(bmc, ColdResetReq(), START)
    almost = START + RESTART_DELAY_S * 0.9
    ask(bmc, WarmResetReq(), almost)
    assert bmc.timer == START + RESTART_DELAY_S, "not put off"
    bmc.handle_timer(START + 60)
    assert (bmc.cold_resets, bmc.warm_resets, bmc.restarts) == (1, 0, 1)


def test_a_warm_reset_is_shorter_and_keeps_the_watchdog() -> None:
    bmc = sim_bmc("boot:30")
    ask(bmc, armed(), START)
    ask(bmc, WarmResetReq(), START)
    bmc.handle_timer(START + 11)
    assert (bmc.warm_resets, bmc.cold_resets, bmc.state) == (1, 0, "up")
    assert ask(bmc, GetWatchdogTimerReq(), START + 11).initial_countdown_s == 60


def test_a_cold_reset_clears_hang_kcs_stuck_and_leak_and_nothing_else() -> None:
    bmc = sim_bmc("hang", "kcs-stuck:ibf", "slow:0.5", "port80-flood", "boot:5", "sessions:3")
    late = START + 60
    assert bmc.memory_free_fraction(late) < FREE_FRACTION_FRESH
    send_command(bmc, ColdResetReq(), late)
    bmc.handle_timer(late + 7)
    assert bmc.faults.specs == ["slow:0.5", "port80-flood:10000", "boot:5", "sessions:3"]
    assert bmc.memory_free_fraction(late + 7) > 0.75
    assert bmc.memory_free_fraction(late + 60) < 0.75, "the flood goes on"
    assert send_command(bmc, GetDeviceIdReq(), late + 60, KCS) is not None


def test_reset_ignored_says_ok_and_does_nothing() -> None:
    bmc = sim_bmc("reset-ignored", "hang")
    ask(bmc, ColdResetReq(), START)
    ask(bmc, WarmResetReq(), START)
    bmc.handle_timer(START + 100)
    assert (bmc.cold_resets, bmc.warm_resets, bmc.state) == (0, 0, "hung")
    assert bmc.describe(START + 100)["requests"]["06/02"] == 1


def test_reset_lost_reply_resets_without_an_answer() -> None:
    bmc = sim_bmc("reset-lost-reply", "boot:5")
    assert send_command(bmc, ColdResetReq(), START) is None
    bmc.handle_timer(START + 1)
    assert (bmc.cold_resets, bmc.state) == (1, "booting")
    bmc.handle_timer(START + 6)
    assert bmc.state == "up"


def test_reset_reboots_host_leaves_the_evidence_that_a_real_one_leaves() -> None:
    bmc = sim_bmc("reset-reboots-host", "boot:10")
    boot_id = bmc.host.boot_id
    before = ask(bmc, GetSystemRestartCauseReq(), START).cause
    ask(bmc, ColdResetReq(), START)
    bmc.handle_timer(START + 3)
    assert bmc.describe(START + 3)["host_power"] == "off"
    assert bmc.triage(START + 3) is None
    bmc.handle_timer(START + 12)
    assert bmc.describe(START + 12)["host_power"] == "on"
    assert bmc.host.power_changes == 2
    assert bmc.host.boot_id != boot_id
    status = ask(bmc, GetChassisStatusReq(), START + 12)
    assert status.power_on
    assert status.last_power_event == LastPowerEvent.AC_FAILED
    cause = ask(bmc, GetSystemRestartCauseReq(), START + 12).cause
    assert cause is RestartCause.POWER_POLICY_ALWAYS_ON
    assert cause != before
    assert events(bmc) == [(0x1D, 0), (0x1F, 1)]


def test_reset_reboots_host_leaves_a_host_alone_that_is_off() -> None:
    bmc = sim_bmc("reset-reboots-host", "boot:10", power_on=False)
    ask(bmc, ColdResetReq(), START)
    bmc.handle_timer(START + 60)
    assert not bmc.host.power_on
    assert bmc.host.power_changes == 0


# ---- hang, dead, kcs-stuck, slow


@pytest.mark.parametrize("fault", ["hang", "hang:timer", "kcs-stuck:ibf", "kcs-stuck:error"])
def test_a_bmc_that_hangs_towards_its_host_answers_over_lan(fault: str) -> None:
    bmc = sim_bmc(fault)
    assert bmc.state == "hung"
    assert send_command(bmc, GetDeviceIdReq(), START, KCS) is None
    assert ask(bmc, GetDeviceIdReq(), START).available


def test_a_dead_bmc_is_silent_everywhere_and_counts_nothing() -> None:
    bmc = sim_bmc("dead")
    assert bmc.state == "dead"
    assert [send_command(bmc, GetDeviceIdReq(), START, interface) for interface in Interface] == [
        None,
        None,
    ]
    assert bmc.describe(START)["requests"] == {}
    bmc.set_faults(FaultSet.parse([]), START + 1)
    assert bmc.state == "up"
    assert ask(bmc, GetDeviceIdReq(), START + 1).available


def test_slow_answers_come_one_after_another() -> None:
    bmc = sim_bmc("slow:2.5")
    times = [execute_id(bmc, START).service_time_s for _ in range(3)]
    assert times == pytest.approx([2.5, 5.0, 7.5])
    assert execute_id(bmc, START + 100).service_time_s == pytest.approx(2.5)


def test_a_slow_bmc_that_is_flooded_with_requests_says_node_busy() -> None:
    bmc = sim_bmc("slow:1")
    codes = [execute_id(bmc, START).completion_code for _ in range(QUEUED_REQUESTS_MAX + 5)]
    assert codes[:QUEUED_REQUESTS_MAX] == [0] * QUEUED_REQUESTS_MAX
    assert codes[-1] == CompletionCode.NODE_BUSY


def execute_id(bmc: SimBmc, now: float) -> HandlerAnswer:
    answer = send_command(bmc, GetDeviceIdReq(), now)
    assert answer is not None
    return answer


def test_a_slow_bmc_resets_after_its_answer() -> None:
    bmc = sim_bmc("slow:2", "boot:5")
    answer = send_command(bmc, ColdResetReq(), START)
    assert answer is not None
    bmc.handle_timer(START + answer.service_time_s)
    assert bmc.cold_resets == 0
    bmc.handle_timer(START + answer.service_time_s + RESTART_DELAY_S)
    assert bmc.cold_resets == 1


# ---- the leak


def test_a_flood_leaks_slows_and_ends_in_the_bmcs_own_watchdog() -> None:
    bmc = sim_bmc("port80-flood:100000", "boot:5")
    samples = []
    now = START
    while bmc.own_watchdog_reboots == 0:
        samples.append((bmc.memory_free_fraction(now), bmc.answer_latency_s(now)))
        now += 0.1
        bmc.handle_timer(now)
        assert now < START + 60
    memory = [free for free, _ in samples]
    latency = [seconds for _, seconds in samples]
    assert memory == sorted(memory, reverse=True)
    assert latency == sorted(latency)
    assert memory[-1] < 0.02
    assert latency[-1] > 5
    assert bmc.state == "booting"
    assert bmc.cold_resets == 0
    bmc.handle_timer(now + 5)
    assert bmc.state == "up"
    assert bmc.memory_free_fraction(now + 5) > 0.75
    bmc.handle_timer(now + 60)
    assert bmc.own_watchdog_reboots > 1, "the flood goes on, so it leaks again"


def test_when_the_flood_ends_memory_stays_lost_until_a_reset() -> None:
    bmc = sim_bmc("port80-flood", "boot:5")
    bmc.set_faults(FaultSet.parse(["boot:5"]), START + 100)
    left = bmc.memory_free_fraction(START + 100)
    assert left < 0.5
    bmc.handle_timer(START + 10_000)
    assert bmc.memory_free_fraction(START + 10_000) == left
    ask(bmc, ColdResetReq(), START + 10_000)
    bmc.handle_timer(START + 10_010)
    assert bmc.memory_free_fraction(START + 10_010) == FREE_FRACTION_FRESH


# ---- the watchdog timer and the host


def test_reset_before_set_is_0x80_also_after_a_restart() -> None:
    bmc = sim_bmc("boot:5")
    with pytest.raises(CompletionCodeError) as caught:
        ask(bmc, ResetWatchdogTimerReq(), START)
    assert caught.value.code == 0x80
    assert not ask(bmc, GetWatchdogTimerReq(), START).running
    ask(bmc, armed(), START)
    ask(bmc, ResetWatchdogTimerReq(), START)
    ask(bmc, ColdResetReq(), START)
    with pytest.raises(CompletionCodeError) as caught:
        ask(bmc, ResetWatchdogTimerReq(), START + 10)
    assert caught.value.code == 0x80
    timer = ask(bmc, GetWatchdogTimerReq(), START + 10)
    assert (timer.running, timer.initial_countdown_s) == (False, 0)
    bmc.handle_timer(START + 200)
    assert bmc.host.boots == 0


@pytest.mark.parametrize(
    ("action", "boots", "power_on", "changes", "logged"),
    [
        (TimeoutAction.NONE, 0, True, 0, [(0x23, 0)]),
        (TimeoutAction.HARD_RESET, 1, True, 0, [(0x23, 1), (0x1D, 1), (0x1F, 1)]),
        (TimeoutAction.POWER_DOWN, 0, False, 1, [(0x23, 2), (0x09, 0)]),
        (TimeoutAction.POWER_CYCLE, 1, True, 2, [(0x23, 3), (0x09, 0), (0x1D, 1), (0x1F, 1)]),
    ],
)
def test_an_expired_timer_does_its_action_to_the_host(
    action: TimeoutAction, boots: int, power_on: bool, changes: int, logged: list[tuple[int, int]]
) -> None:
    bmc = sim_bmc()
    ask(bmc, armed(action), START)
    ask(bmc, ResetWatchdogTimerReq(), START)
    bmc.handle_timer(START + 59.9)
    assert bmc.host.boots == 0
    assert ask(bmc, GetWatchdogTimerReq(), START + 59).present_countdown_s == pytest.approx(1.0)
    bmc.handle_timer(START + 90)
    assert (bmc.host.boots, bmc.host.power_on) == (boots, power_on)
    assert bmc.host.power_changes == changes
    timer = ask(bmc, GetWatchdogTimerReq(), START + 90)
    assert timer.expiration_flags == ExpirationFlags.SMS_OS
    assert not timer.running
    assert events(bmc) == logged
    if action in (TimeoutAction.HARD_RESET, TimeoutAction.POWER_CYCLE):
        cause = ask(bmc, GetSystemRestartCauseReq(), START + 90).cause
        assert cause is RestartCause.WATCHDOG_EXPIRATION


def test_a_pretimeout_raises_its_flag_and_is_logged_and_dont_log_is_kept() -> None:
    bmc = sim_bmc()
    warning = replace(
        armed(), pretimeout_interrupt=PretimeoutInterrupt.NMI, pretimeout_interval_s=10
    )
    ask(bmc, warning, START)
    ask(bmc, ResetWatchdogTimerReq(), START)
    bmc.handle_timer(START + 50)
    assert bmc.volatile.message_flags == 0x08
    assert events(bmc) == [(0x23, 8)]
    ask(bmc, replace(armed(TimeoutAction.NONE), dont_log=True), START + 51)
    ask(bmc, ResetWatchdogTimerReq(), START + 51)
    bmc.handle_timer(START + 200)
    assert events(bmc) == [(0x23, 8)]


def test_set_without_dont_stop_over_lan_disarms_and_with_it_lengthens() -> None:
    bmc = sim_bmc("hang:timer")
    ask(bmc, armed(), START)
    ask(bmc, ResetWatchdogTimerReq(), START)
    longer = SetWatchdogTimerReq(TimerUse.SMS_OS, TimeoutAction.HARD_RESET, 600.0, dont_stop=True)
    ask(bmc, longer, START + 50)
    timer = ask(bmc, GetWatchdogTimerReq(), START + 50)
    assert (timer.running, timer.present_countdown_s) == (True, 600.0)
    bmc.handle_timer(START + 600)
    assert bmc.host.boots == 0
    ask(bmc, armed(), START + 600)
    bmc.handle_timer(START + 6_000)
    assert bmc.host.boots == 0


def test_hang_freezes_the_timer_and_hang_timer_lets_it_shoot_the_host() -> None:
    frozen = sim_bmc("boot:5", watchdog_daemon=DAEMON)
    frozen.set_faults(FaultSet.parse(["hang"]), START + 20)
    frozen.handle_timer(START + 1_000)
    assert frozen.host.boots == 0
    shown = ask(frozen, GetWatchdogTimerReq(), START + 1_000)
    assert shown.running
    assert 0 < shown.present_countdown_s < 60
    running = sim_bmc("boot:5", watchdog_daemon=DAEMON)
    running.set_faults(FaultSet.parse(["hang:timer"]), START + 20)
    running.handle_timer(START + 90)
    assert running.host.boots == 1


def test_a_bmc_that_hangs_from_the_start_has_its_watchdog_armed() -> None:
    frozen = sim_bmc("hang", watchdog_daemon=DAEMON)
    assert ask(frozen, GetWatchdogTimerReq(), START).running
    frozen.handle_timer(START + 1_000)
    assert frozen.host.boots == 0
    running = sim_bmc("hang:timer", watchdog_daemon=DAEMON)
    running.handle_timer(START + 59)
    assert running.host.boots == 0
    running.handle_timer(START + 60)
    assert running.host.boots == 1


def test_the_hosts_daemon_pats_a_healthy_bmc_and_sets_again_after_a_restart() -> None:
    bmc = sim_bmc("boot:5", watchdog_daemon=DAEMON)
    bmc.handle_timer(START + 10_000)
    assert bmc.host.boots == 0
    assert ask(bmc, GetWatchdogTimerReq(), START + 10_000).running
    ask(bmc, ColdResetReq(), START + 10_000)
    bmc.handle_timer(START + 10_100)
    assert ask(bmc, GetWatchdogTimerReq(), START + 10_100).running
    assert bmc.host.boots == 0


def test_chassis_control_acts_on_the_host() -> None:
    bmc = sim_bmc()
    ask(bmc, ChassisControlReq(ChassisControlAction.POWER_DOWN), START)
    assert not ask(bmc, GetChassisStatusReq(), START).power_on
    with pytest.raises(CompletionCodeError) as caught:
        ask(bmc, ChassisControlReq(ChassisControlAction.HARD_RESET), START)
    assert caught.value.code == CompletionCode.NOT_SUPPORTED_IN_STATE
    ask(bmc, ChassisControlReq(ChassisControlAction.POWER_UP), START + 1)
    status = ask(bmc, GetChassisStatusReq(), START + 1)
    assert status.power_on
    assert status.last_power_event == LastPowerEvent.ON_BY_COMMAND
    ask(bmc, ChassisControlReq(ChassisControlAction.POWER_CYCLE), START + 2)
    assert not ask(bmc, GetChassisStatusReq(), START + 3).power_on
    assert ask(bmc, GetChassisStatusReq(), START + 10).power_on
    ask(bmc, ChassisControlReq(ChassisControlAction.SOFT_SHUTDOWN), START + 20)
    assert ask(bmc, GetChassisStatusReq(), START + 20).power_on
    assert not ask(bmc, GetChassisStatusReq(), START + 30).power_on
    assert bmc.host.power_changes == 5
    boots = bmc.host.boots
    ask(bmc, ChassisControlReq(ChassisControlAction.POWER_UP), START + 31)
    ask(bmc, ChassisControlReq(ChassisControlAction.HARD_RESET), START + 40)
    assert bmc.host.boots == boots + 2


def test_a_healthy_bmc_wants_no_timer() -> None:
    bmc = sim_bmc()
    assert bmc.timer is None
    ask(bmc, armed(), START)
    assert bmc.timer is None
    ask(bmc, ResetWatchdogTimerReq(), START)
    assert bmc.timer == START + 60


# ---- what the host sees


def test_the_host_shows_a_hang_and_its_end() -> None:
    bmc = sim_bmc("boot:5")
    healthy = bmc.triage(START)
    assert healthy is not None
    assert healthy["symptoms"] == []
    assert healthy["kipmi"][0]["cpu_percent"] == 0
    assert healthy["hung_since"] is None
    bmc.set_faults(FaultSet.parse(["hang", "boot:5"]), START + 10)
    soon, late = bmc.triage(START + 11), bmc.triage(START + 110)
    assert soon is not None
    assert late is not None
    assert late["symptoms"] == ["kipmi-busy", "stuck-clients", "bmc-not-answering"]
    assert late["kipmi"][0]["cpu_percent"] == 100
    assert 1 == len(soon["stuck"]) < len(late["stuck"])
    assert late["hung_since"] == pytest.approx(START + 10 + bmc.epoch_offset_s)
    assert late["host_id"]["product_uuid"] == str(bmc.host.product_uuid)
    ask(bmc, ColdResetReq(), START + 120)
    booting = bmc.triage(START + 122)
    assert booting is not None
    assert "bmc-not-answering" in booting["symptoms"]
    after = bmc.triage(START + 130)
    assert after is not None
    assert (after["symptoms"], after["stuck"], after["hung_since"]) == ([], [], None)
    assert after["kipmi"][0]["cpu_percent"] == 0
    assert after["host_id"]["boot_id"] == healthy["host_id"]["boot_id"]


def test_the_host_shows_a_slow_bmc() -> None:
    bmc = sim_bmc("slow:2.5")
    seen = bmc.triage(START)
    assert seen is not None
    assert seen["symptoms"] == ["kipmi-busy", "bmc-slow"]
    assert seen["hung_since"] is None
