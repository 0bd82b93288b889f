"""A tenant's messages when some of them may be there already: what is there is found out, message by message.

Messages conflict with themselves when they come again, and a message that conflicts brings no readings; so
whatever is repeated (a redelivery, a batch whose commit was not heard of, a replay) is stored once.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import psycopg

from telemetry.services.pipeline.processing import Accepted
from telemetry.services.pipeline.refusal import Refused
from telemetry.services.pipeline.results import AcceptedItem, Outcome, RefusedItem

from . import daily_totals, late_readings, message_rows, quarantine_rows, sequences, signature_upgrades
from .sequences import Counter, counter_of
from .series import SeriesIds
from .statements import per_schema, run
from .suppression import FloodGuard

_Key = tuple[int, datetime, bytes]  # device, time, fingerprint

_KNOWN_MESSAGES = per_schema(
    "SELECT m.device_id, m.time, m.fingerprint, m.received_at FROM {message} AS m"
    " JOIN unnest($1, $2, $3) AS k(device_id, time, fingerprint) USING (device_id, time, fingerprint)",
    message="telemetry_message",
)


def store(
    connection: psycopg.Connection,
    schema: str,
    accepted: Sequence[AcceptedItem],
    outcome: Outcome,
    series: SeriesIds,
    guard: FloodGuard,
) -> None:
    """Store the messages and what else `outcome` holds, within the caller's transaction; completes `outcome`."""
    fresh = _drop_replayed(connection, schema, accepted, outcome)
    _insert_messages(connection, schema, fresh, outcome)
    outcome.duplicates = _as_first_received(connection, schema, outcome.duplicates)
    outcome.readings = message_rows.readings(outcome.stored, series)
    if outcome.readings:
        run(connection, message_rows.INSERT_NEW_READINGS(schema), message_rows.reading_arrays(outcome.readings))
    late_readings.mark(connection, schema, outcome.stored)
    sequences.add(connection, schema, sequences.counters_of(outcome.stored))
    signature_upgrades.raise_floors(connection, schema, outcome.stored)
    if outcome.quarantined:
        guard.open(connection, schema)
        quarantine_rows.quarantine(connection, schema, guard, outcome.quarantined)
    daily_totals.add(connection, schema, outcome)


def _drop_replayed(
    connection: psycopg.Connection, schema: str, accepted: Sequence[AcceptedItem], outcome: Outcome
) -> list[AcceptedItem]:
    """Those of the messages that are not another message under a known boot and counter."""
    counted = [item for item in accepted if item.verdict.counter is not None]
    if not counted:
        return list(accepted)
    seen = sequences.lock_and_find_seen(connection, schema, sequences.counters_of(counted))
    known = _known_messages(connection, schema, [item for item in counted if counter_of(item) in seen])
    kept = []
    first_with: dict[Counter, bytes] = {}
    for item in accepted:
        counter, message = counter_of(item), item.verdict
        if counter is not None:
            first = first_with.setdefault(counter, message.fingerprint)
            if (counter in seen and _key(item) not in known) or first != message.fingerprint:
                outcome.quarantined.append(RefusedItem(item.incoming, item.spec, _replayed(message)))
                continue
        kept.append(item)
    return kept


def _replayed(message: Accepted) -> Refused:
    boot, seq = message.counter or (0, 0)
    return Refused("replayed", f"Another message came under boot {boot}, seq {seq} before: counters are used once.")


def _key(item: AcceptedItem) -> _Key:
    return item.spec.device_id, item.verdict.time, item.verdict.fingerprint


def _row_key(row: Sequence[object]) -> _Key:
    device_id, time, fingerprint = row[:3]
    assert isinstance(device_id, int)  # noqa: S101 (for the type checker, as the others)
    assert isinstance(time, datetime)  # noqa: S101
    assert isinstance(fingerprint, UUID)  # noqa: S101
    return device_id, time.astimezone(UTC), fingerprint.bytes


def _known_messages(connection: psycopg.Connection, schema: str, items: Sequence[AcceptedItem]) -> dict[_Key, datetime]:
    """Those of the messages that are stored, with when they were received first."""
    if not items:
        return {}
    found = run(connection, _KNOWN_MESSAGES(schema), message_rows.message_arrays(items)[:3])
    return {_row_key(row): row[3].astimezone(UTC) for row in found}


def _insert_messages(
    connection: psycopg.Connection, schema: str, items: Sequence[AcceptedItem], outcome: Outcome
) -> None:
    """Insert the messages; those that were there, or stand twice in the batch, are duplicates."""
    if not items:
        return
    found = run(connection, message_rows.INSERT_NEW_MESSAGES(schema), message_rows.message_arrays(items))
    inserted = {_row_key(row) for row in found}
    for item in items:
        key = _key(item)
        if key in inserted:
            inserted.remove(key)
            outcome.stored.append(item)
        else:
            outcome.duplicates.append(item)


def _as_first_received(
    connection: psycopg.Connection, schema: str, duplicates: Sequence[AcceptedItem]
) -> list[AcceptedItem]:
    """The duplicates, received when they came first: a redelivery is no new sign of life."""
    first = _known_messages(connection, schema, duplicates)
    return [
        replace(item, incoming=replace(item.incoming, received_at=first.get(_key(item), item.incoming.received_at)))
        for item in duplicates
    ]
