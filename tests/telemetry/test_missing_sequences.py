"""Which numbers of a device's messages are missing."""

from typing import Any

import pytest
from django.db import connection
from django.test import Client

from devices.models import Device
from telemetry.services.queries.missing_sequences import MissingSequences, SequenceCompleteness, find_missing_sequences


@pytest.fixture
def device(db: None, tenant_a: Any, enter: Any) -> Device:
    """Boot 7 lacks 1, 4 and 5, and 9; boot 8 is whole; boot 9 begins at 100; 0 is not a sequence number."""
    with enter(tenant_a), connection.cursor() as cursor:
        made = Device.objects.create(name="with gaps")
        cursor.execute(
            "INSERT INTO telemetry_devicesequence (device_id, boot, seen) VALUES"
            " (%(id)s, 7, '{[2,4),[6,9),[10,11)}'), (%(id)s, 8, '{[0,4)}'), (%(id)s, 9, '{[100,101)}')",
            {"id": made.pk},
        )
    return made


def test_the_gaps_of_each_boot_newest_first(device: Device, tenant_a: Any, enter: Any) -> None:
    with enter(tenant_a):
        found = find_missing_sequences([device.pk])
        assert find_missing_sequences([device.pk], limit=2) == found[:2]
    expected = [(9, 1, 99), (7, 9, 9), (7, 4, 5), (7, 1, 1)]
    assert found == [MissingSequences(device.pk, *gap) for gap in expected]
    assert [gap.count for gap in found] == [99, 1, 2, 1]


def test_how_many_should_be_there_and_how_many_are_missing(device: Device, tenant_a: Any, enter: Any) -> None:
    with enter(tenant_a):
        assert SequenceCompleteness.read(device) == SequenceCompleteness(expected=10 + 3 + 100, missing=4 + 99, boots=2)


def test_a_device_of_version_1_has_no_numbers_and_no_gaps(db: None, tenant_a: Any, enter: Any) -> None:
    with enter(tenant_a):
        device = Device.objects.create(name="of version 1")
        assert find_missing_sequences([device.pk]) == []
        assert SequenceCompleteness.read(device) == SequenceCompleteness(0, 0, 0)


def test_the_devices_page_shows_them(device: Device, tenant_a: Any, enter: Any, admin_of: Any) -> None:
    page = admin_of(tenant_a).get(f"/t/{tenant_a.slug}/admin/devices/device/{device.pk}/change/").content.decode()
    assert "103 of 113 numbered messages are missing" in page
    assert page.count("<tr>") >= 5


@pytest.fixture
def admin_of(db: None) -> Any:
    """A browser that is logged in as the owner of the tenant."""
    from tenants.models import User

    def make(tenant: Any) -> Client:
        client = Client()
        client.force_login(User.objects.get(username=f"owner-{tenant.slug}"))
        return client

    return make
