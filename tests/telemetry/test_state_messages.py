"""The flat message of a device's state."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django_tenants.utils import schema_context

from tests.factories import add_readings, add_series, make_device

AT = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)


def state_update(**values: Any) -> Any:
    from devices.services.notifications.outbox import StateUpdate

    usual: dict[str, Any] = {
        "device_id": 1,
        "status": "ONLINE",
        "cause": "telemetry",
        "flapping": False,
        "recorded_at": AT,
    }
    return StateUpdate(**{**usual, "uuid": uuid4(), **values})


def latest(component: str, metric: str, value: Any, unit: str = "") -> Any:
    from telemetry.services.queries.readings import LatestValue

    return LatestValue(component, metric, value, unit, "number", AT)


def flat(*values: Any, **state: Any) -> dict[str, Any]:
    from telemetry.services.notifier.state_messages import flat_state

    return flat_state(state_update(**state), AT, values)


def test_the_message_is_flat() -> None:
    assert flat(latest("dht22", "temperature", 25.5, "°C"), latest("relay", "state", True)) == {
        "device_status": "ONLINE",
        "status_reason": "telemetry",
        "last_seen_at": "2026-11-22T09:30:00Z",
        "temperature": 25.5,
        "state": True,
        "units": {"temperature": "°C"},
    }


def test_a_metric_of_two_components_is_the_first_ones_and_each_ones_own() -> None:
    message = flat(
        latest("b", "temperature", 1.0, "°C"), latest("b", "humidity", 40.0, "%"), latest("a", "temperature", 2.0, "K")
    )
    assert {name: value for name, value in message.items() if "." in name or "temp" in name} == {
        "temperature": 1.0,
        "b.temperature": 1.0,
        "a.temperature": 2.0,
    }
    assert message["units"] == {"temperature": "°C", "b.temperature": "°C", "a.temperature": "K", "humidity": "%"}


@pytest.mark.parametrize("name", ["device_status", "status_reason", "last_seen_at", "units", "flapping"])
def test_a_metric_never_hides_the_messages_own_members(name: str) -> None:
    message = flat(latest("odd", name, 1.0))
    assert message[f"odd.{name}"] == 1.0
    assert message.get(name) != 1.0
    assert message["device_status"] == "ONLINE"


def test_a_device_that_flaps_says_so() -> None:
    assert flat(flapping=True)["flapping"] is True
    assert "flapping" not in flat()


def test_a_device_that_was_never_seen_has_no_time() -> None:
    from telemetry.services.notifier.state_messages import flat_state

    assert flat_state(state_update(), None, [])["last_seen_at"] is None


def test_values_are_those_of_attached_components_in_the_order_of_attachment(db: None, tenant_a: Any) -> None:
    from devices.models import Component
    from telemetry.services.notifier.state_messages import state_payloads

    device = make_device(tenant_a, z="dht22", a="dht22", gone="dht22")
    other = make_device(tenant_a, z="dht22")
    for key, value in (("z", 1), ("a", 2), ("gone", 3)):
        series = add_series(tenant_a, device, key, "temperature", "°C")
        add_readings(tenant_a, series, (AT, value - 10), (AT + timedelta(seconds=1), value))
    add_readings(tenant_a, add_series(tenant_a, other, "z", "temperature", "°C"), (AT, 99))
    with schema_context(tenant_a.schema_name):
        Component.objects.filter(device=device, key="gone").update(attached=False)
        states = [
            state_update(device_id=device.pk, uuid=device.uuid),
            state_update(device_id=other.pk, uuid=other.uuid),
        ]
        first, second = (json.loads(payload) for payload in state_payloads(states))
    assert {name: value for name, value in first.items() if "temp" in name} == {
        "temperature": 1.0,
        "z.temperature": 1.0,
        "a.temperature": 2.0,
    }
    assert {name: value for name, value in second.items() if "temp" in name} == {"temperature": 99.0}


def test_many_states_cost_as_many_queries_as_one(db: None, tenant_a: Any) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from telemetry.services.notifier.state_messages import state_payloads

    with schema_context(tenant_a.schema_name), CaptureQueriesContext(connection) as captured:
        assert len(state_payloads([state_update(device_id=number) for number in range(50)])) == 50
    assert len([query for query in captured if not query["sql"].startswith("SET search_path")]) == 2
