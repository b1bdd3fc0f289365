"""Run a scenario of `lab kernel`: the list of them all, and one run from its boot to its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.kernel import flood, guarded, pile_up, unarmed
from bmcmedic.lab.kernel.bench import NotSeen, RunProgress, bench
from bmcmedic.lab.kernel.scenario import (
    KernelScenario,
    ScenarioName,
    ScenarioRecord,
    ScenarioVerdict,
)

SCENARIOS: Final[Mapping[ScenarioName, KernelScenario]] = {
    ScenarioName.PILE_UP: pile_up.SCENARIO,
    ScenarioName.GUARDED: guarded.SCENARIO,
    ScenarioName.FLOOD: flood.SCENARIO,
    ScenarioName.UNARMED: unarmed.SCENARIO,
}


def run(name: ScenarioName, kernel: Kernel, telling: RunProgress) -> ScenarioRecord:
    """Play one.

    Raises: ConfigurationError when something that it needs is not here.
    """
    scenario = SCENARIOS[name]
    verdict = ScenarioVerdict()
    with bench(kernel, scenario.machine(), telling) as made:
        boot_id = made.guest.boot_ids[0]
        release = made.guest.run("uname -r", check=True).output.strip()
        try:
            scenario.play(made, verdict)
        except NotSeen as error:
            verdict.check("the scenario came to its end", str(error), ok=False)
        described = made.bmc.get()
        return ScenarioRecord(
            name,
            made.timeline,
            verdict,
            release,
            {
                "boots": made.guest.boots,
                "resets": made.guest.resets,
                "boot_id": boot_id,
                "panicked": "Kernel panic" in made.guest.console,
            },
            dict(_of_interest(described)),
        )


_OF_THE_BMC = (
    "state",
    "cold_resets",
    "own_watchdog_reboots",
    "host_boots",
    "host_power_changes",
    "memory_free_fraction",
)


def _of_interest(described: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in _OF_THE_BMC:
        yield key, described.get(key)
    yield "port80_writes", (described.get("port80") or {}).get("writes", 0)
    yield "watchdog_running", (described.get("watchdog") or {}).get("running")
