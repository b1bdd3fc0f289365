from __future__ import annotations

from typing import Any

import pytest

from bmcmedic.host.kernel.interface import InterfaceActivity
from bmcmedic.host.kernel.kipmid import Kipmi
from bmcmedic.host.output import duration
from bmcmedic.host.triage.diagnosis import (
    Facts,
    HostDiagnosis,
    HostDiagnosisKind,
    diagnose,
)
from bmcmedic.host.triage.guests import KvmGuest

NOW = 1_700_000_000.0


def interface(
    completed: int | None = None, hosed: int | None = None, queued: int | None = None
) -> InterfaceActivity:
    return InterfaceActivity("ipmi0", 1000, completed, 3, hosed, 2, queued, queued)


def seen(
    *,
    kipmi: float | None = 0.0,
    stuck: tuple[float, ...] = (),
    interval_s: float | None = 2.0,
    interfaces: list[InterfaceActivity] | None = None,
    **changes: Any,  # noqa: ANN401 - any other fact
) -> HostDiagnosis:
    facts = Facts(
        captured_at=NOW,
        interval_s=interval_s,
        kipmi=[Kipmi("kipmi0", 512, kipmi, 99.0)],
        interfaces=[interface(0)] if interfaces is None else interfaces,
        stuck_for_s=list(stuck),
        not_proven=0,
        load=1.0,
        cpus=64,
        guests=[],
        max_busy_us=None,
    )
    return diagnose(facts._replace(**changes))


def test_the_incident() -> None:
    diagnosis = seen(kipmi=100.0, stuck=(3600.0, 90.0), load=190.0)
    assert diagnosis.kind is HostDiagnosisKind.HUNG
    assert diagnosis.symptoms == ["kipmi-busy", "stuck-clients", "bmc-not-answering"]
    assert diagnosis.hung_since == NOW - 3600.0
    lines = "; ".join(diagnosis.rules_out)
    assert "not one transaction completed" in lines
    assert "it is one thread, and takes one core of 64 at most" in lines
    assert any("heal" in line for line in diagnosis.advice)


@pytest.mark.parametrize("share", [8.0, 12.0, 33.0, 100.0])
def test_a_hang_is_diagnosed_whatever_the_share_of_a_core(share: float) -> None:
    assert seen(kipmi=share, stuck=(90.0,)).kind is HostDiagnosisKind.HUNG


def test_a_throttled_kipmi_hides_no_hang() -> None:
    diagnosis = seen(kipmi=2.5, stuck=(90.0,), max_busy_us="100")
    assert diagnosis.kind is HostDiagnosisKind.HUNG
    assert "kipmi-busy" in diagnosis.symptoms
    assert "kipmi-busy" not in seen(kipmi=2.5, stuck=(90.0,)).symptoms


@pytest.mark.parametrize("share", [8.0, 60.0])
def test_busy_is_not_hung(share: float) -> None:
    diagnosis = seen(kipmi=share, interfaces=[interface(100)])
    assert diagnosis.kind is HostDiagnosisKind.BUSY
    assert diagnosis.symptoms == []
    assert diagnosis.hung_since is None
    assert diagnosis.rules_out == ["a hang: 100 transactions completed"]


def test_slow_is_not_dead() -> None:
    diagnosis = seen(kipmi=100.0, interfaces=[interface(2)])
    assert diagnosis.kind is HostDiagnosisKind.SLOW
    assert diagnosis.symptoms == ["kipmi-busy", "bmc-slow"]
    assert "1.0 s and more" in diagnosis.words
    assert diagnosis.hung_since is None


def test_a_slow_bmc_shows_by_a_queue_that_never_empties() -> None:
    assert (
        seen(kipmi=12.0, interfaces=[interface(3)], queued_share=1.0).kind is HostDiagnosisKind.SLOW
    )
    assert (
        seen(kipmi=12.0, interfaces=[interface(200)], queued_share=1.0).kind
        is HostDiagnosisKind.BUSY
    )


def test_a_message_that_is_seen_to_wait_by_chance_makes_no_bmc_slow() -> None:
    diagnosis = seen(kipmi=1.5, interfaces=[interface(3, queued=1)], queued_share=0.2)
    assert diagnosis.kind is HostDiagnosisKind.NO_SYMPTOM


def test_clients_that_an_earlier_hang_left_are_no_hang() -> None:
    for diagnosis in (
        seen(kipmi=3.0, stuck=(9000.0,), interfaces=[interface(50)]),
        seen(kipmi=0.0, stuck=(9000.0,), interfaces=[interface(0)]),
        seen(kipmi=None, stuck=(9000.0,), interfaces=[interface(0, queued=0)]),
    ):
        assert diagnosis.kind is HostDiagnosisKind.LEFT_OVER
        assert diagnosis.symptoms == ["stuck-clients"]
        assert diagnosis.hung_since is None
        assert any("relieve" in line for line in diagnosis.advice)


def test_too_short_an_interval_is_undecided() -> None:
    diagnosis = seen(kipmi=100.0)
    assert diagnosis.kind is HostDiagnosisKind.UNDECIDED
    assert diagnosis.symptoms == ["kipmi-busy"]
    assert any("--interval 10" in line for line in diagnosis.advice)
    longer = seen(kipmi=100.0, interval_s=10.0)
    assert longer.kind is HostDiagnosisKind.HUNG
    assert longer.hung_since == NOW - 10.0


def test_a_transaction_that_the_kernel_gave_up_is_a_hang() -> None:
    diagnosis = seen(kipmi=12.0, interfaces=[interface(0, hosed=1)])
    assert diagnosis.kind is HostDiagnosisKind.HUNG
    assert "ipmi0: the kernel gave up 1 in 2.0 s" in diagnosis.evidence


def test_stuck_clients_and_nothing_that_speaks_against_it_are_a_hang() -> None:
    for diagnosis in (
        seen(kipmi=None, stuck=(90.0,), interval_s=None, interfaces=[]),
        seen(kipmi=None, stuck=(90.0,), interfaces=[interface(queued=4)]),
        seen(stuck=(90.0,), interfaces=[interface(0, queued=4)]),
    ):
        assert diagnosis.kind is HostDiagnosisKind.HUNG
        assert "bmc-not-answering" in diagnosis.symptoms


def uncounted(**counts: int | None) -> InterfaceActivity:
    """Return an interface such as SSIF's, which counts nothing but `counts`."""
    nothing = dict.fromkeys(InterfaceActivity._fields[1:])
    return InterfaceActivity(**{"name": "ipmi0", **nothing, **counts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "interfaces",
    [
        [uncounted()],
        [uncounted(completed=7, completed_delta=0)],
        [uncounted(completed=7, completed_delta=0, hosed=2, hosed_delta=0)],
        [uncounted(), interface(0, queued=0)],
        [interface(0, queued=4)._replace(was_queued=0)],
    ],
)
def test_what_the_kernel_does_not_count_is_unknown(interfaces: list[InterfaceActivity]) -> None:
    diagnosis = seen(kipmi=None, stuck=(90.0,), interfaces=interfaces)
    assert diagnosis.kind is HostDiagnosisKind.UNDECIDED
    assert diagnosis.symptoms == ["stuck-clients"]
    assert diagnosis.hung_since is None
    assert "not known" in diagnosis.words
    assert not any("hang" in line or "busy" in line for line in diagnosis.rules_out)
    assert any("--interval 60" in line for line in diagnosis.advice)


def test_what_an_ssif_host_does_count_decides() -> None:
    answers = uncounted(completed=7, completed_delta=3)
    assert seen(kipmi=None, stuck=(90.0,), interfaces=[answers]).kind is HostDiagnosisKind.LEFT_OVER
    gave_up = uncounted(completed=7, completed_delta=0, hosed=2, hosed_delta=1)
    assert seen(kipmi=None, stuck=(90.0,), interfaces=[gave_up]).kind is HostDiagnosisKind.HUNG


@pytest.mark.parametrize("was_queued", [None, 0, 4])
@pytest.mark.parametrize("completed", [None, 0])
@pytest.mark.parametrize("kipmi", [None, 0.0])
def test_messages_without_an_answer_are_no_rest(
    kipmi: float | None, completed: int | None, was_queued: int | None
) -> None:
    waits = interface(completed, queued=4)._replace(was_queued=was_queued)
    diagnosis = seen(kipmi=kipmi, interfaces=[waits])
    assert diagnosis.kind is HostDiagnosisKind.UNDECIDED
    assert "nothing" not in diagnosis.words
    assert "ipmi0: 4 messages without an answer" in diagnosis.evidence


def test_an_ssif_host_at_rest_has_no_symptom() -> None:
    assert seen(kipmi=None, interfaces=[uncounted()]).kind is HostDiagnosisKind.NO_SYMPTOM


def test_without_counters_only_a_spinning_thread_is_a_symptom() -> None:
    assert seen(kipmi=100.0, interfaces=[interface()]).symptoms == ["kipmi-busy"]
    assert seen(kipmi=12.0, interfaces=[interface()]).symptoms == []


@pytest.mark.parametrize("interfaces", [[interface(0)], [interface(40)], [interface()], []])
def test_a_host_at_rest_has_no_symptom(interfaces: list[InterfaceActivity]) -> None:
    diagnosis = seen(interfaces=interfaces)
    assert diagnosis.kind is HostDiagnosisKind.NO_SYMPTOM
    assert diagnosis.symptoms == []


def test_a_host_without_an_interface_is_reported_as_such() -> None:
    diagnosis = diagnose(Facts(NOW, 2.0, [], [], [], 0, None, None, [], None))
    assert "No IPMI interface" in diagnosis.words


def no_interface(**changes: Any) -> HostDiagnosis:  # noqa: ANN401 - any other fact
    facts = Facts(NOW, 2.0, [], [], [90.0, 30.0], 0, None, None, [], None, sees_interface=False)
    return diagnose(facts._replace(**changes))


def test_clients_that_are_stuck_where_no_interface_is_say_nothing_of_the_bmc() -> None:
    diagnosis = no_interface()
    assert diagnosis.kind is HostDiagnosisKind.NO_INTERFACE
    assert diagnosis.symptoms == ["stuck-clients", "no-interface"]
    assert diagnosis.hung_since is None
    assert "whether the BMC answers is not known" in diagnosis.words
    assert not any("heal" in line for line in diagnosis.advice)
    assert any("relieve" in line for line in diagnosis.advice)
    assert diagnosis.rules_out == []


def test_an_interface_that_went_away_is_named() -> None:
    diagnosis = no_interface(gone_interfaces=["ipmi0"], stranded_for_s=[90.0])
    assert diagnosis.kind is HostDiagnosisKind.NO_INTERFACE
    assert "ipmi0 went away during triage" in diagnosis.evidence
    assert "1 client has a device open that is gone" in diagnosis.evidence


def test_a_client_whose_device_is_gone_waits_for_no_bmc() -> None:
    diagnosis = seen(
        kipmi=None, stuck=(90.0, 30.0), interfaces=[interface(queued=4)], stranded_for_s=[90.0]
    )
    assert (diagnosis.kind, diagnosis.hung_since) == (HostDiagnosisKind.HUNG, NOW - 30.0)
    diagnosis = seen(
        kipmi=None, stuck=(90.0, 30.0), interfaces=[interface()], stranded_for_s=[30.0, 90.0]
    )
    assert diagnosis.kind is HostDiagnosisKind.LEFT_OVER
    assert diagnosis.symptoms == ["stuck-clients"]
    assert "the device that they have open is gone" in diagnosis.words


def test_a_kernel_that_waits_for_the_bmc_is_seen_beside_clients_whose_device_is_gone() -> None:
    diagnosis = seen(kipmi=100.0, stuck=(90.0,), interval_s=10.0, stranded_for_s=[90.0])
    assert (diagnosis.kind, diagnosis.hung_since) == (HostDiagnosisKind.HUNG, NOW - 10.0)
    assert (
        seen(kipmi=100.0, stuck=(90.0,), stranded_for_s=[90.0]).kind is HostDiagnosisKind.UNDECIDED
    )


@pytest.mark.parametrize("completed", [0, 500, None])
def test_a_blind_triage_calls_nothing_well(completed: int | None) -> None:
    diagnosis = seen(interfaces=[interface(completed)], blind=["whether 3 IPMI clients hang (why)"])
    assert diagnosis.kind is HostDiagnosisKind.UNDECIDED
    assert diagnosis.symptoms == []
    assert "cannot be judged" in diagnosis.words
    assert "not seen: whether 3 IPMI clients hang (why)" in diagnosis.evidence
    assert diagnosis.advice == ["run it as root, which sees everything"]


def test_what_is_seen_counts_though_not_all_is() -> None:
    diagnosis = seen(kipmi=100.0, stuck=(90.0,), blind=["something"])
    assert diagnosis.kind is HostDiagnosisKind.HUNG
    assert "not seen: something" in diagnosis.evidence


def test_guests_that_wait_are_reported() -> None:
    guests = [KvmGuest("a", 1, 4, 100.0, 40.0), KvmGuest("b", 2, 4, 100.0, 0.1)]
    assert "1 of 2 guests wait for a CPU" in seen(guests=guests).evidence


def test_clients_that_could_not_be_read_are_reported() -> None:
    assert "3 clients could not be read" in seen(not_proven=3).advice[0]
    assert "--interval 17" in seen(unwatched=3, blind=["whether 3 hang"]).advice[0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (0.5, "0.5 s"),
        (59.9, "59 s"),
        (90.0, "90 s"),
        (150.0, "2 min 30 s"),
        (3600.0, "1 h 0 min"),
        (90_061.0, "1 d 1 h"),
    ],
)
def test_durations_are_written_in_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
