"""Teaching a component type over the API."""

from typing import Any

from django_tenants.utils import schema_context

from tests.api.client import T0, Api, problems
from tests.factories import add_quarantined, issue_key, make_device


def _type(api: Api) -> int:
    return int(api.post("component-types/", {"key": "taught", "name": "Taught"}).json()["id"])


def test_propose_change_and_accept(api: Api, tenant_a: Any) -> None:
    kind = _type(api)
    payload = {"timestamp": "x", "value": {"temp": 68, "hum": 44}, "TempUnit": "F"}
    answer = api.post(f"component-types/{kind}/metric-mapping/proposal/", {"payload": payload})
    assert answer.status_code == 200, answer.content
    found = answer.json()
    assert [(m["key"], m["path"], m["unit"], m["unit_path"]) for m in found["metrics"]] == [
        ("temperature", "value.temp", "°C", "TempUnit"),
        ("humidity", "value.hum", "%", ""),
    ]
    assert found["readings"] == [
        {"metric": "temperature", "value": 20.0, "unit": "°C"},
        {"metric": "humidity", "value": 44.0, "unit": "%"},
    ]
    assert (found["unmapped"], found["refusal"], found["message"]) == ([], None, payload)

    metrics = [{**found["metrics"][0], "maximum": 10}, found["metrics"][1]]
    seen = api.post(f"component-types/{kind}/metric-mapping/proposal/", {"payload": payload, "metrics": metrics}).json()
    assert seen["refusal"]["reason"] == "out_of_range"
    assert seen["readings"] == []

    answer = api.post(f"component-types/{kind}/metric-mapping/apply/", {"metrics": found["metrics"]})
    assert answer.status_code == 201, answer.content
    assert {one["metric"]: (one["mapped_series"], one["unmapped_series"]) for one in answer.json()["series"]} == {
        "temperature": (0, 0),
        "humidity": (0, 0),
    }
    assert {m["key"] for m in api.get(f"component-types/{kind}/").json()["metrics"]} == {"temperature", "humidity"}
    again = api.post(f"component-types/{kind}/metric-mapping/apply/", {"metrics": found["metrics"]})
    assert again.status_code == 400
    assert "already" in str(problems(again))


def test_what_is_asked_wrongly_is_said(api: Api) -> None:
    kind = _type(api)
    for body, text in (
        ({}, "Exactly one of"),
        ({"payload": {}, "quarantine_id": 1}, "Exactly one of"),
        ({"payload": 5}, "'payload' must be"),
        ({"payload": "{"}, "not a valid message"),
        ({"payload": {}, "metrics": [{"key": "a", "path": "a..b"}]}, "is not a valid path"),
        ({"payload": {}, "metrics": [{"key": "a", "path": "a", "unit": "parsec"}]}, "There is no unit"),
        ({"payload": {}, "metrics": [{"key": "a", "path": "a", "factor": 2}]}, "is not a known member"),
        ({"payload": {}, "other": 1}, "is not a known member"),
    ):
        answer = api.post(f"component-types/{kind}/metric-mapping/proposal/", body)
        assert answer.status_code == 400, body
        assert text in str(problems(answer)), (body, problems(answer))
    assert api.post(f"component-types/{kind}/metric-mapping/apply/", {"metrics": []}).status_code == 400


def test_an_example_is_picked_from_what_was_received(api: Api, tenant_a: Any, tenant_b: Any) -> None:
    from telemetry.models import Quarantined

    kind = _type(api)
    device = make_device(tenant_a, "without messages", x="dht22")
    assert api.post(f"component-types/{kind}/metric-mapping/proposal/", {"device": str(device.uuid)}).status_code == 404
    theirs = make_device(tenant_b, "of another", x="dht22")
    assert api.post(f"component-types/{kind}/metric-mapping/proposal/", {"device": str(theirs.uuid)}).status_code == 404
    add_quarantined(tenant_a, T0, device=device)
    with schema_context(tenant_a.schema_name):
        row = Quarantined.objects.get(device=device)
        Quarantined.objects.filter(pk=row.pk).update(payload=b'{"co2": 400}')
    found = api.post(f"component-types/{kind}/metric-mapping/proposal/", {"quarantine_id": row.pk}).json()
    assert [(m["key"], m["unit"]) for m in found["metrics"]] == [("co2", "ppm")]
    assert (
        api.post(f"component-types/{kind}/metric-mapping/proposal/", {"quarantine_id": row.pk + 999}).status_code == 404
    )


def test_a_stored_message_is_shown_only_to_keys_that_read_such_messages(api: Api, tenant_a: Any) -> None:
    address = f"component-types/{_type(api)}/metric-mapping/proposal/"
    device = make_device(tenant_a, "a device", x="dht22")
    writer = Api(tenant_a.slug, key=issue_key(tenant_a, "custom", scopes=["metadata:write"]))
    assert writer.post(address, {"payload": {"co2": 400}}).status_code == 200
    for body, scope in (({"device": str(device.uuid)}, "readings:read"), ({"quarantine_id": 1}, "quarantine:read")):
        refused = writer.post(address, body)
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_required")
        assert problems(refused)[None] == f"This requires an API key with the scope {scope}."
        reader = Api(tenant_a.slug, key=issue_key(tenant_a, "custom", scopes=["metadata:write", scope]))
        assert reader.post(address, body).status_code == 404
