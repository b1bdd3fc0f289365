from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmcmedic.errors import ConfigurationError
from bmcmedic.fleet.host_evidence.triage_document import (
    REPORT_BYTES_MAX,
    complaints,
    parse_host_report,
)
from bmcmedic.model.heal import HostReport


def document(**changes: object) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "host_id": {
            "hostname": "node7",
            "product_uuid": "00112233-4455-6677-8899-aabbccddeeff",
            "bmc_guid": None,
            "boot_id": "b1",
        },
        "captured_at": 1000.5,
        "kipmi": [{"name": "kipmi0", "pid": 400, "cpu_percent": 99.5}],
        "stuck": [{"pid": 1, "argv": ["ipmitool", "mc", "info"], "age_s": 900}],
        "direct_openers": [],
        "guests": [],
        "symptoms": ["kipmi-busy", "stuck-clients"],
        "hung_since": 100,
        "blind": [],
        "diagnosis": {"kind": "hung"},
    }
    return whole | changes


def parse(value: object) -> HostReport:
    return parse_host_report(json.dumps(value).encode(), source="FILE")


def test_a_whole_report_is_read() -> None:
    report = parse(document())
    assert report.hostname == "node7"
    assert report.boot_id == "b1"
    assert report.captured_at == 1000.5
    assert report.stuck_clients == 1
    assert report.kipmi_percent_max == 99.5
    assert report.hung_since == 100.0
    assert complaints(report)


def test_optional_keys_may_be_absent() -> None:
    report = parse({"host_id": {}, "captured_at": 1, "symptoms": []})
    assert report.product_uuid is None
    assert not complaints(report)


def test_why_a_host_could_not_judge_is_read() -> None:
    assert parse(document(blind=[])).undecided == ()
    assert parse(document(blind=["this"])).undecided == ("it could not see this",)
    (why,) = parse(document(diagnosis={"kind": "undecided"})).undecided
    assert "it is not known yet" in why
    assert parse(document(diagnosis={"kind": "no-symptom"})).undecided == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blind": "all"}, "blind is 'all', expected a list"),
        ({"blind": [3]}, r"blind\[0\] is 3, expected a text"),
        ({"diagnosis": "well"}, "diagnosis is 'well', expected an object"),
        ({"captured_at": "yesterday"}, "captured_at is 'yesterday', expected a number"),
        ({"captured_at": True}, "captured_at is True, expected a number"),
        ({"captured_at": 10**400}, "captured_at is "),
        ({"symptoms": "kipmi-busy"}, "symptoms is 'kipmi-busy', expected a list"),
        ({"symptoms": [3]}, r"symptoms\[0\] is 3, expected a text"),
        ({"host_id": []}, r"host_id is \[\], expected an object"),
        ({"kipmi": [{"cpu_percent": None}]}, r"kipmi\[0\].cpu_percent is None"),
        ({"stuck": 3}, "stuck is 3, expected a list"),
        ({"host_id": {"boot_id": 5}}, "host_id.boot_id is 5, expected a text"),
    ],
)
def test_the_wrong_key_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^FILE: {message}"):
        parse(document(**changes))


@pytest.mark.parametrize("key", ["host_id", "captured_at", "symptoms"])
def test_a_missing_key_is_named(key: str) -> None:
    whole = document()
    del whole[key]
    with pytest.raises(ConfigurationError, match=f"the key '{key}' is missing"):
        parse(whole)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b"ssh: connect to host", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "the document is"),
        (b"NaN", "the document is"),
        (b" " * (REPORT_BYTES_MAX + 1), "more than"),
    ],
)
def test_a_document_that_is_not_a_report_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_host_report(raw, source="FILE")


def test_control_characters_in_a_report_are_replaced() -> None:
    report = parse(document(symptoms=["\x1b[2Jkipmi-busy"]))
    assert "\x1b" not in report.symptoms[0]


@given(st.binary(max_size=300))
def test_arbitrary_bytes_give_a_report_or_one_kind_of_error(raw: bytes) -> None:
    try:
        report = parse_host_report(raw, source="FILE")
    except ConfigurationError as error:
        assert str(error).startswith("FILE: ")  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(report, HostReport)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(document())), _JSON)
def test_any_value_under_any_key_gives_a_report_or_one_kind_of_error(
    key: str, value: object
) -> None:
    raw = json.dumps(document(**{key: value})).encode()
    try:
        report = parse_host_report(raw, source="FILE")
    except ConfigurationError as error:
        assert key in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(report, HostReport)


def test_complaints_name_each_fact_once() -> None:
    assert complaints(parse(document(symptoms=["kipmi-busy", "stuck-clients", "bmc-slow"]))) == (
        "the host's kipmi0 burns 99.5 % of a core",
        "1 IPMI client is stuck on the host",
        "the host has had no answer from its BMC for 900 s",
        "the host reports the symptom bmc-slow",
    )
