"""Copies kept by the order of storing, under kills. And the control: a reader that holds nothing back."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import django.db
import psycopg
from django.db import connection
from django_tenants.utils import schema_context

from telemetry.services.ingest.batch_pipeline import build_pipeline
from telemetry.services.pipeline.results import Incoming
from telemetry.services.queries import change_items, changes
from tests.processes import Process, wait_until

from .fleet import Fleet, Sender
from .rows import row
from .scenario import Scenario
from .stored_rows import Name

_LIMIT = 500
_POLL_SECONDS = 0.1
# How long a writer's transaction has its number before it stores.
_SLOW_SECONDS = 0.3
_CATCH_UP_SECONDS = 60.0
# (series, time, number, text)
_READINGS = "SELECT series_id, time, value, text FROM telemetry_reading"
Reading = tuple[Any, ...]


class Mirror(threading.Thread):
    """The copy of one tenant's messages and readings, from the newest on; read page by page until it is closed."""

    def __init__(self, schema: str) -> None:
        super().__init__(name=f"mirror-{schema}", daemon=True)
        self.schema = schema
        self.messages: Counter[Name] = Counter()
        self.readings: Counter[Reading] = Counter()
        self.longest_wait = 0.0
        self._tokens: dict[changes.ChangeKind, list[Any]] = {}
        self._is_level = threading.Event()
        self._ended = threading.Event()
        self.error: Exception | None = None
        with schema_context(schema):
            self._before = _table()
            for kind in (changes.ChangeKind.MESSAGES, changes.ChangeKind.READINGS):
                page = changes.changes_page(changes.ChangeSelection(kind), newest=True, limit=1)
                self._tokens[kind] = page.end

    def run(self) -> None:
        """Poll; an unavailable database is tried again with the same position."""
        try:
            while not self._ended.is_set():
                try:
                    self._poll()
                except django.db.OperationalError:
                    connection.close()
                    time.sleep(0.1)
                time.sleep(_POLL_SECONDS)
        except Exception as error:  # noqa: BLE001 - raised by the thread that closes this one
            self.error = error
        finally:
            connection.close()

    def _poll(self) -> None:
        pages = [self._page(kind) for kind in self._tokens]
        if not any(page.has_more or page.behind_seconds or page.items for page in pages):
            self._is_level.set()

    def _page(self, kind: changes.ChangeKind) -> changes.ChangesPage:
        with schema_context(self.schema):
            page = changes.changes_page(changes.ChangeSelection(kind), after=self._tokens[kind], limit=_LIMIT)
            if kind is changes.ChangeKind.READINGS:
                self.readings.update(item.columns for item in page.items)
            else:
                self.messages.update(
                    (row.topic, hashlib.sha256(row.payload).digest()) for row in change_items.messages_of(page.items)
                )
        self._tokens[kind] = page.end
        self.longest_wait = max(self.longest_wait, page.behind_seconds)
        return page

    def catch_up(self) -> None:
        """Wait until nothing is left to read. Raises AssertionError, and what the thread ended with."""
        self._is_level.clear()
        wait_until(lambda: self._is_level.is_set() or self.error, _CATCH_UP_SECONDS, "the mirror does not catch up")
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join()

    def difference(self) -> int:
        """Return how many readings are in the tables or in the copy alone, or more than once in the copy."""
        connection.close()  # it was opened before the faults
        with schema_context(self.schema):
            added = _table()
        added.subtract(self._before)
        added.subtract(self.readings)
        return sum(map(abs, added.values()))


def _table() -> Counter[Reading]:
    with connection.cursor() as cursor:
        cursor.execute(_READINGS)
        return Counter(cursor.fetchall())


class SlowWriter(threading.Thread):
    """Stores messages of a device, as a replay does, in transactions that have their number long before they commit."""

    def __init__(self, scenario: Scenario, sender: Sender) -> None:
        super().__init__(name=f"slow-{sender.schema}", daemon=True)
        self._scenario, self._sender, self._ended = scenario, sender, threading.Event()
        self._pipeline = build_pipeline()

    def run(self) -> None:
        """Store one message after the other until the thread is closed."""
        while not self._ended.is_set():
            entry = self._scenario.message_ledger.add(self._sender.next())
            while not self._is_stored(entry.topic, entry.payload):
                time.sleep(0.1)
            entry.acked_at = time.time()
        self._pipeline.writer.close()

    def _is_stored(self, topic: str, payload: bytes) -> bool:
        items: list[Any] = list(self._pipeline.preparer.validate([Incoming(topic, payload, datetime.now(UTC))]))
        try:
            self._pipeline.writer.store(self._sender.schema, items, 5000, before=_take_number)
        except (psycopg.Error, django.db.Error):
            return False
        return True

    def close(self) -> None:
        """End the thread after its message."""
        self._ended.set()
        self.join()


def _take_number(own: psycopg.Connection) -> None:
    own.execute("SELECT pg_current_xact_id()")
    time.sleep(_SLOW_SECONDS)


@contextmanager
def _copies(scenario: Scenario) -> Iterator[list[Mirror]]:
    """Keep a copy of every tenant while the block runs, and write slowly to each; at the end the writers are done."""
    writers = []
    for tenant in scenario.fleet.tenants:
        sender = Fleet.register(tenant, 0, version=2)
        scenario.stored_rows.follow(tenant.schema_name, [sender.device_id])
        writers.append(SlowWriter(scenario, sender))
    mirrors = [Mirror(schema) for schema in scenario.fleet.schemas]
    for thread in (*mirrors, *writers):
        thread.start()
    try:
        yield mirrors
    finally:
        for writer in writers:
            writer.close()


def _play(scenario: Scenario) -> list[Mirror]:
    """Kill one of two listeners, then PostgreSQL, in turn. Messages that a copy lacks count as lost."""
    listeners = [_member(scenario, number) for number in (1, 2)]
    with _copies(scenario) as mirrors, scenario.load():
        for number in (0, 1):
            scenario.spend(0.2)
            listeners[number].kill()
            scenario.spend(0.1)
            listeners[number] = _member(scenario, number + 1)
            scenario.stack.kill("postgres")
            scenario.stack.wait_ready("postgres")
        scenario.spend(0.3)
    result = scenario.settle()
    for mirror in mirrors:
        mirror.catch_up()
        mirror.close()
    copied = sum((mirror.messages for mirror in mirrors), Counter())
    missed = [entry for entry in scenario.message_ledger.acknowledged() if entry.name not in copied]
    scenario.measure(
        f"{copied.total()} messages in the copies of {len(mirrors)} tenants, {len(missed)} missed; they waited for"
        f" earlier transactions for {max(mirror.longest_wait for mirror in mirrors):.1f} s at most"
    )
    result.lost += missed
    return mirrors


def _member(scenario: Scenario, number: int) -> Process:
    return scenario.listen("--share", "ingest", client_id=f"{scenario.client_id}-{number}")


@row("30", "copies kept by the order of storing; two listeners and PostgreSQL killed, slow transactions")
def mirrored(scenario: Scenario) -> None:
    mirrors = _play(scenario)
    doubled = sum(count - 1 for mirror in mirrors for count in mirror.messages.values())
    scenario.require(doubled == 0, f"{doubled} messages are more than once in the copies")
    different = sum(mirror.difference() for mirror in mirrors)
    scenario.require(different == 0, f"{different} readings of the copies and of the tables differ")


@row("control-mirror", "control: copies that do not wait for earlier transactions, under row 30", control=True)
def mirrored_without_waiting(scenario: Scenario) -> None:
    page = changes._PAGE
    changes._PAGE = page.replace(changes._FINISHED, "true")
    try:
        _play(scenario)
    finally:
        changes._PAGE = page
