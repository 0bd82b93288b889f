"""The page of a component type's metric mapping."""

import json
from typing import Any

import pytest
from django_tenants.utils import schema_context

from devices.models import ComponentType, Metric, Unit
from tests.api.client import T0
from tests.factories import make_device, make_user

from .client import ADMIN, Pages, formset

EXAMPLE = json.dumps({"timestamp": 1, "AM2301": {"Temperature": 68, "Humidity": 40}, "TempUnit": "F", "POWER": "ON"})


@pytest.fixture
def kind(db: None, tenant_a: Any) -> Any:
    with schema_context(tenant_a.schema_name):
        return ComponentType.objects.create(key="raw", name="Raw")


def _address(kind: Any) -> str:
    return f"devices/componenttype/{kind.pk}/teach/"


def _rows(answer: Any) -> list[dict[str, Any]]:
    """What a browser would send back of the rows that are shown."""
    names = [*answer.context["taught"].rows.forms[0].fields]
    return [
        {name: value for name in names if (value := form[name].value()) not in (None, False)}
        for form in answer.context["taught"].rows.forms
    ]


def test_from_an_example_to_metrics(pages: Pages, tenant_a: Any, kind: Any) -> None:
    assert pages.get(_address(kind)).status_code == 200
    answer = pages.post(_address(kind), {"example": EXAMPLE})
    page = answer.content.decode()
    assert answer.context["taught"].readings == {"temperature": "20 °C", "humidity": "40 %", "power": "true"}
    assert "20 °C" in page

    rows = _rows(answer)
    rows[0] |= {"maximum": "10"}
    rows[2] = {name: value for name, value in rows[2].items() if name != "taken"}
    changed = pages.post(_address(kind), {"example": EXAMPLE, "preview": "1"} | formset("metrics", *rows, initial=3))
    assert "outside the valid range" in changed.context["taught"].refusal
    with schema_context(tenant_a.schema_name):
        assert not Metric.objects.filter(component_type=kind).exists(), "a preview changes nothing"

    rows[0] |= {"maximum": "80", "key": "temp"}
    done = pages.post(_address(kind), {"example": EXAMPLE, "accept": "1"} | formset("metrics", *rows, initial=3))
    assert done.status_code == 302, done.context["taught"].errors
    with schema_context(tenant_a.schema_name):
        found = {metric.key: metric for metric in Metric.objects.filter(component_type=kind)}
        assert set(found) == {"temp", "humidity"}
        assert (found["temp"].unit_path, found["temp"].maximum) == ("TempUnit", 80.0)
        assert found["temp"].unit == Unit.objects.get(symbol="°C")


def test_what_is_wrong_is_said_and_nothing_is_made(pages: Pages, tenant_a: Any, kind: Any) -> None:
    assert "not a valid message" in str(pages.post(_address(kind), {"example": "{"}).context["form"].errors)
    rows = _rows(pages.post(_address(kind), {"example": EXAMPLE}))
    rows[1]["key"] = rows[0]["key"]
    sent = {"example": EXAMPLE, "accept": "1"}
    answer = pages.post(_address(kind), sent | formset("metrics", *rows, initial=3))
    assert "already" in " ".join(answer.context["taught"].errors)
    rows[1]["key"] = "no key!"
    answer = pages.post(_address(kind), sent | formset("metrics", *rows, initial=3))
    assert answer.context["taught"].rows.forms[1].errors.keys() == {"key"}
    with schema_context(tenant_a.schema_name):
        assert not Metric.objects.filter(component_type=kind).exists()


def test_messages_that_were_received_are_offered(pages: Pages, tenant_a: Any, kind: Any) -> None:
    from telemetry.models import Message

    device = make_device(tenant_a, "north bed", x="raw")
    with schema_context(tenant_a.schema_name):
        Message.objects.create(
            device=device, time=T0, fingerprint="0" * 32, received_at=T0, topic=f"telemetry/alpha/{device.uuid}/x",
            payload=EXAMPLE.encode(), signature=1, key_version=1, late=False,
        )  # fmt: skip
    answer = pages.get(_address(kind))
    [choice] = answer.context["found"]
    assert choice["example"].message["POWER"] == "ON"
    assert "north bed" in answer.content.decode()
    assert pages.post(_address(kind), {"example": choice["text"]}).context["taught"].readings["temperature"] == "20 °C"


def test_administrators_alone_teach(tenant_a: Any, kind: Any) -> None:
    operator = Pages(ADMIN, make_user("an-operator", tenant_a, "operator"))
    assert operator.get(_address(kind)).status_code == 403
    assert operator.post(_address(kind), {"example": EXAMPLE}).status_code == 403
    assert (
        Pages(ADMIN, make_user("another-admin", tenant_a, "admin"))
        .get("devices/componenttype/99999/teach/")
        .status_code
        == 404
    )


def test_rows_do_not_cost_queries_of_their_own(pages: Pages, kind: Any, count_queries: Any) -> None:
    few = count_queries(lambda: pages.post(_address(kind), {"example": '{"a": 1}'}))
    many = count_queries(lambda: pages.post(_address(kind), {"example": json.dumps({f"a{i}": i for i in range(30)})}))
    assert many <= few + 1
