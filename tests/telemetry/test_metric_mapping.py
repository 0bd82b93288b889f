"""Teaching a component type by example, on real servers: proposals, previews, and the history that is adopted."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django_tenants.utils import schema_context

from devices.services.metadata.unit_inference import infer_metric
from tests.factories import Registered
from tests.payloads import topic, v1, v2

from .test_hardware_contract import readings, series, settle

PAYLOADS = {
    case["name"]: case["payload"]
    for case in json.loads((Path(__file__).parents[1] / "data" / "payloads.json").read_text())
}


@pytest.fixture
def untaught(live_db: None, tenant_a: Any) -> Iterator[Any]:
    """A component type without metrics."""
    from devices.models import Component, ComponentType

    with schema_context(tenant_a.schema_name):
        made = ComponentType.objects.create(key=f"raw{datetime.now(UTC).timestamp():.6f}", name="untaught")
    yield made
    with schema_context(tenant_a.schema_name):
        Component.objects.filter(component_type=made).delete()
        made.delete()


def proposal(tenant: Any, kind: Any, message: Any) -> dict[str, tuple[str, str, str]]:
    """Key → (path, value type, unit) of what is proposed."""
    from telemetry.services.mapping import proposal as teaching

    with schema_context(tenant.schema_name):
        metrics = teaching.propose_metrics(kind, message)
        teaching.validate_metrics(kind, metrics)
        return {m.key: (m.path, m.value_type, m.unit.symbol if m.unit else "") for m in metrics}


@pytest.mark.parametrize(
    ("path", "value", "key", "unit"),
    [
        (("value", "temp"), 21.5, "temperature", "°C"),
        (("temp_f",), 70, "temperature", "°F"),
        (("tempC",), 70, "temperature", "°C"),
        (("실내온도",), 20, "temperature", "°C"),
        (("습도",), 20, "humidity", "%"),
        (("토양수분1",), 20, "moisture", "%"),
        (("hum",), 40, "humidity", "%"),
        (("hum",), 612, "humidity", ""),
        (("eCO2",), 500, "co2", "ppm"),
        (("lux",), 500, "illuminance", "lx"),
        (("battery", "mV"), 3700, "battery", "mV"),
        (("pm2_5",), 3, "pm25", "µg/m³"),
        (("pressure",), 1013, "pressure", "hPa"),
        (("pressure",), 101325, "pressure", "Pa"),
        (("probes", "1", "temp"), 3, "temperature_2", "°C"),
        (("temperature",), "warm", "temperature", ""),
        (("xyz",), 3, "xyz", ""),
        (("이름",), 3, "value", ""),
    ],
)
def test_what_names_say(path: tuple[str, ...], value: Any, key: str, unit: str) -> None:
    assert infer_metric(path, value) == (key, unit)


def test_inferred_units_are_those_of_the_catalogue_or_outside_of_it() -> None:
    from devices.services.metadata import unit_names
    from devices.services.metadata.unit_catalogue import UNITS

    known = [*unit_names.QUANTITIES.values(), *(quantity for quantity, _ in unit_names.AFTER.values())]
    named = {rule.unit for quantity in known for rule in quantity.rules}
    named |= {unit.symbol for unit in unit_names.SPELLED_UNITS.values()}
    # A tenant can add these; until then a value with such a name has no unit.
    assert named - {symbol for symbol, *_ in UNITS} == {"MHz", "kHz"}
    by_symbol = {symbol: quantity for symbol, _, quantity, _ in UNITS}
    spelled = [(unit.symbol, unit.quantity) for unit in unit_names.SPELLED_UNITS.values()]
    assert [pair for pair in spelled if by_symbol.get(pair[0], pair[1]) != pair[1]] == []
    ruled = [(rule.unit, quantity.quantities) for quantity in known for rule in quantity.rules]
    assert [pair for pair in ruled if pair[0] in by_symbol and by_symbol[pair[0]] not in pair[1]] == []


def test_proposals_for_messages_of_real_devices(tenant_a: Any, untaught: Any) -> None:
    tasmota = PAYLOADS["Tasmota SENSOR, DHT22 (AM2301)"]
    assert proposal(tenant_a, untaught, tasmota) == {
        "time": ("Time", "text", ""),
        "temperature": ("AM2301.Temperature", "number", "°C"),
        "humidity": ("AM2301.Humidity", "number", "%"),
    }
    state = PAYLOADS["Tasmota STATE: a number beside a switch, a nested object, a colon in a value"]
    found = proposal(tenant_a, untaught, state)
    assert found["power"] == ("POWER", "boolean", "")
    assert found["voltage"] == ("Vcc", "number", "V")
    assert found["ss_id"] == ("Wifi.SSId", "text", "")


def test_the_name_of_a_unit_becomes_the_path_of_the_unit(tenant_a: Any, untaught: Any) -> None:
    from telemetry.services.mapping import proposal as teaching

    message = {"TempUnit": "F", "Temperature": 68, "data": {"unit": "kPa", "pressure": 100}}
    with schema_context(tenant_a.schema_name):
        metrics = {metric.key: metric for metric in teaching.propose_metrics(untaught, message)}
        assert {key: metric.unit_path for key, metric in metrics.items()} == {
            "temperature": "TempUnit",
            "pressure": "data.unit",
        }
        seen = teaching.preview_mapping(untaught, list(metrics.values()), message)
    assert [tuple(value)[:3] for value in seen.readings] == [("temperature", 20.0, "°C"), ("pressure", 1000.0, "hPa")]
    assert seen.unmapped == []


def test_a_unit_beside_belongs_only_to_what_it_can_measure(tenant_a: Any, untaught: Any) -> None:
    from telemetry.services.mapping import proposal as teaching

    def units_of(message: Any) -> dict[str, tuple[str, str]]:
        with schema_context(tenant_a.schema_name):
            metrics = teaching.propose_metrics(untaught, message)
        return {m.path: (m.unit.symbol if m.unit else "", m.unit_path) for m in metrics}

    assert units_of({"sensor_id": 7, "value": 21.5, "unit": "C"}) == {
        "sensor_id": ("", ""),
        "value": ("°C", "unit"),
    }
    assert units_of({"wind": {"speed": 3, "dir": 200}, "windUnit": "km/h"}) == {
        "wind.speed": ("", ""),
        "wind.dir": ("°", ""),
    }
    assert units_of({"windSpeed": 3, "windDir": 200, "windUnit": "km/h"}) == {
        "windSpeed": ("km/h", "windUnit"),
        "windDir": ("°", ""),
    }
    assert units_of({"xyz": 5, "xyz_unit": "V", "temp": 20, "tempUnit": "%"}) == {
        "xyz": ("V", "xyz_unit"),
        "temp": ("°C", ""),
    }
    assert units_of({"flow": 3, "unit": "L/min"}) == {"flow": ("L/min", "unit")}


def test_a_preview_says_what_would_be_refused_and_what_is_left(tenant_a: Any, untaught: Any) -> None:
    from devices.models import Metric
    from telemetry.services.mapping import proposal as teaching

    with schema_context(tenant_a.schema_name):
        metric = Metric(key="t", path="t", maximum=10)
        seen = teaching.preview_mapping(untaught, [metric], {"t": 11})
        assert seen.refusal
        assert seen.refusal.reason == "out_of_range"
        seen = teaching.preview_mapping(untaught, [metric], {"t": 1, "x": 2})
        assert ([value.metric for value in seen.readings], [value.metric for value in seen.unmapped]) == (["t"], ["x"])
        with pytest.raises(ValidationError) as error:
            teaching.preview_mapping(untaught, [metric, Metric(key="t", path="a..b")], {})
        assert "already" in str(error.value)
        assert "is not a valid path" in str(error.value)


def test_an_example_is_of_either_version_or_pasted(register: Any) -> None:
    from telemetry.services.mapping.proposal import parse_message

    device = register()
    assert parse_message(v1(device, {"temp": 1}))["value"] == {"temp": 1}
    assert parse_message(v2(device, {"temp": 1}, seq=1))["value"] == {"temp": 1}
    assert parse_message(' {"a": 1}\n') == {"a": 1}
    for bad in ("", "{", "[1]", "a.b.c", b"\xff", "NaN"):
        with pytest.raises(ValidationError):
            parse_message(bad)


def _teach(device: Registered, kind: Any, message: Any, **changes: dict[str, Any]) -> dict[str, tuple[str, int, int]]:
    """Accept what is proposed, changed: metric's key → (unit, series adopted, series kept apart)."""
    from telemetry.services.mapping import application
    from telemetry.services.mapping import proposal as teaching

    with schema_context(device.tenant.schema_name):
        metrics = teaching.propose_metrics(kind, message)
        for metric in metrics:
            for name, value in changes.get(metric.key, {}).items():
                setattr(metric, name, value)
        done = application.apply_mapping(kind, metrics, acting_user=None)
        return {one.metric.key: (one.unit, one.series, one.unassigned_series) for one in done.assignments}


def test_history_and_what_follows_are_one_series(
    register: Any,
    send: Callable[..., Any],
    ingest: Any,
    untaught: Any,
) -> None:
    one, other = (register(components={"x": untaught.key}, hardware_model=None) for _ in range(2))
    for device in (one, other):
        send((topic(device, "x"), v1(device, {"temp": 20, "on": "ON"}, ago=60)))
    assert _teach(one, untaught, {"value": {"temp": 1, "on": "ON"}}) == {
        "temperature": ("°C", 2, 0),
        "on": ("", 2, 0),
    }
    settle(ingest)
    for device in (one, other):
        send((topic(device, "x"), v1(device, {"temp": 21, "on": "OFF"})))
        assert series(device) == [("on", "", "boolean"), ("on", "", "text"), ("temperature", "°C", "number")]
        assert readings(device) == [
            ("on", 0.0), ("on", "ON"), ("temperature", 20.0), ("temperature", 21.0)
        ]  # fmt: skip


def test_what_is_converted_keeps_the_unit_in_which_it_was_sent(
    register: Any,
    send: Callable[..., Any],
    ingest: Any,
    untaught: Any,
) -> None:
    from devices.models import Unit
    from telemetry.services.queries import readings as queries

    device = register(components={"x": untaught.key}, hardware_model=None)
    send((topic(device, "x"), v1(device, {"temp": 68}, ago=60)))
    with schema_context(device.tenant.schema_name):
        fahrenheit = Unit.objects.get(symbol="°F")
    taught = _teach(device, untaught, {"value": {"temp": 68}}, temperature={"sent_unit": fahrenheit})
    assert taught == {"temperature": ("°F", 1, 0)}
    settle(ingest)
    send((topic(device, "x"), v1(device, {"temp": 68})))
    with schema_context(device.tenant.schema_name):
        rows = queries.readings(queries.series_of(device.device, "x", "temperature"), limit=9)
        assert [(row.value, row.unit) for row in rows] == [(68.0, "°F"), (20.0, "°C")]


def test_what_cannot_be_told_apart_is_kept_apart(
    register: Any,
    send: Callable[..., Any],
    ingest: Any,
    untaught: Any,
) -> None:
    device = register(components={"x": untaught.key}, hardware_model=None)
    send((topic(device, "x"), v1(device, {"temp": 68, "hum": 40}, TempUnit="F")))
    send((topic(device, "x"), v1(device, {"hum": "dry"})))
    taught = _teach(device, untaught, {"value": {"temp": 68, "hum": 40}, "TempUnit": "F"})
    assert taught == {"temperature": ("°C", 0, 1), "humidity": ("%", 1, 1)}
    assert ("value.temp", "", "number") in series(device)
    assert ("value.hum", "", "text") in series(device)


def test_a_listener_puts_nothing_under_an_old_name_into_a_renamed_series(
    register: Any,
    send: Callable[..., Any],
    ingest: Any,
    untaught: Any,
) -> None:
    device = register(components={"x": untaught.key}, hardware_model=None)
    send((topic(device, "x"), v1(device, {"temp": 20})))
    _teach(device, untaught, {"value": {"temp": 1}})
    settle(ingest)
    send((topic(device, "x"), v1(device, {"temp": 21})))
    with schema_context(device.tenant.schema_name):
        untaught.metrics.get().delete()
    settle(ingest)
    send((topic(device, "x"), v1(device, {"temp": 22})))
    assert readings(device) == [("temperature", 20.0), ("temperature", 21.0), ("value.temp", 22.0)]
    assert _teach(device, untaught, {"value": {"temp": 1}}) == {"temperature": ("°C", 0, 1)}, "there is one already"


def test_other_types_tenants_and_components_are_not_touched(
    register: Any,
    send: Callable[..., Any],
    untaught: Any,
    tenant_b: Any,
) -> None:
    device = register(components={"x": untaught.key, "relay": "relay"}, hardware_model=None)
    stranger = register(tenant=tenant_b, components={"x": "relay"}, hardware_model=None)
    for one, component in ((device, "x"), (device, "relay"), (stranger, "x")):
        send((topic(one, component), v1(one, {"temp": 20})))
    assert _teach(device, untaught, {"value": {"temp": 1}}) == {"temperature": ("°C", 1, 0)}
    assert series(device) == [("temperature", "°C", "number"), ("value.temp", "", "number")]
    assert series(stranger) == [("value.temp", "", "number")]


def test_nothing_is_made_where_one_of_them_is_wrong(tenant_a: Any, untaught: Any) -> None:
    from devices.models import Metric
    from telemetry.services.mapping import application

    with schema_context(tenant_a.schema_name):
        with pytest.raises(ValidationError):
            application.apply_mapping(
                untaught, [Metric(key="a", path="a"), Metric(key="a", path="b")], acting_user=None
            )
        assert not untaught.metrics.exists()


def test_examples_are_the_newest_messages_and_what_was_refused(
    register: Any,
    send: Callable[..., Any],
    untaught: Any,
    tenant_a: Any,
) -> None:
    from telemetry.services.mapping.sample_messages import sample_messages

    device = register(components={"x": untaught.key}, hardware_model=None)
    send((topic(device, "x"), v1(device, {"temp": 1}, ago=30)), (topic(device, "x"), v1(device, {"temp": 2}, ago=20)))
    send((topic(device, "x"), v1(device, {"temp": 3}, cpu_serial="another")))
    with schema_context(tenant_a.schema_name):
        found = sample_messages(untaught)
    assert [(one.message["value"], bool(one.quarantined)) for one in found] == [
        ({"temp": 3}, True),
        ({"temp": 2}, False),
    ]


def test_numbers_and_switches_in_texts_are_proposed_with_their_form(tenant_a: Any, untaught: Any) -> None:
    from telemetry.services.mapping import proposal as teaching

    message = {
        "outTemp": "27.0", "humidity": "44,5", "pool_temp": "79.7 °F", "flow_temp": "21.5 °C", "dewpoint": "N/A",
        "DS18B20-1": {"Temperature": 85}, "ds18b20": {"temp": -127}, "temp_in": 25, "door": "Open", "wind_dir": "N",
        "serial": "000012300007", "code": "0Y", "weight": "3 stones",
    }  # fmt: skip
    with schema_context(tenant_a.schema_name):
        metrics = {metric.path: metric for metric in teaching.propose_metrics(untaught, message)}
        seen = teaching.preview_mapping(untaught, list(metrics.values()), message)
    form = {
        path: (m.value_type, m.unit.symbol if m.unit else "", m.number_format, m.sentinels)
        for path, m in metrics.items()
    }
    assert form == {
        "outTemp": ("number", "°C", "point", ""),
        "humidity": ("number", "%", "comma", ""),
        "pool_temp": ("number", "°F", "point", ""),
        "flow_temp": ("number", "°C", "point", ""),
        "dewpoint": ("number", "°C", "point", "N/A"),
        "DS18B20-1.Temperature": ("number", "°C", "point", "85"),
        "ds18b20.temp": ("number", "°C", "point", "-127"),
        "temp_in": ("number", "°C", "point", ""),
        "door": ("boolean", "", "point", ""),
        "wind_dir": ("text", "", "point", ""),
        "serial": ("text", "", "point", ""),
        "code": ("text", "", "point", ""),
        "weight": ("text", "", "point", ""),
    }
    values = {value.metric: value.value for value in seen.readings}
    assert sorted(map(str, values.values())) == sorted(
        ["27.0", "44.5", "79.7", "21.5", "25.0", "True", "N", "000012300007", "0Y", "3 stones"]
    )
