"""The figures that are computed from a run on a real kernel."""

from __future__ import annotations

import json

import pytest

from bmcmedic.lab.kernel.timeline import (
    KernelPat,
    Sample,
    Timeline,
    highest_percent,
    kipmi_percent,
    lowest_percent,
    median_percent,
    pat_facts,
    percent,
    seconds,
)


def sample(at: float, kipmi_s: float | None = 0.0, **more: object) -> Sample:
    fields: dict[str, object] = {
        "at": at,
        "kipmi_s": kipmi_s,
        "idle_s": 0.0,
        "clients": 0,
        "stuck": 0,
        "oldest_at": None,
        "started": 0,
        "pats": [],
        "waiting_s": None,
        "completed": None,
        "hosed": None,
        "throttle": None,
        **more,
    }
    return Sample.from_json(json.dumps(fields).encode())


def test_a_sample_is_what_the_guest_wrote() -> None:
    seen = sample(3.5, 0.25, pats=[[1.0, 0.5, 128.0]], stuck=2)
    assert (seen.at, seen.kipmi_s, seen.stuck) == (3.5, 0.25, 2)
    assert seen.pats == (KernelPat(1.0, 0.5, 0x80),)
    with pytest.raises(TypeError):
        Sample.from_json(b'{"at": 1, "pats": []}')


def test_shares_are_of_the_guests_own_clock() -> None:
    # Idle for 5 s, a whole core for 5 s, idle again.
    seen = [sample(float(at), float(min(max(at - 5, 0), 5))) for at in range(16)]
    assert kipmi_percent(seen) == pytest.approx(100 * 5 / 15)
    assert highest_percent(seen, 5.0) == pytest.approx(100)
    assert lowest_percent(seen, 5.0) == 0
    assert highest_percent(seen, 10.0) == pytest.approx(50)
    assert highest_percent(seen[:3], 5.0) is None
    assert kipmi_percent(seen[:1]) is None
    assert kipmi_percent([sample(0, None), sample(1, None)]) is None


def test_the_median_share_is_not_that_of_one_sample() -> None:
    # 2 % a second, and once 90 %.
    shares = [0.0, 0.02, 0.04, 0.94, 0.96, 0.98]
    seen = [sample(float(at), kipmi_s) for at, kipmi_s in enumerate(shares)]
    assert median_percent(seen) == pytest.approx(2)
    assert median_percent(seen[:1]) is None
    assert median_percent([sample(0, None), sample(1, None)]) is None


def test_a_window_is_never_shorter_than_asked_for() -> None:
    # Late samples: the only window of at least 5 s is the whole run.
    seen = [sample(0.0, 0.0), sample(1.5, 1.0), sample(6.0, 1.0)]
    assert highest_percent(seen, 5.0) == pytest.approx(100 / 6)


def test_a_part_of_the_run_has_its_own_share_and_pats() -> None:
    timeline = Timeline(
        [
            sample(0.0, 0.0, pats=[[0.0, 0.1, 0]]),
            sample(1.0, 0.0),
            sample(2.0, 0.5),
            sample(3.0, 1.0, pats=[[1.5, 1.2, 0x80]]),
        ]
    )
    assert (timeline.began_at, timeline.now) == (0.0, 3.0)
    assert timeline.kipmi_percent(1.0) == pytest.approx(50)
    assert timeline.kipmi_percent(0.0, 1.0) == 0
    assert [pat.due_at for pat in timeline.pats()] == [0.0, 1.5]
    assert [pat.due_at for pat in timeline.pats(1.0)] == [1.5]
    assert pat_facts(timeline.pats()) == {
        "answered": 2,
        "refused": 1,
        "latency_median_s": 1.2,
        "latency_max_s": 1.2,
    }
    assert pat_facts([])["latency_max_s"] is None


def test_a_pat_that_was_never_answered_is_not_forgotten() -> None:
    timeline = Timeline(
        [
            sample(2.0, waiting_s=0.5),
            sample(3.0, waiting_s=1.5, pats=[]),
            sample(4.0, pats=[[1.5, 2.4, 0]]),
            sample(6.0, waiting_s=0.1),
            sample(9.0, waiting_s=3.1),
            sample(10.0),
        ]
    )
    ((since, waited_s),) = timeline.unanswered()
    assert since == pytest.approx(5.9)
    assert waited_s == pytest.approx(3.1)


def test_figures_are_formatted_for_people() -> None:
    assert [percent(None), percent(12.34)] == ["unknown", "12.3 %"]
    assert [seconds(None), seconds(0.0123), seconds(12.34)] == ["-", "12 ms", "12.3 s"]
