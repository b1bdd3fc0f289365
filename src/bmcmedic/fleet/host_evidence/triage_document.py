"""Reads what the host saw: the JSON of `bmcmedic triage --json`, of any version.

The document comes from another machine, through a pipe or a file. So every value is checked before
it is used, and a refusal names the key and what was expected there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from bmcmedic.errors import ConfigurationError
from bmcmedic.host import symptoms
from bmcmedic.model.heal import HostReport, KipmiThread

REPORT_BYTES_MAX = 1 << 20
"""Longest report that is read, in bytes; with hundreds of stuck clients it has some 100 kB."""

_TEXT_CHARACTERS_MAX = 300
"""Longest text that a key of the report may have, in characters."""
_SHOWN_CHARACTERS_MAX = 40
"""Longest excerpt of a wrong value quoted in its refusal, in characters."""

KIPMI_AT_REST_PERCENT = 1.0
"""CPU share below which a `kipmi` thread counts as at rest, in percent of a core; idle it is 0."""

HUNG_SYMPTOMS = frozenset({symptoms.BMC_NOT_ANSWERING, symptoms.STUCK_CLIENTS})
"""Each of these symptoms says that the in-band side hangs."""

SLOW_SYMPTOMS = frozenset({symptoms.BMC_SLOW})
"""Each of these symptoms says that the in-band side answers, but ever more slowly."""

BUSY_SYMPTOMS = frozenset({symptoms.KIPMI_BUSY})
"""These symptoms accompany a hang and a slow BMC alike."""

UNDECIDED_KIND = "undecided"
"""The kind that triage reports if it could not judge."""

BMC_SYMPTOMS = HUNG_SYMPTOMS | SLOW_SYMPTOMS | BUSY_SYMPTOMS


def parse_host_report(raw: bytes, *, source: str) -> HostReport:
    """Read one triage document; raises a ConfigurationError that names `source` and the key."""
    if len(raw) > REPORT_BYTES_MAX:
        raise ConfigurationError(
            f"{source}: more than {REPORT_BYTES_MAX} bytes; that is not the output of"
            " `bmcmedic triage --json`"
        )
    if not raw.strip():
        raise ConfigurationError(
            f"{source}: empty; did the command that should have written it fail?"
        )
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{source}: not JSON ({_reason(error)}); expected the output of"
            " `bmcmedic triage --json`"
        ) from None
    return _Reader(source).report(document)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number too long"


class _Reader:
    """Checks one document key by key."""

    def __init__(self, source: str) -> None:
        self._source = source

    def report(self, document: object) -> HostReport:
        top = self._object(document, "the document")
        host = self._object(self._required(top, "host_id"), "host_id")
        names = self._list(self._required(top, "symptoms"), "symptoms")
        return HostReport(
            captured_at=self._number(self._required(top, "captured_at"), "captured_at"),
            symptoms=tuple(
                self._text(name, f"symptoms[{index}]") for index, name in enumerate(names)
            ),
            hostname=self._optional_text(host, "hostname", "host_id."),
            product_uuid=self._optional_text(host, "product_uuid", "host_id."),
            bmc_guid=self._optional_text(host, "bmc_guid", "host_id."),
            boot_id=self._optional_text(host, "boot_id", "host_id."),
            kipmi=tuple(
                self._kipmi(entry, f"kipmi[{index}]")
                for index, entry in enumerate(self._list(top.get("kipmi"), "kipmi"))
            ),
            stuck_clients=len(self._list(top.get("stuck"), "stuck")),
            hung_since=self._hung_since(top.get("hung_since")),
            undecided=self._undecided(top),
        )

    def _undecided(self, top: Mapping[str, Any]) -> tuple[str, ...]:
        blind = tuple(
            f"it could not see {self._text(what, f'blind[{index}]')}"
            for index, what in enumerate(self._list(top.get("blind"), "blind"))
        )
        diagnosis = self._object(top.get("diagnosis") or {}, "diagnosis")
        if blind or diagnosis.get("kind") != UNDECIDED_KIND:
            return blind
        return ("its kernel waits for the BMC, and it is not known yet whether the BMC hangs",)

    def _hung_since(self, value: object) -> float | None:
        return None if value is None else self._number(value, "hung_since")

    def _kipmi(self, entry: object, key: str) -> KipmiThread:
        thread = self._object(entry, key)
        return KipmiThread(
            name=self._text(thread.get("name", "kipmi"), f"{key}.name"),
            cpu_percent=self._number(thread.get("cpu_percent"), f"{key}.cpu_percent"),
        )

    def _required(self, where: Mapping[str, Any], key: str) -> object:
        if key not in where:
            raise ConfigurationError(
                f"{self._source}: the key {key!r} is missing; expected the output of"
                " `bmcmedic triage --json`"
            )
        return where[key]

    def _object(self, value: object, key: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return value

    def _list(self, value: object, key: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return value

    def _number(self, value: object, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number", value)
        # An int of a thousand digits is valid JSON, but neither a time nor a CPU share.
        if not -1e15 < value < 1e15 or not math.isfinite(value):
            raise self._wrong(key, "a number of a sensible size", value)
        return float(value)

    def _text(self, value: object, key: str) -> str:
        if not isinstance(value, str) or len(value) > _TEXT_CHARACTERS_MAX:
            raise self._wrong(key, f"a text of at most {_TEXT_CHARACTERS_MAX} characters", value)
        # It goes to a terminal and into a ticket, so it must not contain control characters.
        return "".join(c if c.isprintable() else "?" for c in value)

    def _optional_text(self, where: Mapping[str, Any], key: str, prefix: str) -> str | None:
        value = where.get(key)
        return None if value is None else self._text(value, prefix + key) or None

    def _wrong(self, key: str, wanted: str, value: object) -> ConfigurationError:
        shown = repr(value)
        if len(shown) > _SHOWN_CHARACTERS_MAX:
            shown = shown[:_SHOWN_CHARACTERS_MAX] + "…"
        return ConfigurationError(f"{self._source}: {key} is {shown}, expected {wanted}")


def are_left_over(report: HostReport) -> bool:
    """Whether stuck clients are the only symptom, and the kernel does not wait for the BMC."""
    only_stuck = set(report.symptoms) == {symptoms.STUCK_CLIENTS} and report.hung_since is None
    at_rest = report.kipmi_percent_max < KIPMI_AT_REST_PERCENT
    return only_stuck and bool(report.kipmi) and at_rest


def complaints(report: HostReport) -> tuple[str, ...]:
    """Return what shows a sick in-band side, in an operator's words; empty if it is at rest."""
    busy = [t for t in report.kipmi if t.cpu_percent >= KIPMI_AT_REST_PERCENT]
    lines = [f"the host's {t.name} burns {t.cpu_percent:g} % of a core" for t in busy]
    if report.stuck_clients:
        are = "client is" if report.stuck_clients == 1 else "clients are"
        lines.append(f"{report.stuck_clients} IPMI {are} stuck on the host")
    if report.hung_since is not None:
        hung_s = max(0.0, report.captured_at - report.hung_since)
        lines.append(f"the host has had no answer from its BMC for {hung_s:.0f} s")
    covered = {
        symptoms.KIPMI_BUSY: bool(busy),
        symptoms.STUCK_CLIENTS: report.stuck_clients > 0,
        symptoms.BMC_NOT_ANSWERING: report.hung_since is not None,
    }
    lines += [
        f"the host reports the symptom {name}"
        for name in report.symptoms
        if name in BMC_SYMPTOMS and not covered.get(name, False)
    ]
    lines += [f"the host could not be judged: {why}" for why in report.undecided]
    return tuple(lines)
