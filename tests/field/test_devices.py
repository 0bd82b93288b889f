"""Messages of real devices through mapping, ingest and reading back: values and units are right without editing."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django_tenants.utils import schema_context

from devices.bridge.dialects import DialectReport, Dialects
from tests.api.client import Api
from tests.factories import issue_key
from tests.payloads import topic, v1

from .corpus import PAGE, FieldDevice, load_devices, table

DEVICES = load_devices()
Stored = dict[str, tuple[Any, str]]


@pytest.fixture
def api(live_db: None, tenant_a: Any, settings: Any) -> Api:
    settings.API_REQUESTS_PER_MINUTE = 0
    return Api(tenant_a.slug, key=issue_key(tenant_a))


@pytest.fixture
def kind(live_db: None, tenant_a: Any) -> Iterator[Any]:
    from devices.models import Component, ComponentType

    with schema_context(tenant_a.schema_name):
        made = ComponentType.objects.create(key=f"field{datetime.now(UTC).timestamp():.6f}", name="field")
    yield made
    with schema_context(tenant_a.schema_name):
        Component.objects.filter(component_type=made).delete()
        made.delete()


@pytest.fixture
def ingest(live_db: None) -> Iterator[Any]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    made = build_pipeline()
    yield made
    made.writer.close()


def _contract(api: Api, kind: Any, device: FieldDevice) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the proposed metrics, and the messages' members: as the bridge or the mapping propose them."""
    if not device.is_bridged:
        answer = api.post(f"component-types/{kind.pk}/metric-mapping/proposal/", {"payload": device.message})
        assert answer.status_code == 200, answer.content
        return answer.json()["metrics"], [device.message]
    dialects = Dialects()
    reports = [report for name, payload in device.messages for report in dialects.read(name, payload, 0.0)]
    values = {name: value for report in reports for name, value in report.values.items()}
    units = {name: unit for report in reports for name, unit in report.units.items()}
    contract = dialects.contract(DialectReport(reports[0].dialect, reports[0].publisher, values, units=units))
    return contract["metrics"], [{"value": report.values} for report in reports]


def _stored(api: Api, kind: Any, device: FieldDevice, register: Callable[..., Any], ingest: Any) -> Stored:
    """Send the device's messages under the proposed metrics, unedited; return what is read back, by path."""
    from telemetry.services.pipeline.results import Incoming

    metrics, messages = _contract(api, kind, device)
    made = api.post(f"component-types/{kind.pk}/metric-mapping/apply/", {"metrics": metrics})
    assert made.status_code == 201, made.content
    registered = register(components={"x": kind.key}, hardware_model=None)
    sent = [(topic(registered, "x"), v1(registered, ago=len(messages) - at, **{"value": None, **message}))
            for at, message in enumerate(messages)]  # fmt: skip
    ingest.process([Incoming(name, payload, datetime.now(UTC)) for name, payload in sent])
    refused = api.get("quarantine/", device=registered.uuid).json()["results"]
    assert refused == [], [row["detail"] for row in refused]
    keys = {metric["key"]: metric["path"] for metric in metrics}
    return {
        _dotted(keys.get(row["metric"], row["metric"])): (row["value"], row["unit"] or "")
        for row in api.get("latest/", device=registered.uuid, limit=200).json()["results"]
    }


def _dotted(path: str) -> str:
    return path[1:].replace("/", ".").replace("~1", "/").replace("~0", "~") if path.startswith("/") else path


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_a_device_is_read_without_editing(
    device: FieldDevice, api: Api, kind: Any, register: Callable[..., Any], ingest: Any
) -> None:
    stored = _stored(api, kind, device, register, ingest)
    prefix = "value." if device.is_bridged else ""
    wrong = {path: meant for path, meant in device.means.items() if stored.get(prefix + path) != meant}
    assert bool(wrong) is bool(device.to_set), {path: stored.get(prefix + path) for path in wrong or device.means}
    for path, (_value, unit) in wrong.items():
        _seen, stored_unit = stored[prefix + path]
        assert stored_unit in ("", unit), f"{path} is in {unit}: no unit is right to choose, another one is false"


def test_most_devices_need_no_editing() -> None:
    assert len(DEVICES) >= 20
    assert len({device.name for device in DEVICES}) == len(DEVICES)
    right = sum(not device.to_set for device in DEVICES)
    assert right >= 18
    assert right / len(DEVICES) >= 18 / 20


def test_the_table_of_the_documentation_is_that_of_the_corpus() -> None:
    assert table(DEVICES) in PAGE.read_text(), "run `python -m tests.field.corpus`"


def test_nothing_in_the_corpus_names_a_real_device_or_place() -> None:
    text = json.dumps([[device.message, [payload.decode() for _, payload in device.messages]] for device in DEVICES])
    assert not re.search(r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b|@|password|ssid", text, re.IGNORECASE)
