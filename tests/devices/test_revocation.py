"""Revocation at the broker: of devices, keys, credentials, tenants and API keys, at live and absent sessions."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import pytest
from django.utils import timezone
from django_tenants.utils import schema_context
from paho.mqtt.enums import CallbackAPIVersion

from tests.factories import Registered
from tests.mqtt import RawClient
from tests.processes import ROOT, wait_until


def connect(device: Registered, **options: Any) -> RawClient:
    return RawClient(device.uuid, device.mqtt_password, **options)


def is_rejected(client: RawClient) -> Any:
    """Wait until the broker has closed the connection and rejects the client, which tries again every second."""
    return wait_until(lambda: client.refusal, 60)


def returns(client: RawClient) -> Any:
    return wait_until(lambda: client.refusal is None and client.client.is_connected(), 60)


@pytest.fixture
def within(enter: Any) -> Callable[[Registered], Any]:
    return lambda device: enter(device.tenant)


def keys_of(device: Registered) -> list[Any]:
    return list(device.device.credentials.filter(revoked_at=None).order_by("version"))


def test_a_device_without_a_valid_key_is_blocked_until_it_has_one(register: Any, within: Any) -> None:
    from devices.services.provisioning.registration import revoke_key, rotate_key

    device, neighbour = register(), register()
    with connect(device) as client, connect(neighbour) as other, within(device):
        rotate_key(device.device)
        first, second = keys_of(device)
        revoke_key(first)
        returns(client)
        revoke_key(second)
        is_rejected(client)
        rotate_key(device.device)
        returns(client)
        assert other.client.is_connected()


def test_a_campaign_unblocks_the_devices_that_it_gives_a_key(register: Any, within: Any) -> None:
    from devices.models import RotationCampaign
    from devices.services.provisioning.registration import revoke_key
    from devices.services.rotation import campaigns, issuing

    device = register()
    with connect(device) as client, within(device):
        revoke_key(keys_of(device)[0])
        is_rejected(client)
        campaign = RotationCampaign.objects.create(name="after a leak", deadline=timezone.now() + timedelta(days=1))
        campaigns.RotationMember.objects.create(campaign=campaign, device=device.device)
        assert issuing.issue_batch(campaign) == 1
        returns(client)
        campaign.delete()


def test_new_credentials_do_not_unblock_a_deactivated_device(register: Any, within: Any) -> None:
    from devices.services.broker import accounts
    from devices.services.provisioning.activation import set_active
    from devices.services.provisioning.registration import replace_credentials

    device = register()
    with within(device):
        set_active(device.device, False)
        replace_credentials(device.device)
        assert accounts.accounts()[device.uuid] is False
        set_active(device.device, True)
        assert accounts.accounts()[device.uuid] is True


def test_a_replaced_password_ends_the_connection_that_used_it(register: Any, within: Any) -> None:
    from devices.services.provisioning.registration import replace_credentials

    device = register()
    with connect(device) as client, within(device):
        issued = replace_credentials(device.device)
        is_rejected(client)
    with RawClient(device.uuid, issued.mqtt_password) as client:
        assert client.refusal is None


@pytest.fixture
def resumed(tenant_b: Any) -> Iterator[Any]:
    """The tenant, which the test suspends."""
    from devices.services.broker.synchronization import sync_tenant
    from tenants.services.lifecycle import resume_tenant

    yield tenant_b
    resume_tenant(tenant_b)
    with schema_context(tenant_b.schema_name):
        sync_tenant()


def run_queued(name: str) -> int:
    """Run the queued tasks of that function, as a worker does; their number."""
    from django_q.models import OrmQ
    from django_q.signing import SignedPackage

    from tenants.infrastructure import tasks

    found = [row for row in OrmQ.objects.order_by("pk") if SignedPackage.loads(row.payload)["name"] == name]
    for row in found:
        tasks.run(*SignedPackage.loads(row.payload)["args"])
        row.delete()
    return len(found)


def test_a_suspended_tenants_devices_and_apps_are_blocked_until_it_is_resumed(register: Any, resumed: Any) -> None:
    from devices.services.api_keys import issue_api_key
    from tenants.services.lifecycle import resume_tenant, suspend_tenant

    task = "devices.services.broker.synchronization.sync_tenant"
    device, other = register(tenant=resumed), register()
    with schema_context(resumed.schema_name):
        key, text = issue_api_key(name="an app")
    with connect(device) as client, RawClient(key.prefix, text) as app, connect(other) as neighbour:
        suspend_tenant(resumed, reason="unpaid")
        assert run_queued(task) >= 1
        is_rejected(client)
        is_rejected(app)
        resume_tenant(resumed)
        assert run_queued(task) >= 1
        returns(client)
        returns(app)
        assert neighbour.client.is_connected()


def has_session(name: str) -> bool:
    """Whether the broker keeps a session of the client id; looked up with the platform's account."""
    url, present = urlsplit(os.environ["MQTT_URL"]), []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
    client.username_pw_set(url.username, url.password)
    client.on_connect = lambda _c, _u, flags, _r, _p: present.append(flags.session_present)
    client.connect("127.0.0.1", url.port or 0)
    client.loop_start()
    wait_until(lambda: present, 60)
    client.disconnect()
    client.loop_stop()
    return bool(present[0])


def test_an_absent_session_is_removed_with_its_account(register: Any, within: Any) -> None:
    """A persistent session would keep its queue for a week, for a later client of that id."""
    from devices.services.provisioning.registration import remove_device

    device, neighbour = register(), register()
    for each in (device, neighbour):
        with connect(each, clean=False) as client:
            assert client.subscribe(f"command/{each.tenant.slug}/{each.uuid}/request")
    with within(device):
        remove_device(device.device)
    assert not has_session(device.uuid)
    assert has_session(neighbour.uuid)


def test_an_expired_api_keys_connection_is_closed_by_a_worker(register: Any, enter: Any, tenant_a: Any) -> None:
    from django_q.models import Schedule

    from devices.models import ApiKey
    from devices.services.api_keys import close_expired, issue_api_key

    register()
    end = timezone.now() + timedelta(hours=1)
    with enter(tenant_a):
        key, text = issue_api_key(name="an app", expires_at=end)
        with RawClient(key.prefix, text) as client:
            assert close_expired(key.pk) == "It has not expired"
            ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())
            assert close_expired(key.pk) == "Closed"
            is_rejected(client)
    (planned,) = [row for row in Schedule.objects.filter(next_run=end) if f"({key.pk},)" in row.args]
    assert planned.schedule_type == Schedule.ONCE
    assert tenant_a.schema_name in planned.args
    planned.delete()


@pytest.mark.parametrize("action", ["deactivate", "revoke the last key", "remove"])
def test_a_device_that_is_shut_out_leaves_no_will(register: Any, within: Any, action: str) -> None:
    """Mosquitto publishes no will of a session that the platform closes."""
    from devices.services.provisioning.activation import set_active
    from devices.services.provisioning.registration import remove_device, revoke_key

    device = register()
    will = f"device/lwt/{device.uuid}"
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=device.uuid, reconnect_on_failure=False)
    client.username_pw_set(device.uuid, device.mqtt_password)
    client.will_set(will, b"{}", qos=1)
    closed: list[bool] = []
    client.on_disconnect = lambda *_: closed.append(True)
    with RawClient.of_url("MQTT_URL") as platform:
        assert platform.subscribe("device/lwt/+")
        client.connect("127.0.0.1", int(os.environ["MQTT_PORT"]))
        client.loop_start()
        wait_until(client.is_connected, 60)
        with within(device):
            if action == "deactivate":
                set_active(device.device, False)
            elif action == "remove":
                remove_device(device.device)
            else:
                revoke_key(keys_of(device)[0])
        wait_until(lambda: closed, 60)
        assert [topic for topic, _ in platform.settle() if topic == will] == []
    client.loop_stop()


ROWS = {
    "a device, by deactivation": ["devices/test_revocation.py::test_a_device_that_is_shut_out_leaves_no_will",
                                  "devices/test_broker_access.py::"
                                  "test_a_device_that_is_switched_off_is_thrown_out_until_it_is_on_again",
                                  "devices/test_emqx_http_auth.py::"
                                  "test_a_device_that_is_switched_off_or_removed_is_refused_at_once"],
    "a device, by removal": ["devices/test_revocation.py::test_an_absent_session_is_removed_with_its_account",
                             "devices/test_broker_access.py::test_a_removed_devices_session_is_closed",
                             "devices/test_broker_access.py::"
                             "test_a_removed_devices_state_is_removed_and_its_neighbours_stays"],
    "one key of several": ["devices/test_revocation.py::test_a_device_without_a_valid_key_is_blocked_until_it_has_one"],
    "the last valid key": ["devices/test_revocation.py::test_a_device_without_a_valid_key_is_blocked_until_it_has_one",
                           "telemetry/test_ingest.py::test_the_will_of_a_device_without_a_valid_key_is_quarantined",
                           "devices/test_emqx_http_auth.py::test_a_device_without_a_valid_key_is_refused_at_once"],
    "a device's credentials, replaced": [
        "devices/test_revocation.py::test_a_replaced_password_ends_the_connection_that_used_it"],
    "an API key": ["devices/test_event_stream.py::test_the_stream_ends_when_it_is_announced"],
    "an API key, by its end": ["devices/test_revocation.py::test_an_expired_api_keys_connection_is_closed_by_a_worker",
                               "devices/test_event_stream.py::test_the_stream_ends_when_its_key_expires",
                               "devices/test_emqx_http_auth.py::test_an_app_is_let_in_until_its_key_expires"],
    "a tenant, by suspension": [
        "devices/test_revocation.py::test_a_suspended_tenants_devices_and_apps_are_blocked_until_it_is_resumed",
        "devices/test_event_stream.py::test_the_stream_ends_when_it_is_announced"],
    "a person's role, session or account": [
        "devices/test_event_stream.py::test_the_stream_ends_with_the_membership_or_the_session"],
}  # fmt: skip


def test_every_row_of_the_documented_table_has_tests() -> None:
    lines = (ROOT / "docs" / "security.md").read_text().partition("### Revocation")[2].splitlines()
    rows = [line.split("|")[1].strip() for line in lines[2 : lines.index("", 2)]]
    assert rows[2:] == list(ROWS)
    for named in ROWS.values():
        for path, name in (each.split("::") for each in named):
            assert f"def {name}(" in (ROOT / "tests" / path).read_text(), name
