"""Rows 17 to 19: messages that come again, in disorder, late, from somebody else, or broken."""

import random
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from telemetry.services.queries.readings import latest_values_of

from .fleet import COMPONENT, Sender
from .ledger import Entry
from .poison import corpus
from .rows import row
from .scenario import Scene

_DAY = 24 * 3600.0
_WINDOW = 100
_TIMES = 3
_LATE_SHARE = 0.05
_REPLAYED = 200


@row("17", "every message three times, in disorder within 100, some a day late")
def disorder(scene: Scene) -> None:
    """One row each; and the latest value of each device is its newest, not the one that came last."""
    scene.listen()
    traffic = _Disorder()
    with scene.load(traffic=traffic):
        scene.spend(0.9)
        traffic.window = 1
        scene.spend(0.1)
    result = scene.settle()
    # Listeners tell readers of the newest values once a second.
    time.sleep(3.0)
    wrong = _wrong_latest(scene)
    copies = sum(totals["duplicates"] for totals in result.found.totals.values())
    scene.measure(f"{copies} copies found out, {result.found.late} late; {wrong} latest values that are not the newest")
    scene.require(wrong == 0, f"{wrong} latest values are not the newest")
    scene.require(result.found.late == traffic.late, f"{result.found.late} late, {traffic.late} sent a day old")


class _Disorder:
    """Holds messages back until the window is full, and sends a random one of them."""

    def __init__(self) -> None:
        self.window = _WINDOW
        self.late = 0
        self._held: list[Entry] = []
        self._random = random.Random(17)

    def __call__(self, sender: Sender) -> Iterable[Entry]:
        # By chance: every twentieth message would always be the same devices'.
        if self._random.random() < _LATE_SHARE:
            self.late += 1
            entry = sender.next(ahead=-_DAY)
        else:
            entry = sender.next()
        self._held += [entry] + [_copy(entry) for _ in range(_TIMES - 1)]
        out = []
        while len(self._held) > (self.window if self.window > 1 else 0):
            out.append(self._held.pop(self._random.randrange(len(self._held))))
        return out


def _copy(entry: Entry) -> Entry:
    return Entry(
        entry.schema, entry.device_id, entry.topic, entry.payload, entry.counter, at=entry.at, value=entry.value
    )


def _wrong_latest(scene: Scene) -> int:
    """How many devices' latest temperature is not the one that was measured last.

    A device of which only late messages were heard now may have been live in an earlier row.
    """
    began = datetime.fromtimestamp(scene.ledger.began_at, UTC)
    newest: dict[tuple[str, int], Entry] = {}
    for entry in scene.ledger.acknowledged():
        known = newest.setdefault((entry.schema, entry.device_id), entry)
        if datetime.fromisoformat(entry.at) > datetime.fromisoformat(known.at):
            newest[entry.schema, entry.device_id] = entry
    wrong = 0
    for schema in scene.fleet.schemas:
        expected = {device: entry for (of, device), entry in newest.items() if of == schema}
        with schema_context(schema):
            latest = latest_values_of(list(expected))
        for device, entry in expected.items():
            values = {one.metric: one for one in latest.get(device, [])}
            one, at = values.get("temperature"), datetime.fromisoformat(entry.at)
            if one is None or one.time < at:
                wrong += 1
            elif one.time == at or at >= began:
                wrong += (one.time, one.value) != (at, entry.value["temp"])
    return wrong


@row("18", "captured messages replayed: on their topic, on another device's, on another tenant's")
def replayed(scene: Scene) -> None:
    """Also after a restart of the listener and without anything in Valkey: only PostgreSQL can know them."""
    listener = scene.listen()
    with scene.load() as load:
        scene.spend(0.3)
        captured = list(scene.ledger.acknowledged())[:_REPLAYED]
        scene.spend(0.1)
        listener.stop()
        get_redis_connection("default").flushall()
        scene.listen()
        attempts = [load.inject(_copy(entry)) for entry in captured]
        forged = [load.inject(entry) for captive in captured for entry in _forgeries(scene, captive)]
        scene.spend(0.6)
    result = scene.settle()
    again = sum(totals["duplicates"] for totals in result.found.totals.values())
    refused = result.found.refused
    scene.measure(
        f"{len(attempts)} replays on their topic known as duplicates, {len(refused)} of {len(forged)} elsewhere refused"
    )
    scene.require(again >= len(attempts), f"{again} of {len(attempts)} replays were found out")
    scene.require(len(refused) == len(forged), f"{len(refused)} of {len(forged)} were refused")


def _forgeries(scene: Scene, captured: Entry) -> list[Entry]:
    """The captured payload on the topics of a neighbour, of a stranger, and of its own device under another tenant."""
    owner = next(s for s in scene.fleet.senders if (s.schema, s.device_id) == (captured.schema, captured.device_id))
    neighbour = next(s for s in scene.fleet.of(owner.schema) if s.uuid != owner.uuid and s.version == owner.version)
    stranger = next(s for s in scene.fleet.senders if s.schema != owner.schema and s.version == owner.version)
    elsewhere = f"telemetry/{stranger.slug}/{owner.uuid}/{COMPONENT}"
    return [
        Entry(neighbour.schema, neighbour.device_id, neighbour.topic, captured.payload, None, "refused"),
        Entry(stranger.schema, stranger.device_id, stranger.topic, captured.payload, None, "refused"),
        Entry(owner.schema, owner.device_id, elsewhere, captured.payload, None, "refused"),
    ]


@row("19", "broken messages among good ones")
def poisoned(scene: Scene) -> None:
    """Each is quarantined with a reason, and neither a neighbour nor the process suffers."""
    listener = scene.listen()
    quarantined = 0
    reasons: set[str] = set()
    with scene.load() as load:
        bad = list(corpus(scene.fleet, random.Random(19)))
        for entry in bad:
            load.inject(entry)
            time.sleep(0.6 * scene.seconds / len(bad))
        scene.spend(0.3)
    result = scene.settle()
    for entry in bad:
        if places := result.found.refused.get(entry.name):
            quarantined += 1
            reasons |= {reason for _, reason in places}
    must = sum(entry.fate == "refused" for entry in bad)
    scene.measure(f"{len(bad)} injected, {quarantined} quarantined: {', '.join(sorted(reasons))}")
    scene.require(quarantined >= must, f"{quarantined} quarantined of {must} that had to be")
    scene.require(listener.is_running, "the listener has ended")
