"""What the watchdog refuses before it arms anything, and the numbers that it names."""

from __future__ import annotations

from typing import Any

import pytest

from bmcmedic.driver.watchdog.settings import (
    CheckSettings,
    ShutdownKind,
    ShutdownPolicy,
    WatchdogSettings,
)
from bmcmedic.errors import ConfigurationError
from bmcmedic.ipmi.commands.watchdog import PretimeoutInterrupt, TimeoutAction
from bmcmedic.service.settings_conflicts import ConflictingSettings

PORT_IO_S = 10.0
DEV_IPMI_S = 56.0
NMI = PretimeoutInterrupt.NMI


@pytest.mark.parametrize("exchange_s_max", [0.1, PORT_IO_S, DEV_IPMI_S, 120.0, 400.0])
@pytest.mark.parametrize("interrupt", list(PretimeoutInterrupt))
def test_the_defaults_fit_every_interface(
    exchange_s_max: float, interrupt: PretimeoutInterrupt
) -> None:
    settings = WatchdogSettings.for_interface(
        exchange_s_max,
        pretimeout_interrupt=interrupt,
        check=CheckSettings(("/bin/true",)),
    )
    assert settings.timeout_s >= 120.0
    assert settings.pat_period_s + exchange_s_max < settings.timeout_s - settings.pretimeout_s
    assert settings.pretimeout_limit_s < settings.timeout_s


def test_the_defaults_on_the_kernels_device() -> None:
    settings = WatchdogSettings.for_interface(DEV_IPMI_S)
    assert (settings.timeout_s, settings.pat_period_s) == (120.0, 15.0)
    assert settings.pretimeout_limit_s == 60.0
    assert settings.pretimeout_s == 0


def test_a_warning_comes_a_quarter_before_the_end_unless_it_is_set() -> None:
    settings = WatchdogSettings.for_interface(PORT_IO_S, timeout_s=120.0, pretimeout_interrupt=NMI)
    assert settings.pretimeout_s == 30
    assert settings.set_request.encode() == bytes.fromhex("44 21 1e 00 b0 04")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"timeout_s": 6553.6}, r"at most 6553\.5 s.*6553\.6 s"),
        ({"timeout_s": 0.0}, r"above 0"),
        ({"timeout_s": float("nan")}, r"nan"),
        ({"timeout_s": float("inf")}, r"inf"),
        ({"timeout_s": 100.0, "pretimeout_s": 100, "pretimeout_interrupt": NMI}, "100 s is not be"),
        ({"timeout_s": 600.0, "pretimeout_s": 256, "pretimeout_interrupt": NMI}, "0 to 255 s: 256"),
        ({"timeout_s": 600.0, "pretimeout_s": 1.5, "pretimeout_interrupt": NMI}, "whole.*: 1.5 s"),
        ({"pretimeout_s": -1, "pretimeout_interrupt": NMI}, "-1 s"),
        ({"pretimeout_s": 10}, "10 s without a pretimeout interrupt warns nobody"),
        (
            {"timeout_s": 17.0, "pat_period_s": 2.5},
            r"time-out of 17 s is too short.*10 s here.*make the time-out 18 s",
        ),
        (
            {"timeout_s": 40.0, "pretimeout_s": 30, "pretimeout_interrupt": NMI},
            r"time-out of 40 s less a pretimeout of 30 s is too short.* make the time-out 50 s",
        ),
        ({"pat_period_s": 0.0}, "pats every 0 s"),
        ({"timeout_s": 120.0, "pat_period_s": 120.0}, "pats every 120 s"),
        ({"pretimeout_limit_s": 15.5}, r"after 15.5 s.*every 15 s that is 16 s or more"),
        ({"pretimeout_limit_s": 120.0}, "below the watchdog time-out of 120 s"),
        (
            {"pretimeout_limit_s": 20.0, "check": CheckSettings(("/bin/true",), 10.0, 5.0)},
            "take 5 s and pats every 15 s need a software pretimeout of 21 s or more, not 20 s",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_its_numbers(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        WatchdogSettings.for_interface(PORT_IO_S, **given)


def test_all_that_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(ConflictingSettings) as caught:
        WatchdogSettings.for_interface(
            PORT_IO_S,
            timeout_s=5.0,
            pat_period_s=100.0,
            pretimeout_s=200.5,
            shutdown=ShutdownPolicy.parse("rearm:1"),
        )
    assert [each.names[0] for each in caught.value.conflicts] == [
        *("pretimeout_s", "timeout_s", "shutdown", "pretimeout_s", "pretimeout_s", "pat_period_s")
    ]


def test_the_time_that_a_refusal_names_is_enough() -> None:
    WatchdogSettings.for_interface(PORT_IO_S, timeout_s=18.0, pat_period_s=2.5)


def test_looks_are_counted_from_one() -> None:
    with pytest.raises(ConfigurationError, match="n from 1: 0"):
        WatchdogSettings(verify_every_pats=0)


@pytest.mark.parametrize("argv", [(), ("true",), ("./check",)])
def test_a_check_is_named_by_its_whole_path(argv: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="absolute path"):
        CheckSettings(argv)


@pytest.mark.parametrize("times", [(0.0, 5.0), (10.0, 0.0), (10.0, float("inf"))])
def test_a_check_has_times(times: tuple[float, float]) -> None:
    with pytest.raises(ConfigurationError, match="above 0 s"):
        CheckSettings(("/bin/true",), *times)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("disarm", ShutdownPolicy(ShutdownKind.DISARM)),
        ("keep", ShutdownPolicy(ShutdownKind.KEEP)),
        ("rearm:600", ShutdownPolicy(ShutdownKind.REARM, 600.0)),
    ],
)
def test_shutdown_policies(text: str, policy: ShutdownPolicy) -> None:
    assert ShutdownPolicy.parse(text) == policy


@pytest.mark.parametrize("text", ["", "rearm", "rearm:", "rearm:x", "disarm:5", "Keep"])
def test_other_words_are_no_policy(text: str) -> None:
    with pytest.raises(ConfigurationError, match="disarm, keep or rearm:SECONDS, not"):
        ShutdownPolicy.parse(text)


@pytest.mark.parametrize("text", ["rearm:0", "rearm:-5", "rearm:6553.6", "rearm:nan"])
def test_a_countdown_after_shutdown_fits_into_the_timer(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"above 0 and at most 6553\.5 s"):
        ShutdownPolicy.parse(text)


def test_what_is_left_running_for_a_shutdown_does_something() -> None:
    policy = ShutdownPolicy.parse("rearm:300")
    warned = WatchdogSettings(
        timeout_s=120.0,
        action=TimeoutAction.NONE,
        pretimeout_s=30,
        pretimeout_interrupt=NMI,
        shutdown=policy,
    )
    assert warned.rearm_request.action is TimeoutAction.POWER_CYCLE
    assert warned.rearm_request.pretimeout_interval_s == 0
    assert WatchdogSettings(shutdown=policy).rearm_request.action is TimeoutAction.HARD_RESET


def test_a_shutdown_never_shortens_the_timer() -> None:
    with pytest.raises(
        ConfigurationError, match=r"1 s, less than its time-out of 180 s; give rearm:180"
    ):
        WatchdogSettings.for_interface(
            PORT_IO_S, timeout_s=180.0, shutdown=ShutdownPolicy.parse("rearm:1")
        )
    settings = WatchdogSettings.for_interface(
        PORT_IO_S, timeout_s=180.0, shutdown=ShutdownPolicy.parse("rearm:600")
    )
    assert settings.rearm_request.initial_countdown_s == 600.0
    assert settings.lengthened(3600.0).rearm_request.initial_countdown_s == 3600.0
