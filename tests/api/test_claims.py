"""Boards: claimed by one tenant, in the same words refused to all others; credentials fetched once."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from tenants.infrastructure.spreadsheets import TableRow
from tenants.services import enrollment
from tests.api.client import HANDLER, Api, problems
from tests.factories import add_readings, add_series, issue_key, make_user
from tests.processes import run_at_once

FETCH = "/api/v1/provisioning/credentials/"
ATTEMPT = "an attempt of a device"


@pytest.fixture(autouse=True)
def clean(settings: Any) -> Iterator[None]:
    settings.MQTT_ADMIN_URL = ""
    _forget()
    yield
    _forget()


def _forget() -> None:
    redis = get_redis_connection("default")
    for key in [*redis.scan_iter("gwanje:count:claims:*"), *redis.scan_iter("gwanje:count:fetch:*")]:
        redis.delete(key)


def board(serial: str = "", **cells: str) -> Any:
    """A preregistered board's codes."""
    serial = serial or f"GB-{uuid4().hex[:10]}"
    given = {"serial": serial, "hardware_model": "GreenBox 1.2", "components": "dht22;second:dht22", **cells}
    return enrollment.preregister([TableRow(2, given)])[0]


def claim(api: Api, issued: Any, **changed: str) -> Any:
    return api.post("claims/", {"serial": issued.device.serial, "code": issued.claim_code, **changed})


def fetch(issued: Any, attempt: str = ATTEMPT, **changed: str) -> Any:
    client = Client()
    client.handler = HANDLER
    body = {"token": issued.fetch_token, "attempt": attempt, **changed}
    return client.post(FETCH, body, content_type="application/json")


def audit_of(tenant: Any, action: str) -> int:
    from devices.models import AuditEntry

    with schema_context(tenant.schema_name):
        return AuditEntry.objects.filter(action=action).count()


@pytest.fixture
def other(db: None, tenant_b: Any) -> Api:
    return Api(tenant_b.slug, key=issue_key(tenant_b))


def test_a_board_becomes_a_device(api: Api, tenant_a: Any) -> None:
    from devices.models import Device
    from tenants.models import PreregisteredDevice

    issued = board(name="Roof", cpu_serial="100000")
    answer = claim(api, issued)
    assert answer.status_code == 201, answer.content
    document = answer.json()
    assert (document["name"], document["cpu_serial"]) == ("Roof", "100000")
    assert {part["key"]: part["component_type"] for part in document["components"]} == {
        "dht22": "dht22",
        "second": "dht22",
    }
    with schema_context(tenant_a.schema_name):
        device = Device.objects.get(uuid=document["uuid"])
        assert str(device.hardware_model) == "GreenBox 1.2"
    kept = PreregisteredDevice.objects.get(pk=issued.device.pk)
    assert (kept.tenant, str(kept.device_uuid)) == (tenant_a, document["uuid"])
    assert audit_of(tenant_a, "claim") == 1
    text = str(PreregisteredDevice.objects.filter(pk=kept.pk).values())
    assert issued.claim_code.replace("-", "") not in text
    assert issued.fetch_token not in text


def test_codes_are_taken_however_they_are_typed(api: Api) -> None:
    issued = board()
    typed = issued.claim_code.lower().replace("-", " ")
    assert claim(api, issued, code=typed, serial=issued.device.serial.lower(), name="mine").json()["name"] == "mine"


def test_what_cannot_be_claimed_is_refused_in_the_same_words(api: Api, other: Api, tenant_b: Any) -> None:
    free, theirs = board(), board()
    assert claim(other, theirs).status_code == 201
    answers = {
        "unknown serial": claim(api, free, serial="GB-UNREGISTERED"),
        "wrong code": claim(api, free, code=theirs.claim_code),
        "another tenant's": claim(api, theirs),
        "another tenant's, wrong code": claim(api, theirs, code=free.claim_code),
    }
    assert {answer.status_code for answer in answers.values()} == {404}
    assert len({answer.content for answer in answers.values()}) == 1
    assert claim(api, free).status_code == 201, "and the board is still free"
    mistyped = claim(api, free, code="K7QM")
    assert "mistyped" in problems(mistyped)["code"]


def test_the_same_time_whatever_is_wrong(api: Api, other: Api, settings: Any) -> None:
    """As many queries, which is nearly all of the time."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    settings.CLAIM_FAILURES_PER_HOUR = 1000
    free, theirs = board(), board()
    claim(other, theirs)
    api.get("devices/")  # notes that the key was used
    counts = set()
    for issued, changed in ((free, {"serial": "GB-NO"}), (free, {"code": theirs.claim_code}), (theirs, {})):
        with CaptureQueriesContext(connection) as captured:
            assert claim(api, issued, **changed).status_code == 404
        counts.add(len(captured))
    assert len(counts) == 1


def test_what_is_ones_own_already_is_said(api: Api, other: Api) -> None:
    issued = board()
    uuid = claim(api, issued).json()["uuid"]
    again = claim(api, issued)
    assert again.status_code == 409
    assert issued.device.serial in problems(again)[None]
    assert claim(api, issued, code=board().claim_code).status_code == 404
    assert uuid not in claim(other, issued).content.decode()


def test_wrong_codes_are_limited_by_a_limit_that_has_a_name(api: Api, other: Api, settings: Any) -> None:
    settings.CLAIM_FAILURES_PER_HOUR = 3
    issued, wrong = board(), board().claim_code
    for _ in range(3):
        assert claim(api, issued, code=wrong).status_code == 404
    refused = claim(api, issued)
    assert refused.status_code == 429
    assert "claim_failures" in problems(refused)[None]
    assert int(refused["Retry-After"]) > 0
    assert claim(other, issued).status_code == 201, "another tenant is not held up"


def test_vault_away_and_nothing_is_lost(api: Api, tenant_a: Any, monkeypatch: Any) -> None:
    from devices.services.vault.secret_store import SecretsUnavailable
    from tenants.models import DeviceRoute, PreregisteredDevice

    def away(*args: Any, **kwargs: Any) -> None:
        raise SecretsUnavailable("away")

    issued = board()
    with monkeypatch.context() as outage:
        outage.setattr("devices.services.vault.secret_store.SecretStore.write", away)
        assert claim(api, issued).status_code == 503
    kept = PreregisteredDevice.objects.get(pk=issued.device.pk)
    assert kept.tenant is None
    assert not DeviceRoute.objects.filter(device_uuid=kept.next_uuid).exists()
    uuid = claim(api, issued).json()["uuid"]
    with monkeypatch.context() as outage:
        outage.setattr("devices.services.vault.secret_store.SecretStore.read", away)
        answer = fetch(issued)
        assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert fetch(issued).json()["credentials"]["uuid"] == uuid


def test_the_broker_away_and_nothing_counts_as_fetched(api: Api, monkeypatch: Any) -> None:
    from devices.services.broker.errors import BrokerUnavailable

    def away(*args: Any, **kwargs: Any) -> None:
        raise BrokerUnavailable("away")

    issued = board()
    uuid = claim(api, issued).json()["uuid"]
    with monkeypatch.context() as outage:
        outage.setattr("devices.services.broker.accounts.grant_devices", away)
        answer = fetch(issued)
        assert answer.status_code == 503
        assert "broker" in problems(answer)[None]
    assert fetch(issued, attempt="another one that asks").json()["credentials"]["uuid"] == uuid


def test_a_model_that_may_not_carry_it(api: Api, tenant_a: Any) -> None:
    from devices.models import ComponentType, HardwareModel

    with schema_context(tenant_a.schema_name):
        model = HardwareModel.objects.create(name="GreenBox", version="1.2")
        model.allowed_component_types.set(ComponentType.objects.filter(key="relay"))
    issued = board()
    refused = claim(api, issued)
    assert refused.status_code == 400
    assert "cannot have a component of type" in " ".join(problems(refused).values())
    assert fetch(issued).json()["status"] == "not_claimed"


def test_credentials_are_fetched_once(api: Api, tenant_a: Any) -> None:
    from devices.services.vault.secret_store import provisioner

    issued = board()
    waiting = fetch(issued)
    assert (waiting.status_code, waiting["Retry-After"]) == (202, "30")
    assert waiting.json() == {"status": "not_claimed", "retry_after": 30}
    uuid = claim(api, issued).json()["uuid"]
    answer = fetch(issued)
    assert answer.status_code == 200, answer.content
    assert "no-store" in answer["Cache-Control"]
    given = answer.json()["credentials"]
    assert (given["uuid"], given["tenant"], given["signature"], given["kid"]) == (uuid, "alpha", "v2", "1")
    assert given["components"] == ["dht22", "second"]
    assert given["hardware_version"] == "1.2"
    assert provisioner().read(tenant_a.schema_name, uuid).secret == given["secret"]
    assert audit_of(tenant_a, "fetch credentials") == 1

    assert fetch(issued).json()["credentials"] == given, "the answer was lost: the same asker hears it again"
    assert audit_of(tenant_a, "fetch credentials") == 1
    stranger = fetch(issued, attempt="another person with the card")
    assert stranger.status_code == 409
    assert given["secret"] not in stranger.content.decode()
    assert stranger.json()["code"] == "already_fetched"
    assert audit_of(tenant_a, "credentials asked for again") == 1
    fetch(issued, attempt="another person with the card")
    assert audit_of(tenant_a, "credentials asked for again") == 1, "a device in a loop fills nothing"


def test_the_answer_is_heard_again_only_for_a_while_and_until_the_key_is_used(api: Api, tenant_a: Any) -> None:
    from devices.models import DeviceCredential
    from tenants.models import PreregisteredDevice

    issued = board()
    uuid = claim(api, issued).json()["uuid"]
    assert fetch(issued).status_code == 200
    rows = PreregisteredDevice.objects.filter(pk=issued.device.pk)
    rows.update(fetched_at=timezone.now() - timedelta(hours=1))
    assert fetch(issued).status_code == 409
    rows.update(fetched_at=timezone.now())
    assert fetch(issued).status_code == 200
    with schema_context(tenant_a.schema_name):
        DeviceCredential.objects.filter(device__uuid=uuid).update(in_use_since=timezone.now())
    assert fetch(issued).status_code == 409


def test_a_new_fetch_is_allowed(api: Api, tenant_a: Any) -> None:
    from devices.models import DeviceCredential
    from devices.services.broker import passwords

    issued = board()
    uuid = claim(api, issued).json()["uuid"]
    old = fetch(issued).json()["credentials"]
    assert fetch(issued, attempt="another one that asks").status_code == 409
    assert api.post(f"devices/{uuid}/reset-credentials/").status_code == 204
    new = fetch(issued, attempt="another one that asks").json()["credentials"]
    assert new["kid"] == "2"
    assert new["secret"] != old["secret"]
    assert new["mqtt_password"] != old["mqtt_password"]
    with schema_context(tenant_a.schema_name):
        keys = DeviceCredential.objects.filter(device__uuid=uuid)
        assert [key.revoked_at is None for key in keys.order_by("version")] == [False, True]
        password = keys.latest("version").device.broker_password
        assert passwords.matches(bytes(password.salt), bytes(password.digest), new["mqtt_password"])
    assert fetch(issued, attempt="the first asker once more").status_code == 409
    assert audit_of(tenant_a, "allow new fetch") == 1


def test_tokens_that_are_none(db: None) -> None:
    issued = board()
    answers = [fetch(issued, token="gwf_nobody"), fetch(issued, token=issued.fetch_token + "x")]
    assert {answer.status_code for answer in answers} == {403}
    assert fetch(issued, attempt="short").status_code == 400
    assert fetch(issued, token="x\0y").status_code in (400, 403)
    renewed = enrollment.issue_codes([issued.device])[0]
    assert fetch(issued).status_code == 403, "a token that was replaced"
    assert fetch(renewed).status_code == 202


def test_fetches_are_limited_by_address(db: None, settings: Any) -> None:
    settings.FETCHES_PER_MINUTE = 2
    issued = board()
    assert [fetch(issued).status_code for _ in range(3)] == [202, 202, 429]
    assert "fetches_per_minute" in problems(fetch(issued))[None]


def test_a_tenant_that_is_suspended(api: Api, tenant_a: Any) -> None:
    from tenants.models import Tenant

    issued = board()
    claim(api, issued)
    Tenant.objects.filter(pk=tenant_a.pk).update(state="suspended")
    assert fetch(issued).json() == {"status": "suspended", "retry_after": 600}
    Tenant.objects.filter(pk=tenant_a.pk).update(state="active")
    assert fetch(issued).status_code == 200


def test_a_device_that_is_switched_off(api: Api) -> None:
    issued = board()
    uuid = claim(api, issued).json()["uuid"]
    api.patch(f"devices/{uuid}/", {"active": False})
    assert fetch(issued).json()["status"] == "inactive"


@pytest.mark.parametrize("way", ["release", "remove"])
def test_a_board_that_was_given_back_is_claimed_anew(api: Api, other: Api, tenant_a: Any, way: str) -> None:
    from devices.models import Device

    issued = board()
    uuid = claim(api, issued).json()["uuid"]
    old = fetch(issued).json()["credentials"]
    if way == "release":
        assert api.post(f"devices/{uuid}/release/").status_code == 204
    else:
        assert api.delete(f"devices/{uuid}/").status_code == 204
    assert fetch(issued, attempt="of its next owner").json()["status"] == "not_claimed"
    with schema_context(tenant_a.schema_name):
        assert not Device.objects.filter(uuid=uuid).exists()
    second = claim(other, issued).json()["uuid"]
    assert second != uuid
    new = fetch(issued, attempt="of its next owner").json()["credentials"]
    assert (new["tenant"], new["uuid"]) == ("beta-farm", second)
    assert new["secret"] != old["secret"]
    assert claim(api, issued).status_code == 404


def test_a_released_device_with_readings_stays_and_is_shut_out(api: Api, other: Api, tenant_a: Any) -> None:
    from devices.models import Device

    issued = board()
    uuid = claim(api, issued).json()["uuid"]
    with schema_context(tenant_a.schema_name):
        device = Device.objects.get(uuid=uuid)
    add_readings(tenant_a, add_series(tenant_a, device, "dht22", "temperature", "°C"), (timezone.now(), 20))
    assert api.post(f"devices/{uuid}/release/").status_code == 204
    left = api.get(f"devices/{uuid}/").json()
    assert left["active"] is False
    assert [key["valid"] for key in left["keys"]] == [False]
    assert claim(other, issued).status_code == 201
    plain = api.post(f"devices/{uuid}/release/")
    assert "so it cannot be released" in " ".join(problems(plain).values())


def test_a_claimed_boards_codes_are_not_replaced(api: Api) -> None:
    from django.core.exceptions import ValidationError

    issued = board()
    claim(api, issued)
    with pytest.raises(ValidationError, match="Release it first"):
        enrollment.issue_codes([issued.device])


@pytest.fixture
def live_board(live_db: None) -> Iterator[Any]:
    from tenants.models import PreregisteredDevice

    issued = board()
    yield issued
    PreregisteredDevice.objects.filter(pk=issued.device.pk).update(tenant=None, device_uuid=None)
    PreregisteredDevice.objects.filter(pk=issued.device.pk).delete()


def test_of_many_who_claim_at_once_one_has_it(live_board: Any, tenant_a: Any, tenant_b: Any) -> None:
    from devices.models import Device
    from devices.services.provisioning import claims
    from devices.services.provisioning.registration import remove_device

    def claim_in(tenant: Any) -> Any:
        def call() -> str:
            with schema_context(tenant.schema_name):
                try:
                    claims.claim(live_board.device.serial, live_board.claim_code)
                except (claims.ClaimRefused, claims.AlreadyClaimed):
                    return "refused"
                return tenant.schema_name

        return call

    answers = run_at_once([claim_in(tenant) for tenant in (tenant_a, tenant_b) for _ in range(4)])
    winners = [answer for answer in answers if answer != "refused"]
    assert len(winners) == 1
    found = {}
    for tenant in (tenant_a, tenant_b):
        with schema_context(tenant.schema_name):
            devices = list(Device.objects.filter(name=live_board.device.serial))
            found[tenant.schema_name] = len(devices)
            askers = [partial(fetch, live_board, f"asker number {n} of many") for n in range(6)] if devices else []
            asked = [answer.status_code for answer in run_at_once(askers)]
            for device in devices:
                remove_device(device)
        if devices:
            assert sorted(asked) == [200, 409, 409, 409, 409, 409], "of many who fetch at once one has them"
    assert found == {tenant.schema_name: int(tenant.schema_name in winners) for tenant in (tenant_a, tenant_b)}


def test_who_may_claim(db: None, tenant_a: Any) -> None:
    issued = board()
    viewer = Api(tenant_a.slug, user=make_user("looker", tenant_a, "viewer"))
    assert claim(viewer, issued).status_code == 403
    operator = Api(tenant_a.slug, user=make_user("doer", tenant_a, "operator"))
    assert claim(operator, issued).status_code == 201
