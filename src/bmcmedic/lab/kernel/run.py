"""Run a scenario of `lab kernel`: the list of them all, and one run from its boot to its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from bmcmedic.lab.guest.kernel_files import Kernel
from bmcmedic.lab.kernel import flood, guarded, pile_up, unarmed
from bmcmedic.lab.kernel.lab_host import NotSeen, RunProgress, lab_host
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


def run(name: ScenarioName, kernel: Kernel, progress: RunProgress) -> ScenarioRecord:
    """Run one scenario from the boot of its host to its record.

    Raises: ConfigurationError when a program that it needs is not installed.
    """
    scenario = SCENARIOS[name]
    verdict = ScenarioVerdict()
    with lab_host(kernel, scenario.host_spec(), progress) as host:
        boot_id = host.guest.boot_ids[0]
        release = host.guest.run("uname -r", check=True).output.strip()
        try:
            scenario.play(host, verdict)
        except NotSeen as error:
            verdict.check("the scenario came to its end", str(error), ok=False)
        described = host.bmc.get()
        return ScenarioRecord(
            name,
            host.timeline,
            verdict,
            release,
            {
                "boots": host.guest.boots,
                "resets": host.guest.resets,
                "boot_id": boot_id,
                "panicked": "Kernel panic" in host.guest.console,
            },
            dict(_recorded_of_bmc(described)),
        )


_RECORDED_OF_BMC = (
    "state",
    "cold_resets",
    "own_watchdog_reboots",
    "host_boots",
    "host_power_changes",
    "memory_free_fraction",
)


def _recorded_of_bmc(described: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in _RECORDED_OF_BMC:
        yield key, described.get(key)
    yield "port80_writes", (described.get("port80") or {}).get("writes", 0)
    yield "watchdog_running", (described.get("watchdog") or {}).get("running")
