"""Refused messages processed again: the settling loop of replays, deferred messages and messages of no tenant.

A page of a tenant's rows is settled in one transaction: a message that is accepted now is stored and leaves its table,
so a process that dies, or two at once, neither lose a message nor store it twice. A message that is refused again
stays, with its new reason. Messages keep their time of reception, so they do not change the presence of a device.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from django.db.models import F, QuerySet, Value
from django_tenants.utils import schema_context

from telemetry.models import Quarantined, Reason
from telemetry.models.quarantine import NEVER_REPLAYED
from telemetry.services.pipeline.results import (
    AcceptedItem,
    Incoming,
    MessageResult,
    Refusal,
    RefusedItem,
    TenantResult,
)
from telemetry.services.storage.quarantine_changes import note_changes
from telemetry.services.storage.quarantine_rows import fingerprint_of
from telemetry.services.storage.statements import per_schema, run
from tenants.infrastructure.sql_errors import ErrorKind, kind_of

from .batch_pipeline import BatchPipeline
from .batches import LockedMessage

logger = logging.getLogger(__name__)

PAGE_ROWS = 200
_OF_ANOTHER_TENANT = "The device belongs to another tenant."
_NO_METRIC = "The component type has no value of the metric"
_ADD_IT = "add the metric again, or delete the row."

_TABLES = {"quarantined": "telemetry_quarantined", "totals": "telemetry_ingesttotals"}
_SET_DETAIL = per_schema("UPDATE {quarantined} SET detail = $2 WHERE id = $1", **_TABLES)
# The fingerprint depends on the reason, so another row may have it already.
_SET_REASON = per_schema(
    "WITH old AS (DELETE FROM {quarantined} WHERE id = $1 RETURNING *)"
    " INSERT INTO {quarantined} AS q (fingerprint, reason, detail, topic, payload, device_id, first_received_at,"
    " last_received_at, times, metric) SELECT $2, $3, $4, topic, payload, coalesce($5, device_id), first_received_at,"
    " last_received_at, times, metric FROM old"
    " ON CONFLICT (fingerprint) DO UPDATE SET times = q.times + EXCLUDED.times, detail = EXCLUDED.detail,"
    " first_received_at = least(q.first_received_at, EXCLUDED.first_received_at),"
    " last_received_at = greatest(q.last_received_at, EXCLUDED.last_received_at) RETURNING id",
    **_TABLES,
)


@dataclass(frozen=True, slots=True)
class RefusedTable:
    """A table of refused messages: the statements, by tenant's schema, that lock and remove the rows with ids `$1`."""

    lock: Callable[[str], bytes]
    remove: Callable[[str], bytes]


QUARANTINE = RefusedTable(
    per_schema("SELECT id FROM {quarantined} WHERE id = ANY($1) ORDER BY id FOR UPDATE", **_TABLES),
    # What was counted as quarantined is now received and counted anew.
    per_schema(
        "WITH gone AS (DELETE FROM {quarantined} WHERE id = ANY($1)"
        " RETURNING (first_received_at AT TIME ZONE 'UTC')::date AS day, times, metric),"
        " sums AS (SELECT day, coalesce(sum(times) FILTER (WHERE metric = ''), 0) AS times,"
        " coalesce(sum(times) FILTER (WHERE metric <> ''), 0) AS value_count FROM gone GROUP BY day)"
        " UPDATE {totals} AS t SET received = t.received - sums.times, quarantined = t.quarantined - sums.times,"
        " replayed = t.replayed + sums.times, values_received = t.values_received - sums.value_count,"
        " values_quarantined = t.values_quarantined - sums.value_count FROM sums WHERE t.day = sums.day",
        **_TABLES,
    ),
)


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A message in a table of refused messages."""

    pk: int
    reason: str
    topic: str
    payload: bytes
    received_at: datetime
    metric: str = ""  # only this metric's value was refused


@dataclass(slots=True)
class SettlingResult:
    """What became of rows, by their number; `refused` counts by the reasons of now."""

    stored: int = 0
    duplicates: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    unstorable: list[RefusedRow] = field(default_factory=list)  # PostgreSQL rejects them; they stay as they are
    waiting: int = 0  # unchanged, because of `waiting_for`: "tables" (locked), "schema" (faulty) or "keys" (Vault)
    waiting_for: str = ""

    def add(self, other: "SettlingResult") -> None:
        """Add the numbers of other rows."""
        self.stored += other.stored
        self.duplicates += other.duplicates
        self.unstorable += other.unstorable
        self.waiting += other.waiting
        self.waiting_for = other.waiting_for or self.waiting_for
        self.refused = add_counts(self.refused, other.refused)


@dataclass(frozen=True, slots=True)
class Settlement:
    """A tenant's rows that are settled together, each with the result of its message.

    `moved` leave the table for the tenant's tables, of which the quarantine is one; `kept` stay in it, refused again.
    """

    schema: str
    table: RefusedTable
    moved: Sequence[tuple[RefusedRow, MessageResult]]
    kept: Sequence[tuple[RefusedRow, RefusedItem]] = ()

    @property
    def rows(self) -> list[RefusedRow]:
        """The rows of both kinds, by id."""
        return sorted((row for row, _ in (*self.moved, *self.kept)), key=lambda row: row.pk)

    def only(self, pks: set[int]) -> "Settlement":
        """Return the settlement of some of its rows."""
        moved = [pair for pair in self.moved if pair[0].pk in pks]
        return Settlement(self.schema, self.table, moved, [pair for pair in self.kept if pair[0].pk in pks])


# Called in the transaction that settles the rows; an exception undoes it. The function that it returns is called after
# the commit.
RecordProgress = Callable[[psycopg.Connection, Sequence[RefusedRow], SettlingResult], Callable[[], None]]


class _RowsGone(Exception):
    """Another process has settled some of the rows; `present` are left."""

    def __init__(self, present: set[int]) -> None:
        super().__init__(f"{len(present)} rows are left")
        self.present = present


# --- Pages -----------------------------------------------------------------------------------------------------------


def next_page(rows: QuerySet[Any], after: int, size: int = PAGE_ROWS) -> list[RefusedRow]:
    """Return the rows after an id, oldest first, of the current schema."""
    page = rows.filter(pk__gt=after).order_by("pk")[:size]
    # Messages of no tenant are not validated as far as their values.
    metric = F("metric") if rows.model is Quarantined else Value("")
    columns = page.values_list("pk", "reason", "topic", "payload", "first_received_at", metric)
    return [RefusedRow(pk, reason, topic, bytes(payload), *others) for pk, reason, topic, payload, *others in columns]


def pages(schema: str, rows: QuerySet[Any]) -> Iterator[list[RefusedRow]]:
    """Yield the rows of a schema, oldest first, each once. Between pages the connection is in no tenant's schema."""
    after = 0
    while page := _page_of(schema, rows, after):
        after = page[-1].pk
        yield page


def _page_of(schema: str, rows: QuerySet[Any], after: int) -> list[RefusedRow]:
    with schema_context(schema):
        return next_page(rows, after)


# --- Processing ------------------------------------------------------------------------------------------------------


def process_again(pipeline: BatchPipeline, rows: Sequence[RefusedRow]) -> list[MessageResult | LockedMessage]:
    """Return what the rows' messages are now, in their order; nothing is stored."""
    results = pipeline.preparer.validate([Incoming(row.topic, row.payload, row.received_at) for row in rows])
    return [
        _value_of(item, row) if row.metric and not isinstance(item, LockedMessage) else item
        for row, item in zip(rows, results, strict=True)
    ]


def _value_of(item: MessageResult, row: RefusedRow) -> MessageResult:
    """Return the values of the row's metric alone, or why they are still refused."""
    if isinstance(item, RefusedItem):
        return replace(item, metric=row.metric)
    if not isinstance(item, AcceptedItem):
        return item
    message = item.result
    for value in message.refused:
        if value.metric == row.metric:
            return RefusedItem(item.incoming, item.spec, Refusal(value.reason, value.detail), metric=row.metric)
    found = [value for value in message.measurements if value.metric == row.metric]
    if not found:
        refusal = Refusal(row.reason, f"{_NO_METRIC} {row.metric}: {_ADD_IT}")
        return RefusedItem(item.incoming, item.spec, refusal, metric=row.metric)
    alone = replace(message, measurements=found, unmapped=[], cut=False, refused=())
    return replace(item, result=alone, metric=row.metric)


def is_deferred(item: MessageResult | LockedMessage) -> bool:
    """Return whether a message waits for its key."""
    return isinstance(item, RefusedItem) and item.result.reason == Reason.KEY_UNAVAILABLE


def replay_page(
    pipeline: BatchPipeline,
    schema: str,
    rows: Sequence[RefusedRow],
    *,
    record_progress: RecordProgress | None = None,
    wait_for_keys: bool = False,
) -> SettlingResult:
    """Process rows of a tenant's quarantine again, and settle them.

    With `wait_for_keys` nothing is done while a key is unavailable. Raises what a lost database raises.
    """
    rows = [row for row in rows if row.reason not in NEVER_REPLAYED]
    results = process_again(pipeline, rows)
    if any(isinstance(item, LockedMessage) for item in results):
        return SettlingResult(waiting=len(rows), waiting_for="tables")
    if wait_for_keys and any(is_deferred(item) for item in results):
        return SettlingResult(waiting=len(rows), waiting_for="keys")
    return settle(pipeline, _replay_settlement(pipeline, schema, rows, results), record_progress)


def _replay_settlement(
    pipeline: BatchPipeline, schema: str, rows: Sequence[RefusedRow], results: Sequence[MessageResult | LockedMessage]
) -> Settlement:
    moved: list[tuple[RefusedRow, MessageResult]] = []
    kept: list[tuple[RefusedRow, RefusedItem]] = []
    for row, item in zip(rows, results, strict=True):
        if isinstance(item, LockedMessage):
            continue
        if item.spec is not None and item.spec.tenant.schema != schema:
            # Neither the other tenant's names nor the ids of its devices may reach this tenant's rows.
            kept.append((row, RefusedItem(item.incoming, None, Refusal("wrong_tenant", _OF_ANOTHER_TENANT))))
        elif isinstance(item, RefusedItem):
            kept.append((row, item))
        else:
            moved.append((row, item))
    # Messages over the day's quota stay.
    within = pipeline.preparer.apply_limits([item for _, item in moved], replayed=True)
    kept += [(row, item) for (row, _), item in zip(moved, within, strict=True) if isinstance(item, RefusedItem)]
    moved = [(row, item) for (row, _), item in zip(moved, within, strict=True) if not isinstance(item, RefusedItem)]
    return Settlement(schema, QUARANTINE, moved, kept)


# --- Settling --------------------------------------------------------------------------------------------------------


def settle(
    pipeline: BatchPipeline, settlement: Settlement, record_progress: RecordProgress | None = None
) -> SettlingResult:
    """Settle rows in one transaction, but for those that another process has settled since they were read.

    Where one of them cannot be stored, each is settled alone. Raises what a lost database raises; nothing is done then.
    """
    rows = settlement.rows
    while rows:
        try:
            return _settle_together(pipeline, settlement, rows, record_progress)
        except _RowsGone as error:
            settlement = settlement.only(error.present)
            rows = settlement.rows
        except psycopg.Error as error:
            kind = kind_of(error)
            if kind is ErrorKind.SERVER:
                raise
            if kind is not ErrorKind.DATA:
                logger.warning("%d refused messages for %s wait: %s", len(rows), settlement.schema, error)
                return SettlingResult(waiting=len(rows), waiting_for="tables" if kind is ErrorKind.LOCK else "schema")
            if len(rows) > 1:
                return _settle_each(pipeline, settlement, rows, record_progress)
            logger.warning("The refused message %d for %s cannot be stored: %s", rows[0].pk, settlement.schema, error)
            return SettlingResult(unstorable=rows)
    return SettlingResult()


def _settle_each(
    pipeline: BatchPipeline, settlement: Settlement, rows: Sequence[RefusedRow], record_progress: RecordProgress | None
) -> SettlingResult:
    result = SettlingResult()
    for row in rows:
        result.add(settle(pipeline, settlement.only({row.pk}), record_progress))
    return result


def _settle_together(
    pipeline: BatchPipeline, settlement: Settlement, rows: Sequence[RefusedRow], record_progress: RecordProgress | None
) -> SettlingResult:
    """Settle all rows, or raise _RowsGone or psycopg.Error."""
    schema, result = settlement.schema, SettlingResult()
    after_commit: list[Callable[[], None]] = []

    def leave(connection: psycopg.Connection) -> None:
        present = {pk for (pk,) in run(connection, settlement.table.lock(schema), [[row.pk for row in rows]])}
        if len(present) < len(rows):
            raise _RowsGone(present)
        run(connection, settlement.table.remove(schema), [[row.pk for row, _ in settlement.moved]])
        changed = [row.pk for row, _ in settlement.moved]
        for row, item in settlement.kept:
            changed += _refuse_again(connection, schema, row, item)
        if settlement.table is QUARANTINE:
            note_changes(connection, schema, set(changed))

    def count(connection: psycopg.Connection, stored: TenantResult) -> None:
        result.stored, result.duplicates = len(stored.stored) + len(stored.replayed_values), len(stored.duplicates)
        # A counter that is used twice is found only here, and its message is put into the quarantine anew.
        for item in [*stored.quarantined, *(item for _, item in settlement.kept)]:
            result.refused[item.result.reason] = result.refused.get(item.result.reason, 0) + 1
        if record_progress is not None:
            after_commit.append(record_progress(connection, rows, result))

    stored = pipeline.writer.store(schema, [item for _, item in settlement.moved], before=leave, after=count)
    pipeline.note_readings(stored)
    for call in after_commit:
        call()
    return result


def _refuse_again(connection: psycopg.Connection, schema: str, row: RefusedRow, item: RefusedItem) -> list[int]:
    """Store the reason of now; return the ids of the rows that it changed, added or removed."""
    reason, detail = item.result.reason, item.result.detail.replace("\x00", "\\0")
    # Without a key it keeps its reason: messages with the reason key_unavailable are replayed automatically.
    if reason in (row.reason, Reason.KEY_UNAVAILABLE):
        run(connection, _SET_DETAIL(schema), [row.pk, detail])
        return [row.pk]
    name = UUID(bytes=fingerprint_of(reason, row.topic, row.payload, row.metric))
    values = [row.pk, name, reason, detail, item.spec.device_id if item.spec else None]
    return [row.pk, *(pk for (pk,) in run(connection, _SET_REASON(schema), values))]


def add_counts(counts: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Return the sums of two counts by reason, without zeros."""
    sums = {reason: counts.get(reason, 0) + more.get(reason, 0) for reason in counts | more}
    return {reason: count for reason, count in sums.items() if count}
