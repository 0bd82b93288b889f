"""Rows 20, 26 and 27: faults of one device or tenant, and their effect on the others."""

import json
import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import uuid4

import paho.mqtt.client as mqtt
from django.db import connection
from django_tenants.utils import schema_context
from paho.mqtt.enums import CallbackAPIVersion

from devices.models import DeviceStatus, StatusChange
from management.device_client.gwanje_device import sign_v2
from tenants.models import DeviceRoute, Tenant
from tenants.services.lifecycle import create_tenant, resume_tenant, suspend_tenant
from tenants.services.limits import set_limits
from tests.processes import wait_until

from .databases import evaluate_other_tenants
from .fleet import Fleet, Sender
from .ledger import Entry
from .rows import row
from .scenario import Scenario

_FLAPPING = 5
_NOISE = 10
# A message that was sent before a tenant is suspended may be evaluated afterwards: stored or refused.
_ON_THEIR_WAY_SECONDS = 4.0


@row("20", "five devices that connect and break off once a second")
def flapping(scenario: Scenario) -> None:
    scenario.listen()
    tenant = create_tenant(slug=f"flap-{os.getpid()}-{uuid4().hex[:6]}", name="Flapping")
    senders = [Fleet.register(tenant, number, version=2) for number in range(_FLAPPING)]
    rounds = 0
    with scenario.load():
        scenario.spend(0.1)
        calm = time.time()
        scenario.spend(0.2)
        began = time.time()
        while time.time() < began + 0.6 * scenario.seconds:
            turn = time.monotonic()
            for client in [_connect(sender) for sender in senders]:
                client.loop_stop()
                client.socket().close()  # type: ignore[union-attr]  # it is connected: no DISCONNECT, so its will is sent
            rounds += 1
            time.sleep(max(0.0, 1.0 - (time.monotonic() - turn)))
        ended = time.time()
        clients = [_connect(sender) for sender in senders]
        scenario.spend(0.1)
    try:
        wait_until(lambda: set(_statuses(tenant)) == {"ONLINE"}, 15, f"they end as {_statuses(tenant)}")
    finally:
        for client in clients:
            client.disconnect()
            client.loop_stop()
    with schema_context(tenant.schema_name):
        changes = StatusChange.objects.count() / _FLAPPING
        marked = DeviceStatus.objects.exclude(flapping_until=None).count()
    scenario.measure(
        f"{rounds} connections each, {changes:.0f} changes of status each, {marked} marked as flapping, "
        "ONLINE at the end"
    )
    scenario.require(changes <= 2 * (rounds + 1), f"{changes:.0f} changes of {rounds + 1} connections")
    scenario.require(marked == _FLAPPING or rounds < 6, f"{marked} of {_FLAPPING} are marked as flapping")
    evaluate_other_tenants(scenario, set(scenario.fleet.schemas), calm, began, ended)


def _connect(sender: Sender) -> mqtt.Client:
    """The device with a will and a birth of a new session, as its own account, once the birth is acknowledged."""
    session = str(uuid4())
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=sender.uuid)
    client.username_pw_set(sender.uuid, sender.mqtt_password)
    will = {"device_uuid": sender.uuid, "status": "OFFLINE", "session": session}
    client.will_set(f"device/lwt/{sender.uuid}", json.dumps(will), qos=1)
    client.connect("127.0.0.1", int(os.environ["MQTT_PORT"]), keepalive=30)
    client.loop_start()
    kid, secret = sender.key
    birth = {"device_uuid": sender.uuid, "session": session, "timestamp": datetime.now(UTC).isoformat()}
    client.publish(f"device/birth/{sender.uuid}", sign_v2(birth, secret, kid), qos=1).wait_for_publish(10)
    return client


def _statuses(tenant: Tenant) -> list[str]:
    with schema_context(tenant.schema_name):
        return list(DeviceStatus.objects.values_list("status", flat=True))


@row("26", "a tenant that sends ten times its share")
def noisy(scenario: Scenario) -> None:
    scenario.listen()
    noisy, others = scenario.fleet.schemas[0], set(scenario.fleet.schemas[1:])
    share = scenario.rate / len(scenario.fleet.schemas)
    # Twice its share, with a burst of one second.
    set_limits(scenario.fleet.tenants[0], tenant_rate=2 * share, tenant_burst=2 * share)
    try:
        _make_noise(scenario, noisy, share, others)
    finally:
        set_limits(scenario.fleet.tenants[0], tenant_rate=None, tenant_burst=None)


def _make_noise(scenario: Scenario, noisy: str, share: float, others: set[str]) -> None:
    def traffic(sender: Sender) -> Iterable[Entry]:
        return [sender.next(fate="either" if sender.schema == noisy else "stored")]

    with scenario.load(traffic=traffic):
        scenario.spend(0.1)
        calm = time.time()
        scenario.spend(0.25)
        began = time.time()
        with scenario.load(rate=(_NOISE - 1) * share, senders=scenario.fleet.senders_of(noisy), traffic=traffic):
            scenario.spend(0.5)
        ended = time.time()
        scenario.spend(0.15)
    result = scenario.settle()
    limited = {schema: totals["rate_limited"] for schema, totals in result.tables.totals.items()}
    scenario.measure(f"{limited[noisy]} of the noisy tenant's messages refused by its limit")
    scenario.require(limited[noisy], "its limit refused nothing")
    scenario.require(not any(limited[schema] for schema in others), "another tenant's messages were refused by a limit")
    evaluate_other_tenants(scenario, others, calm, began, ended)


@row("27", "a tenant made, one suspended and resumed, one removed at load")
def tenants(scenario: Scenario) -> None:
    listener = scenario.listen()
    leaver, leaving = _make(scenario, "leaver")
    closed = scenario.fleet.tenants[-1]
    closing: set[str] = set()

    def traffic(sender: Sender) -> Iterable[Entry]:
        return [sender.next(fate="either" if sender.schema in closing else "stored")]

    with scenario.load(traffic=traffic), scenario.load(rate=scenario.rate / 10, senders=leaving, traffic=traffic):
        scenario.spend(0.1)
        closing.add(closed.schema_name)
        time.sleep(_ON_THEIR_WAY_SECONDS)
        suspend_tenant(closed, reason="the fault test")
        comer, coming = _make(scenario, "comer")
        with scenario.load(rate=scenario.rate / 10, senders=coming):
            scenario.spend(0.3)
            closing.add(leaver.schema_name)
            time.sleep(_ON_THEIR_WAY_SECONDS)
            _remove(leaver)
            scenario.stored_rows.forget(leaver.schema_name)
            scenario.excused.add(leaver.schema_name)
            removed = time.time()
            scenario.spend(0.2)
            resume_tenant(closed)
            time.sleep(_ON_THEIR_WAY_SECONDS)
            closing.discard(closed.schema_name)
            scenario.spend(0.2)
    result = scenario.settle()
    late = [
        e
        for e in scenario.message_ledger.acknowledged()
        if e.schema == leaver.schema_name and e.sent_at > removed + 3.0
    ]
    kept = sum(entry.name in result.tables.refused for entry in late)
    refused = sum(
        entry.fate == "either" and entry.name in result.tables.refused for entry in scenario.message_ledger.entries
    )
    of_new = sum(entry.schema == comer.schema_name for entry in scenario.message_ledger.entries)
    scenario.measure(
        f"{of_new} messages of the new tenant stored, {refused} of the suspended one quarantined, "
        f"{kept} of {len(late)} of the removed one kept for staff"
    )
    scenario.require(
        kept == len(late) > 0, f"{len(late) - kept} of {len(late)} messages of the removed tenant are nowhere"
    )
    scenario.require(refused, "nothing of the suspended tenant was refused")
    scenario.require(listener.is_running, "the listener has ended")


def _make(scenario: Scenario, name: str) -> tuple[Tenant, list[Sender]]:
    """Create a tenant with four devices, which the stored rows include."""
    tenant = create_tenant(slug=f"{name}-{uuid4().hex[:6]}", name=name.title())
    senders = [Fleet.register(tenant, number) for number in range(4)]
    scenario.stored_rows.follow(tenant.schema_name, [sender.device_id for sender in senders])
    return tenant, senders


def _remove(tenant: Tenant) -> None:
    """Remove the tenant as an operator does: first the routes of its devices, then its schema."""
    DeviceRoute.objects.filter(tenant=tenant).delete()
    Tenant.objects.filter(pk=tenant.pk).update(state=Tenant.State.SUSPENDED)
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {connection.ops.quote_name(tenant.schema_name)} CASCADE")
    Tenant.objects.filter(pk=tenant.pk).delete()
