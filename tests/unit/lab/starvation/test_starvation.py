from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bmcmedic.errors import ConfigurationError
from bmcmedic.lab.starvation.plot import draw
from bmcmedic.lab.starvation.run import simulate
from bmcmedic.lab.starvation.scenario import (
    PAT_WAIT_S_MAX,
    REQUESTS,
    SLICE_S,
    Design,
    Pretimeout,
    StarvationPat,
    StarvationRecord,
    StarvationScenario,
    Wait,
)
from bmcmedic.sim.handlers.table import HANDLERS
from bmcmedic.transport.port_io import PORT_IO_LIMITS

KEYS = ["design", "seed", "pats", "pat_latency_s", "false_pretimeouts", "longest_starvation_s"]


def record_of(*latencies_s: float) -> StarvationRecord:
    record = StarvationRecord(Design.DIRECT, StarvationScenario(7))
    record.pats += [StarvationPat(float(n), n + s, True) for n, s in enumerate(latencies_s)]
    return record


# ----------------------------------------------------------------------------- the scenario


@pytest.mark.parametrize("design", Design)
def test_the_same_seed_repeats_the_same_run(design: Design) -> None:
    scenario = StarvationScenario(3, load=3, duration_s=300.0)
    first, second = simulate(design, scenario), simulate(design, scenario)
    assert first == second
    assert len(first.pats) > 5
    assert simulate(design, StarvationScenario(4, load=3, duration_s=300.0)).pats != first.pats


def test_all_designs_see_the_same_bmc() -> None:
    records = [simulate(design, StarvationScenario(1), samples_bmc=True) for design in Design]
    away = [[round(at, 3) for span in record.bmc_away for at in span] for record in records]
    assert away[0] == away[1] == away[2] != []
    samples = records[0].bmc_samples
    assert min(sample.memory_free for sample in samples if sample.answer_s > 0) < 0.01
    assert any(math.isnan(sample.answer_s) for sample in samples)


def test_clients_ask_what_the_simulated_bmc_knows() -> None:
    assert {(request[0] >> 2, request[1]) for request in REQUESTS} <= set(HANDLERS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"load": -1},
        {"load": 1000},
        {"duration_s": 0.0},
        {"duration_s": math.inf},
        {"duration_s": math.nan},
        {"stop_driver_at": 500.0},
        {"hang_check_at": -1.0},
        {"hang_check_at": math.nan},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        StarvationScenario(1, **wrong)  # type: ignore[arg-type]


def test_the_bound_comes_from_the_limits_alone() -> None:
    assert PORT_IO_LIMITS.exchange_s + SLICE_S <= PAT_WAIT_S_MAX < PORT_IO_LIMITS.exchange_s + 1


# ------------------------------------------------------------------------------- the incident


def test_at_the_default_load_only_the_shipped_driver_spares_a_healthy_host() -> None:
    false = {design: simulate(design, StarvationScenario(1)).false_pretimeouts for design in Design}
    assert false[Design.DIRECT] >= 1
    assert false[Design.QUEUED] >= 1
    assert false[Design.PRIORITY] == 0


def test_at_a_load_of_one_client_half_of_the_cure_does_not_help_either() -> None:
    seeds = range(1, 21)
    false = {
        design: sum(
            simulate(design, StarvationScenario(seed, load=1)).false_pretimeouts for seed in seeds
        )
        for design in Design
    }
    assert false[Design.DIRECT] > 0
    assert false[Design.QUEUED] > 0
    assert false[Design.PRIORITY] == 0


def test_without_a_flood_no_pat_is_late_in_any_design() -> None:
    for design in Design:
        record = simulate(design, StarvationScenario(1, duration_s=20.0))
        assert record.false_pretimeouts == 0
        assert record.latencies_s()[-1] < 1.0


@pytest.mark.parametrize("design", Design)
@pytest.mark.parametrize("trouble", ["stop_driver_at", "hang_check_at"])
@pytest.mark.parametrize("seed", range(1, 6))
def test_the_pretimeout_can_fire(design: Design, trouble: str, seed: int) -> None:
    scenario = StarvationScenario(seed, duration_s=300.0, **{trouble: 18.0})  # type: ignore[arg-type]
    record = simulate(design, scenario)
    assert record.trouble_at is not None
    limit_s = scenario.watchdog().pretimeout_limit_s
    first = record.pretimeouts[0]
    assert not first.is_false
    assert 0 < first.at - record.trouble_at <= limit_s + 1.0


def test_a_stopped_driver_lets_the_bmcs_own_timer_run_out() -> None:
    record = simulate(Design.PRIORITY, StarvationScenario(1, duration_s=200.0, stop_driver_at=18.0))
    assert len(record.host_resets) == 1
    assert 18.0 < record.host_resets[0] <= 18.0 + record.scenario.watchdog().timeout_s


# --------------------------------------------------------------------------------- the result


def test_the_result_has_the_documented_keys() -> None:
    record = record_of(1.0, 2.0, 0.5)
    record.waits.append(Wait(5.0, 5.25))
    record.pretimeouts += [Pretimeout(1.0, is_false=True), Pretimeout(2.0, is_false=False)]
    facts = record.to_json()
    assert list(facts) == KEYS
    assert facts == {
        "design": "direct",
        "seed": 7,
        "pats": 3,
        "pat_latency_s": {"median": 1.0, "p99": 2.0, "max": 2.0},
        "false_pretimeouts": 1,
        "longest_starvation_s": 0.25,
    }
    assert json.loads(json.dumps(facts)) == facts


def test_quantiles_are_values_that_were_seen() -> None:
    record = record_of(*range(1, 201))
    assert record.to_json()["pat_latency_s"] == {"median": 100, "p99": 198, "max": 200}


def test_a_run_without_a_pat_has_no_latency() -> None:
    facts = record_of().to_json()
    assert facts["pat_latency_s"] == {"median": None, "p99": None, "max": None}
    assert facts["longest_starvation_s"] == 0


def test_a_pat_that_never_came_back_counts_up_to_the_end() -> None:
    record = record_of(1.0)
    record.pats.append(StarvationPat(400.0))
    record.waits.append(Wait(400.0))
    assert record.to_json()["pat_latency_s"]["max"] == 80.0
    assert record.longest_starvation_s == 80.0
    record.trouble_at = 420.0
    assert record.longest_starvation_s == 20.0
    record.trouble_at = 300.0
    assert record.to_json()["pat_latency_s"]["max"] == 1.0


# ---------------------------------------------------------------------------------- the picture


def test_the_plot_is_a_png_that_shows_each_design(tmp_path: Path) -> None:
    path = tmp_path / "starvation.png"
    scenario = StarvationScenario(1)
    draw([simulate(design, scenario, samples_bmc=True) for design in Design], path)
    whole = path.read_bytes()
    assert whole.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(whole[at : at + 4], "big") for at in (16, 20))
    assert width > 1000
    one = tmp_path / "one.png"
    draw([simulate(Design.DIRECT, scenario, samples_bmc=True)], one)
    assert int.from_bytes(one.read_bytes()[20:24], "big") < height


def test_a_plot_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    record = simulate(Design.DIRECT, StarvationScenario(1, duration_s=10.0), samples_bmc=True)
    with pytest.raises(ConfigurationError, match="cannot write"):
        draw([record], tmp_path / "no" / "such.png")
