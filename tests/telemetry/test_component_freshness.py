"""When a component is fresh, and how its newest reading is found."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_tenants.utils import schema_context

from devices.models import Component, Device
from devices.services.presence.freshness import component_reports, freshness_of
from telemetry.services.latest import values
from tests.api.client import T0
from tests.factories import add_readings, add_series, make_device


@pytest.mark.parametrize(
    ("age", "interval", "expected"),
    [
        (None, 60, "NEVER"),
        (0, 60, "FRESH"),
        (-300, 60, "FRESH"),  # a clock that is a little ahead
        (120, 60, "FRESH"),
        (120.000001, 60, "STALE"),
        (121, 61, "FRESH"),
        (3, 1, "STALE"),
    ],
)
def test_two_missed_reports_are_stale(age: float | None, interval: int, expected: str) -> None:
    assert freshness_of(None if age is None else T0 - timedelta(seconds=age), interval, T0) == expected


@pytest.fixture
def device(db: None, tenant_a: Any) -> Device:
    """With four components: two that report numbers, one that reports texts, one that never does."""
    device = make_device(tenant_a, one="dht22", two="dht22", relay="relay", pump="pump")
    one = add_series(tenant_a, device, "one", "temperature", "°C")
    add_readings(tenant_a, one, (T0 - timedelta(hours=1), 20), (T0 - timedelta(days=70), 19))
    add_readings(tenant_a, add_series(tenant_a, device, "one", "humidity", "%"), (T0, 40), (T0 - timedelta(hours=2), 1))
    # The reading of 90 days ago came last; it is as old as it says.
    add_readings(
        tenant_a, add_series(tenant_a, device, "two", "temperature", "°C"), (T0, 20), (T0 - timedelta(days=90), 18)
    )
    state = add_series(tenant_a, device, "relay", "state", "", "text")
    add_readings(tenant_a, state, (T0 - timedelta(hours=3), "OFF"), (T0 - timedelta(hours=1), "ON"))
    add_series(tenant_a, device, "pump", "state", "", "boolean")
    return device


def test_the_newest_reading_of_each_component(device: Device, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        found = values.component_reading_times([device.pk, make_device(tenant_a).pk])
    assert found == {
        (device.pk, "one"): T0,
        (device.pk, "two"): T0,
        (device.pk, "relay"): T0 - timedelta(hours=1),
    }


def test_each_component_is_judged_by_its_own_interval_else_its_types(device: Device, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        Component.objects.filter(device=device, key="two").update(expected_interval=10)
        components = {one.key: one for one in device.components.select_related("component_type")}
        with CaptureQueriesContext(connection) as captured:
            reports = component_reports(components.values(), T0 + timedelta(seconds=30))
    queries = [query for query in captured if not query["sql"].startswith("SET")]
    # Of the newest values that Redis has, the first two are enough.
    assert len(queries) <= 3, "the series, the table of their newest values, and the readings of those in neither"
    answers = {key: (reports[one.pk].freshness, reports[one.pk].interval) for key, one in components.items()}
    usual = components["one"].component_type.expected_interval
    assert answers["one"] == ("FRESH", usual)
    assert answers["two"] == ("STALE", 10)
    assert answers["relay"][0] == "STALE"
    assert answers["pump"] == ("NEVER", components["pump"].component_type.expected_interval)
    assert reports[components["two"].pk].last_reading_at == T0


def test_no_component_asks_nothing(django_assert_num_queries: Any, db: None) -> None:
    with django_assert_num_queries(0):
        assert component_reports([], T0) == {}
