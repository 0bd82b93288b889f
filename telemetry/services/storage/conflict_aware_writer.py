"""A tenant's messages when some of them may exist already: the conflicts are found message by message.

A message conflicts with itself when it arrives again, and a message that conflicts adds no readings; so whatever is
repeated (a redelivery, a batch whose commit was not confirmed, a replay) is stored once.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import psycopg

from telemetry.services.pipeline.results import (
    AcceptedItem,
    Refusal,
    RefusedItem,
    TenantResult,
    ValidatedMessage,
    VerifiedContact,
)

from . import bookkeeping, message_rows, quarantine_rows
from .message_rows import MessageCounter, counter_of
from .series import SeriesIds
from .statements import Array, per_schema, run
from .suppression import QuarantineSuppressor

_Key = tuple[int, datetime, bytes]  # device, time, fingerprint

_KNOWN_MESSAGES = per_schema(
    "SELECT m.device_id, m.time, m.fingerprint, m.received_at FROM {message} AS m"
    " JOIN unnest($1, $2, $3) AS k(device_id, time, fingerprint) USING (device_id, time, fingerprint)",
    message="telemetry_message",
)


def store(
    connection: psycopg.Connection,
    accepted: Sequence[AcceptedItem],
    result: TenantResult,
    series: SeriesIds,
    suppressor: QuarantineSuppressor,
) -> None:
    """Store the messages and the rest of `result` within the caller's transaction, and complete `result`."""
    schema = result.schema
    fresh = _refuse_replayed(connection, accepted, result)
    _insert_messages(connection, fresh, result)
    result.replayed_values = [item for item in result.duplicates if item.metric]
    result.duplicates = _as_first_received(connection, schema, [one for one in result.duplicates if not one.metric])
    result.refused_values = quarantine_rows.refused_values_of(result.stored)
    sources = [*result.stored, *result.replayed_values]
    result.readings = message_rows.readings_of(sources, message_rows.times_of(sources), series)
    if sources:
        arrays = [*message_rows.reading_arrays(result.readings), *_arrays_of(result.stored)[:3]]
        run(connection, message_rows.INSERT_NEW_READINGS(schema), arrays)
    bookkeeping.mark_late_hours(connection, schema, sources)
    message_rows.add_counters(connection, schema, message_rows.counters_of(result.stored))
    bookkeeping.raise_min_signature_versions(connection, schema, result.stored)
    if refused := [*result.quarantined, *result.refused_values]:
        suppressor.load_day(connection, schema)
        quarantine_rows.add_quarantined(connection, schema, suppressor, refused)
    bookkeeping.record_unusual(connection, result)
    bookkeeping.add_totals(connection, result)


def find_known(connection: psycopg.Connection, schema: str, accepted: Sequence[AcceptedItem]) -> set[int]:
    """Return the ids (`mid`) of the messages that are stored, or whose counter was used. Locks nothing."""
    known = _known_messages(connection, schema, accepted)
    counters = sorted(set(message_rows.counters_of(accepted)))
    seen = message_rows.find_seen(connection, schema, counters) if counters else set()
    return {item.incoming.mid for item in accepted if _key(item) in known or counter_of(item) in seen}


def _refuse_replayed(
    connection: psycopg.Connection, accepted: Sequence[AcceptedItem], result: TenantResult
) -> list[AcceptedItem]:
    """Quarantine other messages under a used boot and counter, and return the rest."""
    # A value that is replayed alone: its message was stored under the counter.
    counted = [item for item in accepted if item.result.counter is not None and not item.metric]
    if not counted:
        return list(accepted)
    seen = message_rows.lock_and_find_seen(connection, result.schema, message_rows.counters_of(counted))
    known = _known_messages(connection, result.schema, [item for item in counted if counter_of(item) in seen])
    kept = []
    first_with: dict[MessageCounter, bytes] = {}
    for item in accepted:
        counter, message = counter_of(item), item.result
        if counter is not None and not item.metric:
            first = first_with.setdefault(counter, message.fingerprint)
            if (counter in seen and _key(item) not in known) or first != message.fingerprint:
                result.quarantined.append(RefusedItem(item.incoming, item.spec, _replayed(message)))
                continue
        kept.append(item)
    return kept


def _replayed(message: ValidatedMessage) -> Refusal:
    boot, seq = message.counter or (0, 0)
    refusal = Refusal(
        "replayed", f"Another message was received under boot {boot}, seq {seq} before: a counter must be used once."
    )
    refusal.contact = VerifiedContact(message.time)
    return refusal


def _key(item: AcceptedItem) -> _Key:
    return item.spec.device_id, item.result.time, item.result.fingerprint


def _row_key(row: Sequence[object]) -> _Key:
    device_id, time, fingerprint = row[:3]
    assert isinstance(device_id, int)  # noqa: S101 (for the type checker, as the others)
    assert isinstance(time, datetime)  # noqa: S101
    assert isinstance(fingerprint, UUID)  # noqa: S101
    return device_id, time.astimezone(UTC), fingerprint.bytes


def _known_messages(connection: psycopg.Connection, schema: str, items: Sequence[AcceptedItem]) -> dict[_Key, datetime]:
    """Return when each of the messages that are stored was first received."""
    if not items:
        return {}
    found = run(connection, _KNOWN_MESSAGES(schema), _arrays_of(items)[:3])
    return {_row_key(row): row[3].astimezone(UTC) for row in found}


def _arrays_of(items: Sequence[AcceptedItem]) -> list[Array]:
    return message_rows.message_arrays(items, message_rows.times_of(items))


def _insert_messages(connection: psycopg.Connection, items: Sequence[AcceptedItem], result: TenantResult) -> None:
    """Insert the messages; those that existed, or appear twice in the batch, are duplicates."""
    if not items:
        return
    found = run(connection, message_rows.INSERT_NEW_MESSAGES(result.schema), _arrays_of(items))
    inserted = {_row_key(row) for row in found}
    for item in items:
        key = _key(item)
        if key in inserted:
            inserted.remove(key)
            result.stored.append(item)
        else:
            result.duplicates.append(item)


def _as_first_received(
    connection: psycopg.Connection, schema: str, duplicates: Sequence[AcceptedItem]
) -> list[AcceptedItem]:
    """Return the duplicates with the time of their first receipt: a redelivery is not new activity."""
    first = _known_messages(connection, schema, duplicates)
    return [
        replace(item, incoming=replace(item.incoming, received_at=first.get(_key(item), item.incoming.received_at)))
        for item in duplicates
    ]
