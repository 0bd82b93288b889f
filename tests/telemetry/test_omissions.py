"""Values that are left out of messages are said over the API: warnings of the device, and totals."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django_tenants.utils import schema_context

from devices.domain.layout import EXACT
from devices.services.presence import warnings
from telemetry.services.pipeline import unmapped_values
from tests.api.client import Api
from tests.factories import Registered, issue_key
from tests.payloads import topic, v1, v2
from tests.telemetry.test_ingest import Send, ingest, readings, refused, send

__all__ = ["ingest", "send"]


@pytest.fixture
def api(live_db: None, tenant_a: Any) -> Api:
    return Api(tenant_a.slug, key=issue_key(tenant_a, "read"))


def warned(api: Api, device: Registered) -> list[tuple[str, str]]:
    """(code, component) of the device's warnings."""
    found = api.get(f"devices/{device.uuid}/").json()["warnings"]
    assert all(one["detail"] and one["component"] in one["detail"] for one in found)
    return [(one["code"], one["component"]) for one in found]


def truncated(api: Api) -> int:
    return sum(row["truncated"] for row in api.get("totals/").json()["results"])


OMITTED: dict[str, Any] = {
    "64 pixels": {"pixels": list(range(64))},
    "65 values": {f"k{number}": number for number in range(65)},
    "a long text": {"text": "x" * 1001},
    "nine levels": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}}},
    "a number that no float is equal to": {"serial": 2**53 + 1},
    "a text with a NUL": {"text": "a\x00b"},
}


@pytest.mark.parametrize("value", OMITTED.values(), ids=OMITTED)
def test_a_message_beyond_a_bound_is_a_warning_and_is_counted(
    register: Any, send: Send, api: Api, value: dict[str, Any]
) -> None:
    device, before = register(), truncated(api)
    assert send((topic(device), v1(device, {"temp": 20, **value}))).stored == 1
    assert warned(api, device) == [("message_limit", "dht22")]
    assert truncated(api) == before + 1


def test_a_component_with_too_many_series_is_a_warning(register: Any, send: Send, api: Api, settings: Any) -> None:
    settings.INGEST_UNMAPPED_SERIES = 5
    device, before = register(), truncated(api)
    send((topic(device), v1(device, {"a": 1, "b": 2, "c": 3})))
    assert (warned(api, device), truncated(api)) == ([], before)
    send((topic(device), v1(device, {"d": 4, "e": 5, "f": 6})))
    assert warned(api, device) == [("series_limit", "dht22")]
    assert truncated(api) == before + 1
    assert len(readings(device)) == 5


def test_a_message_that_is_stored_whole_warns_of_nothing(register: Any, send: Send, api: Api) -> None:
    device, before = register(), truncated(api)
    send((topic(device), v1(device, {"temp": 20, "other": [1, 2, 3], "text": "x"})))
    assert (warned(api, device), truncated(api)) == ([], before)


def test_components_have_warnings_of_their_own(register: Any, send: Send, api: Api) -> None:
    device = register(components={"a": "dht22", "b": "dht22"})
    for number, component in enumerate(("a", "b", "a")):
        members = {"pixels": list(range(64))}
        send((topic(device, component), v2(device, members, seq=number + 1, component=component)))
    assert warned(api, device) == [("message_limit", "a"), ("message_limit", "b")]


def test_a_message_again_is_counted_once(register: Any, send: Send, api: Api) -> None:
    device, before = register(), truncated(api)
    once = topic(device), v1(device, {"pixels": list(range(64))})
    send(once, once)
    send(once)
    assert truncated(api) == before + 1


def test_a_warning_ends_a_day_after_its_last_message(register: Any, send: Send, api: Api) -> None:
    from devices.models import DeviceOmissions

    device = register()
    send((topic(device), v1(device, {"pixels": list(range(64))})))
    with schema_context(device.tenant.schema_name):
        found = DeviceOmissions.objects.get(device=device.device)
        found.components["dht22"]["at"] = (datetime.now(UTC) - timedelta(days=1, minutes=1)).isoformat()
        found.save()
    assert warned(api, device) == []


def test_the_first_of_two_equal_keys_is_never_left_out_in_silence(register: Any, send: Send) -> None:
    """The message is refused by the name of the key."""
    from telemetry.models import Quarantined

    device = register()
    whole = json.loads(v1(device, {"CF1": 7}))
    text = json.dumps(whole).replace('"CF1": 7', '"CF1": 7, "CF1": 7')
    send((topic(device), text.encode()))
    assert refused(device)[0][1] == 1
    with schema_context(device.tenant.schema_name):
        assert "CF1" in Quarantined.objects.filter(device=device.device).get().detail


def test_the_text_names_the_bounds() -> None:
    text = str(warnings._TEXTS["message_limit"])
    for bound in (unmapped_values.MAX_VALUES, unmapped_values.MAX_ITEMS, unmapped_values.MAX_LETTERS):
        assert f"{bound:,}" in text
    assert f"{unmapped_values.MAX_DEPTH} levels" in text
    assert "NUL" in text
    assert f"{EXACT:.0f}" in text
