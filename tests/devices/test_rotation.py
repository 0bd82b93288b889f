"""Rotation campaigns step by step: real PostgreSQL, Vault, broker and pipeline; devices are raw clients."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import hvac
import pytest
import requests
from django.core.exceptions import ValidationError
from django.utils import timezone
from django_tenants.utils import schema_context

from management.device_client.gwanje_device import decrypt_secret, open_command
from management.embedded.stack import EmbeddedStack
from tests import payloads
from tests.factories import Registered
from tests.mqtt import RawClient
from tests.processes import wait_until

VALUE = {"temp": 21.5, "humidity": 44}


@pytest.fixture(autouse=True)
def quick(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from devices.services.rotation import delivery

    monkeypatch.setattr(delivery, "_RESPONSE_SECONDS", 0.5)
    settings.INGEST_SPEC_TTL = 0.0
    settings.ROTATION_GRACE_SECONDS = 0.0


@pytest.fixture
def ingest(live_db: None) -> Iterator[Any]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    made = build_pipeline()
    yield made
    made.writer.close()


@pytest.fixture
def hear(ingest: Any) -> Callable[..., str]:
    """`hear(device, seq=1, …)`: a version 2 message through the pipeline; "" or why it was refused."""
    from telemetry.models import Quarantined
    from telemetry.services.pipeline.results import Incoming

    def process(device: Registered, *, version: int = 2, **members: Any) -> str:
        make = payloads.v2 if version == 2 else payloads.v1
        ingest.router.forget()
        payload = make(device, VALUE, **members)
        ingest.process([Incoming(payloads.topic(device), payload, datetime.now(UTC))])
        ingest.preparer._key_usage._flush_at = 0.0
        ingest.tick(last=True)
        with schema_context(device.tenant.schema_name):
            row = Quarantined.objects.filter(topic=payloads.topic(device), payload=payload).first()
            return row.reason if row else ""

    return process


class Campaign:
    """A campaign over these devices, inside their tenant."""

    def __init__(self, *devices: Registered, **options: Any) -> None:
        from devices.services.rotation import campaigns
        from devices.services.rotation.selection import DeviceSelection

        self.tenant = devices[0].tenant
        options.setdefault("deadline", timezone.now() + timedelta(hours=1))
        options.setdefault("selection", DeviceSelection(uuids=[d.device.uuid for d in devices]))
        with schema_context(self.tenant.schema_name):
            self.row = campaigns.start(name="test", **options)

    def step(self) -> Any:
        """One step; the campaign's row after it."""
        from devices.services.rotation import steps

        with schema_context(self.tenant.schema_name):
            steps.step(self.row.pk)
            self.row.refresh_from_db()
            return self.row

    def do(self, what: str, *args: Any) -> None:
        from devices.services.rotation import campaigns

        with schema_context(self.tenant.schema_name):
            getattr(campaigns, what)(self.row, *args)

    def progress(self) -> Any:
        from devices.services.rotation import campaigns

        with schema_context(self.tenant.schema_name):
            return campaigns.progress(self.row)

    def member(self, device: Registered) -> Any:
        with schema_context(self.tenant.schema_name):
            return self.row.members.select_related("credential").get(device=device.device)

    def tokens(self, *devices: Registered) -> list[Any]:
        from devices.services.rotation.tokens import hand_over

        with schema_context(self.tenant.schema_name):
            return hand_over(self.row, [d.device.uuid for d in devices])

    def pass_deadline(self) -> None:
        """As if the time until the deadline had passed."""
        from devices.services.rotation import campaigns

        past = timezone.now() - timedelta(seconds=1)
        with schema_context(self.tenant.schema_name):
            self.row.refresh_from_db()
            campaigns.old_keys(self.row).filter(not_after=self.row.deadline).update(not_after=past)
            type(self.row).objects.filter(pk=self.row.pk).update(deadline=past)

    def audited(self) -> list[str]:
        from devices.models import AuditEntry

        with schema_context(self.tenant.schema_name):
            entries = AuditEntry.objects.filter(object_type="devices.rotationcampaign", object_id=str(self.row.pk))
            return list(entries.order_by("id").values_list("action", flat=True))


def keys(device: Registered) -> list[Any]:
    with schema_context(device.tenant.schema_name):
        return list(device.device.credentials.order_by("version"))


def in_vault(device: Registered, version: int) -> str:
    from devices.services.vault.secret_store import SecretStore

    return SecretStore("listener").read(device.tenant.schema_name, device.device.uuid, version).secret


@pytest.fixture
def speaks_v2(register: Any, hear: Callable[..., str]) -> Callable[..., Registered]:
    """A device that has sent a version 2 message: it can receive a new key."""

    def make(**kwargs: Any) -> Registered:
        device = register(**kwargs)
        assert hear(device, seq=1) == ""
        return device

    return make


# --- keys and evidence


def test_a_device_moves_and_its_old_key_ends_and_is_destroyed(speaks_v2: Any, hear: Callable[..., str]) -> None:
    from devices.services.vault.secret_store import SecretMissing

    device = speaks_v2()
    assert keys(device)[0].in_use_since is not None
    campaign = Campaign(device)
    with RawClient(device.uuid, device.mqtt_password) as raw:
        assert raw.subscribe(f"command/+/{device.uuid}/request")
        assert campaign.step().state == "running"
        [(topic, command)] = wait_until(lambda: raw.received)
    assert topic == f"command/{device.tenant.slug}/{device.uuid}/request"
    claims = open_command(command, device.secret)
    new = decrypt_secret(claims, device.secret, device.uuid, "1")
    assert new == in_vault(device, 2)
    assert new.encode() not in command
    assert (claims["command"], claims["kid"], claims["device_uuid"]) == ("rotate_key", "2", device.uuid)
    assert hear(device, seq=2) == "", "the old key is good until the device has moved"
    assert campaign.step().state == "running"
    assert hear(device, seq=3, secret=new, kid="2") == ""
    assert str(campaign.progress()) == "1 of 1 now signs with key 2"
    assert campaign.step().state == "ending"
    assert hear(device, seq=4) == "bad_signature"
    assert campaign.step().state == "ended"
    with pytest.raises(SecretMissing):
        in_vault(device, 1)
    assert hear(device, seq=5, secret=new, kid="2") == ""
    assert campaign.audited() == ["start rotation", "send key", "end old keys", "destroy old keys"]


def test_a_use_is_kept_once_and_only_when_it_is_another_key(
    speaks_v2: Any, hear: Callable[..., str], ingest: Any
) -> None:
    device = speaks_v2()
    before = keys(device)[0].in_use_since
    hear(device, seq=2)
    assert keys(device)[0].in_use_since == before

    def in_use() -> int:
        ingest.router.forget()
        return int(ingest.router.resolve([device.device.uuid])[device.device.uuid].key_in_use)

    assert in_use() == 1
    with schema_context(device.tenant.schema_name):
        from devices.services.provisioning.registration import rotate_key

        issued = rotate_key(device.device)
    hear(device, seq=3, secret=issued.secret, kid="2")
    assert in_use() == 2
    ingest.preparer._key_usage._recorded.clear()
    hear(device, seq=4)
    assert in_use() == 1, "it went back"


def test_a_locked_tenant_holds_up_nobody(register: Any, hear: Callable[..., str], ingest: Any) -> None:
    """The note is left for later, and the message is stored all the same."""
    import threading

    from django.db import connection, transaction

    device = register()
    locked, done = threading.Event(), threading.Event()

    def lock() -> None:
        with schema_context(device.tenant.schema_name), transaction.atomic():
            connection.cursor().execute("LOCK TABLE devices_devicecredential IN EXCLUSIVE MODE")
            locked.set()
            done.wait(60)
        connection.close()

    thread = threading.Thread(target=lock)
    thread.start()
    locked.wait(60)
    try:
        assert hear(device, seq=1) == ""
    finally:
        done.set()
        thread.join()
    assert keys(device)[0].in_use_since is None
    ingest.preparer._key_usage._recorded.clear()
    hear(device, seq=2)
    assert keys(device)[0].in_use_since is not None


# --- half-way


def test_a_key_that_is_in_vault_without_its_row_is_taken_up(register: Any) -> None:
    """Killed between Vault and PostgreSQL."""
    from devices.services.vault.secret_store import SecretStore

    device = register()
    campaign = Campaign(device)
    written = SecretStore("provisioner").write(
        device.tenant.schema_name, device.device.uuid, secret="left behind", mqtt_password="p", cas=1
    )
    campaign.step()
    campaign.step()
    assert [key.version for key in keys(device)] == [1, written]
    assert in_vault(device, 2) == "left behind"
    assert campaign.member(device).credential.version == 2


def test_steps_at_a_time_issue_one_key(register: Any) -> None:
    import threading

    from django.db import connection

    devices = [register() for _ in range(4)]
    campaign = Campaign(*devices)

    def run() -> None:
        campaign.step()
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for device in devices:
        assert [key.version for key in keys(device)] == [1, 2]
        assert campaign.member(device).credential.version == 2


def test_vault_away_leaves_the_campaign_for_later(register: Any, stack: EmbeddedStack) -> None:
    device = register()
    campaign = Campaign(device)
    stack.stop_server("openbao")
    try:
        assert campaign.step().state == "running"
        assert [key.version for key in keys(device)] == [1]
    finally:
        stack.start_server("openbao")
    campaign.step()
    assert [key.version for key in keys(device)] == [1, 2]


def test_the_broker_away_leaves_the_command_for_later(speaks_v2: Any, stack: EmbeddedStack) -> None:
    device = speaks_v2()
    campaign = Campaign(device)
    stack.stop_server("mosquitto")
    try:
        campaign.step()
    finally:
        stack.start_server("mosquitto")
    assert campaign.member(device).next_at <= timezone.now()
    with RawClient(device.uuid, device.mqtt_password) as raw:
        raw.subscribe(f"command/+/{device.uuid}/request")
        campaign.step()
        wait_until(lambda: raw.received)


def test_nothing_is_sent_before_every_listener_knows_the_key(speaks_v2: Any, settings: Any) -> None:
    device = speaks_v2()
    campaign = Campaign(device)
    settings.INGEST_SPEC_TTL = 30.0
    campaign.step()
    assert campaign.member(device).state == "issued"
    settings.INGEST_SPEC_TTL = 0.0
    campaign.step()
    assert campaign.member(device).state == "sent"


@pytest.mark.parametrize(("secret", "note"), [("", "the device says: no room"), ("another secret", "")])
def test_what_a_device_says_stands_on_the_page(speaks_v2: Any, secret: str, note: str) -> None:
    """And an answer with a wrong signature does not."""
    device = speaks_v2()
    campaign = Campaign(device)
    with RawClient(device.uuid, device.mqtt_password) as raw:

        def answer(_client: Any, _data: Any, message: Any) -> None:
            claims = open_command(bytes(message.payload), device.secret)
            said = {"id": claims["id"], "device_uuid": device.uuid, "status": "error", "detail": "no room"}
            topic = f"command/{device.tenant.slug}/{device.uuid}/response"
            raw.publish(topic, payloads.token(said, secret or device.secret, "1"))

        raw.client.on_message = answer
        raw.subscribe(f"command/+/{device.uuid}/request")
        campaign.step()
    assert campaign.member(device).note == note


# --- the deadline, the end, the way back


def test_at_the_deadline_old_keys_end_and_who_was_away_is_listed(speaks_v2: Any, hear: Callable[..., str]) -> None:
    moved, away = speaks_v2(), speaks_v2()
    campaign = Campaign(moved, away)
    campaign.step()
    assert hear(moved, seq=2, secret=in_vault(moved, 2), kid="2") == ""
    assert campaign.step().state == "running"
    campaign.pass_deadline()
    assert hear(away, seq=2) == "bad_signature", "the end does not wait for a worker"
    assert campaign.step().state == "ending"
    assert campaign.step().state == "ended"
    progress = campaign.progress()
    assert (progress.confirmed, progress.missed) == (1, 1)
    assert campaign.member(away).state == "left"
    [token] = campaign.tokens(away)
    assert token.kid == 2, "its new key can still be carried there"
    assert hear(away, seq=3, secret=in_vault(away, 2), kid="2") == ""


def test_at_the_deadline_it_waits_longer_where_that_was_chosen(speaks_v2: Any, hear: Callable[..., str]) -> None:
    device = speaks_v2()
    campaign = Campaign(device, at_deadline="extend", extend_days=3)
    campaign.step()
    campaign.pass_deadline()
    row = campaign.step()
    assert (row.state, row.extended) == ("running", 1)
    assert timedelta(days=2.9) < row.deadline - timezone.now() < timedelta(days=3.1)
    assert hear(device, seq=2) == ""
    assert "extend rotation" in campaign.audited()


def test_more_time_is_given_to_old_keys_too(speaks_v2: Any) -> None:
    device = speaks_v2()
    campaign = Campaign(device)
    campaign.step()
    later = timezone.now() + timedelta(days=20)
    campaign.do("extend", later)
    assert keys(device)[0].not_after == later
    campaign.do("end")
    assert keys(device)[0].not_after <= timezone.now()
    with pytest.raises(ValidationError, match="must be running"):
        campaign.do("extend", later)


def test_rolled_back_new_keys_are_withdrawn_and_old_ones_are_valid(
    speaks_v2: Any, register: Any, hear: Callable[..., str]
) -> None:
    moved, waiting = speaks_v2(), register()
    campaign = Campaign(moved, waiting)
    campaign.step()
    new = in_vault(moved, 2)
    assert hear(moved, seq=2, secret=new, kid="2") == ""
    campaign.step()
    campaign.do("roll_back")
    assert hear(moved, seq=3, secret=new, kid="2") == "", "until it has gone back"
    assert hear(moved, seq=4) == "", "its old key is valid again"
    assert keys(waiting)[1].revoked_at is not None, "no device received it"
    assert keys(waiting)[0].not_after is None
    assert campaign.step().state == "returned"
    assert campaign.member(moved).state == "returned"
    assert hear(moved, seq=5, secret=new, kid="2") == "bad_signature"
    assert hear(moved, seq=6) == ""
    assert campaign.audited()[-3:] == ["roll back rotation", "send key", "rolled back"]


def test_a_device_that_moved_is_told_to_return(speaks_v2: Any, hear: Callable[..., str]) -> None:
    device = speaks_v2()
    campaign = Campaign(device)
    campaign.step()
    new = in_vault(device, 2)
    hear(device, seq=2, secret=new, kid="2")
    campaign.do("roll_back")
    with RawClient(device.uuid, device.mqtt_password) as raw:

        def answer(_client: Any, _data: Any, message: Any) -> None:
            claims = open_command(bytes(message.payload), new)
            assert (claims["command"], claims["kid"]) == ("use_key", "1")
            said = {"id": claims["id"], "device_uuid": device.uuid, "status": "ok"}
            raw.publish(
                f"command/{device.tenant.slug}/{device.uuid}/response", payloads.token(said, device.secret, "1")
            )

        raw.client.on_message = answer
        raw.subscribe(f"command/+/{device.uuid}/request")
        assert campaign.step().state == "returned"
    assert keys(device)[1].revoked_at is not None


def test_a_device_can_be_in_a_new_campaign_after_a_rolled_back_one(register: Any) -> None:
    device = register()
    first = Campaign(device)
    first.step()
    first.do("roll_back")
    first.step()
    second = Campaign(device)
    second.step()
    assert [(key.version, key.revoked_at is None) for key in keys(device)] == [(1, True), (2, False), (3, True)]


# --- tokens


def test_a_token_gives_the_key_once_and_is_kept_nowhere(register: Any, hear: Callable[..., str]) -> None:
    from devices.models import AuditEntry, RotationMember

    device = register()
    hear(device, version=1)
    campaign = Campaign(device)
    campaign.step()
    assert campaign.member(device).state == "issued", "a version 1 device does not receive commands"
    [token] = campaign.tokens()
    assert campaign.member(device).state == "carried"
    client = hvac.Client(url=_vault_address(), token=token.token)
    unwrapped = client.sys.unwrap()["data"]["data"]
    assert unwrapped["secret"] == in_vault(device, 2)
    with pytest.raises(hvac.exceptions.VaultError):
        hvac.Client(url=_vault_address(), token=token.token).sys.unwrap()
    assert token.token not in repr(token)
    with schema_context(device.tenant.schema_name):
        kept = json.dumps([*RotationMember.objects.values(), *AuditEntry.objects.values()], default=str)
    assert token.token not in kept
    assert hear(device, version=1, secret=unwrapped["secret"]) == ""
    assert campaign.step().state == "ending"


def test_a_token_opens_nothing_else(register: Any) -> None:
    device = register()
    campaign = Campaign(device)
    campaign.step()
    [token] = campaign.tokens(device)
    answer = requests.get(
        f"{_vault_address()}/v1/gwanje/data/tenants/{device.tenant.schema_name}/devices/{device.uuid}",
        headers={"X-Vault-Token": token.token},
        timeout=5,
    )
    assert answer.status_code in (400, 403)


def test_only_devices_of_the_campaign_are_handed_over(register: Any) -> None:
    device, other = register(), register()
    campaign = Campaign(device)
    with pytest.raises(ValidationError):
        campaign.tokens()
    campaign.step()
    with pytest.raises(ValidationError):
        campaign.tokens(device, other)


# --- choosing


def test_devices_are_chosen_by_mark_model_and_words(register: Any, tenant_a: Any, tenant_b: Any) -> None:
    from devices.services.rotation.selection import DeviceSelection, select

    old = register(name="greenhouse north", secret="one secret of all of them")
    new, inactive = register(name="greenhouse south"), register(name="greenhouse off")
    foreign = register(tenant=tenant_b, name="greenhouse", secret="one secret of all of them")
    with schema_context(tenant_a.schema_name):
        type(inactive.device).objects.filter(pk=inactive.device.pk).update(active=False)

        def chosen(**options: Any) -> set[str]:
            found = {str(uuid) for uuid in select(DeviceSelection(**options)).values_list("uuid", flat=True)}
            return found & {d.uuid for d in (old, new, inactive, foreign)}

        assert chosen() == {old.uuid, new.uuid}
        assert chosen(marked=True) == {old.uuid}
        assert chosen(search="north") == {old.uuid}
        assert chosen(hardware_model=old.device.hardware_model, search="greenhouse s") == {new.uuid}
        assert chosen(uuids=[new.device.uuid, foreign.device.uuid]) == {new.uuid}
    Campaign(old)
    with schema_context(tenant_a.schema_name):
        assert chosen() == {new.uuid}, "a device is in one rotation at a time"
    with pytest.raises(ValidationError, match="No device is selected"):
        Campaign(old)


def test_a_deadline_that_nobody_can_meet_is_refused(register: Any, settings: Any) -> None:
    settings.INGEST_SPEC_TTL = 30.0
    with pytest.raises(ValidationError, match="5 minutes"):
        Campaign(register(), deadline=timezone.now() + timedelta(minutes=4))


# --- keys that come from elsewhere


def test_a_device_comes_with_its_owners_secret_and_loses_it_in_a_rotation(
    register: Any, hear: Callable[..., str]
) -> None:
    device = register(secret="one secret of all of them")
    assert device.secret == "one secret of all of them"
    assert [(key.version, key.rotate) for key in keys(device)] == [(1, True)]
    assert hear(device, version=1) == ""
    campaign = Campaign(device)
    campaign.step()
    assert [key.rotate for key in keys(device)] == [True, False]


@pytest.mark.parametrize("secret", ["", "short", "x" * 513, "with a \n line", "nul\x00nulnul"])
def test_what_cannot_be_a_secret_is_refused_and_not_repeated(register: Any, secret: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        register(secret=secret)
    assert not secret or secret not in str(refusal.value)


def test_an_adopted_secret_is_the_newest_key_once(register: Any, hear: Callable[..., str]) -> None:
    from devices.services.provisioning.registration import adopt_secret

    device = register()
    with schema_context(device.tenant.schema_name):
        for _ in range(2):
            issued = adopt_secret(device.device, "the secret of the old server")
    assert (issued.key_version, issued.mqtt_password) == (2, device.mqtt_password)
    assert [(key.version, key.rotate) for key in keys(device)] == [(1, False), (2, True)]
    assert hear(device, version=1, secret="the secret of the old server") == ""
    assert hear(device, version=1) == "", "keys before it stay"


def test_a_device_that_gets_a_key_by_itself_leaves_its_campaign(register: Any) -> None:
    from devices.services.provisioning.registration import rotate_key

    device = register()
    campaign = Campaign(device)
    campaign.step()
    with schema_context(device.tenant.schema_name):
        assert rotate_key(device.device).key_version == 3
    member = campaign.member(device)
    assert (member.state, member.open) == ("left", False)


def test_a_revoked_keys_session_is_closed_and_the_device_is_refused(speaks_v2: Any, hear: Callable[..., str]) -> None:
    from devices.services.provisioning.registration import revoke_key

    device = speaks_v2()
    with RawClient(device.uuid, device.mqtt_password) as raw:
        gone: list[str] = []
        raw.client.on_disconnect = lambda _c, _u, _f, reason, _p: gone.append(str(reason))
        with schema_context(device.tenant.schema_name):
            revoke_key(device.device.credentials.get())
        wait_until(lambda: gone)
    assert hear(device, seq=2) == "bad_signature"


def _vault_address() -> str:
    from django.conf import settings

    return str(settings.VAULT_ADDR)
