"""The hardware contract on real servers: values without a metric, units that messages name, boards that were moved."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_tenants.utils import schema_context

from tests.audit_rows import forge
from tests.factories import Registered
from tests.payloads import topic, v1, v2

Send = Callable[..., Any]


@pytest.fixture
def kind(live_db: None, tenant_a: Any) -> Iterator[Any]:
    """A component type of the test's own, and everything that was made of it is gone afterwards."""
    from devices.models import Component, ComponentType, Metric, Unit

    with schema_context(tenant_a.schema_name):
        made = ComponentType.objects.create(key=f"kind{datetime.now(UTC).timestamp():.6f}", name="of a test")
        Metric(
            component_type=made, key="temperature", path="value.temp", unit=Unit.objects.get(symbol="°C"), maximum=80
        ).save()
    yield made
    with schema_context(tenant_a.schema_name):
        Component.objects.filter(component_type=made).delete()
        made.delete()


def series(device: Registered) -> list[tuple[str, str, str]]:
    """(metric, unit, value type) of the device's series."""
    from telemetry.models import Series

    with schema_context(device.tenant.schema_name):
        return sorted(Series.objects.filter(device=device.device).values_list("metric", "unit", "value_type"))


def readings(device: Registered) -> list[tuple[str, Any]]:
    from telemetry.models import Reading

    with schema_context(device.tenant.schema_name):
        rows = Reading.objects.filter(series__device=device.device).select_related("series")
        found = [(r.series.metric, r.text if r.text is not None else r.value) for r in rows]
        return sorted(found, key=lambda reading: (reading[0], str(type(reading[1])), reading[1]))


def refused(device: Registered) -> list[tuple[str, str]]:
    from telemetry.models import Quarantined

    with schema_context(device.tenant.schema_name):
        return list(Quarantined.objects.filter(device=device.device).values_list("reason", "detail"))


def history(device: Registered) -> list[tuple[str, str]]:
    """(action, detail) that the platform wrote into the device's history."""
    from devices.models import AuditEntry

    with schema_context(device.tenant.schema_name):
        entries = AuditEntry.objects.filter(object_type="devices.device", object_id=str(device.device.pk))
        return list(entries.exclude(action="register").order_by("id").values_list("action", "detail"))


@contextmanager
def changed(device: Registered, obj: Any, **values: Any) -> Iterator[None]:
    with schema_context(device.tenant.schema_name):
        for name, value in values.items():
            setattr(obj, name, value)
        obj.full_clean()
        obj.save()
    yield


def settle(ingest: Any) -> None:
    """What was announced is heard at the latest after a tenth of a second; here at once."""
    ingest.router._poll_at = 0.0


MESSAGE = {"temp": 21.5, "rssi": -60, "fan": True, "label": "가"}


def test_values_without_a_metric_are_kept_as_series_of_their_path(register: Any, send: Send, kind: Any) -> None:
    device = register(components={"x": kind.key}, hardware_model=None)
    assert send((topic(device, "x"), v1(device, MESSAGE))).stored == 1
    assert send((topic(device, "x"), v2(device, MESSAGE, seq=1, component="x"))).stored == 1
    assert series(device) == [
        ("temperature", "°C", "number"),
        ("value.fan", "", "boolean"),
        ("value.label", "", "text"),
        ("value.rssi", "", "number"),
    ]
    assert readings(device) == [
        *[("temperature", 21.5)] * 2,
        *[("value.fan", 1.0)] * 2,
        *[("value.label", "가")] * 2,
        *[("value.rssi", -60.0)] * 2,
    ]
    assert history(device) == []


def test_a_type_may_ignore_or_refuse_them(register: Any, send: Send, ingest: Any, kind: Any) -> None:
    device = register(components={"x": kind.key}, hardware_model=None)
    with changed(device, kind, unmapped="ignore"):
        settle(ingest)
        send((topic(device, "x"), v1(device, MESSAGE)))
        assert readings(device) == [("temperature", 21.5)]
    with changed(device, kind, unmapped="quarantine"):
        settle(ingest)
        send((topic(device, "x"), v1(device, MESSAGE)), (topic(device, "x"), v1(device, {"temp": 3})))
        assert readings(device) == [("temperature", 3.0), ("temperature", 21.5)]
        [(reason, detail)] = refused(device)
        assert reason == "wrong_type"
        assert "value.rssi" in detail


def test_a_flood_of_new_names_makes_no_flood_of_series(
    register: Any, send: Send, kind: Any, settings: Any, ingest: Any
) -> None:
    settings.INGEST_UNMAPPED_SERIES = 20
    device, other = (
        register(components={"x": kind.key, "y": kind.key}, hardware_model=None),
        register(components={"x": kind.key}, hardware_model=None),
    )
    messages = [v1(device, {"temp": i, **{f"k{i}-{j}": j for j in range(10)}}) for i in range(10)]
    for payload in messages:
        assert send((topic(device, "x"), payload)).stored == 1
    assert len(series(device)) == 20
    assert [value for name, value in readings(device) if name == "temperature"] == [float(i) for i in range(10)]
    [(action, detail)] = history(device)
    assert (action, detail[:15]) == ("values left out", "The component x")

    send((topic(device, "y"), v1(device, {"temp": 1, "a": 1})), (topic(other, "x"), v1(other, {"temp": 1, "a": 1})))
    assert len(series(device)) == 22, "another component has its own bound"
    assert ("value.a", "", "number") in series(other)

    ingest.writer.forget(device.tenant.schema_name)  # as another process, which knows nothing
    before = len(readings(device))
    send((topic(device, "x"), v1(device, {"temp": 79, "k0-0": 5, "new": 6})))
    assert len(readings(device)) == before + 2, "names that have a series go on"
    assert len(history(device)) == 1, "and it is recorded once a day"


def test_a_message_that_is_stored_again_keeps_what_it_kept(register: Any, send: Send, kind: Any) -> None:
    device = register(components={"x": kind.key}, hardware_model=None)
    payload = v1(device, MESSAGE)
    send((topic(device, "x"), payload))
    result = send((topic(device, "x"), payload), (topic(device, "x"), v1(device, {"temp": 1, "more": 2})))
    assert (result.stored, result.duplicates) == (1, 1)
    assert len(readings(device)) == 6


def test_names_that_cannot_be_stored_as_they_are(register: Any, send: Send, kind: Any) -> None:
    device = register(components={"x": kind.key}, hardware_model=None)
    value = {"temp": 1, "a\x00b": 1, "x" * 200: 2, "a.b": 3, "": 4, "t": "a\x00b", "온도": 5}
    assert send((topic(device, "x"), v1(device, value))).stored == 1
    assert len(readings(device)) == 6, "all but the text with a NUL"
    assert {"/value/a.b", "value.온도", "/value/"} < {metric for metric, _, _ in series(device)}


def test_the_message_names_its_unit(register: Any, send: Send, ingest: Any, kind: Any) -> None:
    device = register(components={"x": kind.key}, hardware_model=None)
    with schema_context(device.tenant.schema_name):
        metric = kind.metrics.get()
    with changed(device, metric, unit_path="TempUnit"):
        settle(ingest)
        for unit in ("F", "C", None, "hPa"):
            send((topic(device, "x"), v1(device, {"temp": 50}, TempUnit=unit)))
        assert readings(device) == [("temperature", 10.0), ("temperature", 50.0), ("temperature", 50.0)]
        [(reason, detail)] = refused(device)
        assert reason == "unit_mismatch"
        assert "'hPa' at TempUnit" in detail


def test_a_new_unit_of_the_metric_begins_a_new_series_and_both_are_found(
    register: Any, send: Send, ingest: Any, kind: Any
) -> None:
    from devices.models import Unit
    from telemetry.services.queries import readings as queries

    device = register(components={"x": kind.key}, hardware_model=None)
    send((topic(device, "x"), v1(device, {"temp": 20}, ago=60)))
    with schema_context(device.tenant.schema_name):
        metric = kind.metrics.get()
        celsius, fahrenheit = Unit.objects.get(symbol="°C"), Unit.objects.get(symbol="°F")
    with changed(device, metric, unit=fahrenheit, sent_unit=celsius, maximum=176):
        settle(ingest)
        send((topic(device, "x"), v1(device, {"temp": 20})))
    with schema_context(device.tenant.schema_name):
        rows = queries.readings(queries.series_of(device.device, "x", "temperature"), limit=9)
        assert [(row.value, row.unit) for row in rows] == [(20.0, "°C"), (68.0, "°F")]
        [latest] = queries.latest_values(device.device)
        assert (latest.value, latest.unit) == (68.0, "°F")


def test_a_units_code_changes_the_conversions_that_use_it(live_db: None, tenant_a: Any, kind: Any) -> None:
    from devices.models import Metric, Unit

    with schema_context(tenant_a.schema_name):
        kelvin = Unit.objects.get(symbol="K")
        own = Unit.objects.create(symbol=f"u{kind.pk}", name="own", quantity="temperature", ucum="K")
        metric = Metric.objects.create(component_type=kind, key="own", path="own", unit=kelvin, sent_unit=own)
        named = Metric.objects.create(component_type=kind, key="named", path="n", unit=kelvin, unit_path="u")
        assert (metric.factor, metric.offset) == ("1", "0")
        assert named.conversions[own.symbol] == ["1", "0"]
        own.ucum = "Cel"
        own.full_clean()
        own.save()
        metric.refresh_from_db()
        named.refresh_from_db()
        assert (metric.factor, metric.offset) == ("1", "5463/20")
        assert named.conversions[own.symbol] == ["1", "5463/20"]
        own.ucum = "hPa"
        with pytest.raises(ValidationError) as error:
            own.full_clean()
        assert "cannot be converted" in str(error.value.message_dict["ucum"])
        metric.delete()
        named.delete()
        own.delete()


def test_a_metric_is_no_member_of_the_protocol_and_names_units_of_numbers_alone(tenant_a: Any, kind: Any) -> None:
    from devices.models import Metric, Unit

    with schema_context(tenant_a.schema_name):
        celsius = Unit.objects.get(symbol="°C")
        for values, field in (
            ({"path": "cpu_serial"}, "path"),
            ({"path": "/boot/x"}, "path"),
            ({"path": "t", "unit_path": "u"}, "unit"),
            ({"path": "t", "unit_path": "u", "value_type": "text"}, "value_type"),
            ({"path": "t", "unit_path": "t", "number_format": "json", "unit": celsius}, "unit_path"),
            ({"path": "t", "unit_path": "a..b", "unit": celsius}, "unit_path"),
        ):
            with pytest.raises(ValidationError) as error:
                Metric(component_type=kind, key="k", **values).full_clean()
            assert field in error.value.message_dict, values


def test_a_message_from_another_board_is_told_once_an_hour(register: Any, send: Send) -> None:
    from devices.models import AuditEntry

    device, honest = register(), register()
    moved = [v1(device, {"temp": i}, cpu_serial=f"another{i}") for i in range(4)]
    for payload in moved[:3]:
        assert send((topic(device), payload), (topic(honest), v1(honest, {"temp": 1}))).quarantined == 1
    assert {reason for reason, _ in refused(device)} == {"cpu_serial_mismatch"}
    [(action, detail)] = history(device)
    assert action == "cpu serial mismatch"
    assert "another0" in detail
    assert device.device.cpu_serial in detail
    assert history(honest) == []
    with schema_context(device.tenant.schema_name):
        entry = AuditEntry.objects.get(object_id=str(device.device.pk), action=action)
        forge("UPDATE devices_auditentry SET at = '2026-01-01T00:00Z' WHERE id = %s", entry.pk)
    send((topic(device), moved[3]))
    assert [action for action, _ in history(device)] == ["cpu serial mismatch"] * 2


def test_devices_that_are_alike_share_what_is_alike(register: Any, tenant_a: Any) -> None:
    from devices.services.specs.loader import load_specs

    devices = [register(components={"a": "dht22", "b": "relay"}) for _ in range(3)]
    uuids = [device.device.uuid for device in devices]
    loaded = [load_specs([uuid])[uuid] for uuid in uuids]
    for name in ("tenant", "components", "type_keys", "keys", "hardware_version"):
        assert len({id(getattr(spec, name)) for spec in loaded}) == 1, name
    assert not hasattr(loaded[0], "__dict__")


def test_a_specification_that_is_read_again_unchanged_stays_the_same_object(register: Any) -> None:
    """New objects, equal to those before, would fill the listener's memory with holes."""
    from devices.models import Device
    from telemetry.services.lookups.routing import Router

    device = register()
    uuid = device.device.uuid
    router = Router(ttl=-1)  # what is read is old already
    spec = router.resolve([uuid])[uuid]
    assert spec is not None
    assert spec.uuid == uuid
    again = router.reload(uuid)
    assert again is not None
    assert again.spec is spec
    with schema_context(device.tenant.schema_name):
        Device.objects.filter(pk=device.device.pk).update(cpu_serial="changed")
    router._reloaded.clear()
    again = router.reload(uuid)
    assert again is not None
    assert again.spec is not None
    assert again.spec.cpu_serial == "changed"


def test_reading_many_devices_takes_as_many_queries_as_reading_one(register: Any) -> None:
    from devices.services.specs.loader import load_specs

    uuids = [register(components={"a": "dht22", "b": "relay"}).device.uuid for _ in range(5)]
    load_specs(uuids)
    counts = []
    for asked in (uuids[:1], uuids):
        with CaptureQueriesContext(connection) as queries:
            assert len(load_specs(asked)) == len(asked)
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_reading_many_tenants_takes_as_many_queries_as_reading_one(register: Any, tenant_b: Any) -> None:
    from devices.services.specs.loader import load_specs

    uuids = [register().device.uuid, register(tenant=tenant_b).device.uuid]
    counts = []
    for asked in (uuids[:1], uuids):
        with CaptureQueriesContext(connection) as queries:
            loaded = load_specs(asked)
        assert {spec.uuid for spec in loaded.values()} == set(asked)
        counts.append(sum(not query["sql"].startswith("SET search_path") for query in queries))
    assert counts == [11, 11]
    assert {spec.tenant.schema for spec in loaded.values()} == {"t_alpha", tenant_b.schema_name}


def test_a_change_concerns_the_devices_of_its_tenant(register: Any, tenant_b: Any) -> None:
    from telemetry.services.lookups.routing import Router

    router, absent = Router(ttl=30), uuid4()
    own, other = [register().device.uuid for _ in range(2)], register(tenant=tenant_b).device.uuid
    kept = router.routes([*own, other, absent])[2]
    router.forget("t_alpha")
    assert router._cached == {other.int: kept}, "and unregistered devices, which may be registered now"
    assert router.routes([*own, other])[2] is kept
    router.forget("t_alpha")
    router.forget(tenant_b.schema_name)
    assert router._cached == {}


def test_a_device_that_moved_is_forgotten_with_its_new_tenant(register: Any, tenant_b: Any) -> None:
    from dataclasses import replace

    from telemetry.services.lookups.routing import Router

    router, uuid = Router(ttl=30), register().device.uuid
    (route,) = router.routes([uuid])
    assert route.spec is not None
    former = replace(route.spec.tenant, schema=tenant_b.schema_name)
    route.spec = replace(route.spec, tenant=former)
    router._numbers = {former.schema: [uuid.int]}
    router._load([uuid], 0.0)
    router.forget("t_alpha")
    assert router._cached == {}


def test_all_devices_of_a_tenant_are_read_again_together(register: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from telemetry.services.lookups import routing

    router, uuids = routing.Router(ttl=-1), [register().device.uuid for _ in range(4)]
    router.routes(uuids)
    read: list[int] = []
    load = routing.load_specs

    def counted(wanted: Any, *rest: Any) -> Any:
        read.append(len(wanted))
        return load(wanted, *rest)

    monkeypatch.setattr(routing, "load_specs", counted)
    router._refresh_at = 0.0
    router.routes(uuids[:1])
    assert read == [4], "each reading of a tenant reads its types and metrics"
    monkeypatch.setattr(routing, "_REFRESH_DEVICES", 2)
    router._refresh_at = 0.0
    router.routes(uuids[:1])
    assert read == [4, 1], "of a large tenant those that are needed"


def test_an_aged_specification_is_read_again(register: Any) -> None:
    from devices.models import Device
    from telemetry.services.lookups.routing import Router

    device = register()
    uuid = device.device.uuid
    router = Router(ttl=-1)  # what is read is old already
    before = router.routes([uuid])[0].spec
    with schema_context(device.tenant.schema_name):
        Device.objects.filter(pk=device.device.pk).update(cpu_serial="changed")
    router._refresh_at = 0.0
    router.routes([uuid])
    after = router.routes([uuid])[0].spec
    assert before is not None
    assert after is not None
    assert after.cpu_serial == "changed"
    assert before.cpu_serial != "changed"
    # What other tables know the device by is there once.
    assert (after.number is before.number, after.device_id is before.device_id) == (True, True)


def test_the_migration_makes_rounded_conversions_exact(live_db: None, tenant_a: Any, kind: Any) -> None:
    from django.apps import apps

    from devices.models import Metric, Unit
    from devices.services.specs.loader import metric_spec

    migration = importlib.import_module("devices.migrations.0026_exact_conversions")
    with schema_context(tenant_a.schema_name):
        celsius, fahrenheit = Unit.objects.get(symbol="°C"), Unit.objects.get(symbol="°F")
        sent = Metric.objects.create(component_type=kind, key="s", path="s", unit=celsius, sent_unit=fahrenheit)
        named = Metric.objects.create(component_type=kind, key="n", path="n", unit=celsius, unit_path="u")
        plain = Metric.objects.create(component_type=kind, key="p", path="p", unit=celsius)
        rounded = {"factor": "0.5555555555555556", "offset": "-17.77777777777777"}
        Metric.objects.filter(pk=sent.pk).update(**rounded)
        Metric.objects.filter(pk=named.pk).update(conversions={"F": [0.5555555555555556, -17.77777777777777]})
        Metric.objects.filter(pk=plain.pk).update(factor="1", offset="0")
        old = metric_spec(Metric.objects.get(pk=named.pk)).by_unit["F"]
        assert old
        assert old.apply(212) == pytest.approx(100), "rows that are not computed again can be loaded"
        migration._compute(apps, None)
        for row in (sent, named, plain):
            row.refresh_from_db()
        assert (sent.factor, sent.offset) == ("5/9", "-160/9")
        assert named.conversions["F"] == ["5/9", "-160/9"]
        assert (plain.factor, plain.offset) == ("1", "0")
        for row in (sent, named, plain):
            row.delete()


def test_numbers_and_switches_as_devices_write_them(
    tenant_a: Any, register: Any, send: Send, ingest: Any, kind: Any
) -> None:
    from devices.models import Metric, Unit

    with schema_context(tenant_a.schema_name):
        kind.invalid_values = kind.InvalidValues.REFUSE_MESSAGE
        kind.save()
        celsius = Unit.objects.get(symbol="°C")
        metrics: dict[str, dict[str, Any]] = {
            "out": {"unit": celsius},
            "comma": {"unit": celsius, "number_format": "comma"},
            "probe": {"unit": celsius, "sentinels": "-127, 85, N/A", "minimum": -55, "maximum": 125},
            "any": {"unit": celsius, "unit_path": "value.any"},
            "door": {"value_type": "boolean"},
            "mode": {"value_type": "boolean", "true_value": "heat, cool", "false_value": "idle"},
            "code": {"value_type": "text", "numbers_as_text": True},
        }
        for key, settings in metrics.items():
            metric = Metric(component_type=kind, key=key, path=f"value.{key}", **settings)
            metric.full_clean()
            metric.save()
    device = register(components={"x": kind.key}, hardware_model=None)
    settle(ingest)
    values = {"out": "27.0", "comma": "-0,5", "probe": -127, "any": "70.7 °F", "door": "Closed", "mode": "cool"}
    assert send((topic(device, "x"), v1(device, values | {"code": 204}))).stored == 1
    assert readings(device) == [
        ("any", 21.5), ("code", "204"), ("comma", -0.5), ("door", 0.0), ("mode", 1.0), ("out", 27.0),
    ]  # fmt: skip
    assert send((topic(device, "x"), v1(device, values | {"mode": "unavailable"}))).quarantined == 1


def test_paths_that_select(tenant_a: Any, register: Any, send: Send, ingest: Any, kind: Any) -> None:
    from devices.models import Metric, Unit

    with schema_context(tenant_a.schema_name):
        celsius = Unit.objects.get(symbol="°C")
        for key, path in (("probe", "value.list[name=P2].v"), ("tag", "value.tags.*.t")):
            metric = Metric(component_type=kind, key=key, path=path, unit=celsius)
            metric.full_clean()
            metric.save()
    device = register(components={"x": kind.key}, hardware_model=None)
    settle(ingest)
    values = {"list": [{"name": "P1", "v": 1}, {"name": "P2", "v": "2.5"}], "tags": {"AA:BB": {"t": 3}, "CC": {"t": 4}}}
    assert send((topic(device, "x"), v1(device, values))).stored == 1
    assert send((topic(device, "x"), v1(device, {"list": [{"name": "P2", "v": 5}]}))).stored == 1
    assert readings(device) == [("probe", 2.5), ("probe", 5.0), ("tag.AA:BB", 3.0), ("tag.CC", 4.0)]
    assert {one[1:] for one in series(device)} == {("°C", "number")}
    many = {"tags": {f"{number:03}": {"t": 1} for number in range(99)}}
    assert send((topic(device, "x"), v1(device, many))).stored == 1
    assert len(series(device)) == 100, "the bound on series that a device names"
    assert [action for action, _ in history(device)] == ["values left out"]
