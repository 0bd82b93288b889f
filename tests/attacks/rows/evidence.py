"""Devices that fill the quarantine of another, and tenants that register the UUIDs of another's devices."""

from uuid import uuid4

from django.conf import settings
from django_tenants.utils import schema_context

from telemetry.models import IngestTotals, Quarantined
from telemetry.services.ingest import batch_preparation
from telemetry.services.pipeline.results import Incoming, MessageResult, Refusal, RefusedItem
from telemetry.services.storage import suppression
from tenants.models import Tenant, UnroutedMessage
from tests.attacks.arena import Arena
from tests.attacks.attack import Measurement, attack, brake
from tests.mqtt import RawClient
from tests.processes import wait_until

_LARGE = 40_000
_PATIENCE_SECONDS = 60.0


@brake("the tenant of a message is its device's")
def with_tenant_of_topic() -> None:
    """Store a refused message in the quarantine of the tenant that its topic names."""

    def schema_of(_: object, item: MessageResult) -> str | None:
        segment = item.incoming.topic.split("/")[1]
        with schema_context("public"):
            return Tenant.objects.filter(slug=segment).values_list("schema_name", flat=True).first()

    def malformed(incoming: Incoming, refusal: Refusal, _: object) -> RefusedItem:
        return RefusedItem(incoming, None, refusal)

    batch_preparation.BatchPreparer.schema_of = schema_of  # type: ignore[method-assign, assignment]
    batch_preparation._malformed = malformed  # type: ignore[assignment]


@brake("shares of the quarantine")
def with_one_pot() -> None:
    """Store everything until the largest message does not fit into the quarantine's bytes of the day."""

    def has_room(usage: suppression._DayUsage, *_: object) -> bool:
        return usage.size + settings.INGEST_MAX_PAYLOAD <= settings.QUARANTINE_MEGABYTES * 2**20

    suppression._DayUsage.has_room = has_room  # type: ignore[method-assign, assignment]


@brake("payloads for the tenant that the topic names")
def without_names() -> None:
    """Store a refused message for its device's tenant, whatever tenant the topic names."""
    batch_preparation.names_other_tenant = lambda *_: False


@attack(
    "foreign-topics",
    "malformed topics name another tenant",
    brake="the tenant of a message is its device's",
    short=True,
)
def foreign_topics(arena: Arena) -> Measurement:
    """Publish on malformed topics that name the neighbour; count the rows of its quarantine."""
    count, sender = arena.scaled(120), arena.attackers[0]
    arena.listen()
    form = f"telemetry/{arena.neighbour.slug}/{sender.uuid}/a/b{{}}"
    _publish([(form.format(number), b"{}") for number in range(count)])
    wait_until(
        lambda: sum(_rows(tenant, sender.uuid) for tenant in (arena.attacker, arena.neighbour)) == count,
        _PATIENCE_SECONDS,
    )
    rows = {tenant.slug: _rows(tenant, sender.uuid) for tenant in (arena.attacker, arena.neighbour)}
    measurement = Measurement({"messages": count, "rows_of_attacker": rows[arena.attacker.slug]})
    measurement.bound("rows in the neighbour's quarantine", rows[arena.neighbour.slug], 0)
    return measurement


@attack("displaced-evidence", "devices fill their tenant's quarantine", brake="shares of the quarantine", short=True)
def displaced_evidence(arena: Arena) -> Measurement:
    """Fill a quarantine of 1 MiB with large broken messages of some devices; another device then sends a small one."""
    *hostile, honest = arena.attackers
    arena.listen(env={"QUARANTINE_MEGABYTES": "1"})
    before = _received(arena.attacker)
    large = [(sender.topic, b"{%d" % number + b"x" * _LARGE) for number in range(30) for sender in hostile]
    _publish(large)
    _publish([(honest.topic, b"{")])
    wait_until(lambda: _received(arena.attacker) == before + len(large) + 1, _PATIENCE_SECONDS)
    stored = sum(_rows(arena.attacker, sender.uuid) for sender in hostile)
    measurement = Measurement({"messages": len(large), "rows_of_hostile_devices": stored})
    measurement.bound("missing messages of the other device", 1 - min(1, _rows(arena.attacker, honest.uuid)), 0)
    return measurement


@attack(
    "squatted-uuid",
    "a tenant owns the UUID of another's device",
    brake="payloads for the tenant that the topic names",
    short=True,
)
def squatted_uuid(arena: Arena) -> Measurement:
    """The neighbour's device publishes over a bridge while the attacker has its UUID; count the attacker's payloads."""
    sender, count = arena.attackers[0], arena.scaled(20)
    arena.listen()
    mark = uuid4().hex
    topic = f"telemetry/{arena.neighbour.slug}/{sender.uuid}/dht22"
    _publish([(topic, b'{"timestamp": 1, "value": "%s %d"}' % (mark.encode(), number)) for number in range(count)])
    wait_until(lambda: _for_staff(topic) + _rows(arena.attacker, sender.uuid) == count, _PATIENCE_SECONDS)
    measurement = Measurement({"messages": count, "rows_for_staff": _for_staff(topic)})
    with schema_context(arena.attacker.schema_name):
        payloads = [
            bytes(payload) for payload in Quarantined.objects.filter(topic=topic).values_list("payload", flat=True)
        ]
    measurement.bound(
        "payloads of the neighbour in the attacker's quarantine", sum(mark.encode() in one for one in payloads), 0
    )
    return measurement


def _publish(messages: list[tuple[str, bytes]]) -> None:
    """Publish over a bridge, and wait until the broker has all messages."""
    with RawClient.of_url("MQTT_BRIDGE_URL") as bridge:
        for topic, payload in messages:
            bridge.publish(topic, payload)
        wait_until(lambda: len(bridge.acknowledged) == len(messages), _PATIENCE_SECONDS)


def _rows(tenant: Tenant, uuid: str) -> int:
    with schema_context(tenant.schema_name):
        return Quarantined.objects.filter(topic__contains=uuid).count()


def _received(tenant: Tenant) -> int:
    with schema_context(tenant.schema_name):
        return sum(IngestTotals.objects.values_list("received", flat=True))


def _for_staff(topic: str) -> int:
    return UnroutedMessage.objects.filter(topic=topic).count()
