"""One invalid value does not hide its valid neighbours: these are stored, and each refused value is kept."""

from typing import Any

import psycopg
import pytest
from django.db import IntegrityError, connection, transaction
from django_tenants.utils import schema_context
from hypothesis import given
from hypothesis import strategies as st

from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import KEEP, REFUSE_MESSAGE, REFUSE_VALUE, ComponentSpec
from telemetry.services.pipeline.normalization import normalize
from telemetry.services.pipeline.results import Refusal
from tests.factories import Registered
from tests.payloads import topic, v1, v2

from .quarantine import (  # noqa: F401 (fixtures)
    Send,
    begin,
    ingest_fixture,
    own_fixture,
    readings,
    send_fixture,
    step,
    tenant_fixture,
)

# --- pure -----------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "d")
METRICS = tuple(MetricSpec(name, (name,), "number", "°C", minimum=-55.0, maximum=125.0) for name in NAMES)


def component(policy: str, unmapped: str = KEEP) -> ComponentSpec:
    return ComponentSpec("probes", "probes", True, True, METRICS, unmapped, policy)


VALUES = st.one_of(
    st.none(), st.floats(-55, 125), st.sampled_from([-127, 85.5, 1e9, "warm", True, [], {}, "", -55, 125])
)


@given(st.dictionaries(st.sampled_from((*NAMES, "other")), VALUES))
def test_each_value_is_stored_or_refused(message: dict[str, Any]) -> None:
    alone: dict[str, str] = {}
    for name in NAMES:
        try:
            found = normalize({name: message.get(name)}, component(REFUSE_MESSAGE))
        except Refusal as refusal:
            alone[name] = refusal.reason
        else:
            alone[name] = "stored" if found.measurements else "none"
    if "stored" not in alone.values() and message.get("other") is None and set(alone.values()) != {"none"}:
        with pytest.raises(Refusal) as caught:
            normalize(message, component(REFUSE_VALUE))
        assert caught.value.reason in alone.values()
        return
    if "stored" not in alone.values():
        return  # only values without a metric, which may be beyond the bounds
    result = normalize(message, component(REFUSE_VALUE))
    assert [value.metric for value in result.measurements] == [name for name in NAMES if alone[name] == "stored"]
    refused = {value.metric: value.reason for value in result.refused}
    assert refused == {name: reason for name, reason in alone.items() if reason not in ("stored", "none")}
    assert all(value.detail for value in result.refused)
    if not refused:
        assert result == normalize(message, component(REFUSE_MESSAGE))


def test_the_policy_of_existing_types_refuses_the_message() -> None:
    with pytest.raises(Refusal):
        normalize({"a": 1, "b": -127}, component(REFUSE_MESSAGE))


def test_a_message_without_a_valid_value_names_all_of_them() -> None:
    with pytest.raises(Refusal) as caught:
        normalize({"a": -127, "b": 300}, component(REFUSE_VALUE))
    assert "Metric a" in caught.value.detail
    assert "Metric b" in caught.value.detail


# --- through the pipeline -------------------------------------------------------------------------------------------


def probes(tenant: Any, register: Any, policy: str = REFUSE_VALUE) -> Registered:
    """Register a device with three probes of one component, each from -55 to 125 °C, and a switch."""
    from devices.models import ComponentType, Metric, Unit

    key = f"probes-{policy.replace('_', '-')}"
    with schema_context(tenant.schema_name):
        kind, is_new = ComponentType.objects.get_or_create(key=key, defaults={"name": key, "invalid_values": policy})
        if is_new:
            unit = Unit.objects.get(symbol="°C")
            for number in (1, 2, 3):
                bounds = {"minimum": -55, "maximum": 125}
                Metric.objects.create(component_type=kind, key=f"t{number}", path=f"t{number}", unit=unit, **bounds)
            Metric.objects.create(component_type=kind, key="on", path="on", value_type="boolean")
    return register(tenant=tenant, components={"probes": key}, hardware_model=None)


def message(device: Registered, **values: Any) -> tuple[str, bytes]:
    return topic(device, "probes"), v1(device, None, **values)


def rows(tenant: Any) -> list[tuple[str, str, int]]:
    """(metric, reason, count) in the quarantine."""
    from telemetry.models import Quarantined

    with schema_context(tenant.schema_name):
        return list(Quarantined.objects.order_by("metric").values_list("metric", "reason", "count"))


def totals(tenant: Any) -> dict[str, int]:
    from telemetry.models import IngestTotals

    names = ("received", "stored", "quarantined", "values_received", "values_stored", "values_quarantined")
    with schema_context(tenant.schema_name):
        return {name: sum(IngestTotals.objects.values_list(name, flat=True)) for name in names}


def test_two_of_three_probes_are_stored(own: Any, register: Any, send: Send) -> None:
    device = probes(own, register)
    result = send(message(device, t1=21.5, t2=-127, t3=22.5))
    assert (result.stored, result.quarantined) == (1, 0)
    assert readings(device) == [("t1", 21.5), ("t3", 22.5)]
    assert rows(own) == [("t2", "out_of_range", 1)]
    assert totals(own) == {
        "received": 1, "stored": 1, "quarantined": 0,
        "values_received": 3, "values_stored": 2, "values_quarantined": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("warm", "wrong_type"),
        (True, "wrong_type"),
        ([], "wrong_type"),
        (125.1, "out_of_range"),
        (2**70 + 1, "wrong_type"),
    ],
)
def test_every_kind_of_invalid_value_spares_the_others(
    own: Any, register: Any, send: Send, value: Any, reason: str
) -> None:
    device = probes(own, register)
    send(message(device, t1=1, t2=value, on="ON"))
    assert readings(device) == [("on", 1.0), ("t1", 1.0)]
    assert rows(own) == [("t2", reason, 1)]


def test_a_message_without_a_valid_value_is_refused_as_a_whole(own: Any, register: Any, send: Send) -> None:
    device = probes(own, register)
    assert send(message(device, t1=-127, t2=-127)).quarantined == 1
    assert (readings(device), rows(own)) == ([], [("", "out_of_range", 1)])


def test_the_other_policy_refuses_the_message(own: Any, register: Any, send: Send) -> None:
    device = probes(own, register, REFUSE_MESSAGE)
    assert send(message(device, t1=1, t2=-127)).quarantined == 1
    assert (readings(device), rows(own)) == ([], [("", "out_of_range", 1)])


def test_a_message_again_adds_nothing(own: Any, register: Any, send: Send) -> None:
    device = probes(own, register)
    once = message(device, t1=1, t2=-127)
    send(once)
    before = totals(own)
    assert send(once).duplicates == 1
    assert send(once, once).duplicates == 2
    assert rows(own) == [("t2", "out_of_range", 1)]
    assert {name: totals(own)[name] for name in before if name != "received"} == {
        name: count for name, count in before.items() if name != "received"
    }


def test_in_one_batch_with_a_duplicate_and_a_refused_message(own: Any, register: Any, send: Send) -> None:
    """The batch is stored again by the writer that finds conflicts."""
    device = probes(own, register)
    once = message(device, t1=1, t2=-127)
    result = send(once, once, message(device, t1=2, t3="x"), message(device, t1=-127))
    assert (result.stored, result.duplicates, result.quarantined) == (2, 1, 1)
    assert rows(own) == [("", "out_of_range", 1), ("t2", "out_of_range", 1), ("t3", "wrong_type", 1)]
    assert totals(own)["values_quarantined"] == 2


def test_it_is_activity(own: Any, register: Any, send: Send) -> None:
    from devices.models import DeviceStatus

    device = probes(own, register)
    send(message(device, t1=1, t2=-127))
    with schema_context(own.schema_name):
        assert DeviceStatus.objects.get(device=device.device).status == "ONLINE"


# --- replays --------------------------------------------------------------------------------------------------------


def widen(tenant: Any, metric: str) -> None:
    """Let the metric take any number, and wait until listeners know it."""
    import time

    from devices.models import Metric

    with schema_context(tenant.schema_name):
        for found in Metric.objects.filter(key=metric, component_type__key__startswith="probes-"):
            found.minimum = found.maximum = None
            found.save()
    time.sleep(0.3)  # listeners read changes every 0.1 s


def narrow(tenant: Any) -> None:
    from devices.models import Metric

    with schema_context(tenant.schema_name):
        for found in Metric.objects.filter(key__startswith="t", component_type__key__startswith="probes-"):
            found.minimum, found.maximum = -55, 125
            found.save()


@pytest.mark.parametrize("version", [1, 2])
def test_the_refused_value_is_replayed_alone(own: Any, register: Any, send: Send, version: int) -> None:
    narrow(own)
    device = probes(own, register)
    values: dict[str, Any] = {"t1": 21.5, "t2": -127, "t3": 300}
    if version == 1:
        sent = message(device, **values)
    else:
        sent = topic(device, "probes"), v2(device, None, seq=1, component="probes", **values)
    send(sent)
    assert step(own, begin(own)).refused == {"out_of_range": 2}
    widen(own, "t2")
    try:
        replay = step(own, begin(own))
        assert (replay.stored, replay.duplicates, replay.refused) == (1, 0, {"out_of_range": 1})
        assert readings(device) == [("t1", 21.5), ("t2", -127.0)]
        assert rows(own) == [("t3", "out_of_range", 1)]
        assert totals(own) == {
            "received": 1, "stored": 1, "quarantined": 0,
            "values_received": 3, "values_stored": 2, "values_quarantined": 1,
        }  # fmt: skip
        assert step(own, begin(own)).stored == 0
        assert len(readings(device)) == 2
    finally:
        narrow(own)


def test_two_values_of_one_message_are_replayed_together(own: Any, register: Any, send: Send) -> None:
    device = probes(own, register)
    send(message(device, t1=1, t2=-127, t3=300))
    widen(own, "t2")
    widen(own, "t3")
    try:
        assert step(own, begin(own)).stored == 2
        assert readings(device) == [("t1", 1.0), ("t2", -127.0), ("t3", 300.0)]
        assert rows(own) == []
        assert totals(own)["values_quarantined"] == 0
    finally:
        narrow(own)


def test_a_value_whose_metric_is_gone_stays_with_a_word(own: Any, register: Any, send: Send) -> None:
    import time

    from devices.models import Metric
    from telemetry.models import Quarantined

    device = probes(own, register)
    send(message(device, t1=1, t3=300))
    with schema_context(own.schema_name):
        found = Metric.objects.get(key="t3", component_type__key=f"probes-{REFUSE_VALUE.replace('_', '-')}")
        Metric.objects.filter(pk=found.pk).update(key="renamed")
        found.component_type.save()  # announces the change
    time.sleep(0.3)
    try:
        assert step(own, begin(own)).refused == {"out_of_range": 1}
        with schema_context(own.schema_name):
            assert "no value of the metric t3" in Quarantined.objects.get().detail
    finally:
        with schema_context(own.schema_name):
            Metric.objects.filter(pk=found.pk).update(key="t3")
            found.component_type.save()


def test_the_database_holds_the_law_of_the_values(own: Any, register: Any, send: Send) -> None:
    send(message(probes(own, register), t1=1, t2=-127))
    with (
        schema_context(own.schema_name),
        pytest.raises((IntegrityError, psycopg.errors.CheckViolation)),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("UPDATE telemetry_ingesttotals SET values_stored = values_stored + 1")


def test_a_flood_of_refused_values_is_counted_apart(own: Any, register: Any, send: Send, settings: Any) -> None:
    from telemetry.models import SuppressedMessages

    settings.QUARANTINE_SOURCE_MESSAGES = 3
    device = probes(own, register)
    for number in range(6):
        send(message(device, t1=number, t2=-127 - number))
    send(message(device, t1=-127))
    with schema_context(own.schema_name):
        suppressed = SuppressedMessages.objects.values_list("source", "count")
        assert list(suppressed) == [("values", 3)]
    assert len(rows(own)) == 4, "the message that is refused as a whole has a share of its own"
    assert totals(own)["values_quarantined"] == 6
