"""Stage 6: one transaction per tenant, in plain SQL with the schema's name in it (no search path).

Messages conflict with themselves when they come again, and a message that conflicts brings no readings; so
whatever is repeated (a redelivery, a batch whose commit was not heard of, a replay) is stored once.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
from psycopg import sql

from devices.services.specs import DeviceSpec

from .partitions import Partitions
from .pipeline import Accepted, fingerprint
from .refusal import Refused
from .rollups import mark_late

logger = logging.getLogger(__name__)


# The worker rolls an hour up long after this.
_SETTLED_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as the broker delivered it; `epoch` names the connection that it may be acknowledged on."""

    topic: str
    payload: bytes
    received_at: datetime
    mid: int = 0
    qos: int = 1
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """A message, the device it names (None: not registered), and what it was found to be."""

    incoming: Incoming
    spec: DeviceSpec | None
    verdict: Accepted | Refused


@dataclass(slots=True)
class Outcome:
    """What became of a tenant's messages of a batch."""

    stored: list[Judged] = field(default_factory=list)
    duplicates: list[Judged] = field(default_factory=list)
    quarantined: list[Judged] = field(default_factory=list)


_SeriesName = tuple[int, str, str, str, str]  # device, component, metric, unit, value type


class Storage:
    """Writes batches. One connection of its own, not shared between threads."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.Connection | None = None
        self._partitions = Partitions()
        self._series: dict[str, dict[_SeriesName, int]] = {}

    def store(self, schema: str, judged: Sequence[Judged]) -> Outcome:
        """Store a tenant's messages of a batch. Raises psycopg.Error; nothing of the batch is stored then."""
        connection = self._connect()
        accepted = [item for item in judged if isinstance(item.verdict, Accepted)]
        outcome = Outcome(quarantined=[item for item in judged if isinstance(item.verdict, Refused)])
        self._partitions.ensure(connection, schema, (_accepted(item).time for item in accepted))
        series = self._resolve_series(connection, schema, accepted)
        with connection.transaction():
            fresh = self._drop_replayed(connection, schema, accepted, outcome)
            _insert_messages(connection, schema, fresh, outcome)
            outcome.duplicates = _as_first_received(connection, schema, outcome.duplicates)
            _insert_readings(connection, schema, outcome.stored, series)
            _mark_late(connection, schema, outcome.stored)
            _count_sequences(connection, schema, outcome.stored)
            _raise_floors(connection, schema, outcome.stored)
            quarantine(connection, schema, outcome.quarantined)
            _add_totals(connection, schema, outcome)
        return outcome

    def store_unrouted(self, judged: Sequence[Judged]) -> None:
        """Keep messages that belong to no tenant, for staff."""
        _upsert_refused(self._connect(), sql.Identifier("public", "tenants_unroutedmessage"), judged, with_device=False)

    def forget(self, schema: str) -> None:
        """The tenant's tables may have been made anew: look everything up again."""
        self._series.pop(schema, None)
        self._partitions.forget(schema)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._conninfo, autocommit=True, connect_timeout=5, application_name="gwanje-ingest"
            )
            # A message is acknowledged after the commit, so the commit must mean the disk.
            self._connection.execute("SET synchronous_commit = on")
        return self._connection

    def _resolve_series(
        self, connection: psycopg.Connection, schema: str, accepted: Sequence[Judged]
    ) -> dict[_SeriesName, int]:
        known = self._series.setdefault(schema, {})
        wanted = {name for item in accepted for name in _series_names(item)}
        if missing := sorted(wanted - known.keys()):
            known |= _create_series(connection, schema, missing)
        return known

    def _drop_replayed(
        self, connection: psycopg.Connection, schema: str, accepted: Sequence[Judged], outcome: Outcome
    ) -> list[Judged]:
        """Those of the messages that are not another message under a known boot and counter."""
        counted = [item for item in accepted if _accepted(item).counter is not None]
        if not counted:
            return list(accepted)
        seen = _lock_sequences(connection, schema, counted)
        known = _known_messages(connection, schema, [item for item in counted if _counter(item) in seen])
        kept = []
        first_with: dict[tuple[int, int, int], UUID] = {}
        for item in accepted:
            message = _accepted(item)
            if message.counter is not None:
                counter = _counter(item)
                first = first_with.setdefault(counter, message.fingerprint)
                if (counter in seen and _key(item) not in known) or first != message.fingerprint:
                    outcome.quarantined.append(Judged(item.incoming, item.spec, _replayed(message)))
                    continue
            kept.append(item)
        return kept


def _replayed(message: Accepted) -> Refused:
    boot, seq = message.counter or (0, 0)
    return Refused("replayed", f"Another message came under boot {boot}, seq {seq} before: counters are used once.")


def _accepted(item: Judged) -> Accepted:
    assert isinstance(item.verdict, Accepted)  # noqa: S101 (for the type checker; callers have filtered)
    return item.verdict


def _device_id(item: Judged) -> int:
    assert item.spec is not None  # noqa: S101 (an accepted message has a device)
    return item.spec.device_id


def _counter(item: Judged) -> tuple[int, int, int]:
    boot, seq = _accepted(item).counter or (-1, -1)
    return _device_id(item), boot, seq


def _key(item: Judged) -> tuple[int, datetime, UUID]:
    message = _accepted(item)
    return _device_id(item), message.time, message.fingerprint


def _series_names(item: Judged) -> list[_SeriesName]:
    message = _accepted(item)
    device_id = _device_id(item)
    return [(device_id, message.component, m.metric, m.unit, m.value_type) for m in message.measurements]


def _create_series(connection: psycopg.Connection, schema: str, names: Sequence[_SeriesName]) -> dict[_SeriesName, int]:
    columns = [list(column) for column in zip(*names, strict=True)]
    table = sql.Identifier(schema, "telemetry_series")
    names_as_rows = sql.SQL(
        "unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[])"
        " AS n(device_id, component, metric, unit, value_type)"
    )
    # In the names' order, so that two listeners do not wait for each other crosswise.
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (device_id, component, metric, unit, value_type)"
            " SELECT * FROM {} ORDER BY 1, 2, 3, 4, 5 ON CONFLICT DO NOTHING"
        ).format(table, names_as_rows),
        columns,
    )
    rows = connection.execute(
        sql.SQL("SELECT s.id, n.* FROM {} AS s JOIN {} USING (device_id, component, metric, unit, value_type)").format(
            table, names_as_rows
        ),
        columns,
    )
    return {(row[1], row[2], row[3], row[4], row[5]): row[0] for row in rows}


def _lock_sequences(
    connection: psycopg.Connection, schema: str, counted: Sequence[Judged]
) -> set[tuple[int, int, int]]:
    """Lock the devices' boots in order, and tell which of the counters were seen before."""
    devices, boots, seqs = zip(*sorted({_counter(item) for item in counted}), strict=True)
    table = sql.Identifier(schema, "telemetry_devicesequence")
    connection.execute(
        sql.SQL(
            "SELECT 1 FROM {} AS s WHERE (device_id, boot) IN (SELECT * FROM unnest(%s::bigint[], %s::bigint[]))"
            " ORDER BY device_id, boot FOR UPDATE"
        ).format(table),
        [list(devices), list(boots)],
    )
    rows = connection.execute(
        sql.SQL(
            "SELECT c.* FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS c(device_id, boot, seq)"
            " JOIN {} AS s USING (device_id, boot) WHERE s.seen @> c.seq"
        ).format(table),
        [list(devices), list(boots), list(seqs)],
    )
    return {(row[0], row[1], row[2]) for row in rows}


def _known_messages(
    connection: psycopg.Connection, schema: str, items: Sequence[Judged]
) -> dict[tuple[int, datetime, UUID], datetime]:
    """Those of the messages that are stored, with when they were received first."""
    if not items:
        return {}
    devices, times, fingerprints = zip(*{_key(item) for item in items}, strict=True)
    rows = connection.execute(
        sql.SQL(
            "SELECT m.device_id, m.time, m.fingerprint, m.received_at FROM {} AS m"
            " JOIN unnest(%s::bigint[], %s::timestamptz[], %s::uuid[]) AS k(device_id, time, fingerprint)"
            " USING (device_id, time, fingerprint)"
        ).format(sql.Identifier(schema, "telemetry_message")),
        [list(devices), list(times), list(fingerprints)],
    )
    return {(row[0], row[1].astimezone(UTC), row[2]): row[3].astimezone(UTC) for row in rows}


def _insert_messages(connection: psycopg.Connection, schema: str, items: Sequence[Judged], outcome: Outcome) -> None:
    """Insert the messages; those that were there, or stand twice in the batch, are duplicates."""
    if not items:
        return
    rows = connection.execute(
        sql.SQL(
            "INSERT INTO {} (device_id, time, fingerprint, received_at, topic, payload, signature, key_version, late)"
            " SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::uuid[], %s::timestamptz[], %s::text[],"
            " %s::bytea[], %s::smallint[], %s::integer[], %s::boolean[])"
            " ON CONFLICT DO NOTHING RETURNING device_id, time, fingerprint"
        ).format(sql.Identifier(schema, "telemetry_message")),
        [list(column) for column in zip(*map(_message_row, items), strict=True)],
    )
    inserted = {(row[0], row[1].astimezone(UTC), row[2]) for row in rows}
    for item in items:
        key = _key(item)
        if key in inserted:
            inserted.remove(key)
            outcome.stored.append(item)
        else:
            outcome.duplicates.append(item)


def _as_first_received(connection: psycopg.Connection, schema: str, duplicates: Sequence[Judged]) -> list[Judged]:
    """The duplicates, received when they came first: a redelivery is no new sign of life."""
    first = _known_messages(connection, schema, duplicates)
    return [
        replace(item, incoming=replace(item.incoming, received_at=first.get(_key(item), item.incoming.received_at)))
        for item in duplicates
    ]


def _message_row(item: Judged) -> tuple[object, ...]:
    message, incoming = _accepted(item), item.incoming
    return (
        *_key(item),
        incoming.received_at,
        incoming.topic,
        incoming.payload,
        message.signature,
        message.key_version,
        message.late,
    )


def _insert_readings(
    connection: psycopg.Connection, schema: str, stored: Sequence[Judged], series: dict[_SeriesName, int]
) -> None:
    rows = []
    for item in stored:
        message = _accepted(item)
        for name, measured in zip(_series_names(item), message.measurements, strict=True):
            is_text = isinstance(measured.value, str)
            value, text = (None, measured.value) if is_text else (float(measured.value), None)
            rows.append((series[name], message.time, value, text))
    if not rows:
        return
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (series_id, time, value, text)"
            " SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::double precision[], %s::text[])"
            " ON CONFLICT DO NOTHING"
        ).format(sql.Identifier(schema, "telemetry_reading")),
        [list(column) for column in zip(*rows, strict=True)],
    )


def _mark_late(connection: psycopg.Connection, schema: str, stored: Sequence[Judged]) -> None:
    settled = datetime.now(UTC) - _SETTLED_AFTER
    mark_late(connection, schema, {(_device_id(item), t) for item in stored if (t := _accepted(item).time) < settled})


def _count_sequences(connection: psycopg.Connection, schema: str, stored: Sequence[Judged]) -> None:
    counters = sorted({_counter(item) for item in stored if _accepted(item).counter is not None})
    if not counters:
        return
    connection.execute(
        sql.SQL(
            "INSERT INTO {} AS s (device_id, boot, seen)"
            " SELECT device_id, boot, range_agg(int8range(seq, seq, '[]'))"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS c(device_id, boot, seq)"
            " GROUP BY device_id, boot ORDER BY device_id, boot"
            " ON CONFLICT (device_id, boot) DO UPDATE SET seen = s.seen + EXCLUDED.seen"
        ).format(sql.Identifier(schema, "telemetry_devicesequence")),
        [list(column) for column in zip(*counters, strict=True)],
    )


def _raise_floors(connection: psycopg.Connection, schema: str, stored: Sequence[Judged]) -> None:
    """No way back to version 1 for devices that have sent version 2."""
    risen = {
        item.spec.device_id
        for item in stored
        if item.spec is not None and _accepted(item).signature == 2 and item.spec.signature_floor < 2
    }
    if risen:
        connection.execute(
            sql.SQL("UPDATE {} SET signature_floor = 2 WHERE id = ANY(%s) AND signature_floor < 2").format(
                sql.Identifier(schema, "devices_device")
            ),
            [sorted(risen)],
        )


def quarantine(connection: psycopg.Connection, schema: str, refused: Sequence[Judged]) -> None:
    """Keep what was refused, with its reason; the same message refused again is counted."""
    _upsert_refused(connection, sql.Identifier(schema, "telemetry_quarantined"), refused, with_device=True)


def _upsert_refused(
    connection: psycopg.Connection, table: sql.Identifier, refused: Sequence[Judged], *, with_device: bool
) -> None:
    rows = _refused_rows(refused)
    if not rows:
        return
    columns = [list(column) for column in zip(*rows, strict=True)]
    device, device_value = (sql.SQL(", device_id"), sql.SQL(", device_id")) if with_device else (sql.SQL(""),) * 2
    connection.execute(
        sql.SQL(
            "INSERT INTO {table} AS q (fingerprint, reason, detail, topic, payload, first_received_at,"
            " last_received_at, times{device})"
            " SELECT fingerprint, reason, detail, topic, payload, first_at, last_at, times{device_value}"
            " FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::timestamptz[],"
            " %s::timestamptz[], %s::bigint[], %s::bigint[])"
            " AS r(fingerprint, reason, detail, topic, payload, first_at, last_at, times, device_id)"
            " ORDER BY fingerprint"
            " ON CONFLICT (fingerprint) DO UPDATE SET times = q.times + EXCLUDED.times, detail = EXCLUDED.detail,"
            " last_received_at = greatest(q.last_received_at, EXCLUDED.last_received_at)"
        ).format(table=table, device=device, device_value=device_value),
        columns,
    )


def _refused_rows(refused: Sequence[Judged]) -> list[list[object]]:
    """One row for each different message: fingerprint, reason, detail, topic, payload, first, last, times, device."""
    rows: dict[UUID, list[object]] = {}
    for item in refused:
        assert isinstance(item.verdict, Refused)  # noqa: S101 (for the type checker; callers have filtered)
        at, topic = item.incoming.received_at, item.incoming.topic
        name = fingerprint(item.verdict.reason, topic, item.incoming.payload)
        if (row := rows.get(name)) is not None:
            row[6], row[7] = at, row[7] + 1  # type: ignore[operator]  # the seventh is the count
            continue
        device_id = item.spec.device_id if item.spec else None
        detail = item.verdict.detail.replace("\x00", "\\0")
        rows[name] = [name, item.verdict.reason, detail, topic, item.incoming.payload, at, at, 1, device_id]
    return list(rows.values())


def _add_totals(connection: psycopg.Connection, schema: str, outcome: Outcome) -> None:
    stored, duplicates, quarantined = len(outcome.stored), len(outcome.duplicates), len(outcome.quarantined)
    connection.execute(
        sql.SQL(
            "INSERT INTO {} AS t (day, received, stored, duplicates, quarantined, rate_limited)"
            " VALUES ((now() AT TIME ZONE 'UTC')::date, %s, %s, %s, %s, 0)"
            " ON CONFLICT (day) DO UPDATE SET received = t.received + EXCLUDED.received,"
            " stored = t.stored + EXCLUDED.stored, duplicates = t.duplicates + EXCLUDED.duplicates,"
            " quarantined = t.quarantined + EXCLUDED.quarantined"
        ).format(sql.Identifier(schema, "telemetry_ingesttotals")),
        [stored + duplicates + quarantined, stored, duplicates, quarantined],
    )
