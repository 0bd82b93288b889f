"""Access to the tenant's API: every endpoint × every kind of client.

The table is the rule. An endpoint without a row fails `test_every_endpoint_has_a_row`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.services.provisioning import claims
from tenants.infrastructure.spreadsheets import TableRow
from tenants.models import Membership
from tenants.services import enrollment
from tests.api.client import HOUR, T0, Api, problems
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

# Who asks → the status of the answer; OK stands for the row's own.
OK = 0
_UNAUTHENTICATED = {"anonymous": 401, "key of another tenant": 401, "expired key": 401, "revoked key": 401}
_STRANGERS = {"member of another tenant": 403, "staff, not superuser": 403}
READ = _UNAUTHENTICATED | _STRANGERS | {
    "key": OK, "read-only key": OK, "viewer": OK, "operator": OK, "administrator": OK, "owner": OK, "superuser": OK,
}  # fmt: skip
OPERATE = _UNAUTHENTICATED | _STRANGERS | {
    "key": OK, "read-only key": 403, "viewer": 403, "operator": OK, "administrator": OK, "owner": OK, "superuser": OK,
}  # fmt: skip
METADATA = _UNAUTHENTICATED | _STRANGERS | {
    "key": OK, "read-only key": 403, "viewer": 403, "operator": 403, "administrator": OK, "owner": OK, "superuser": OK,
}  # fmt: skip
IN_PERSON = _UNAUTHENTICATED | _STRANGERS | {
    "key": 403, "read-only key": 403, "viewer": 403, "operator": 403, "administrator": OK, "owner": OK, "superuser": OK,
}  # fmt: skip
PUBLIC = dict.fromkeys(READ, OK)

RULE = {
    "kind": "threshold", "component_type": "dht22", "metric": "temperature",
    "levels": [{"severity": "warning", "raise": 30, "clear": 29}],
}  # fmt: skip

Row = tuple[str, str, dict[str, int], int, dict[str, Any] | None]
# method, address, who, status for those who may, body. {names} are ids of the tenant's objects.
ROWS: list[Row] = [
    ("GET", "api/v1/", READ, 200, None),
    ("GET", "api/v1/devices/", READ, 200, None),
    ("POST", "api/v1/devices/", OPERATE, 201, {"name": "new", "components": [{"key": "d", "component_type": "dht22"}]}),
    ("GET", "api/v1/devices/{device}/", READ, 200, None),
    ("PATCH", "api/v1/devices/{device}/", OPERATE, 200, {"name": "renamed"}),
    ("DELETE", "api/v1/devices/{empty_device}/", OPERATE, 204, None),
    ("POST", "api/v1/devices/{registered}/keys/", OPERATE, 201, {}),
    ("POST", "api/v1/devices/import/", OPERATE, 200, {"rows": [{"name": "imported"}]}),
    ("GET", "api/v1/devices/import-template/", READ, 200, None),
    ("GET", "api/v1/devices/export/", READ, 200, None),
    ("GET", "api/v1/device-imports/", READ, 200, None),
    ("GET", "api/v1/device-imports/{import}/", READ, 200, None),
    ("POST", "api/v1/device-imports/{import}/credentials/", OPERATE, 200, {}),
    ("POST", "api/v1/claims/", OPERATE, 201, {"serial": "{serial}", "code": "{code}"}),
    ("POST", "api/v1/devices/{claimed}/reset-credentials/", OPERATE, 204, None),
    ("POST", "api/v1/devices/{claimed}/release/", OPERATE, 204, None),
    ("GET", "api/v1/devices/{device}/latest/", READ, 200, None),
    # Its thread sees only what is committed, which this device is not; the answers: tests/api/test_http_ingest.py.
    (
        "POST", "api/v1/devices/{device}/messages/", PUBLIC, 404,
        {"messages": [{"topic": "telemetry/alpha/{device}/dht22", "payload": "none"}]},
    ),
    ("GET", "api/v1/devices/{device}/missing-sequences/", READ, 200, None),
    ("GET", "api/v1/devices/{device}/history/", READ, 200, None),
    ("GET", "api/v1/devices/{device}/timeline/", READ, 200, None),
    ("GET", "api/v1/devices/{device}/availability/?months=2", READ, 200, None),
    ("GET", "api/v1/waiting-publishers/", READ, 200, None),
    ("GET", "api/v1/waiting-publishers/{waiting}/", READ, 200, None),
    ("POST", "api/v1/waiting-publishers/{waiting}/register/", OPERATE, 201, {"name": "washing machine"}),
    ("DELETE", "api/v1/waiting-publishers/{waiting}/", OPERATE, 204, None),
    (
        "POST", "api/v1/devices/{device}/waiting-publishers/", OPERATE, 200,
        {"publishers": [{"publisher": "tasmota:plug", "message_count": 3, "example": {"value": {"Power": 3}},
                         "contract": {"key": "tasmota-1", "name": "Tasmota", "metrics": []}}]},
    ),
    ("GET", "api/v1/maintenance-windows/", READ, 200, None),
    (
        "POST", "api/v1/maintenance-windows/", OPERATE, 201,
        {"device": "{device}", "starts_at": "2026-11-22T09:30:00Z", "ends_at": "2026-11-22T10:30:00Z"},
    ),
    ("GET", "api/v1/maintenance-windows/{window}/", READ, 200, None),
    ("PATCH", "api/v1/maintenance-windows/{window}/", OPERATE, 200, {"description": "repainted"}),
    ("DELETE", "api/v1/maintenance-windows/{window}/", OPERATE, 204, None),
    ("GET", "api/v1/presence-settings/", READ, 200, None),
    ("PATCH", "api/v1/presence-settings/", METADATA, 200, {"timeout_seconds": 90}),
    ("GET", "api/v1/components/", READ, 200, None),
    ("POST", "api/v1/components/", OPERATE, 201, {"device": "{device}", "key": "pump", "component_type": "pump"}),
    ("GET", "api/v1/components/{component}/", READ, 200, None),
    ("PATCH", "api/v1/components/{component}/", OPERATE, 200, {"attached": False}),
    ("DELETE", "api/v1/components/{component}/", OPERATE, 204, None),
    ("GET", "api/v1/component-types/", READ, 200, None),
    ("POST", "api/v1/component-types/", METADATA, 201, {"key": "sht31", "name": "SHT31"}),
    ("GET", "api/v1/component-types/{type}/", READ, 200, None),
    ("PATCH", "api/v1/component-types/{type}/", METADATA, 200, {"name": "another"}),
    ("DELETE", "api/v1/component-types/{type}/", METADATA, 204, None),
    (
        "POST", "api/v1/component-types/{type}/metric-mapping/proposal/", METADATA, 200,
        {"payload": {"value": {"temp": 21.5}}},
    ),
    (
        "POST", "api/v1/component-types/{type}/metric-mapping/apply/", METADATA, 201,
        {"metrics": [{"key": "n", "path": "n"}]},
    ),
    ("GET", "api/v1/component-types/{type}/metric-mapping/unmatched/", READ, 200, None),
    ("GET", "api/v1/metrics/", READ, 200, None),
    ("POST", "api/v1/metrics/", METADATA, 201, {"component_type": "{type_key}", "key": "n", "path": "n"}),
    ("GET", "api/v1/metrics/{metric}/", READ, 200, None),
    ("PATCH", "api/v1/metrics/{metric}/", METADATA, 200, {"path": "value.other"}),
    ("DELETE", "api/v1/metrics/{metric}/", METADATA, 204, None),
    ("GET", "api/v1/places/", READ, 200, None),
    ("POST", "api/v1/places/", OPERATE, 201, {"key": "house-9", "name": "house", "parent": "{place}"}),
    ("GET", "api/v1/places/{place}/", READ, 200, None),
    ("PATCH", "api/v1/places/{place}/", OPERATE, 200, {"name": "another"}),
    ("DELETE", "api/v1/places/{place}/", OPERATE, 204, None),
    ("GET", "api/v1/units/", READ, 200, None),
    ("POST", "api/v1/units/", METADATA, 201, {"symbol": "hl", "name": "hl", "quantity": "volume", "ucum": "hL"}),
    ("GET", "api/v1/units/{unit}/", READ, 200, None),
    ("PATCH", "api/v1/units/{unit}/", METADATA, 200, {"name": "another"}),
    ("DELETE", "api/v1/units/{unit}/", METADATA, 204, None),
    ("GET", "api/v1/hardware-models/", READ, 200, None),
    ("POST", "api/v1/hardware-models/", METADATA, 201, {"name": "board", "version": "9"}),
    ("GET", "api/v1/hardware-models/{model}/", READ, 200, None),
    ("PATCH", "api/v1/hardware-models/{model}/", METADATA, 200, {"version": "10"}),
    ("DELETE", "api/v1/hardware-models/{model}/", METADATA, 204, None),
    ("GET", "api/v1/key-rotations/", READ, 200, None),
    ("POST", "api/v1/key-rotations/", METADATA, 201, {"name": "new", "deadline": "2036-01-01T00:00:00Z"}),
    ("GET", "api/v1/key-rotations/{rotation}/", READ, 200, None),
    ("GET", "api/v1/key-rotations/{rotation}/devices/", READ, 200, None),
    ("POST", "api/v1/key-rotations/{rotation}/extend/", METADATA, 200, {"deadline": "2036-01-01T00:00:00Z"}),
    ("POST", "api/v1/key-rotations/{rotation}/end/", METADATA, 200, None),
    ("POST", "api/v1/key-rotations/{rotation}/roll-back/", METADATA, 200, None),
    ("POST", "api/v1/key-rotations/{rotation}/tokens/", METADATA, 201, {}),
    ("GET", "api/v1/readings/?device={device}&component=dht22&metric=temperature", READ, 200, None),
    ("GET", "api/v1/latest/", READ, 200, None),
    ("GET", "api/v1/latest/?device={device}", READ, 200, None),
    (
        "GET", "api/v1/readings/aggregates/?device={device}&from=2026-11-22T00:00:00Z&interval=1h", READ, 200, None,
    ),
    (
        "GET", "api/v1/readings/group-aggregates/?metric=temperature&group_by=device&group_by=place&percentile=50"
        "&from=2026-11-22T00:00:00Z", READ, 200, None,
    ),
    (
        "GET", "api/v1/readings/group-aggregates/?metric=temperature&place={place}&from=2026-11-22T00:00:00Z",
        READ, 200, None,
    ),
    ("GET", "api/v1/readings/chart/?device={device}&from=2026-11-22T00:00:00Z", READ, 200, None),
    ("GET", "api/v1/readings/export/?device={device}&format=ndjson", READ, 200, None),
    ("GET", "api/v1/readings/changes/?device={device}", READ, 200, None),
    ("GET", "api/v1/readings/series/?device={device}", READ, 200, None),
    ("GET", "api/v1/readings/series/", READ, 200, None),
    ("GET", "api/v1/readings/aggregates/?place={place}&from=2026-11-22T00:00:00Z&interval=1h", READ, 200, None),
    ("GET", "api/v1/readings/stream/?device={device}", READ, 200, None),
    ("GET", "api/v1/messages/?device={device}", READ, 200, None),
    ("GET", "api/v1/messages/changes/?device={device}", READ, 200, None),
    ("GET", "api/v1/status-changes/?device={device}", READ, 200, None),
    ("GET", "api/v1/quarantine/changes/", READ, 200, None),
    ("GET", "api/v1/quarantine/?device={device}", READ, 200, None),
    ("GET", "api/v1/quarantine/suppressed/?device={device}", READ, 200, None),
    ("GET", "api/v1/quarantine/replays/", READ, 200, None),
    ("POST", "api/v1/quarantine/replays/", OPERATE, 201, {"device": "{device}"}),
    ("GET", "api/v1/quarantine/replays/{replay}/", READ, 200, None),
    ("POST", "api/v1/quarantine/replays/{replay}/cancel/", OPERATE, 200, None),
    ("GET", "api/v1/totals/", READ, 200, None),
    ("GET", "api/v1/limits/", READ, 200, None),
    ("GET", "api/v1/usage/?days=7", READ, 200, None),
    ("GET", "api/v1/export/", IN_PERSON, 200, None),  # and keys for it: tests/telemetry/test_tenant_export.py
    ("GET", "api/v1/limits/refusals/?device={device}", READ, 200, None),
    ("GET", "api/v1/events/?device={device}", READ, 200, None),
    ("GET", "api/v1/audit/", IN_PERSON, 200, None),  # and keys with the scope admin: tests/api/test_audit.py
    ("GET", "api/v1/audit/export/", IN_PERSON, 200, None),
    ("GET", "api/v1/api-keys/", IN_PERSON, 200, None),
    ("POST", "api/v1/api-keys/", IN_PERSON, 201, {"name": "new", "scope": "write"}),
    ("GET", "api/v1/api-keys/{api_key}/", IN_PERSON, 200, None),
    ("DELETE", "api/v1/api-keys/{api_key}/", IN_PERSON, 204, None),
    ("POST", "api/v1/api-keys/{api_key}/rotate/", IN_PERSON, 201, {}),
    ("GET", "api/v1/members/", IN_PERSON, 200, None),  # and keys with members:…: tests/api/test_members.py
    ("POST", "api/v1/members/", IN_PERSON, 201, {"username": "{newcomer}", "role": "operator"}),
    ("GET", "api/v1/members/{member}/", IN_PERSON, 200, None),
    ("PATCH", "api/v1/members/{member}/", IN_PERSON, 200, {"role": "viewer"}),
    ("DELETE", "api/v1/members/{member}/", IN_PERSON, 204, None),
    ("GET", "api/v1/alarm-rules/", READ, 200, None),
    ("POST", "api/v1/alarm-rules/", OPERATE, 201, {**RULE, "name": "new"}),
    ("POST", "api/v1/alarm-rules/preview/", READ, 200, {**RULE, "from": "2026-11-22T00:00:00Z"}),
    ("GET", "api/v1/alarm-rules/{rule}/", READ, 200, None),
    ("PATCH", "api/v1/alarm-rules/{rule}/", OPERATE, 200, {"name": "renamed"}),
    ("DELETE", "api/v1/alarm-rules/{rule}/", OPERATE, 204, None),
    ("GET", "api/v1/alarms/", READ, 200, None),
    ("GET", "api/v1/alarms/?device={device}", READ, 200, None),
    ("GET", "api/v1/alarms/{alarm}/", READ, 200, None),
    ("GET", "api/v1/alarms/{alarm}/history/", READ, 200, None),
    ("POST", "api/v1/alarms/{alarm}/acknowledge/", OPERATE, 200, {"note": "seen"}),
    ("POST", "api/v1/alarms/{alarm}/shelve/", OPERATE, 200, {"until": None}),
    ("POST", "api/v1/alarms/{alarm}/end/", OPERATE, 200, {"reason": "repaired"}),
    ("GET", "api/v1/whoami/", READ, 200, None),
    ("GET", "api/schema/", PUBLIC, 200, None),
    ("GET", "api/docs/", PUBLIC, 200, None),
    ("GET", "api/docs/errors/", PUBLIC, 200, None),
]  # fmt: skip


def _names_objects(body: dict[str, Any] | None) -> bool:
    return any(isinstance(value, str) and value.startswith("{") for value in (body or {}).values())


@dataclass
class World:
    """Two tenants with objects that have the same names, and a client of every kind."""

    ours: dict[str, str]
    theirs: dict[str, str]
    ask: dict[str, Callable[..., Any]]


@pytest.fixture(scope="module")
def made_world(django_db_setup: None, django_db_blocker: Any, tenant_a: Any, tenant_b: Any) -> Iterator[World]:
    """The world, once for all tests of this module, in a transaction that is rolled back."""
    with django_db_blocker.unblock():
        with transaction.atomic():
            yield _make_world(tenant_a, tenant_b)
            transaction.set_rollback(True)
        connection.close()


@pytest.fixture
def world(made_world: World) -> Iterator[World]:
    """The world, as it was made: what the test changes is rolled back. Not together with the fixture `db`."""
    with transaction.atomic():
        yield made_world
        transaction.set_rollback(True)


def _make_world(tenant_a: Any, tenant_b: Any) -> World:
    slug, expired = tenant_a.slug, timezone.now() - timedelta(seconds=1)
    callers = {
        "anonymous": Api(slug),
        "key": Api(slug, key=issue_key(tenant_a)),
        "read-only key": Api(slug, key=issue_key(tenant_a, "read")),
        "key of another tenant": Api(slug, key=issue_key(tenant_b)),
        "expired key": Api(slug, key=issue_key(tenant_a, expires_at=expired)),
        "revoked key": Api(slug, key=issue_key(tenant_a, revoked=True)),
        "viewer": Api(slug, user=make_user("viewer", tenant_a, "viewer")),
        "operator": Api(slug, user=make_user("operator", tenant_a, "operator")),
        "administrator": Api(slug, user=make_user("administrator", tenant_a, "admin")),
        "owner": Api(slug, user=make_user("owner", tenant_a, "owner")),
        "member of another tenant": Api(slug, user=make_user("stranger", tenant_b, "admin")),
        "staff, not superuser": Api(slug, user=make_user("staff", is_staff=True)),
        "superuser": Api(slug, user=make_user("superuser", is_superuser=True)),
    }
    return World(
        objects_of(tenant_a, start=1_000), objects_of(tenant_b, start=2_000), {n: c.send for n, c in callers.items()}
    )


def objects_of(tenant: Any, *, start: int) -> dict[str, str]:
    """One object of each kind; the numeric ids begin at `start`, so that no two tenants' are the same."""
    from devices.models import (
        ApiKey,
        Component,
        ComponentType,
        DeviceImport,
        HardwareModel,
        MaintenanceWindow,
        Metric,
        Place,
        Unit,
        WaitingPublisher,
    )
    from devices.services.provisioning.registration import register_device
    from telemetry.models import Replay

    device = make_device(tenant, f"canary of {tenant.slug}", dht22="dht22")
    empty_device = make_device(tenant, f"canary of {tenant.slug} without data")
    add_readings(tenant, add_series(tenant, device, "dht22", "temperature", "°C"), (T0, 20))
    add_message(tenant, device, T0)
    add_change(tenant, device, "ONLINE", "birth", T0, session=f"canary of {tenant.slug}")
    add_quarantined(tenant, T0, device=device)
    issue_key(tenant)
    with schema_context(tenant.schema_name):
        registered, _ = register_device(name=f"canary of {tenant.slug} with a key")
        kind = ComponentType.objects.create(pk=start, key=f"canary-{tenant.slug}", name="type")
        dht22 = ComponentType.objects.get(key="dht22")
        return {
            "device": str(device.uuid),
            "empty_device": str(empty_device.uuid),
            "registered": str(registered.uuid),
            "component": str(Component.objects.create(pk=start, device=device, key="x", component_type=dht22).pk),
            "type": str(kind.pk),
            "type_key": kind.key,
            "metric": str(Metric.objects.create(pk=start, component_type=kind, key="m", path="m").pk),
            "place": Place.objects.create(key=f"place-of-{tenant.slug}", name=f"canary of {tenant.slug}").key,
            "unit": str(Unit.objects.create(pk=start, symbol=f"u{start}", name="u", quantity="q", ucum="m").pk),
            "model": str(HardwareModel.objects.create(pk=start, name=f"canary of {tenant.slug}", version="1").pk),
            "waiting": str(
                WaitingPublisher.objects.create(
                    pk=start,
                    gateway=device,
                    publisher="tasmota:washer",
                    message_count=1,
                    example={"value": {}},
                    contract={"key": "tasmota-0", "name": "Tasmota", "metrics": []},
                    last_seen_at=T0,
                ).pk
            ),
            "window": str(
                MaintenanceWindow.objects.create(
                    pk=start, device=device, starts_at=T0, ends_at=T0 + HOUR, reason=f"canary of {tenant.slug}"
                ).pk
            ),
            "rotation": _rotation(registered, start, f"canary of {tenant.slug}"),
            "import": str(DeviceImport.objects.create(pk=start, filename=f"canary of {tenant.slug}", state="done").pk),
            **_boards(tenant),
            **_alarm(device, start, f"canary of {tenant.slug}"),
            "replay": str(Replay.objects.create(pk=start, topic=f"canary of {tenant.slug}").pk),
            "member": str(Membership.objects.get(user=make_user(f"member-of-{tenant.slug}", tenant, "operator")).pk),
            "newcomer": make_user(f"newcomer-of-{tenant.slug}").username,
            "api_key": str(ApiKey.objects.create(pk=start, name="k", prefix=f"gwj_{start}", digest="d").pk),
        }


def _alarm(device: Any, pk: int, name: str) -> dict[str, str]:
    """A rule, and an alarm that it raised for the device."""
    from alarms.models import AlarmEpisode, AlarmSeries
    from alarms.services.rules import add_rule
    from devices.models import ComponentType, Metric

    kind = ComponentType.objects.get(key="dht22")
    metric = Metric.objects.get(component_type=kind, key="temperature")
    rule = add_rule(None, pk=pk, name=name, kind="threshold", component_type=kind, metric=metric, levels=RULE["levels"])
    AlarmSeries.objects.create(pk=pk, rule=rule, device=device, component="dht22")
    alarm = AlarmEpisode.objects.create(
        pk=pk, rule=rule, rule_version=1, device=device, component="dht22", metric="temperature",
        state="ACTIVE", severity="warning", started_at=T0, note=name,
    )  # fmt: skip
    return {"rule": str(rule.pk), "alarm": str(alarm.pk)}


def _boards(tenant: Any) -> dict[str, str]:
    """What a label says of a board that is free, and the device that another one became."""
    free, taken = (
        enrollment.preregister([TableRow(1, {"serial": f"{tenant.slug}-{n}", "hardware_model": "board 1"})])[0]
        for n in range(2)
    )
    device = claims.claim(taken.device.serial, taken.claim_code).device
    return {"serial": free.device.serial, "code": free.claim_code, "claimed": str(device.uuid)}


def _rotation(device: Any, pk: int, name: str) -> str:
    """A rotation that has issued the device the key that it has."""
    from devices.models import RotationCampaign, RotationMember

    campaign = RotationCampaign.objects.create(pk=pk, name=name, deadline=timezone.now() + HOUR)
    key = device.credentials.get()
    RotationMember.objects.create(campaign=campaign, device=device, state="issued", credential=key, old_version=1)
    return str(campaign.pk)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_who_reaches_it(row: Row, world: World, tenant_a: Any) -> None:
    method, path, who, status, body = row
    answers = {name: _ask_and_undo(ask, tenant_a, method, path, body, world.ours) for name, ask in world.ask.items()}

    assert {name: answer.status_code for name, answer in answers.items()} == {
        name: expected or status for name, expected in who.items()
    }
    for name, answer in answers.items():
        if answer.status_code >= 400:
            assert all(problems(answer).values()), "a refusal says why"
        if answer.status_code == 401:
            assert answer["WWW-Authenticate"].startswith("Bearer"), name


@pytest.mark.parametrize("row", [row for row in ROWS if "{" in row[1]], ids=lambda row: f"{row[0]} {row[1]}")
def test_what_belongs_to_another_tenant_is_not_found(row: Row, world: World, tenant_a: Any) -> None:
    method, path, _, _, body = row
    is_for_people = "api-keys" in path or "members" in path
    for name in ("administrator", "superuser") if is_for_people else ("key", "administrator", "superuser"):
        answer = _ask_and_undo(world.ask[name], tenant_a, method, path, body, world.theirs)
        assert answer.status_code == 404, (name, answer.content)
        assert b"canary of beta" not in answer.content


# A board that is free belongs to no tenant; one that is taken: tests/api/test_claims.py. Accounts are the platform's.
_OF_THE_PLATFORM = ("api/v1/claims/", "api/v1/members/")


@pytest.mark.parametrize(
    "row", [row for row in ROWS if _names_objects(row[4]) and row[1] not in _OF_THE_PLATFORM], ids=lambda row: row[1]
)
def test_a_body_cannot_name_what_belongs_to_another_tenant(row: Row, world: World, tenant_a: Any) -> None:
    method, path, _, _, body = row
    answer = _ask_and_undo(world.ask["administrator"], tenant_a, method, path, body, world.theirs)
    assert answer.status_code == 400
    assert any("There is no" in text for text in problems(answer).values())


def test_lists_hold_nothing_of_another_tenant(world: World) -> None:
    theirs = {value.encode() for value in world.theirs.values() if not value.isdigit()}
    for method, path, _, status, _ in ROWS:
        if method != "GET" or "api/v1/" not in path:
            continue
        answer = world.ask["superuser"](method, f"/t/alpha/{path.format(**world.ours)}")
        assert answer.status_code == status
        # Endless: their tenants are kept apart in tests/devices/test_event_stream.py and test_readings_stream.py.
        if "/events/" in path or "/stream/" in path:
            continue
        content = b"".join(answer.streaming_content) if answer.streaming else answer.content
        assert not any(canary in content for canary in theirs), path
        assert b"canary of beta" not in content, path


def test_a_session_opens_each_tenant_by_its_own_membership(world: World, tenant_b: Any) -> None:
    stranger = world.ask["member of another tenant"]
    assert stranger("GET", "/t/alpha/api/v1/devices/").status_code == 403
    answer = stranger("GET", "/t/beta-farm/api/v1/devices/")
    assert answer.status_code == 200
    assert world.theirs["device"] in {device["uuid"] for device in answer.json()["results"]}


def test_every_endpoint_has_a_row() -> None:
    endpoints = set(endpoints_of("config.urls"))
    assert ("GET", "api/v1/devices/<uuid:uuid>/latest/") in endpoints, "the walk finds nested addresses"
    covered = {(method, _pattern_of(path)) for method, path, *_ in ROWS}
    assert {(method, _pattern_of(route)) for method, route in endpoints} == covered


def endpoints_of(urlconf: str) -> Iterator[tuple[str, str]]:
    """(method, address) of everything below api/ that a resolver knows, without HEAD and OPTIONS."""

    def walk(patterns: Any, prefix: str) -> Iterator[tuple[str, str]]:
        for pattern in patterns:
            route = prefix + str(pattern.pattern)
            if isinstance(pattern, URLResolver):
                yield from walk(pattern.url_patterns, route)
            elif isinstance(pattern, URLPattern) and route.startswith("api/"):
                for method in _methods(pattern.callback):
                    yield method, route

    return walk(get_resolver(urlconf).url_patterns, "")


def _methods(view: Any) -> list[str]:
    names, kind = getattr(view, "actions", None), getattr(view, "cls", None) or view.view_class
    if names is None:
        names = [name for name in ("get", "post", "put", "patch", "delete") if hasattr(kind, name)]
    return [name.upper() for name in names if name in kind.http_method_names and name != "head"]


def _pattern_of(path: str) -> str:
    """An address with <> for what varies, without its query."""
    parts = path.partition("?")[0].split("/")
    return "/".join("<>" if part.startswith(("<", "{")) else part for part in parts)


def _filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(part, ids) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, ids) for part in value]
    return value.format(**ids) if isinstance(value, str) else value


def _ask_and_undo(
    ask: Callable[..., Any], tenant: Any, method: str, path: str, body: dict[str, Any] | None, ids: dict[str, str]
) -> Any:
    """Return the answer. The request's changes are rolled back, so that the next request finds the same rows."""
    filled = None if body is None else _filled(body, ids)
    with transaction.atomic():
        answer = ask(method, f"/t/{tenant.slug}/{path.format(**ids)}", filled)
        transaction.set_rollback(True)
    # Ends an export in progress, which counts for its tenant. `close()` would end the database connection too.
    for close in answer._resource_closers:
        close()
    return answer
