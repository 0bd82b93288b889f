"""Registering, changing, listing and removing devices and components."""

import datetime
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.utils import timezone
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from devices.models import AuditEntry, Component, Device, DeviceStatus, HardwareModel
from devices.services.vault.secret_store import provisioner, reset_provisioner
from tenants.models import DeviceRoute
from tests.factories import add_message, add_readings, add_series, issue_key, make_device

from .client import T0, Api, problems


def test_a_device_is_registered_with_components_and_gets_credentials_once(api: Api, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        model = HardwareModel.objects.get()
    answer = api.post(
        "devices/",
        {
            "name": "north house",
            "cpu_serial": "10000000a1b2c3d4",
            "hardware_model": model.pk,
            "components": [{"key": "dht22", "component_type": "dht22"}, {"key": "p1", "component_type": "pump"}],
        },
    )

    assert answer.status_code == 201
    device = answer.json()
    assert device["name"] == "north house"
    assert device["status"] == "UNKNOWN"
    assert [(c["key"], c["component_type"]) for c in device["components"]] == [("dht22", "dht22"), ("p1", "pump")]
    credentials = device["credentials"]
    assert credentials["uuid"] == credentials["mqtt_username"] == device["uuid"]
    assert (credentials["mqtt_host"], credentials["mqtt_port"]) == (settings.MQTT_HOST, settings.MQTT_PORT)
    kept = provisioner().read(tenant_a.schema_name, UUID(device["uuid"]))
    assert (kept.secret, kept.mqtt_password, kept.version) == (
        credentials["secret"], credentials["mqtt_password"], credentials["kid"],
    )  # fmt: skip
    assert DeviceRoute.objects.get(device_uuid=device["uuid"]).tenant_id == tenant_a.pk

    again = api.get(f"devices/{device['uuid']}/")
    assert again.json() == {name: value for name, value in device.items() if name != "credentials"}
    assert credentials["secret"] not in again.content.decode()
    assert [(key["version"], key["valid"]) for key in again.json()["keys"]] == [(credentials["kid"], True)]


def test_timeout_and_intervals_are_given_at_the_registration(api: Api) -> None:
    parts = [
        {"key": "dht22", "component_type": "dht22", "expected_interval": 1800},
        {"key": "pump", "component_type": "pump", "expected_interval": None},
    ]
    device = api.post("devices/", {"name": "sleeper", "timeout_seconds": 4000, "components": parts}).json()
    assert (device["timeout_seconds"], device["effective_timeout_seconds"]) == (4000, 4000)
    assert [part["expected_interval"] for part in device["components"]] == [1800, None]
    derived = api.post("devices/", {"name": "other", "components": parts[:1]}).json()
    assert (derived["timeout_seconds"], derived["timeout_source"]) == (None, "interval")
    assert derived["effective_timeout_seconds"] == 3600


def test_who_registered_it_is_in_the_audit(admin_api: Api, tenant_a: Any) -> None:
    uuid = admin_api.post("devices/", {"name": "x"}).json()["uuid"]
    admin_api.patch(f"devices/{uuid}/", {"name": "y", "active": False})
    with schema_context(tenant_a.schema_name):
        rows = AuditEntry.objects.filter(object_type="devices.device").order_by("id")
        assert [(row.user_label, row.action, row.detail) for row in rows] == [
            ("an-admin", "register", ""),
            ("an-admin", "change", "name"),
            ("an-admin", "deactivate", ""),
        ]


@pytest.mark.parametrize(
    ("body", "attr", "text"),
    [
        ({}, "name", "required"),
        ({"name": ""}, "name", "must not be empty"),
        ({"name": "x", "timeout_seconds": 0}, "timeout_seconds", "must be at least 1, not 0"),
        ({"name": "x", "timeout_seconds": 2**31}, "timeout_seconds", "must be at most 2147483647"),
        (
            {"name": "x", "components": [{"key": "a", "component_type": "dht22", "expected_interval": 0}]},
            "components.0.expected_interval",
            "must be at least 1, not 0",
        ),
        (
            {"name": "x", "colour": "red"},
            "colour",
            "'colour' is not a known member. Known members: attributes, components, cpu_serial",
        ),
        ({"name": "x", "uuid": "abc"}, "uuid", "must be a UUID, not 'abc'"),
        ({"name": "x", "hardware_model": 10**12}, "hardware_model", "There is no hardware model 1000000000000"),
        (
            {"name": "x", "components": [{"key": "a", "component_type": "nothing"}]},
            "components.0.component_type",
            "There is no component type nothing",
        ),
        ({"name": "x", "components": [{"key": "a/b", "component_type": "pump"}]}, "components.0.key", "letters"),
        (
            {"name": "x", "components": [{"key": "a", "component_type": "pump"}] * 2},
            "components",
            "given more than once: a",
        ),
        ({"name": "x\x00"}, "name", "Null characters"),
        ([], None, "must be a JSON object, not"),
    ],
)
def test_a_registration_that_is_wrong_says_what_to_mend(api: Api, body: Any, attr: str | None, text: str) -> None:
    answer = api.post("devices/", body)
    assert answer.status_code == 400
    assert text in problems(answer)[attr]


def test_a_uuid_is_registered_once_over_all_tenants(api: Api, tenant_b: Any) -> None:
    theirs = make_device(tenant_b)
    answer = api.post("devices/", {"name": "mine now", "uuid": str(theirs.uuid)})
    assert answer.status_code == 409
    assert "already registered" in problems(answer)["uuid"]
    assert tenant_b.slug not in answer.content.decode()


def test_a_chosen_uuid_is_unproven_and_another_tenant_can_register_it(
    api: Api, tenant_a: Any, tenant_b: Any, settings: Any
) -> None:
    settings.MQTT_ADMIN_URL = ""
    uuid, other = str(uuid4()), Api(tenant_b.slug, key=issue_key(tenant_b))
    for each in (api, other):
        answer = each.post("devices/", {"name": "chosen", "uuid": uuid})
        assert (answer.status_code, answer.json()["ownership"]) == (201, "unproven")
        assert each.get(f"devices/{uuid}/").json()["ownership"] == "unproven"
    assert not DeviceRoute.objects.filter(device_uuid=uuid).exists()
    assert api.post("devices/", {"name": "generated"}).json()["ownership"] == "owned"
    assert api.patch(f"devices/{uuid}/", {"ownership": "owned"}).status_code == 400
    assert api.delete(f"devices/{uuid}/").status_code == 204
    assert other.get(f"devices/{uuid}/").json()["ownership"] == "unproven"


def test_a_device_is_changed(api: Api, greenhouse: Any) -> None:
    change = {"active": False, "cpu_serial": "abc", "timeout_seconds": 90}
    before = api.get(f"devices/{greenhouse.uuid}/").json()
    answer = api.patch(f"devices/{greenhouse.uuid}/", change)
    assert answer.status_code == 200
    after = before | change | {"effective_timeout_seconds": 90, "timeout_source": "device"}
    assert answer.json() == after == api.get(f"devices/{greenhouse.uuid}/").json()
    refused = api.patch(f"devices/{greenhouse.uuid}/", {"timeout_seconds": 0})
    assert "must be at least 1, not 0" in problems(refused)["timeout_seconds"]


@pytest.mark.parametrize("member", ["uuid", "status", "last_seen_at", "components", "keys"])
def test_what_cannot_be_changed_is_refused_not_ignored(api: Api, greenhouse: Any, member: str) -> None:
    answer = api.patch(f"devices/{greenhouse.uuid}/", {member: None})
    assert answer.status_code == 400
    assert problems(answer)[member].startswith(
        f"'{member}' cannot be changed. Members that can be changed: active, attributes, cpu_serial"
    )


def test_a_change_saves_only_what_was_given(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    """The listener raises `min_signature_version` while people edit names."""
    from devices.api.serializers.inventory import DeviceSerializer

    with schema_context(tenant_a.schema_name):
        read_before = Device.objects.get(pk=greenhouse.pk)
        Device.objects.filter(pk=greenhouse.pk).update(min_signature_version=2, cpu_serial="from elsewhere")
        serializer = DeviceSerializer(read_before, data={"name": "renamed"}, partial=True)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        after = Device.objects.get(pk=greenhouse.pk)
    assert (after.name, after.min_signature_version, after.cpu_serial) == ("renamed", 2, "from elsewhere")


def test_the_state_comes_with_its_reason_and_the_newest_sign_of_life(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        DeviceStatus.objects.filter(device=greenhouse).update(status="ONLINE", cause="birth", since=T0, last_seen_at=T0)
    redis = get_redis_connection("default")
    newer = T0 + datetime.timedelta(hours=1)
    redis.zadd("device_last_seen", {str(greenhouse.uuid): newer.timestamp()})
    try:
        device = api.get(f"devices/{greenhouse.uuid}/").json()
        listed = api.get("devices/").json()["results"][0]
    finally:
        redis.zrem("device_last_seen", str(greenhouse.uuid))
    assert (device["status"], device["status_cause"], device["status_changed_at"]) == (
        "ONLINE", "birth", "2026-11-22T09:30:00Z",
    )  # fmt: skip
    assert device["last_seen_at"] == listed["last_seen_at"] == "2026-11-22T10:30:00Z"
    assert api.get(f"devices/{greenhouse.uuid}/").json()["last_seen_at"] == "2026-11-22T09:30:00Z"


def test_lists_are_narrowed(api: Api, tenant_a: Any) -> None:
    one, two = make_device(tenant_a, "North house"), make_device(tenant_a, "South house")
    with schema_context(tenant_a.schema_name):
        model = HardwareModel.objects.get()
        Device.objects.filter(pk=two.pk).update(active=False, cpu_serial="77aa", hardware_model=model)
        DeviceStatus.objects.filter(device=one).update(status="ONLINE")

    def names(**query: Any) -> list[str]:
        answer = api.get("devices/", **query)
        assert answer.status_code == 200, answer.content
        return [device["name"] for device in answer.json()["results"]]

    assert names() == ["North house", "South house"]
    assert names(status="ONLINE") == ["North house"]
    assert names(status="TIMEOUT") == []
    assert names(active="false") == ["South house"]
    assert names(active="true") == ["North house"]
    assert names(search="north") == ["North house"]
    assert names(search="77AA") == ["South house"]
    assert names(search=str(one.uuid)[:13]) == ["North house"]
    assert names(hardware_model=model.pk) == ["South house"]


@pytest.mark.parametrize(
    ("query", "attr", "text"),
    [
        ({"status": "online"}, "status", "must be one of UNKNOWN, ONLINE, OFFLINE, TIMEOUT, not 'online'"),
        ({"active": "yes"}, "active", "must be one of true, false, not 'yes'"),
        ({"hardware_model": "999999"}, "hardware_model", "There is no hardware model with this id"),
        ({"search": "\x00"}, "search", "Null characters"),
        ({"limit": "0"}, "limit", "whole number from 1 to 1000"),
        ({"limit": "1001"}, "limit", "whole number from 1 to 1000"),
        ({"limit": "ten"}, "limit", "whole number from 1 to 1000"),
        ({"offset": "-1"}, "offset", "whole number from 0"),
        ({"offset": "9" * 30}, "offset", "whole number from 0"),
        (
            {"stauts": "ONLINE"},
            "stauts",
            "Known parameters: active, changed_since, external_id, fields, gateway, hardware_model, limit, offset",
        ),
        ({"search": ["a", "b"]}, "search", "'search' must be given only once"),
        ({"format": "xml"}, "format", "'format' is not a known parameter"),
    ],
)
def test_a_list_refuses_parameters_that_it_cannot_follow(api: Api, query: dict[str, Any], attr: str, text: str) -> None:
    answer = api.get("devices/", **query)
    assert answer.status_code == 400
    assert text in problems(answer)[attr]


def test_pages_follow_each_other_and_their_links_stay_in_the_tenant(api: Api, tenant_a: Any) -> None:
    for number in range(5):
        make_device(tenant_a, f"device {number}")
    page = api.get("devices/", limit=2, search="device").json()
    assert (page["count"], page["previous"]) == (5, None)
    assert page["next"].startswith("http://testserver/t/alpha/api/v1/devices/?")
    seen = [device["name"] for device in page["results"]]
    while page["next"]:
        page = api.get(page["next"]).json()
        seen += [device["name"] for device in page["results"]]
    assert seen == [f"device {number}" for number in range(5)]
    assert page["previous"] is not None


def test_a_device_without_readings_is_removed(api: Api, tenant_a: Any) -> None:
    uuid = api.post("devices/", {"name": "short-lived"}).json()["uuid"]
    assert api.delete(f"devices/{uuid}/").status_code == 204
    assert api.get(f"devices/{uuid}/").status_code == 404
    assert not DeviceRoute.objects.filter(device_uuid=uuid).exists()


def test_a_device_with_data_is_not_removed(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "°C"), (T0, 1))
    answer = api.delete(f"devices/{greenhouse.uuid}/")
    assert answer.status_code == 409
    assert "deactivate it instead" in problems(answer)[None]


def test_a_device_with_messages_alone_is_not_removed(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    add_message(tenant_a, greenhouse, T0)
    answer = api.delete(f"devices/{greenhouse.uuid}/")
    assert answer.status_code == 409
    assert "message" in problems(answer)[None]


def test_the_next_key_leaves_the_one_before_valid_for_a_while(api: Api, tenant_a: Any) -> None:
    first = api.post("devices/", {"name": "x"}).json()
    answer = api.post(f"devices/{first['uuid']}/keys/")
    assert answer.status_code == 201
    issued = answer.json()
    assert issued["kid"] == first["credentials"]["kid"] + 1
    assert issued["secret"] != first["credentials"]["secret"]
    assert issued["mqtt_password"] == first["credentials"]["mqtt_password"]
    newest, before = api.get(f"devices/{first['uuid']}/").json()["keys"]
    assert (newest["version"], newest["expires_at"], newest["valid"]) == (issued["kid"], None, True)
    days = datetime.datetime.fromisoformat(before["expires_at"]) - timezone.now()
    assert before["valid"]
    assert datetime.timedelta(days=6, hours=23) < days <= datetime.timedelta(days=7)


def test_a_key_that_became_known_ends_at_once(api: Api) -> None:
    uuid = api.post("devices/", {"name": "x"}).json()["uuid"]
    assert api.post(f"devices/{uuid}/keys/", {"overlap_seconds": 0}).status_code == 201
    assert [key["valid"] for key in api.get(f"devices/{uuid}/").json()["keys"]] == [True, False]
    assert api.post(f"devices/{uuid}/keys/", {"overlap_seconds": -1}).status_code == 400


def test_components_are_added_changed_and_removed(api: Api, greenhouse: Any) -> None:
    answer = api.post("components/", {"device": str(greenhouse.uuid), "key": "pump", "component_type": "pump"})
    assert answer.status_code == 201
    component = answer.json()
    assert component["attached"] is True
    change = {"attached": False, "name": "drip line", "expected_interval": 300}
    changed = api.patch(f"components/{component['id']}/", change).json()
    assert changed == component | change | {"effective_interval_seconds": 300}
    keys = [c["key"] for c in api.get("components/", device=greenhouse.uuid, attached="true").json()["results"]]
    assert keys == ["dht22", "relay"]
    assert api.get("components/", component_type="pump").json()["count"] == 1
    assert api.delete(f"components/{component['id']}/").status_code == 204
    assert "There is no component with the id" in problems(api.get(f"components/{component['id']}/"))[None]


def test_pins_are_kept_in_one_form_and_not_shared(api: Api, greenhouse: Any) -> None:
    body = {"device": str(greenhouse.uuid), "key": "pump", "component_type": "pump", "pins": {"Relay": "GPIO17"}}
    assert api.post("components/", body).json()["pins"] == {"relay": 17}
    answer = api.post("components/", body | {"key": "pump-2", "pins": {"relay": 17}})
    assert answer.status_code == 400
    assert problems(answer)["pins"] == "The pin 17 is already used by pump; only bus lines can share a pin."
    wrong = api.post("components/", body | {"key": "pump-2", "pins": [17]})
    assert "not an object of lines and pins" in problems(wrong)["pins"]
    shown = api.get(f"devices/{greenhouse.uuid}/").json()["components"]
    assert {c["key"]: c["pins"] for c in shown}["pump"] == {"relay": 17}


def test_a_component_key_is_once_on_a_device(api: Api, greenhouse: Any) -> None:
    answer = api.post("components/", {"device": str(greenhouse.uuid), "key": "dht22", "component_type": "pump"})
    assert answer.status_code == 409
    assert "with the same device, key" in problems(answer)[None]


def test_a_component_stays_on_its_device(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    other = make_device(tenant_a)
    with schema_context(tenant_a.schema_name):
        component = Component.objects.get(device=greenhouse, key="dht22").pk
    answer = api.patch(f"components/{component}/", {"device": str(other.uuid)})
    assert answer.status_code == 400
    assert "cannot be changed" in problems(answer)["device"]


@pytest.mark.parametrize("uuid", ["abc", "\x00"])
def test_a_component_list_of_a_device_that_is_none(api: Api, uuid: str) -> None:
    assert problems(api.get("components/", device=uuid)).keys() == {"device"}
    unknown = api.get("components/", device=uuid4())
    assert unknown.status_code == 404
    assert "There is no device with the UUID" in problems(unknown)[None]


@pytest.mark.parametrize("path", ["devices/", "components/"])
def test_a_list_makes_as_many_queries_for_30_as_for_3(
    api: Api, tenant_a: Any, path: str, count_queries: Callable[[Callable[[], Any]], int]
) -> None:
    def fill(number: int) -> None:
        for _ in range(number):
            make_device(tenant_a, dht22="dht22", pump="pump")

    fill(3)
    api.get(path)  # notes when the key was last used
    few = count_queries(lambda: api.get(path))
    fill(27)
    assert count_queries(lambda: api.get(path)) == few
    # the tenant, the key, the count, the rows, when the components last reported; and of devices their components
    # and keys, the tenant's rules, the newest changes and the maintenance windows
    assert few == {"devices/": 10, "components/": 5}[path]


def test_a_device_is_registered_by_nobody_while_vault_is_away(
    api: Api, tenant_a: Any, settings: Any, tmp_path: Any
) -> None:
    """No answer names an address, and nothing is half registered."""
    settings.VAULT_ADDR = "http://127.0.0.1:9"
    reset_provisioner()
    try:
        started = time.monotonic()
        answer = api.post("devices/", {"name": "x"})
        assert time.monotonic() - started < 30
    finally:
        reset_provisioner()
    assert answer.status_code == 503
    assert answer["Retry-After"] == "5"
    assert "does not answer" in problems(answer)[None]
    assert "127.0.0.1" not in answer.content.decode()
    with schema_context(tenant_a.schema_name):
        assert not Device.objects.exists()
