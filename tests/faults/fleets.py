"""Rows 20, 26 and 27: one device or tenant that troubles the others."""

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

from .databases import judge_neighbours
from .fleet import Fleet, Sender
from .ledger import Entry
from .rows import row
from .scenario import Scene

_FLAPPING = 5
_NOISE = 10
# A message that was sent before a tenant is closed may be judged after it: it may be stored or refused.
_ON_THEIR_WAY_SECONDS = 4.0


@row("20", "five devices that connect and break off once a second")
def flapping(scene: Scene) -> None:
    scene.listen()
    tenant = create_tenant(slug=f"flap-{os.getpid()}-{uuid4().hex[:6]}", name="Flapping")
    senders = [Fleet.register(tenant, number, version=2) for number in range(_FLAPPING)]
    rounds = 0
    with scene.load():
        scene.spend(0.1)
        calm = time.time()
        scene.spend(0.2)
        began = time.time()
        while time.time() < began + 0.6 * scene.seconds:
            turn = time.monotonic()
            for client in [_connect(sender) for sender in senders]:
                client.loop_stop()
                client.socket().close()  # type: ignore[union-attr]  # it is connected: no DISCONNECT, so its will is sent
            rounds += 1
            time.sleep(max(0.0, 1.0 - (time.monotonic() - turn)))
        ended = time.time()
        clients = [_connect(sender) for sender in senders]
        scene.spend(0.1)
    try:
        wait_until(lambda: set(_statuses(tenant)) == {"ONLINE"}, 15, f"they end as {_statuses(tenant)}")
    finally:
        for client in clients:
            client.disconnect()
            client.loop_stop()
    with schema_context(tenant.schema_name):
        changes = StatusChange.objects.count() / _FLAPPING
        marked = DeviceStatus.objects.exclude(flapping_until=None).count()
    scene.measure(
        f"{rounds} connections each, {changes:.0f} changes of status each, {marked} marked as flapping, "
        "ONLINE at the end"
    )
    scene.require(changes <= 2 * (rounds + 1), f"{changes:.0f} changes of {rounds + 1} connections")
    scene.require(marked == _FLAPPING or rounds < 6, f"{marked} of {_FLAPPING} are marked as flapping")
    judge_neighbours(scene, set(scene.fleet.schemas), calm, began, ended)


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
def noisy(scene: Scene) -> None:
    scene.listen()
    noisy, others = scene.fleet.schemas[0], set(scene.fleet.schemas[1:])
    share = scene.rate / len(scene.fleet.schemas)
    # Twice its share, and no more is saved up than of a second.
    set_limits(scene.fleet.tenants[0], tenant_rate=2 * share, tenant_burst=2 * share)
    try:
        _make_noise(scene, noisy, share, others)
    finally:
        set_limits(scene.fleet.tenants[0], tenant_rate=None, tenant_burst=None)


def _make_noise(scene: Scene, noisy: str, share: float, others: set[str]) -> None:
    def traffic(sender: Sender) -> Iterable[Entry]:
        return [sender.next(fate="either" if sender.schema == noisy else "stored")]

    with scene.load(traffic=traffic):
        scene.spend(0.1)
        calm = time.time()
        scene.spend(0.25)
        began = time.time()
        with scene.load(rate=(_NOISE - 1) * share, senders=scene.fleet.of(noisy), traffic=traffic):
            scene.spend(0.5)
        ended = time.time()
        scene.spend(0.15)
    result = scene.settle()
    limited = {schema: totals["rate_limited"] for schema, totals in result.found.totals.items()}
    scene.measure(f"{limited[noisy]} of the noisy tenant's messages refused by its limit")
    scene.require(limited[noisy], "its limit refused nothing")
    scene.require(not any(limited[schema] for schema in others), "another tenant's messages were refused by a limit")
    judge_neighbours(scene, others, calm, began, ended)


@row("27", "a tenant made, one suspended and resumed, one removed at load")
def tenants(scene: Scene) -> None:
    listener = scene.listen()
    leaver, leaving = _make(scene, "leaver")
    closed = scene.fleet.tenants[-1]
    closing: set[str] = set()

    def traffic(sender: Sender) -> Iterable[Entry]:
        return [sender.next(fate="either" if sender.schema in closing else "stored")]

    with scene.load(traffic=traffic), scene.load(rate=scene.rate / 10, senders=leaving, traffic=traffic):
        scene.spend(0.1)
        closing.add(closed.schema_name)
        time.sleep(_ON_THEIR_WAY_SECONDS)
        suspend_tenant(closed, reason="the fault test")
        comer, coming = _make(scene, "comer")
        with scene.load(rate=scene.rate / 10, senders=coming):
            scene.spend(0.3)
            closing.add(leaver.schema_name)
            time.sleep(_ON_THEIR_WAY_SECONDS)
            _remove(leaver)
            scene.books.forget(leaver.schema_name)
            scene.excused.add(leaver.schema_name)
            removed = time.time()
            scene.spend(0.2)
            resume_tenant(closed)
            time.sleep(_ON_THEIR_WAY_SECONDS)
            closing.discard(closed.schema_name)
            scene.spend(0.2)
    result = scene.settle()
    late = [e for e in scene.ledger.acknowledged() if e.schema == leaver.schema_name and e.sent_at > removed + 3.0]
    kept = sum(entry.name in result.found.refused for entry in late)
    refused = sum(entry.fate == "either" and entry.name in result.found.refused for entry in scene.ledger.entries)
    of_new = sum(entry.schema == comer.schema_name for entry in scene.ledger.entries)
    scene.measure(
        f"{of_new} messages of the new tenant stored, {refused} of the suspended one quarantined, "
        f"{kept} of {len(late)} of the removed one kept for staff"
    )
    scene.require(
        kept == len(late) > 0, f"{len(late) - kept} of {len(late)} messages of the removed tenant are nowhere"
    )
    scene.require(refused, "nothing of the suspended tenant was refused")
    scene.require(listener.is_running, "the listener has ended")


def _make(scene: Scene, name: str) -> tuple[Tenant, list[Sender]]:
    """A new tenant with a few devices, which the books follow."""
    tenant = create_tenant(slug=f"{name}-{uuid4().hex[:6]}", name=name.title())
    senders = [Fleet.register(tenant, number) for number in range(4)]
    scene.books.follow(tenant.schema_name, [sender.device_id for sender in senders])
    return tenant, senders


def _remove(tenant: Tenant) -> None:
    """As an operator does it: no route leads to the devices any more, then the schema goes."""
    DeviceRoute.objects.filter(tenant=tenant).delete()
    Tenant.objects.filter(pk=tenant.pk).update(state=Tenant.State.SUSPENDED)
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {connection.ops.quote_name(tenant.schema_name)} CASCADE")
    Tenant.objects.filter(pk=tenant.pk).delete()
