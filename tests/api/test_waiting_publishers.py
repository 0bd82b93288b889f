"""Publishers that wait at a gateway: announced, listed, and registered with one request."""

import copy
import threading
from typing import Any

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from devices.bridge.dialects import Dialects
from devices.bridge.gateway import Waiting
from devices.models import AuditEntry, ComponentType, Device, Metric, WaitingPublisher
from devices.services.provisioning import waiting_publishers
from tests.factories import issue_key, make_device, register_device

from .client import Api, problems

CONTRACT: dict[str, Any] = {
    "key": "tasmota-a1b2",
    "name": "Tasmota a1b2",
    "metrics": [
        {"key": "power", "path": "/value/ENERGY/Power", "value_type": "number", "unit": "W"},
        {"key": "temperature", "path": "value.T", "value_type": "number", "unit": "°C", "unit_path": "value.TempUnit"},
        {"key": "on", "path": "value.POWER", "value_type": "boolean", "true_value": "ON", "false_value": "OFF"},
        {"key": "strange", "path": "value.s", "value_type": "number", "unit": "furlong/fortnight"},
    ],
}
PUBLISHER = {
    "publisher": "tasmota:washer",
    "message_count": 3,
    "example": {"value": {"ENERGY": {"Power": 40}, "T": 20, "TempUnit": "C", "POWER": "ON", "s": 1}},
    "contract": CONTRACT,
}


def announced(**members: Any) -> dict[str, Any]:
    return {"publishers": [copy.deepcopy(PUBLISHER) | members]}


@pytest.fixture
def gateway(db: None, tenant_a: Any) -> Any:
    return make_device(tenant_a, "the gateway")


def test_a_publisher_waits_and_is_registered_with_one_request(api: Api, tenant_a: Any, gateway: Any) -> None:
    address = f"devices/{gateway.uuid}/waiting-publishers/"
    assert api.post(address, announced()).json() == {"waiting": 1}
    assert api.post(address, announced(message_count=7)).json() == {"waiting": 1}
    (waiting,) = api.get(f"waiting-publishers/?gateway={gateway.uuid}").json()["results"]
    assert (waiting["publisher"], waiting["message_count"], waiting["gateway"]) == (
        "tasmota:washer", 7, str(gateway.uuid),
    )  # fmt: skip
    assert (waiting["example"], waiting["contract"]) == (PUBLISHER["example"], CONTRACT)

    answer = api.post(f"waiting-publishers/{waiting['id']}/register/")
    assert answer.status_code == 201, answer.content
    device = answer.json()
    assert (device["name"], device["external_id"], device["gateway"]) == ("washer", "tasmota:washer", str(gateway.uuid))
    assert [(part["key"], part["component_type"]) for part in device["components"]] == [("tasmota", "tasmota-a1b2")]
    with schema_context(tenant_a.schema_name):
        rows = Metric.objects.filter(component_type__key="tasmota-a1b2").order_by("key")
        assert [(m.key, m.path, m.unit.symbol if m.unit else "", m.unit_path, m.true_value) for m in rows] == [
            ("on", "value.POWER", "", "", "ON"),
            ("power", "/value/ENERGY/Power", "W", "", ""),
            ("strange", "value.s", "", "", ""),
            ("temperature", "value.T", "°C", "value.TempUnit", ""),
        ]
        actions = AuditEntry.objects.filter(object_type__in=["devices.device", "devices.componenttype"])
        # Tests that commit may have left others before them.
        assert list(actions.order_by("id").values_list("action", flat=True))[-2:] == ["add", "register"]
    assert api.post(f"waiting-publishers/{waiting['id']}/register/").status_code == 404
    assert api.post(address, announced()).json() == {"waiting": 0}, "a device does not wait"


def test_equal_publishers_share_the_component_type(api: Api, tenant_a: Any, gateway: Any) -> None:
    for name in ("one", "two"):
        api.post(f"devices/{gateway.uuid}/waiting-publishers/", announced(publisher=f"tasmota:{name}"))
    for waiting in api.get("waiting-publishers/").json()["results"]:
        assert api.post(f"waiting-publishers/{waiting['id']}/register/", {"name": "x"}).status_code == 201
    with schema_context(tenant_a.schema_name):
        assert ComponentType.objects.filter(key="tasmota-a1b2").count() == 1
        assert Device.objects.filter(gateway=gateway, name="x").count() == 2


def test_a_removed_publisher_waits_again(api: Api, gateway: Any) -> None:
    address = f"devices/{gateway.uuid}/waiting-publishers/"
    api.post(address, announced())
    (waiting,) = api.get("waiting-publishers/").json()["results"]
    assert api.delete(f"waiting-publishers/{waiting['id']}/").status_code == 204
    assert api.get("waiting-publishers/").json()["results"] == []
    assert api.post(address, announced()).json() == {"waiting": 1}


def test_a_gateway_has_a_bounded_number(api: Api, gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_publishers, "MAX_WAITING", 3)
    address = f"devices/{gateway.uuid}/waiting-publishers/"
    many = {"publishers": [announced(publisher=f"ruuvi:{n}")["publishers"][0] for n in range(5)]}
    assert api.post(address, many).json() == {"waiting": 3}
    many["publishers"][0]["message_count"] = 99
    assert api.post(address, many).json() == {"waiting": 3}
    counts = {row["publisher"]: row["message_count"] for row in api.get("waiting-publishers/").json()["results"]}
    assert counts == {"ruuvi:0": 99, "ruuvi:1": 3, "ruuvi:2": 3}


@pytest.mark.parametrize(
    ("members", "place", "text"),
    [
        ({"publisher": "no dialect"}, "publishers.0.publisher", ""),
        ({"publisher": "a:" + "b" * 120}, "publishers.0.publisher", "120"),
        ({"message_count": 0}, "publishers.0.message_count", "at least 1"),
        ({"example": [1]}, "publishers.0.example", ""),
        ({"example": {"a": "x" * 17_000}}, "publishers.0.example", "16384"),
        ({"example": {"a": "\x00"}}, "publishers.0.example", "NUL"),
        ({"colour": "red"}, "publishers.0.colour", "not a known member"),
        ({"contract": {"key": "no spaces", "name": "x", "metrics": []}}, "publishers.0.contract.key", ""),
        ({"contract": {**CONTRACT, "metrics": [{"key": "a"}]}}, "publishers.0.contract.metrics.0.path", "required"),
        ({"contract": {**CONTRACT, "metrics": CONTRACT["metrics"] * 17}}, "publishers.0.contract.metrics", "64"),
    ],
)
def test_a_wrong_announcement_says_what_to_mend(
    api: Api, gateway: Any, members: dict[str, Any], place: str, text: str
) -> None:
    answer = api.post(f"devices/{gateway.uuid}/waiting-publishers/", announced(**members))
    assert answer.status_code == 400
    assert text in problems(answer)[place]


def test_a_contract_that_is_wrong_creates_nothing(api: Api, tenant_a: Any, gateway: Any) -> None:
    """A gateway proposes; what the platform would refuse from a person it refuses here."""
    metrics = [
        {"key": "ok", "path": "value.x", "value_type": "number"},
        {"key": "bad", "path": "seq", "value_type": "number"},
    ]
    api.post(f"devices/{gateway.uuid}/waiting-publishers/", announced(contract=CONTRACT | {"metrics": metrics}))
    (waiting,) = api.get("waiting-publishers/").json()["results"]
    refused = api.post(f"waiting-publishers/{waiting['id']}/register/")
    assert (refused.status_code, "seq is a member of the protocol" in refused.content.decode()) == (400, True)
    with schema_context(tenant_a.schema_name):
        assert not ComponentType.objects.filter(key="tasmota-a1b2").exists()
        assert WaitingPublisher.objects.count() == 1


def test_a_child_cannot_be_a_gateway(api: Api, gateway: Any) -> None:
    child = api.post("devices/", {"name": "a child", "gateway": str(gateway.uuid)}).json()
    refused = api.post(f"devices/{child['uuid']}/waiting-publishers/", announced())
    assert (refused.status_code, "has a gateway itself" in refused.content.decode()) == (400, True)


def test_the_gateways_key_announces_and_reads_and_no_more(tenant_a: Any, gateway: Any) -> None:
    key = issue_key(tenant_a, "custom", scopes=("gateways:write", "devices:read"))
    bridge = Api(tenant_a.slug, key=key)
    assert bridge.post(f"devices/{gateway.uuid}/waiting-publishers/", announced()).json() == {"waiting": 1}
    (waiting,) = bridge.get("waiting-publishers/").json()["results"]
    assert bridge.post(f"waiting-publishers/{waiting['id']}/register/").status_code == 403
    assert bridge.delete(f"waiting-publishers/{waiting['id']}/").status_code == 403


def test_two_clicks_register_one_device(tenant_a: Any, live_db: None) -> None:
    gateway = register_device(tenant_a, {}).device
    with schema_context(tenant_a.schema_name):
        waiting_publishers.announce(gateway, announced(publisher=f"tasmota:{gateway.uuid}")["publishers"])
        waiting = WaitingPublisher.objects.get(gateway=gateway)
    made: list[Any] = []

    def click() -> None:
        with schema_context(tenant_a.schema_name):
            made.append(waiting_publishers.register(waiting))
        connection.close()

    threads = [threading.Thread(target=click) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(device is not None for device in made) == 1
    with schema_context(tenant_a.schema_name):
        Device.objects.filter(gateway=gateway).delete()
        ComponentType.objects.filter(key="tasmota-a1b2").delete()


def test_what_the_bridge_proposes_is_accepted(api: Api, gateway: Any) -> None:
    """For a device of each dialect."""
    dialects = Dialects()
    messages = [
        ("tele/a/SENSOR", b'{"Time": "x", "AM2301": {"Temperature": 1.5, "Humidity": 40}, "TempUnit": "C"}'),
        ("shellies/b/relay/0/power", b"12.5"),
        ("c/events/rpc", b'{"src": "c", "params": {"ts": 1, "switch:0": {"apower": 1.5, "output": true}}}'),
        ("zigbee2mqtt/d", b'{"temperature": 20.5, "state": "ON", "linkquality": 3}'),
        ("e/sensor/room_temperature/state", b"20.5"),
        ("senml/f", b'[{"n": "t", "u": "Cel", "v": 20.5}]'),
        ("ruuvi/x/g", b'{"data": "FF99040512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F"}'),
        ("home/x/BTtoMQTT/h", b'{"id": "h", "tempc": 20.5, "hum": 40}'),
    ]
    publishers = []
    for topic, payload in messages:
        waiting = Waiting(dialects.read(topic, payload, 0)[0])
        waiting.add(waiting.report)
        contract = dialects.contract(waiting.report)
        assert contract["metrics"], topic
        publishers.append(
            {
                "publisher": waiting.report.name,
                "message_count": waiting.count,
                "example": {"value": waiting.values},
                "contract": contract,
            }
        )
    answer = api.post(f"devices/{gateway.uuid}/waiting-publishers/", {"publishers": publishers})
    assert answer.json() == {"waiting": len(messages)}
    for waiting_row in api.get("waiting-publishers/").json()["results"]:
        registered = api.post(f"waiting-publishers/{waiting_row['id']}/register/")
        assert registered.status_code == 201, registered.content
