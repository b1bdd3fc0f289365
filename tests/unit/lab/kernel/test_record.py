"""The output of a run on a real kernel: its verdict, its JSON and its plot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from bmcmedic.cli.lab_kernel import ScenarioChoice, TimelinePrinter, print_verdict
from bmcmedic.errors import ConfigurationError
from bmcmedic.lab.kernel.plot import draw
from bmcmedic.lab.kernel.run import SCENARIOS
from bmcmedic.lab.kernel.scenario import ScenarioName, ScenarioRecord, ScenarioVerdict
from bmcmedic.lab.kernel.timeline import BmcSample, Timeline, TimelineEvent, TimelinePhase
from tests.unit.lab.kernel.test_timeline import sample

PNG = b"\x89PNG\r\n"


def record(*, ok: bool = True, name: ScenarioName = ScenarioName.PILE_UP) -> ScenarioRecord:
    timeline = Timeline(
        samples=[
            sample(float(at), at / 10, clients=at, stuck=at // 2, pats=[[at - 1.0, 0.5, 0]])
            for at in range(10, 30)
        ],
        bmc_samples=[
            BmcSample(float(at), "up" if at < 20 else "booting", 0.1, 0.0) for at in range(10, 30)
        ],
        events=[
            TimelineEvent(12.0, "it begins"),
            TimelineEvent(12.1, "and goes on"),
            TimelineEvent(25.0, "it ends"),
        ],
        phases=[TimelinePhase("hung", 12.0, 25.0)],
    )
    verdict = ScenarioVerdict()
    verdict.check("all is well", "it is", ok=True)
    verdict.check("kipmi0 rests", "12 %", ok=ok)
    return ScenarioRecord(name, timeline, verdict, "6.1.0", {"boots": 1}, {"state": "up"})


@pytest.mark.parametrize(("oldest_at", "ok"), [(None, True), (12.0, True), (9.9, False)])
def test_young_clients_at_work_are_not_those_of_the_hang(oldest_at: float | None, ok: bool) -> None:
    timeline = Timeline(samples=[sample(20.0, clients=3, stuck=1, oldest_at=oldest_at)])
    verdict = ScenarioVerdict()
    verdict.check_clients(timeline, healed_at=10.0)
    assert [each.ok for each in verdict.checks] == [ok]


def test_a_record_is_ok_when_every_check_is() -> None:
    assert record().ok
    assert not record(ok=False).ok
    nothing = ScenarioRecord(ScenarioName.FLOOD, Timeline(), ScenarioVerdict(), "", {}, {})
    assert not nothing.ok
    assert nothing.to_json()["clients"]["stuck_at_end"] is None


def test_the_json_has_the_numbers() -> None:
    printed: dict[str, Any] = record(ok=False).to_json()
    assert (printed["scenario"], printed["ok"]) == ("pile-up", False)
    assert printed["kipmi0_percent"] == {"hung": 10.0}
    assert printed["clients"] == {"started": 0, "stuck_max": 14, "stuck_at_end": 14}
    assert printed["pats"]["latency_max_s"] == 0.5
    assert printed["checks"][1] == {"check": "kipmi0 rests", "found": "12 %", "ok": False}
    assert printed["events"][0] == {"at_s": 2.0, "event": "it begins"}


def test_the_keys_are_documented() -> None:
    page = (Path(__file__).parents[4] / "docs" / "reference" / "lab.md").read_text(encoding="utf-8")
    missing = [key for key in record().to_json() if f"`{key}`" not in page]
    assert missing == []
    assert all(f"**`{name.value}`**" in page for name in ScenarioName)


@pytest.mark.parametrize("ok", [True, False])
def test_the_verdict_shows_the_failed_checks(ok: bool) -> None:
    out = io.StringIO()
    print_verdict(record(ok=ok), out)
    assert ("NOT  kipmi0 rests: 12 %" in out.getvalue()) is not ok
    assert ("ended as it should" in out.getvalue()) is ok


def test_the_timeline_has_a_line_for_each_sample() -> None:
    out = io.StringIO()
    line = TimelinePrinter(out)
    whole = record().timeline
    line.event(whole.events[0], whole)
    timeline = Timeline()
    for each in whole.samples[:2]:
        timeline.samples.append(each)
        line.sample(timeline)
    event, head, first, second = out.getvalue().splitlines()
    assert event.split(maxsplit=2) == ["2.0", "s", "it begins"]
    assert head.split()[0] == "kipmi0"
    assert first.split() == ["0.0", "s", "-", "10", "5", "500", "ms"]
    assert second.split() == ["1.0", "s", "10.0", "%", "11", "5", "500", "ms"]


@pytest.mark.parametrize("name", ScenarioName)
def test_each_scenario_can_be_chosen_and_drawn(name: ScenarioName, tmp_path: Path) -> None:
    assert ScenarioChoice(name.value).value == name.value
    scenario = SCENARIOS[name]
    assert scenario.description
    assert "ipmi_si" in scenario.host_spec().modules
    place = tmp_path / "run.png"
    draw(record(name=name), place)
    assert place.read_bytes().startswith(PNG)
    with pytest.raises(ConfigurationError, match="cannot write"):
        draw(record(name=name), tmp_path / "nowhere" / "run.png")
