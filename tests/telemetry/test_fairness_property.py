"""Random mixes of hostile and honest devices over five tenants, through the listener's own loop into PostgreSQL.

Every honest message is stored, soon after it was read (counted in batches, not in time), every message is counted
once, and nothing is in the schema of a tenant that it does not belong to.
"""

import random
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from django_tenants.utils import schema_context

from tests.factories import Registered, make_tenant, register_device, remove_tenant
from tests.payloads import topic, v1, v2

# The most batches that begin between reading an honest message and storing it: those in flight and in preparation.
MOST_BATCHES = 4
WINDOW = 1000


@pytest.fixture(scope="module")
def tenants(django_db_setup: None, django_db_blocker: Any) -> Iterator[list[Any]]:
    with django_db_blocker.unblock():
        made = [make_tenant(f"fair-{number}-{secrets.token_hex(3)}") for number in range(5)]
        yield made
        for tenant in made:
            remove_tenant(tenant)


@dataclass
class Field:
    """An honest and a hostile device of each tenant."""

    honest: list[Registered]
    hostile: list[Registered]
    seq: dict[str, int] = field(default_factory=dict)

    def good(self, rng: random.Random) -> tuple[str, bytes]:
        device = rng.choice(self.honest)
        self.seq[device.uuid] = self.seq.get(device.uuid, 0) + 1
        return topic(device), v2(device, {"temp": 20.5}, seq=self.seq[device.uuid])

    def bad(self, rng: random.Random, device: Registered) -> tuple[str, bytes]:
        other = rng.choice(self.honest).tenant.slug
        uuid, slug, mark = device.uuid, device.tenant.slug, rng.randbytes(4).hex()
        return rng.choice(
            [
                (f"telemetry/{other}/{uuid}/a/{mark}", b"x"),  # malformed, naming another tenant
                (f"telemetry/{other}/{uuid}/dht22", b"{}"),
                (f"telemetry/{mark}/{uuid}/dht22", v1(device, {"temp": 1})),
                (topic(device), v1(device, {"temp": 1}, secret="another secret")),
                (topic(device), b'{"a":' * 300 + b"1" + b"}" * 300),
                (topic(device), b"[" * 900),
                (topic(device), mark.encode() + b"." + b"y" * 2000 + b".z"),
                (f"telemetry/{slug}/{secrets.token_hex(4)}/dht22", b"{}"),  # no UUID
                (f"device/birth/{uuid}/{mark}", b"{}"),
                (topic(device), b"x" * 70_000),
            ]
        )


@pytest.fixture(scope="module")
def devices(tenants: list[Any], django_db_blocker: Any) -> Field:
    with django_db_blocker.unblock():
        return Field([register_device(one) for one in tenants], [register_device(one) for one in tenants])


@dataclass
class Loop:
    """The listener's loop, with this object in place of the broker."""

    listener: Any
    read_in: dict[int, int] = field(default_factory=dict)  # by message id: the batches that had been begun
    waited: dict[int, int] = field(default_factory=dict)
    batches: int = 0
    mid: int = 0

    def read(self, messages: list[tuple[str, bytes]]) -> list[int]:
        from telemetry.services.pipeline.results import Incoming

        now, mids = datetime.now(UTC), []
        for text, payload in messages:
            self.mid += 1
            mids.append(self.mid)
            self.read_in[self.mid] = self.batches
            self.listener._receive([Incoming(text, payload, now, self.mid)])
        return mids

    def turn(self) -> None:
        """Begin a batch, and finish the one before it."""
        self.batches += 1
        self.listener._process_next()

    def acknowledged(self, messages: list[Any]) -> None:
        self.acknowledged_ids([message.mid for message in messages], 0)

    def acknowledged_ids(self, mids: list[int], _epoch: int) -> None:
        for mid in mids:
            assert mid not in self.waited, "acknowledged twice"
            self.waited[mid] = self.batches - self.read_in[mid]


@pytest.fixture
def loop(live_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.ingest.listener import Listener

    listener = Listener(build_pipeline(), client_id="test-fairness")
    made = Loop(listener)
    monkeypatch.setattr(listener._session, "acknowledge", made.acknowledged)
    monkeypatch.setattr(listener._session, "acknowledge_ids", made.acknowledged_ids)
    yield made
    listener._pipeline.close()


def counts(tenants: list[Any]) -> dict[str, dict[str, int]]:
    """(received, stored, quarantined, …) of each tenant so far."""
    from telemetry.models import IngestTotals

    found = {}
    names = ("received", "stored", "duplicates", "quarantined", "rate_limited")
    for tenant in tenants:
        with schema_context(tenant.schema_name):
            row = IngestTotals.objects.filter(day=datetime.now(UTC).date()).values(*names).first()
            found[tenant.slug] = row or dict.fromkeys(names, 0)
    return found


def of_staff(device: Registered) -> int:
    """How many messages of the device are for staff."""
    from tenants.models import UnroutedMessage

    with schema_context("public"):
        rows = UnroutedMessage.objects.filter(topic__contains=device.uuid)
        return sum(rows.values_list("count", flat=True))


def play(loop: Loop, devices: Field, rng: random.Random) -> tuple[list[int], dict[str, int]]:
    """Read a random mix, a window at a time, and process all; return the honest ids, and what each tenant sent."""
    sent = {device.tenant.slug: 0 for device in devices.honest}
    honest: list[int] = []
    attackers = rng.sample(devices.hostile, rng.randint(1, len(devices.hostile)))
    for _ in range(3):
        room = WINDOW - loop.listener.waiting
        messages: list[tuple[str, bytes]] = []
        good: list[int] = []
        while len(messages) < room:
            if rng.random() < 0.02:
                good.append(len(messages))
                messages.append(devices.good(rng))
                continue
            device = rng.choice(attackers)
            message = devices.bad(rng, device)
            sent[device.tenant.slug] += device.uuid in message[0]
            messages.append(message)
        mids = loop.read(messages)
        honest += [mids[place] for place in good]
        for _ in range(rng.randint(1, 3)):
            loop.turn()
    drain(loop)
    return honest, sent


def drain(loop: Loop) -> None:
    """Process all messages, and store all counts."""
    while loop.listener.waiting or loop.listener._pipeline.admission.counted:
        loop.turn()
    loop.listener._process()


def assert_fair(loop: Loop, honest: list[int]) -> None:
    worst = max(loop.waited[mid] for mid in honest)
    assert worst <= MOST_BATCHES, f"an honest message waited for {worst} batches"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_honest_messages_are_stored_soon_whatever_others_send(
    loop: Loop, tenants: list[Any], devices: Field, seed: int
) -> None:
    from telemetry.models import Message, Quarantined

    before, seqs = counts(tenants), dict(devices.seq)
    staff_before = {device.tenant.slug: of_staff(device) for device in devices.hostile}
    honest, sent = play(loop, devices, random.Random(seed))
    assert len(loop.waited) == loop.mid, "every message is acknowledged once"
    assert_fair(loop, honest)
    after = counts(tenants)
    for good, bad in zip(devices.honest, devices.hostile, strict=True):
        slug = good.tenant.slug
        added = {name: count - before[slug][name] for name, count in after[slug].items()}
        stored = devices.seq.get(good.uuid, 0) - seqs.get(good.uuid, 0)
        assert added["stored"] == stored, "honest messages only, and all of them"
        # Messages that name another tenant are for staff.
        for_staff = of_staff(bad) - staff_before[slug]
        assert added["received"] + for_staff == stored + sent[slug], "each message counts for its device's tenant"
        assert added["received"] == added["stored"] + added["quarantined"] + added["rate_limited"]
        with schema_context(good.tenant.schema_name):
            assert set(Message.objects.values_list("device_id", flat=True)) <= {good.device.pk}
            for text in Quarantined.objects.values_list("topic", flat=True):
                assert bad.uuid in text


@pytest.mark.slow
def test_a_flood_is_mostly_counted_and_not_validated(loop: Loop, devices: Field) -> None:
    """The brake: of a flood by one device little more than its burst is validated."""
    device, rng = devices.hostile[0], random.Random(7)
    validated = count_validated(loop)
    for _ in range(6):
        loop.read([devices.bad(rng, device) for _ in range(WINDOW)])
        while loop.listener.waiting:
            loop.turn()
    of_device = [text for text in validated if device.uuid in text]
    assert 200 <= len(of_device) <= 200 + 2 * 1000


def count_validated(loop: Loop) -> list[str]:
    """Return a list to which the topics of validated messages are added."""
    topics: list[str] = []
    preparer = loop.listener._pipeline.preparer
    validate = preparer.validate

    def recorded(messages: Any, *arguments: Any) -> Any:
        topics.extend(message.topic for message in messages)
        return validate(messages, *arguments)

    preparer.validate = recorded
    return topics


@pytest.mark.slow
def test_in_the_order_of_reading_honest_messages_would_wait(
    loop: Loop, devices: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without rounds by tenant and without the brake the bound does not hold."""
    from telemetry.services.ingest.tenant_queues import TenantQueues

    add: Callable[..., None] = TenantQueues.add
    monkeypatch.setattr(TenantQueues, "add", lambda queues, _schema, _device, message: add(queues, "all", 0, message))
    monkeypatch.setattr(loop.listener._pipeline.refusals, "_device_rate", 0.0)
    monkeypatch.setattr(loop.listener._pipeline.refusals, "_tenant_rate", 0.0)
    honest, _ = play(loop, devices, random.Random(0))
    with pytest.raises(AssertionError, match="waited for"):
        assert_fair(loop, honest)


@pytest.mark.slow
def test_without_the_brake_all_of_a_flood_is_validated(
    loop: Loop, devices: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.listener._pipeline.refusals, "_device_rate", 0.0)
    monkeypatch.setattr(loop.listener._pipeline.refusals, "_tenant_rate", 0.0)
    device, rng, validated = devices.hostile[1], random.Random(7), count_validated(loop)
    for _ in range(4):
        loop.read([devices.bad(rng, device) for _ in range(WINDOW)])
        while loop.listener.waiting:
            loop.turn()
    assert len(validated) == 4 * WINDOW


@pytest.mark.slow
def test_counts_of_braked_messages_survive_a_lost_database(
    loop: Loop, tenants: list[Any], devices: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, device = loop.listener, devices.hostile[2]
    messages = [(topic(device), f"bad {number}".encode()) for number in range(3 * WINDOW)]
    before = counts(tenants)[device.tenant.slug]
    loop.read(messages[:WINDOW])
    drain(loop)
    listener._pipeline.admission.store_soon()
    loop.read(messages[WINDOW : 2 * WINDOW])
    with monkeypatch.context() as patch:
        patch.setattr(listener._pipeline.writer, "_conninfo", "host=127.0.0.1 port=1")
        listener._pipeline.writer.connect().close()
        loop.turn()
        loop.turn()
        assert listener._database.is_pausing
    listener._database.reset()
    loop.read(messages[2 * WINDOW :])
    drain(loop)
    after = counts(tenants)[device.tenant.slug]
    added = {name: count - before[name] for name, count in after.items()}
    assert added["received"] == added["quarantined"] + added["rate_limited"] == len(messages)
    assert added["rate_limited"] >= WINDOW, "many of them were braked"
