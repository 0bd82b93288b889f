"""Device selectors of keys and members: every endpoint, with devices inside and outside of the selector."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import transaction
from django_tenants.utils import schema_context

from devices.models import (
    ApiKey,
    Component,
    Device,
    HardwareModel,
    MaintenanceWindow,
    Place,
    RotationCampaign,
    RotationMember,
)
from devices.services.provisioning import claims
from devices.services.provisioning.registration import register_device
from telemetry.models import Replay
from tenants.infrastructure.spreadsheets import TableRow
from tenants.models import AppRoute, Membership
from tenants.services import enrollment
from tests.factories import (
    add_change,
    add_message,
    add_quarantined,
    add_readings,
    add_series,
    issue_key,
    make_device,
    make_user,
)

from . import test_isolation
from .client import HOUR, T0, Api, problems
from .test_isolation import ROWS, Row, World, _ask_and_undo, _names_objects, _pattern_of

# The access of a client with a device selector. OWN: its devices; others are unknown. READ_ONLY: what belongs to no
# device is read and not changed. CLOSED: 403. SIGNED: the signature is the proof, and no key is read.
OWN, READ_ONLY, CLOSED, SIGNED = "own devices", "read only", "closed", "signed"
_OWN = (
    *("devices/", "devices/{}/", "devices/{}/keys/", "devices/export/", "devices/{}/release/", "devices/{}/latest/"),
    *("devices/{}/reset-credentials/", "devices/{}/missing-sequences/", "devices/{}/history/", "devices/{}/timeline/"),
    *("devices/{}/availability/", "maintenance-windows/", "maintenance-windows/{}/", "components/", "components/{}/"),
    *("readings/", "latest/", "readings/aggregates/", "readings/chart/", "readings/export/", "messages/"),
    "readings/series/",
    "readings/group-aggregates/",
    *("quarantine/", "quarantine/suppressed/", "quarantine/replays/", "quarantine/replays/{}/", "events/"),
    *("alarms/", "alarms/{}/", "alarms/{}/history/", "alarms/{}/acknowledge/", "alarms/{}/shelve/", "alarms/{}/end/"),
    *("quarantine/replays/{}/cancel/", "limits/refusals/", "readings/changes/", "messages/changes/", "status-changes/"),
    *("quarantine/changes/", "readings/stream/"),
)
_READ_ONLY = (
    *("", "presence-settings/", "component-types/", "component-types/{}/", "metrics/", "metrics/{}/", "units/"),
    *("units/{}/", "hardware-models/", "hardware-models/{}/", "places/", "places/{}/", "whoami/"),
    *("key-rotations/", "key-rotations/{}/", "key-rotations/{}/devices/"),
)
_CLOSED = (
    *("devices/import/", "devices/import-template/", "device-imports/", "device-imports/{}/", "claims/", "totals/"),
    *("device-imports/{}/credentials/",),
    *("key-rotations/{}/extend/", "key-rotations/{}/end/", "key-rotations/{}/roll-back/", "key-rotations/{}/tokens/"),
    *("alarm-rules/", "alarm-rules/{}/", "alarm-rules/preview/"),
    *("component-types/{}/metric-mapping/proposal/", "component-types/{}/metric-mapping/apply/", "limits/", "export/"),
    "component-types/{}/metric-mapping/unmatched/",
    *(
        "api-keys/",
        "api-keys/{}/",
        "api-keys/{}/rotate/",
        "usage/",
        "members/",
        "members/{}/",
        "waiting-publishers/",
        "waiting-publishers/{}/",
        "waiting-publishers/{}/register/",
        "devices/{}/waiting-publishers/",
        "audit/",
        "audit/export/",
    ),
)
_SIGNED = ("devices/{}/messages/",)
RULES = {
    f"api/v1/{path.format('<>')}": rule
    for rule, paths in ((OWN, _OWN), (READ_ONLY, _READ_ONLY), (CLOSED, _CLOSED), (SIGNED, _SIGNED))
    for path in paths
}
made_world = test_isolation.made_world
LIMITED = [row for row in ROWS if row[1].startswith("api/v1/")]


@pytest.fixture(scope="module")
def limited(made_world: World, tenant_a: Any) -> tuple[dict[str, str], dict[str, Callable[..., Any]]]:
    """Objects of devices with the tag `own`, beside those of the world, and two clients that see these devices only."""
    own = _own_objects(tenant_a, made_world.ours)
    clients = {"key": _limited_key(tenant_a), "member": _limited_member(tenant_a)}
    return own, {name: client.send for name, client in clients.items()}


@pytest.fixture(autouse=True)
def undone(made_world: World) -> Iterator[None]:
    """Roll back what a test changes."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def _limited_key(tenant: Any) -> Api:
    with schema_context(tenant.schema_name):
        text = issue_key(tenant)
        ApiKey.objects.filter(prefix=text[:14]).update(selector={"tags": ["own"]})
    return Api(tenant.slug, key=text)


def _limited_member(tenant: Any, role: str = "operator", name: str = "limited") -> Api:
    user = make_user(name, tenant, role)
    Membership.objects.filter(user=user).update(selector={"tags": ["own"]})
    return Api(tenant.slug, user=user)


def _own_objects(tenant: Any, ours: dict[str, str]) -> dict[str, str]:
    device, empty = make_device(tenant, "own", dht22="dht22"), make_device(tenant, "own without data")
    add_readings(tenant, add_series(tenant, device, "dht22", "temperature", "°C"), (T0, 20))
    add_message(tenant, device, T0)
    add_change(tenant, device, "ONLINE", "birth", T0)
    add_quarantined(tenant, T0, device=device)
    with schema_context(tenant.schema_name):
        registered, _ = register_device(name="own with a key")
        board = enrollment.preregister([TableRow(1, {"serial": "own-1", "hardware_model": "board 1"})])[0]
        claimed = claims.claim(board.device.serial, board.claim_code).device
        place = Place.objects.create(key="own-place", name="own place")
        devices = [device.pk, empty.pk, registered.pk, claimed.pk]
        Device.objects.filter(pk__in=devices).update(tags=["own"], place=place)
        # Not visible: its place and model are those of a visible device, its tag begins like the selector's.
        Device.objects.filter(uuid=ours["device"]).update(tags=["own-not"])
        window = MaintenanceWindow.objects.create(device=device, starts_at=T0, ends_at=T0 + HOUR)
        part = Component.objects.get(device=device)
        return ours | {
            "device": str(device.uuid),
            "empty_device": str(empty.uuid),
            "registered": str(registered.uuid),
            "claimed": str(claimed.uuid),
            "component": str(part.pk),
            "window": str(window.pk),
            "replay": str(Replay.objects.create(device=device).pk),
            "alarm": test_isolation._alarm(device, 3_000, "of their own")["alarm"],
            "place": place.key,
            "rotation": test_isolation._rotation(registered, 3_000, "own rotation"),
        }


def _expected(row: Row) -> int:
    method, path, _, status, _ = row
    rule = RULES[_pattern_of(path)]
    if (method, path) == ("POST", "api/v1/devices/"):
        return 400  # without the tag of the selector it would not be visible
    if rule == CLOSED or (rule == READ_ONLY and method != "GET"):
        return 403
    return status


def test_every_endpoint_has_a_rule() -> None:
    assert {_pattern_of(path) for _, path, *_ in LIMITED} == set(RULES)


@pytest.mark.parametrize("row", LIMITED, ids=lambda row: f"{row[0]} {row[1]}")
def test_a_selector_opens_its_devices_and_hides_all_others(
    row: Row, made_world: World, limited: Any, tenant_a: Any
) -> None:
    method, path, _, _, body = row
    own, clients = limited
    hidden = [made_world.ours[name].encode() for name in ("device", "empty_device", "registered", "claimed", "place")]
    if RULES[_pattern_of(path)] == OWN:
        hidden.append(b"canary of alpha")
    for name, ask in clients.items():
        answer = _ask_and_undo(ask, tenant_a, method, path, body, own)
        assert answer.status_code == _expected(row), (name, answer.content)
        # Endless: tests/telemetry/test_stream_selections.py.
        if "/events/" not in path and "/stream/" not in path:
            content = b"".join(answer.streaming_content) if answer.streaming else answer.content
            assert not [canary for canary in hidden if canary in content], name


@pytest.mark.parametrize(
    "row",
    [row for row in LIMITED if RULES.get(_pattern_of(row[1])) == OWN and "{" in row[1]],
    ids=lambda row: f"{row[0]} {row[1]}",
)
def test_what_is_outside_of_the_selector_is_not_found(row: Row, made_world: World, limited: Any, tenant_a: Any) -> None:
    method, path, _, _, body = row
    for name, ask in limited[1].items():
        answer = _ask_and_undo(ask, tenant_a, method, path, body, made_world.ours)
        assert answer.status_code == 404, (name, answer.content)
        assert b"canary" not in answer.content


@pytest.mark.parametrize(
    "row",
    [row for row in LIMITED if RULES.get(_pattern_of(row[1])) == OWN and _names_objects(row[4])],
    ids=lambda row: row[1],
)
def test_a_body_cannot_name_what_is_outside_of_the_selector(
    row: Row, made_world: World, limited: Any, tenant_a: Any
) -> None:
    method, path, _, _, body = row
    for ask in limited[1].values():
        answer = _ask_and_undo(ask, tenant_a, method, path, body, made_world.ours)
        assert answer.status_code == 400
        assert any("There is no" in text for text in problems(answer).values())


def test_a_list_without_parameters_holds_the_selected_devices(limited: Any, tenant_a: Any) -> None:
    own, clients = limited
    for ask in clients.values():

        def uuids(path: str, member: str = "device", ask: Any = ask) -> set[str]:
            return {row[member] for row in ask("GET", f"/t/{tenant_a.slug}/api/v1/{path}").json()["results"]}

        assert uuids("devices/", "uuid") == {own[name] for name in ("device", "empty_device", "registered", "claimed")}
        for path in ("latest/", "maintenance-windows/", "quarantine/", "quarantine/replays/"):
            assert uuids(path) == {own["device"]}, path
        assert own["device"] in uuids("components/")


@pytest.fixture
def admin(made_world: World) -> Callable[..., Any]:
    """Send a request as an administrator: method, path below api/v1/, body."""
    ask = made_world.ask["administrator"]
    return lambda method, path, body=None: ask(method, f"/t/alpha/api/v1/{path}", body)


def test_a_device_is_registered_and_changed_within_the_selector_only(limited: Any, tenant_a: Any) -> None:
    own, clients = limited
    for ask in clients.values():
        address = f"/t/{tenant_a.slug}/api/v1/devices/"
        refused = ask("POST", address, {"name": "outside"})
        assert (
            "could not see the device" in problems(refused)[None if None in problems(refused) else "non_field_errors"]
        )
        made = ask("POST", address, {"name": "inside", "tags": ["own"]})
        assert made.status_code == 201
        lost = ask("PATCH", f"{address}{own['device']}/", {"tags": ["other"], "active": False})
        assert lost.status_code == 400
        kept = ask("GET", f"{address}{own['device']}/").json()
        assert (kept["tags"], kept["active"]) == (["own"], True)
    with schema_context(tenant_a.schema_name):
        assert not Device.objects.filter(name="outside").exists()


def test_a_rotation_with_other_devices_is_not_found(made_world: World, limited: Any, tenant_a: Any) -> None:
    own, clients = limited
    root = f"/t/{tenant_a.slug}/api/v1/key-rotations/"
    with schema_context(tenant_a.schema_name):
        mixed = RotationCampaign.objects.create(name="mixed", deadline=T0)
        RotationCampaign.objects.create(name="of no device", deadline=T0)
        for name in (own["device"], made_world.ours["device"]):
            RotationMember.objects.create(campaign=mixed, device=Device.objects.get(uuid=name))
    for ask in clients.values():
        assert [row["id"] for row in ask("GET", root).json()["results"]] == [int(own["rotation"])]
        for foreign in (made_world.ours["rotation"], mixed.pk):
            for path in (f"{root}{foreign}/", f"{root}{foreign}/devices/"):
                assert ask("GET", path).status_code == 404


def test_a_replay_must_name_a_device(limited: Any, tenant_a: Any) -> None:
    for ask in limited[1].values():
        answer = ask("POST", f"/t/{tenant_a.slug}/api/v1/quarantine/replays/", {})
        assert "A device must be given" in problems(answer)["device"]


def test_a_selector_selects_by_place_tag_model_and_uuid(made_world: World, admin: Any, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        farm = Place.objects.create(key="farm", name="farm")
        zone = Place.objects.create(key="zone", name="zone", parent=farm)
        Place.objects.create(key="farm-2", name="farm 2")
        model = HardwareModel.objects.create(name="selected", version="1")
        fields: dict[str, dict[str, Any]] = {
            "by place": {"place": zone}, "by tag": {"tags": ["rented"]}, "by model": {"hardware_model": model},
            "by uuid": {}, "elsewhere": {"place": Place.objects.get(key="farm-2"), "tags": ["rented-2"]},
        }  # fmt: skip
        uuids = {}
        for name, values in fields.items():
            device = make_device(tenant_a, name)
            Device.objects.filter(pk=device.pk).update(**values)
            uuids[name] = str(device.uuid)
    members: dict[str, list[Any]] = {
        "places": ["farm"], "tags": ["rented"], "hardware_models": [model.pk], "devices": [uuids["by uuid"]],
    }  # fmt: skip
    kinds = dict(zip(members, ("by place", "by tag", "by model", "by uuid"), strict=True))
    for count in range(1, 5):
        for chosen in itertools.combinations(members, count):
            selector = {name: members[name] for name in chosen}
            made = admin("POST", "api-keys/", {"name": "k", "scope": "write", "selector": selector}).json()
            assert made["selector"] == selector
            found = Api(tenant_a.slug, key=made["key"]).get("devices/").json()["results"]
            assert {device["name"] for device in found} == {kinds[name] for name in chosen}


def test_a_selector_of_a_removed_place_selects_nothing(admin: Any, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        Place.objects.create(key="gone", name="gone")
    made = admin("POST", "api-keys/", {"name": "k", "selector": {"places": ["gone"]}}).json()
    client = Api(tenant_a.slug, key=made["key"])
    with schema_context(tenant_a.schema_name):
        Place.objects.filter(key="gone").delete()
        # Another place with the same key is another place.
        Device.objects.filter(name="own").update(place=Place.objects.create(key="gone", name="new"))
    assert client.get("devices/").json()["count"] == 0
    assert client.get("totals/").status_code == 403


@pytest.mark.parametrize(
    ("selector", "member", "text"),
    [
        ({"places": ["nowhere"]}, "selector.places", "These do not exist: nowhere."),
        ({"hardware_models": [10**30]}, "selector.hardware_models", "do not exist"),
        ({"devices": ["6d1f6a3e-5f0e-4c53-9d68-0a6f0c8a1f11"]}, "selector.devices", "do not exist"),
        ({"tags": ["Upper"]}, "selector.tags", "not a valid tag"),
        ({"colour": ["red"]}, "selector.colour", "not a known member"),
    ],
)
def test_an_invalid_selector_is_refused_by_member(admin: Any, selector: Any, member: str, text: str) -> None:
    answer = admin("POST", "api-keys/", {"name": "k", "selector": selector})
    assert answer.status_code == 400
    assert text in problems(answer)[member]


def test_an_empty_selector_is_none(admin: Any, tenant_a: Any) -> None:
    made = admin("POST", "api-keys/", {"name": "k", "selector": {"tags": []}}).json()
    assert made["selector"] == {}
    assert Api(tenant_a.slug, key=made["key"]).get("totals/").status_code == 200


def test_a_key_with_a_selector_has_no_account_at_the_broker(admin: Any) -> None:
    prefixes = [
        admin("POST", "api-keys/", {"name": "k", "selector": selector}).json()["prefix"]
        for selector in ({"tags": ["own"]}, {})
    ]
    assert [AppRoute.objects.filter(prefix=prefix).exists() for prefix in prefixes] == [False, True]


@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_pages_of_a_member_with_a_selector(limited: Any, made_world: World, tenant_a: Any, role: str) -> None:
    client = _limited_member(tenant_a, role, "limited-page")._client
    with schema_context(tenant_a.schema_name):
        own, other = (Device.objects.get(uuid=ids["device"]) for ids in (limited[0], made_world.ours))
    root = f"/t/{tenant_a.slug}/admin/"
    for page in (
        "",
        "devices/device/",
        "devices/component/",
        "devices/statuschange/",
        f"devices/device/{own.pk}/change/",
    ):
        answer = client.get(root + page)
        assert answer.status_code == 200, page
        for name in ("device", "empty_device", "registered", "claimed"):
            assert made_world.ours[name].encode() not in answer.content, page
        assert b"canary of alpha without data" not in answer.content, page
    assert client.get(f"{root}devices/device/{own.pk}/messages/").status_code == 200
    for page in ("change", "messages", "history", "rotate-key"):
        answer = client.get(f"{root}devices/device/{other.pk}/{page}/")
        assert answer.status_code in (302, 403, 404), page
        assert b"canary" not in answer.content
    for page in (
        *("devices/auditentry/", "devices/apikey/", "devices/deviceimport/", "devices/device/add/", "devices/place/"),
        *("telemetry/quarantined/", "telemetry/ingesttotals/", "telemetry/limithit/", "devices/rotationcampaign/"),
        *("devices/deviceimport/devices.csv", "telemetry/retentionsettings/", "telemetry/replay/"),
    ):
        assert client.get(root + page).status_code == 403, page
