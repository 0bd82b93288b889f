"""Units, hardware models, component types and metrics."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import models
from django_tenants.utils import schema_context

from devices.models import ComponentType, HardwareModel, Metric, Unit
from tests.factories import make_device

from .client import Api, problems


def test_a_component_type_is_described_by_its_metrics(api: Api) -> None:
    assert api.post("component-types/", {"key": "sht31", "name": "SHT31"}).status_code == 201
    body = {
        "component_type": "sht31", "key": "temperature", "path": "value.t",
        "unit": "°C", "sent_unit": "°F", "minimum": -40, "maximum": 125,
    }  # fmt: skip
    metric = api.post("metrics/", body)
    assert metric.status_code == 201
    usual = {"number_format": "point", "sentinels": "", "sentinel_treatment": "skip", "numbers_as_text": False}
    assert metric.json() == metric.json() | body | usual | {"value_type": "number", "true_value": ""}

    (kind,) = api.get("component-types/", key="sht31").json()["results"]
    assert kind["metrics"] == [{n: v for n, v in metric.json().items() if n != "component_type"}]
    assert api.get("metrics/", component_type="sht31").json()["results"] == [metric.json()]


def test_a_new_component_type_refuses_single_values(api: Api) -> None:
    made = api.post("component-types/", {"key": "probes", "name": "Probes"}).json()
    assert made["invalid_values"] == "refuse_value"
    changed = api.patch(f"component-types/{made['id']}/", {"invalid_values": "refuse_message"})
    assert changed.json()["invalid_values"] == "refuse_message"
    refused = api.patch(f"component-types/{made['id']}/", {"invalid_values": "store"})
    assert "must be one of refuse_value, refuse_message, not 'store'" in problems(refused)["invalid_values"]


def test_a_change_of_a_unit_works_the_conversion_out_again(api: Api, tenant_a: Any) -> None:
    metric = api.post("metrics/", {"component_type": "pump", "key": "t", "path": "t", "unit": "°C"}).json()
    assert api.patch(f"metrics/{metric['id']}/", {"sent_unit": "K"}).json()["sent_unit"] == "K"
    with schema_context(tenant_a.schema_name):
        kept = Metric.objects.get(pk=metric["id"])
    assert (kept.factor, kept.offset) == ("1", "-5463/20")


@pytest.mark.parametrize(
    ("change", "attr", "text"),
    [
        ({"path": "value..t"}, "path", "must not be empty"),
        ({"path": "/a~2"}, "path", "must be followed by 0 or 1"),
        ({"unit": "furlong"}, "unit", "There is no unit furlong"),
        ({"unit": "hPa", "sent_unit": "°C"}, "sent_unit", "cannot be converted"),
        ({"sent_unit": "°C"}, "unit", "Choose the unit to convert to"),
        ({"minimum": 2, "maximum": 1}, "minimum", "greater than the maximum"),
        ({"minimum": "Infinity"}, "minimum", "must be a number, not"),
        ({"maximum": "nan"}, "maximum", "must be a number, not"),
        ({"value_type": "text", "unit": "°C"}, "value_type", "Only a number can have a unit"),
        ({"value_type": "boolean", "true_value": "ON"}, "false_value", "both words"),
        ({"value_type": "boolean", "true_value": "a,b", "false_value": "b"}, "false_value", "The word b must not"),
        ({"true_value": ",".join("abcdefghijklmnopq")}, "true_value", "At most 16 words are possible, not 17."),
        ({"path": "*.t"}, "path", "must begin with a name"),
        ({"path": "[n=v].t"}, "path", "must begin with a name"),
        ({"unit": "°C", "path": "a.*.t", "unit_path": "a.*.u"}, "unit_path", "must not have a wildcard"),
        ({"sentinels": "x" * 41}, "sentinels", "must have at most 40 printable characters"),
        ({"number_format": "swiss"}, "number_format", "must be one of point, comma, json, not 'swiss'"),
        ({"sentinel_treatment": "drop"}, "sentinel_treatment", "must be one of skip, refuse, not 'drop'"),
        ({"numbers_as_text": True}, "numbers_as_text", "Only a text metric"),
        (
            {"path": "t", "unit": "°C", "unit_path": "t", "number_format": "json"},
            "unit_path",
            "Only in a number sent as text",
        ),
        ({"value_type": "integer"}, "value_type", "must be one of number, boolean, text, not 'integer'"),
        ({"key": "a b"}, "key", "Use letters"),
        ({"factor": 3}, "factor", "'factor' is not a known member"),
        ({"component_type": "nothing"}, "component_type", "There is no component type nothing"),
        ({"component_type": "nul\x00"}, "component_type", "There is no component type nul"),
    ],
)
def test_a_metric_that_is_wrong_says_what_to_mend(
    api: Api, change: dict[str, Any], attr: str | None, text: str
) -> None:
    answer = api.post("metrics/", {"component_type": "pump", "key": "k", "path": "k"} | change)
    assert answer.status_code == 400
    assert text in problems(answer)[attr]


def test_a_metric_key_is_once_in_a_type(api: Api) -> None:
    answer = api.post("metrics/", {"component_type": "dht22", "key": "temperature", "path": "x"})
    assert answer.status_code == 409
    assert "with the same component_type, key" in problems(answer)[None]


def test_a_hardware_model_names_what_may_be_attached(api: Api) -> None:
    answer = api.post("hardware-models/", {"name": "Pi 5", "version": "1.0", "allowed_component_types": ["dht22"]})
    assert answer.status_code == 201
    model = answer.json()
    changed = api.patch(f"hardware-models/{model['id']}/", {"allowed_component_types": ["pump", "relay"]}).json()
    assert sorted(changed["allowed_component_types"]) == ["pump", "relay"]
    assert api.get(f"hardware-models/{model['id']}/").json() == changed
    assert api.get("hardware-models/", name="Pi 5").json()["count"] == 1


def test_a_unit_is_a_ucum_code_and_its_symbol_is_once(api: Api) -> None:
    body = {"symbol": "Torr", "name": "torr", "quantity": "pressure", "ucum": "nonsense"}
    assert "not a UCUM code" in problems(api.post("units/", body))["ucum"]
    assert api.post("units/", body | {"ucum": "mm[Hg]"}).status_code == 201
    assert "There is already a unit" in problems(api.post("units/", body | {"ucum": "mm[Hg]"}))["symbol"]
    assert api.get("units/", symbol="Torr", quantity="pressure").json()["count"] == 1


@pytest.mark.parametrize(
    ("path", "model", "name", "users"),
    [
        ("units", Unit, {"symbol": "°C"}, "metrics"),
        ("component-types", ComponentType, {"key": "dht22"}, "components"),
        ("hardware-models", HardwareModel, {"version": "1.4"}, "devices"),
    ],
)
def test_what_is_in_use_is_not_removed(
    api: Api, tenant_a: Any, path: str, model: type[models.Model], name: dict[str, str], users: str
) -> None:
    device = make_device(tenant_a, "user", dht22="dht22")
    with schema_context(tenant_a.schema_name):
        device.hardware_model = HardwareModel.objects.get(version="1.4")
        device.save()
        pk = model._default_manager.get(**name).pk
    answer = api.delete(f"{path}/{pk}/")
    assert answer.status_code == 409
    assert "It is in use by" in problems(answer)[None]
    assert users in problems(answer)[None]
    assert api.get(f"{path}/{pk}/").status_code == 200


@pytest.mark.parametrize("path", ["component-types/", "metrics/", "units/", "hardware-models/"])
def test_a_list_makes_as_many_queries_for_30_as_for_3(
    api: Api, tenant_a: Any, path: str, count_queries: Callable[[Callable[[], Any]], int]
) -> None:
    def fill(start: int, stop: int) -> None:
        with schema_context(tenant_a.schema_name):
            for number in range(start, stop):
                kind = ComponentType.objects.create(key=f"kind-{number}", name="kind")
                unit = Unit.objects.create(symbol=f"unit {number}", name="u", quantity="q", ucum="m")
                Metric.objects.create(component_type=kind, key="m", path="m", unit=unit, sent_unit=unit)
                model = HardwareModel.objects.create(name=f"board {number}", version="1")
                model.allowed_component_types.add(kind)

    fill(0, 3)
    api.get(path)  # notes when the key was last used
    few = count_queries(lambda: api.get(path))
    fill(3, 30)
    assert count_queries(lambda: api.get(path)) == few
    # the tenant, the key, the count, the rows; metrics within types, types within hardware models
    assert few == {"component-types/": 5, "hardware-models/": 5}.get(path, 4)


@pytest.mark.parametrize("ucum", ["{pulse}", "{UVI}", "{IAQ}", "dBm", "kVA", "mg/m³", "inHg"])
def test_a_unit_may_have_an_annotation_or_a_usual_spelling(api: Api, ucum: str) -> None:
    body = {"symbol": f"test {ucum}", "name": "of a test", "quantity": "any", "ucum": ucum}
    made = api.post("units/", body)
    assert (made.status_code, made.json()["ucum"]) == (201, ucum)
    refused = api.post("units/", body | {"symbol": "x", "ucum": f"{ucum}!"})
    assert refused.status_code == 400
    assert "is not a UCUM code" in str(problems(refused)["ucum"])


@pytest.mark.parametrize(
    ("spelled", "symbol"),
    [("μg/m³", "µg/m³"), ("ug/m3", "µg/m³"), ("ºC", "°C"), ("℃", "°C"), ("m3/h", "m³/h"), ("W/m^2", "W/m²")],
)
def test_a_unit_is_found_in_other_spellings_of_its_symbol(api: Api, spelled: str, symbol: str) -> None:
    metric = api.post("metrics/", {"component_type": "pump", "key": "spelled", "path": "s", "unit": spelled})
    assert (metric.status_code, metric.json()["unit"]) == (201, symbol)
    refused = api.patch(f"metrics/{metric.json()['id']}/", {"unit": "x" * 500})
    assert refused.status_code == 400
    assert "There is no unit" in str(problems(refused))


@pytest.mark.parametrize(
    ("change", "member", "text"),
    [
        ({"list_path": "a..b"}, "list_path", "must not be empty"),
        ({"list_path": "seq"}, "list_path", "seq is a member of the protocol"),
        ({"time_path": "timestamp"}, "time_path", "timestamp is a member of the protocol"),
        ({"list_form": "senml"}, "list_form", "A SenML pack needs the path of the list"),
        ({"list_path": "e", "list_form": "senml", "time_path": "t"}, "list_form", "has times of its own"),
        ({"time_path": "Time", "time_zone": "Seoul"}, "time_zone", "Seoul is not a time zone"),
        ({"time_zone": "Asia/Seoul"}, "time_zone", "needs the path of the time"),
        ({"time_format": "unix"}, "time_format", "must be one of auto, iso, s, ms, us, ns, not 'unix'"),
    ],
)
def test_places_of_entries_and_times(api: Api, change: dict[str, Any], member: str, text: str) -> None:
    body = {"key": "logger", "name": "Logger"}
    refused = api.post("component-types/", body | change)
    assert refused.status_code == 400
    assert text in str(problems(refused)[member])
    right = {"list_path": "log", "time_path": "timestamp", "time_format": "ms", "time_zone": "Asia/Seoul"}
    made = api.post("component-types/", body | right)
    assert made.json() == made.json() | right | {"list_form": "objects"}


def test_metrics_are_derived_from_the_entries_of_a_list(api: Api) -> None:
    body = {"key": "logger", "name": "Logger", "list_path": "readings", "time_path": "ts"}
    kind = api.post("component-types/", body).json()["id"]
    payload = {"readings": [{"ts": 1796029200, "temp": 21.5}, {"ts": 1796029260, "temp": 21.6, "humidity": 44}]}
    found = api.post(f"component-types/{kind}/metric-mapping/proposal/", {"payload": payload}).json()
    assert {metric["path"] for metric in found["metrics"]} == {"temp", "humidity"}
    assert {reading["metric"]: reading["value"] for reading in found["readings"]} == {
        "temperature": 21.5,
        "humidity": 44,
    }
    refused = api.post(f"component-types/{kind}/metric-mapping/proposal/", {"payload": {"readings": 5}})
    assert refused.status_code == 400
    assert "readings must be an array of objects" in str(problems(refused))
