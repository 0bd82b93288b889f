"""Names with blanks at their ends, and metrics that find nothing: ingest, metadata, queries and the mapping agree."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django_tenants.utils import schema_context

from tests.api.client import Api, problems
from tests.factories import issue_key
from tests.payloads import topic, v1

from .test_hardware_contract import readings, settle


@pytest.fixture
def api(live_db: None, tenant_a: Any, settings: Any) -> Api:
    settings.API_REQUESTS_PER_MINUTE = 0
    return Api(tenant_a.slug, key=issue_key(tenant_a))


@pytest.fixture
def kind(live_db: None, tenant_a: Any) -> Iterator[Any]:
    from devices.models import Component, ComponentType

    with schema_context(tenant_a.schema_name):
        made = ComponentType.objects.create(key=f"named{datetime.now(UTC).timestamp():.6f}", name="named")
    yield made
    with schema_context(tenant_a.schema_name):
        Component.objects.filter(component_type=made).delete()
        made.delete()


BLANK = ["Temp ", " lead", "  both  ", "tab\t", "in side"]


@pytest.mark.parametrize("name", BLANK)
def test_a_name_with_blanks_is_the_same_everywhere(
    register: Callable[..., Any], send: Callable[..., Any], ingest: Any, api: Api, kind: Any, name: str
) -> None:
    device = register(components={"x": kind.key}, hardware_model=None)
    send((topic(device, "x"), v1(device, {name: 1.5}, ago=60)))
    series_name = next(metric for metric, _value in readings(device))
    asked = {"device": device.uuid, "component": "x", "metric": series_name}
    found = api.get("readings/", **asked)
    assert found.status_code == 200, found.content
    assert [row["value"] for row in found.json()["results"]] == [1.5]
    lines = api.get("readings/export/", format="csv", **asked)
    assert lines.status_code == 200
    assert b",1.5," in lines.getvalue()
    assert [row["metric"] for row in api.get("latest/", **asked).json()["results"]] == [series_name]

    made = api.post("metrics/", {"component_type": kind.key, "key": "m", "path": f"/value/{name}"})
    assert made.status_code == 201, made.content
    assert made.json()["path"] == f"/value/{name}"
    address = f"metrics/{made.json()['id']}/"
    assert api.patch(address, {"path": f"value.{name}"}).json()["path"] == f"value.{name}"
    settle(ingest)
    send((topic(device, "x"), v1(device, {name: 2.5})))
    assert ("m", 2.5) in readings(device)


def test_an_unknown_name_is_answered_with_names_whose_blanks_are_seen(
    register: Callable[..., Any], send: Callable[..., Any], api: Api, kind: Any
) -> None:
    device = register(components={"x": kind.key}, hardware_model=None)
    send((topic(device, "x"), v1(device, {"Temp ": 1.5})))
    answer = api.get("readings/", device=device.uuid, component="x", metric="value.Temp")
    assert answer.status_code == 404
    assert "has no metric 'value.Temp'. It has: 'value.Temp '." in " ".join(map(str, problems(answer).values()))


def _metrics(tenant: Any, kind: Any, *paths: str) -> None:
    from devices.models import Metric

    with schema_context(tenant.schema_name):
        for number, path in enumerate(paths):
            Metric.objects.create(component_type=kind, key=f"m{number}", path=path)


def _unmatched(api: Api, kind: Any) -> tuple[int, dict[str, list[str]]]:
    answer = api.get(f"component-types/{kind.pk}/metric-mapping/unmatched/")
    assert answer.status_code == 200, answer.content
    found = answer.json()
    return found["messages"], {one["path"]: one["near"] for one in found["metrics"]}


def test_metrics_that_find_nothing_are_named_with_what_they_may_mean(
    register: Callable[..., Any], send: Callable[..., Any], api: Api, kind: Any, tenant_a: Any
) -> None:
    _metrics(
        tenant_a, kind, "Value.Temp", "value.hum", "humidty", "value.probes.1.t", "value.lead", "battery", "value.none",
        "value.bad", "xyz",
    )  # fmt: skip
    assert _unmatched(api, kind) == (0, {}), "nothing is known without a message"
    device = register(components={"x": kind.key}, hardware_model=None)
    values = {
        "temp": 21.5, "hum": 40, "humidity": 44, "probes": [{"t": 1}], " lead": 1, "sys": {"battery": 3.1},
        "none": None, "bad": "text",
    }  # fmt: skip
    send((topic(device, "x"), v1(device, values)))
    count, found = _unmatched(api, kind)
    assert count == 1
    assert found == {
        "Value.Temp": ["value.temp"],
        "humidty": ["value.humidity"],
        "value.probes.1.t": ["value.probes.0.t"],
        "value.lead": ["value. lead"],
        "battery": ["value.sys.battery"],
        "xyz": [],
    }


def test_one_message_of_another_component_or_time_is_enough(
    register: Callable[..., Any], send: Callable[..., Any], api: Api, kind: Any, tenant_a: Any
) -> None:
    _metrics(tenant_a, kind, "value.rare", "value.often")
    one, other = (register(components={"x": kind.key}, hardware_model=None) for _ in range(2))
    for ago in range(5):
        send((topic(one, "x"), v1(one, {"often": ago}, ago=10 + ago)))
    assert _unmatched(api, kind) == (5, {"value.rare": []})
    send((topic(other, "x"), v1(other, {"rare": 1})))
    assert _unmatched(api, kind) == (6, {})


def test_messages_of_other_types_and_tenants_do_not_count(
    register: Callable[..., Any], send: Callable[..., Any], api: Api, kind: Any, tenant_a: Any, tenant_b: Any
) -> None:
    _metrics(tenant_a, kind, "value.temp")
    device = register(components={"x": kind.key, "relay": "relay"}, hardware_model=None)
    stranger = register(tenant=tenant_b, components={"x": "relay"}, hardware_model=None)
    send((topic(device, "relay"), v1(device, {"temp": 1})), (topic(stranger, "x"), v1(stranger, {"temp": 1})))
    assert _unmatched(api, kind) == (0, {})
    assert api.get("component-types/999999/metric-mapping/unmatched/").status_code == 404


def test_the_page_shows_them(register: Callable[..., Any], send: Callable[..., Any], kind: Any, tenant_a: Any) -> None:
    from tests.factories import make_user
    from tests.pages.client import ADMIN, Pages

    _metrics(tenant_a, kind, "Value.Temp")
    device = register(components={"x": kind.key}, hardware_model=None)
    send((topic(device, "x"), v1(device, {"temp": 21.5})))
    page = Pages(ADMIN, make_user("mapper", tenant_a, "admin")).get(f"devices/componenttype/{kind.pk}/teach/")
    text = page.content.decode()
    assert "Metrics without a value" in text
    assert "Value.Temp" in text
    assert ">value.temp</code>" in text
