"""Rows 17 to 19: messages that are repeated, in disorder, late, forged or broken."""

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
from .scenario import Scenario

_DAY = 24 * 3600.0
_WINDOW = 100
_TIMES = 3
_LATE_SHARE = 0.05
_REPLAYED = 200


@row("17", "every message three times, in disorder within 100, some a day late")
def disorder(scenario: Scenario) -> None:
    """One row each; and the latest value of each device is its newest, not the one that came last."""
    scenario.listen()
    traffic = _Disorder()
    with scenario.load(traffic=traffic):
        scenario.spend(0.9)
        traffic.window = 1
        scenario.spend(0.1)
    result = scenario.settle()
    # Listeners publish the newest values once a second.
    time.sleep(3.0)
    wrong = _wrong_latest(scenario)
    copies = sum(totals["duplicates"] for totals in result.tables.totals.values())
    scenario.measure(
        f"{copies} copies found out, {result.tables.late} late; {wrong} latest values that are not the newest"
    )
    scenario.require(wrong == 0, f"{wrong} latest values are not the newest")
    scenario.require(result.tables.late == traffic.late, f"{result.tables.late} late, {traffic.late} sent a day old")


class _Disorder:
    """Holds messages back until the window is full, and sends a random one of them."""

    def __init__(self) -> None:
        self.window = _WINDOW
        self.late = 0
        self._buffer: list[Entry] = []
        self._random = random.Random(17)

    def __call__(self, sender: Sender) -> Iterable[Entry]:
        # By chance: every twentieth message would always be the same devices'.
        if self._random.random() < _LATE_SHARE:
            self.late += 1
            entry = sender.next(ahead=-_DAY)
        else:
            entry = sender.next()
        self._buffer += [entry] + [_copy(entry) for _ in range(_TIMES - 1)]
        out = []
        while len(self._buffer) > (self.window if self.window > 1 else 0):
            out.append(self._buffer.pop(self._random.randrange(len(self._buffer))))
        return out


def _copy(entry: Entry) -> Entry:
    return Entry(
        entry.schema, entry.device_id, entry.topic, entry.payload, entry.counter, at=entry.at, value=entry.value
    )


def _wrong_latest(scenario: Scenario) -> int:
    """Return how many devices' latest temperature is not the one measured last.

    A device of which only late messages were heard now may have been live in an earlier row.
    """
    began = datetime.fromtimestamp(scenario.message_ledger.began_at, UTC)
    newest: dict[tuple[str, int], Entry] = {}
    for entry in scenario.message_ledger.acknowledged():
        known = newest.setdefault((entry.schema, entry.device_id), entry)
        if datetime.fromisoformat(entry.at) > datetime.fromisoformat(known.at):
            newest[entry.schema, entry.device_id] = entry
    wrong = 0
    for schema in scenario.fleet.schemas:
        expected = {device: entry for (own, device), entry in newest.items() if own == schema}
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
def replayed(scenario: Scenario) -> None:
    """Also after a restart of the listener and with an empty Valkey: only PostgreSQL can recognize them."""
    listener = scenario.listen()
    with scenario.load() as load:
        scenario.spend(0.3)
        captured = list(scenario.message_ledger.acknowledged())[:_REPLAYED]
        scenario.spend(0.1)
        listener.stop()
        get_redis_connection("default").flushall()
        scenario.listen()
        attempts = [load.inject(_copy(entry)) for entry in captured]
        forged = [load.inject(entry) for captive in captured for entry in _forgeries(scenario, captive)]
        scenario.spend(0.6)
    result = scenario.settle()
    again = sum(totals["duplicates"] for totals in result.tables.totals.values())
    refused = result.tables.refused
    scenario.measure(
        f"{len(attempts)} replays on their topic known as duplicates, {len(refused)} of {len(forged)} elsewhere refused"
    )
    scenario.require(again >= len(attempts), f"{again} of {len(attempts)} replays were found out")
    scenario.require(len(refused) == len(forged), f"{len(refused)} of {len(forged)} were refused")


def _forgeries(scenario: Scenario, captured: Entry) -> list[Entry]:
    """The captured payload on the topics of a neighbour, of a stranger, and of its own device under another tenant."""
    owner = next(s for s in scenario.fleet.senders if (s.schema, s.device_id) == (captured.schema, captured.device_id))
    neighbour = next(
        s for s in scenario.fleet.senders_of(owner.schema) if s.uuid != owner.uuid and s.version == owner.version
    )
    stranger = next(s for s in scenario.fleet.senders if s.schema != owner.schema and s.version == owner.version)
    elsewhere = f"telemetry/{stranger.slug}/{owner.uuid}/{COMPONENT}"
    return [
        Entry(neighbour.schema, neighbour.device_id, neighbour.topic, captured.payload, None, "refused"),
        Entry(stranger.schema, stranger.device_id, stranger.topic, captured.payload, None, "refused"),
        Entry(owner.schema, owner.device_id, elsewhere, captured.payload, None, "refused"),
    ]


@row("19", "broken messages among good ones")
def poisoned(scenario: Scenario) -> None:
    """Each is quarantined with a reason, and neither a neighbour nor the process suffers."""
    listener = scenario.listen()
    quarantined = 0
    reasons: set[str] = set()
    with scenario.load() as load:
        bad = list(corpus(scenario.fleet, random.Random(19)))
        for entry in bad:
            load.inject(entry)
            time.sleep(0.6 * scenario.seconds / len(bad))
        scenario.spend(0.3)
    result = scenario.settle()
    for entry in bad:
        if places := result.tables.refused.get(entry.name):
            quarantined += 1
            reasons |= {reason for _, reason in places}
    must = sum(entry.fate == "refused" for entry in bad)
    scenario.measure(f"{len(bad)} injected, {quarantined} quarantined: {', '.join(sorted(reasons))}")
    scenario.require(quarantined >= must, f"{quarantined} quarantined of {must} that had to be")
    scenario.require(listener.is_running, "the listener has ended")
