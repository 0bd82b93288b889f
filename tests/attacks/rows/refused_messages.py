"""Floods of messages that the listener rejects: the delay of another tenant's messages, and the listener's memory."""

import base64
import json
import secrets
import time
from collections.abc import Iterable
from functools import lru_cache
from uuid import uuid4

from telemetry.services.ingest.tenant_queues import TenantQueues
from telemetry.services.limits.refusals import RefusalLimiter
from telemetry.services.pipeline import signature
from telemetry.services.pipeline.results import Incoming
from tests.attacks.arena import Arena, cpu_seconds, memory_mb
from tests.attacks.attack import Measurement, attack, brake
from tests.attacks.raw_publisher import Message, RawPublisher, account_of, bridge_account
from tests.faults.fleet import Sender

_MESSAGES = 20_000
# The neighbour's p95 under a flood, in multiples of its quiet p95. A quiet p95 below the floor counts as the floor.
_RATIO = 3.0
_FLOOR_SECONDS = 0.05


@brake("rounds by tenant and refusal rates")
def in_the_order_of_reading() -> None:
    """Process all messages in the order in which they were read, however many of a publisher were refused."""
    add = TenantQueues.add

    def add_to_one(queues: TenantQueues, schema: str, device: int, message: Incoming) -> None:
        add(queues, "all", 0, message)

    TenantQueues.add = add_to_one  # type: ignore[assignment]
    RefusalLimiter.charge = lambda *_, **__: None  # type: ignore[method-assign]


@brake("caches of verified input")
def cache_unverified_headers() -> None:
    """Cache the headers of tokens before they are verified, as many as fit into a number of entries.

    Without the rates of refusals too, which would bound how many headers there are.
    """
    RefusalLimiter.charge = lambda *_, **__: None  # type: ignore[method-assign]
    signature._MAX_HEADER = 2**20
    signature._find_kid = lru_cache(maxsize=4096)(signature._find_kid)


def _delayed(arena: Arena, account: tuple[str, str], messages: Iterable[Message]) -> Measurement:
    """Measure the neighbour's messages without and under a flood of one connection.

    The processor time of the listener for each hostile message is measured too: on a machine that does other work the
    delay says less than this.
    """
    listener, messages = arena.listen(), list(messages)
    arena.quiet(arena.device_probe(), 1.0)  # so that its device, key and series are known
    quiet = arena.quiet(arena.device_probe())
    before, used = memory_mb(listener), cpu_seconds(listener)
    attacker = RawPublisher(account, messages)
    with arena.device_probe(interval=0.02) as probe, attacker:
        time.sleep(arena.seconds)
    under, floor = probe.latencies, max(quiet.p95, _FLOOR_SECONDS)
    measurement = Measurement(quiet.figures("quiet") | under.figures("under_attack"))
    measurement.figures["listener_us_per_message"] = round(1e6 * (cpu_seconds(listener) - used) / len(messages), 1)
    measurement.figures["listener_grew_mb"] = round(memory_mb(listener, peak=True) - before, 1)
    measurement.bound("p95 under attack, in quiet ones", round(under.p95 / floor, 2), _RATIO, timed=True)
    measurement.bound("lost messages of the neighbour", under.lost, 0)
    return measurement


def _repeated(arena: Arena, message: Message) -> list[Message]:
    return [message] * arena.scaled(_MESSAGES)


_BRAKE = "rounds by tenant and refusal rates"


@attack("malformed-topics", "one-byte messages on malformed topics of made-up tenants", brake=_BRAKE, short=True)
def malformed_topics(arena: Arena) -> Measurement:
    """Every topic names another tenant that does not exist."""
    uuid = arena.attackers[0].uuid
    topics = (f"telemetry/{secrets.token_hex(4)}/{uuid}/a/b" for _ in range(arena.scaled(3 * _MESSAGES)))
    return _delayed(arena, account_of(arena.attackers[0]), ((topic, b"x") for topic in topics))


@attack("made-up-tenants", "messages that name tenants that do not exist", brake=_BRAKE)
def made_up_tenants(arena: Arena) -> Measurement:
    """The topics have the right form, with another segment each."""
    sender = arena.attackers[0]
    segments = (secrets.token_hex(4) for _ in range(arena.scaled(_MESSAGES)))
    messages = ((f"telemetry/{segment}/{sender.uuid}/dht22", sender.next().payload) for segment in segments)
    return _delayed(arena, account_of(sender), messages)


@attack("nested-payloads", "payloads of 1.8 KB with 900 arrays in each other", brake=_BRAKE)
def nested_payloads(arena: Arena) -> Measurement:
    """The parser accepts them, and the text that a signature covers is expensive to make."""
    sender = arena.attackers[0]
    payload = b'{"hmac":"x","value":' + b"[" * 900 + b"]" * 900 + b"}"
    return _delayed(arena, account_of(sender), _repeated(arena, (sender.topic, payload)))


@attack("bad-signatures", "messages with another device's signature", brake=_BRAKE)
def bad_signatures(arena: Arena) -> Measurement:
    """Well-formed messages, each another one, under a secret that is not the device's."""
    sender, other = arena.attackers[0], _forger(arena.attackers[0])
    messages = ((sender.topic, other.next().payload) for _ in range(arena.scaled(_MESSAGES)))
    return _delayed(arena, account_of(sender), messages)


@attack("unknown-devices", "messages over the bridge of devices that do not exist", brake=_BRAKE)
def unknown_devices(arena: Arena) -> Measurement:
    """Every message has a device of its own."""
    slug, payload = arena.attacker.slug, b'{"timestamp":"2026-11-29T12:00:00Z","value":{"temp":1}}'
    messages = [(f"telemetry/{slug}/{uuid4()}/dht22", payload) for _ in range(arena.scaled(_MESSAGES))]
    return _delayed(arena, bridge_account(), messages)


@attack("large-headers", "unsigned tokens with large headers", brake="caches of verified input", short=True)
def large_headers(arena: Arena) -> Measurement:
    """Each token has another header of 64 KB; the listener's memory must not keep them."""
    listener = arena.listen()
    arena.quiet(arena.device_probe(), 1.0)
    before = memory_mb(listener)
    for sender in arena.attackers:  # each is braked after some 200
        with RawPublisher(account_of(sender), [(sender.topic, _large_token(number)) for number in range(600)]):
            pass
    arena.await_idle(listener)
    arena.quiet(arena.device_probe(), 1.0)  # so that whatever the flood's last batch held is freed
    measurement = Measurement({"before_mb": round(before, 1)})
    measurement.bound("MB that stayed", round(memory_mb(listener) - before, 1), 25)
    return measurement


def _forger(sender: Sender) -> Sender:
    """Return a sender with the same name and another secret."""
    kid, _ = sender.key
    return Sender(sender.schema, sender.slug, sender.device_id, sender.uuid, 2, (kid, secrets.token_hex(32)), "")


def _large_token(number: int) -> bytes:
    header = json.dumps({"alg": "HS256", "kid": "1", "x": f"{number}" + "y" * 48_000}).encode()
    return b".".join((base64.urlsafe_b64encode(header).rstrip(b"="), b"e30", b"A" * 43))
