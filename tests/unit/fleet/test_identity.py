"""Whether host and BMC belong together, by the ids that both report."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from bmcmedic.fleet.identity import check_identities, check_identity, identity_detail
from bmcmedic.model.heal import HostReport, IdentityCheck, Observation, Reach

UUID_TEXT = "00112233-4455-6677-8899-aabbccddeeff"
ANSWERED = Observation("bmc1", Reach.SESSION, system_guid=UUID(UUID_TEXT).bytes_le)
REPORT = HostReport(captured_at=0.0, symptoms=(), hostname="node7", product_uuid=UUID_TEXT)


@pytest.mark.parametrize(
    "guid",
    [UUID(UUID_TEXT).bytes, UUID(UUID_TEXT).bytes_le, UUID(UUID_TEXT).bytes[::-1]],
    ids=["text order", "SMBIOS order", "reversed"],
)
def test_an_identity_is_proven_in_every_order_of_bytes(guid: bytes) -> None:
    assert check_identity(replace(ANSWERED, system_guid=guid), REPORT) is IdentityCheck.PROVEN
    other = replace(REPORT, product_uuid=None, bmc_guid=UUID_TEXT)
    observed = replace(ANSWERED, system_guid=None, device_guid=guid)
    assert check_identity(observed, other) is IdentityCheck.PROVEN


def test_an_identity_that_cannot_be_compared_is_not_proven() -> None:
    other = replace(REPORT, product_uuid="ffffffff-0000-1111-2222-333333333333")
    assert check_identity(ANSWERED, None) is IdentityCheck.NOT_ASKED
    assert check_identity(ANSWERED, other) is IdentityCheck.MISMATCH
    assert check_identity(replace(ANSWERED, system_guid=None), REPORT) is IdentityCheck.NOT_PROVEN
    assert check_identity(ANSWERED, replace(REPORT, product_uuid=None)) is IdentityCheck.NOT_PROVEN
    assert (
        check_identity(ANSWERED, replace(REPORT, product_uuid="Not Settable"))
        is IdentityCheck.NOT_PROVEN
    )
    nil = "00000000-0000-0000-0000-000000000000"
    assert check_identity(ANSWERED, replace(REPORT, product_uuid=nil)) is IdentityCheck.NOT_PROVEN


def test_the_worst_of_several_reports_counts() -> None:
    other = replace(REPORT, product_uuid="ffffffff-0000-1111-2222-333333333333")
    unknown = replace(REPORT, product_uuid=None)
    assert check_identities(ANSWERED, ())[0] is IdentityCheck.NOT_ASKED
    assert check_identities(ANSWERED, (REPORT,))[0] is IdentityCheck.PROVEN
    assert check_identities(ANSWERED, (REPORT, unknown))[0] is IdentityCheck.NOT_PROVEN
    worst, detail = check_identities(ANSWERED, (REPORT, unknown, other))
    assert worst is IdentityCheck.MISMATCH
    assert detail == identity_detail(ANSWERED, other)


def test_the_detail_shows_the_ids_of_both_sides() -> None:
    detail = identity_detail(ANSWERED, REPORT)
    assert "host node7" in detail
    assert UUID_TEXT in detail
    assert UUID(UUID_TEXT).bytes_le.hex() in detail
    unknown = replace(ANSWERED, system_guid=None)
    assert identity_detail(unknown, REPORT).endswith("the BMC reports none")
    nameless = replace(REPORT, hostname=None, product_uuid=None)
    assert identity_detail(ANSWERED, nameless).startswith("host unnamed reports no id")
