"""Hourly and daily rollups of numbers and booleans, computed by the workers.

No reading is missed: before the worker rolls up an hour, it sets `marked_until` under a short table lock, while no
insert of readings is under way. An earlier ingest transaction is committed before that, so its readings are in the
rollup; a later one sees `marked_until` and marks the hours of its inserts in the same transaction. The worker rolls
up, and only then `rolled_until` moves. Marked hours are rolled up again; a mark that was renewed meanwhile stays. Each
step is one transaction, so a worker that dies leaves no partial step. A reader uses the rollup of an hour that is
before `rolled_until` and not marked.
"""

import time as clock
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from django.db import connection as django_connection
from psycopg import sql

from telemetry.services.work_lock import WorkLockBusy, WorkState, locked_step
from tenants.infrastructure.database import current_schema, cursor_for_many

from . import latest_table, partitions
from .packing import numbers_sql

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# The delay of the rollup after the end of an hour. Ingest does not mark readings younger than 60 s, so the difference
# bounds the length of transactions and the difference of clocks.
SETTLED_AFTER = timedelta(minutes=5)
_LATE_HOURS_PER_STEP = 500
_LOCK_TIMEOUT = "100ms"  # the longest time that ingest waits for this lock
_LOCK_ATTEMPTS = 20
_LOCK_PAUSE_SECONDS = 0.25

# In the order of the key, so that two listeners cannot deadlock. An existing mark is renewed, so that the worker that
# rolls up the hour sees that more readings arrived.
_MARK_LATE = sql.SQL(
    "INSERT INTO {latehour} (device_id, hour)"
    " SELECT * FROM unnest(%s::bigint[], %s::timestamptz[]) AS late(device_id, hour)"
    " WHERE hour < (SELECT marked_until FROM {state}) ORDER BY device_id, hour"
    " ON CONFLICT (device_id, hour) DO UPDATE SET mark = EXCLUDED.mark"
)


def mark_late(connection: psycopg.Connection, schema: str, pairs: Collection[tuple[int, datetime]]) -> None:
    """Mark the hours of (device id, time) of readings that this transaction inserted, to be rolled up again.

    Call it in the transaction of the insert and *after* it, for all readings that are then older than 60 s. The insert
    must be into `telemetry_reading` itself, not into a partition: its lock on that table keeps the worker from
    continuing before the commit. Sends one statement and reads no result, so it works in a pipeline.
    """
    hours = sorted({(device_id, hour_of(time)) for device_id, time in pairs})
    if hours:
        devices, starts = zip(*hours, strict=True)
        connection.execute(mark_late_statement(schema), [list(devices), list(starts)])


def mark_late_statement(schema: str) -> sql.Composed:
    """Return the statement of `mark_late`; its parameters are the device ids and the hours, without duplicates."""
    return _MARK_LATE.format(
        latehour=sql.Identifier(schema, "telemetry_latehour"), state=sql.Identifier(schema, "telemetry_rollupstate")
    )


def hour_of(time: datetime) -> datetime:
    """Return the beginning of the time's hour (UTC)."""
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(time: datetime) -> datetime:
    """Return the beginning of the time's day (UTC)."""
    return hour_of(time).replace(hour=0)


# --- reading --------------------------------------------------------------------------------------------------

# Over rows (time, value). Of two values of one instant the greater is the last. The sum of extremely large numbers is
# null: PostgreSQL would raise an error, and one reading would block all rollups.
READING_AGGREGATES = """
    count(*) AS count, min(value) AS min, max(value) AS max,
    CASE WHEN bool_and(abs(value) < 1e290) THEN sum(value) FILTER (WHERE abs(value) < 1e290) END AS sum,
    (max(ARRAY[date_part('epoch', time), value]))[2] AS last, max(time) AS last_at"""
# The same over rows of rollups.
ROLLUP_AGGREGATES = """
    sum(count)::bigint AS count, min(min) AS min, max(max) AS max,
    CASE WHEN count(sum) = count(*) THEN sum(sum) END AS sum,
    (max(ARRAY[date_part('epoch', last_at), last]))[2] AS last, max(last_at) AS last_at"""
ROLLUP_COLUMNS = "count, min, max, sum, last, last_at"
_STATE = "(SELECT {} FROM telemetry_rollupstate)"
_HOUR_OF_TIME = "date_bin('1 hour', time, '2000-01-01+00')"


def hours_sql(which: str, start: str, stop: str, end: str | None = None) -> str:
    """Return SQL of the hours with start ≤ hour < stop: `(series_id, hour, count, min, max, sum, last, last_at)`.

    A subquery in brackets, without an order, with `which` and bounds as in `packing.numbers_sql`; the bounds are full
    hours. With `end`, a time in the hour of `stop`, the result includes that hour, of readings before `end`; this is
    cheaper to plan than another part of the statement. The result is always exact: hours that are not rolled up, or
    marked, are computed from the readings.
    """
    rolled = f"coalesce({_STATE.format('rolled_until')}, '-infinity')"
    kept = f"coalesce({_STATE.format('readings_from')}, '-infinity')"
    late = f"""SELECT s.id AS series_id, l.hour FROM telemetry_series s JOIN telemetry_latehour l USING (device_id)
            WHERE s.id {which} AND l.hour >= greatest({start}, {kept}) AND l.hour < least({stop}, {rolled})"""  # noqa: S608
    return f"""(
        SELECT h.series_id, h.hour, {ROLLUP_COLUMNS} FROM telemetry_readinghour h
        WHERE h.series_id {which} AND h.hour >= {start} AND h.hour < least({stop}, {rolled})
            AND (h.series_id, h.hour) NOT IN ({late})
        UNION ALL
        SELECT l.series_id, l.hour, a.* FROM ({late}) l CROSS JOIN LATERAL (
            SELECT {READING_AGGREGATES} FROM {numbers_sql("= l.series_id", "l.hour", "l.hour + interval '1 hour'")} n
        ) a WHERE a.count > 0
        UNION ALL
        SELECT series_id, {_HOUR_OF_TIME}, {READING_AGGREGATES}
        FROM {numbers_sql(which, f"greatest({start}, least({stop}, {rolled}))", end or stop)} n GROUP BY 1, 2
    )"""  # noqa: S608 (the caller's own SQL)


@dataclass(slots=True)
class HourlyRollup:
    """The rollup of a series in one hour. `sum` is None when it is out of range."""

    series: int
    start: datetime
    count: int
    min: float
    max: float
    sum: float | None
    last: float
    last_at: datetime


_HOURLY = f"SELECT * FROM {hours_sql('= ANY(%(series)s)', '%(start)s', '%(stop)s')} h ORDER BY series_id, hour"  # noqa: S608


def hourly_rollups(series: Sequence[int], start: datetime, stop: datetime) -> list[HourlyRollup]:
    """Return the series' hours with readings and start ≤ hour < stop (full hours), in order; one query."""
    with cursor_for_many() as cursor:
        cursor.execute(_HOURLY, {"series": list(series), "start": start, "stop": stop})
        return [HourlyRollup(*row) for row in cursor.fetchall()]


# --- the work -------------------------------------------------------------------------------------------------

_UPSERT = ", ".join(f"{name} = EXCLUDED.{name}" for name in ROLLUP_COLUMNS.split(", "))
# The newest value of each series goes with them.
_ROLL_HOURS = f"""
WITH rolled AS (
    INSERT INTO telemetry_readinghour (series_id, hour, {ROLLUP_COLUMNS})
    SELECT s.id, a.* FROM telemetry_series s CROSS JOIN LATERAL (
        SELECT {_HOUR_OF_TIME} AS hour, {READING_AGGREGATES} FROM {
    numbers_sql("= s.id", "%(start)s", "%(stop)s")
} n GROUP BY 1
    ) a WHERE s.value_type <> 'text'
    ON CONFLICT (series_id, hour) DO UPDATE SET {_UPSERT} RETURNING series_id, last_at, last
)
{
    latest_table.forward_sql(
        "SELECT DISTINCT ON (series_id) series_id, last_at, last, NULL FROM rolled ORDER BY series_id, last_at DESC"
    )
}
"""  # noqa: S608 (constants)
_ROLL_DAY = f"""
INSERT INTO telemetry_readingday (series_id, day, {ROLLUP_COLUMNS})
SELECT s.id, %(day)s, a.* FROM telemetry_series s CROSS JOIN LATERAL (
    SELECT {ROLLUP_AGGREGATES} FROM telemetry_readinghour
    WHERE series_id = s.id AND hour >= %(day)s AND hour < %(day)s + interval '24 hours'
) a WHERE s.value_type <> 'text' AND a.count IS NOT NULL
ON CONFLICT (series_id, day) DO UPDATE SET {_UPSERT}
"""  # noqa: S608
_FIRST_READING = """
SELECT min(f.time) FROM telemetry_series s CROSS JOIN LATERAL (
    (SELECT time FROM telemetry_reading WHERE series_id = s.id AND text IS NULL
        AND time >= %(start)s AND time < %(stop)s ORDER BY time LIMIT 1)
    UNION ALL
    (SELECT time FROM telemetry_reading WHERE series_id = s.id AND text IS NOT NULL AND s.value_type = 'text'
        AND time >= %(start)s AND time < %(stop)s ORDER BY time LIMIT 1)
    UNION ALL
    (SELECT day FROM telemetry_packedday WHERE series_id = s.id
        AND day >= %(start)s AND day < %(stop)s ORDER BY day LIMIT 1)
) f
"""
_LATE_HOURS = "SELECT device_id, hour, mark FROM telemetry_latehour WHERE hour < %s ORDER BY hour, device_id LIMIT %s"
_REDO_HOURS = f"""
WITH rolled AS (
    INSERT INTO telemetry_readinghour (series_id, hour, {ROLLUP_COLUMNS})
    SELECT s.id, m.hour, a.* FROM unnest(%s::bigint[], %s::timestamptz[]) AS m(device_id, hour)
    JOIN telemetry_series s USING (device_id) CROSS JOIN LATERAL (
        SELECT {READING_AGGREGATES} FROM {numbers_sql("= s.id", "m.hour", "m.hour + interval '1 hour'")} n
    ) a WHERE s.value_type <> 'text' AND a.count > 0
    ON CONFLICT (series_id, hour) DO UPDATE SET {_UPSERT} RETURNING series_id, last_at, last
)
{
    latest_table.forward_sql(
        "SELECT DISTINCT ON (series_id) series_id, last_at, last, NULL FROM rolled ORDER BY series_id, last_at DESC"
    )
}
"""  # noqa: S608
_REDO_DAYS = f"""
INSERT INTO telemetry_readingday (series_id, day, {ROLLUP_COLUMNS})
SELECT s.id, m.day, a.* FROM unnest(%s::bigint[], %s::timestamptz[]) AS m(device_id, day)
JOIN telemetry_series s USING (device_id) CROSS JOIN LATERAL (
    SELECT {ROLLUP_AGGREGATES} FROM telemetry_readinghour
    WHERE series_id = s.id AND hour >= m.day AND hour < m.day + interval '24 hours'
) a WHERE a.count IS NOT NULL
ON CONFLICT (series_id, day) DO UPDATE SET {_UPSERT}
"""  # noqa: S608
_REPACK = """
INSERT INTO telemetry_repackday (device_id, day)
SELECT * FROM unnest(%s::bigint[], %s::timestamptz[]) AS m(device_id, day) WHERE day < %s
ON CONFLICT DO NOTHING
"""
# Locked in the order in which ingest takes them, then removed unless renewed.
_LOCK_MARKS = """
SELECT 1 FROM telemetry_latehour WHERE (device_id, hour) IN (SELECT * FROM unnest(%s::bigint[], %s::timestamptz[]))
ORDER BY device_id, hour FOR UPDATE
"""
_REMOVE_MARKS = """
DELETE FROM telemetry_latehour WHERE (device_id, hour, mark) IN (
    SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::bigint[]))
"""


def roll_up(*, now: datetime | None = None, seconds: float = 120.0) -> dict[str, int]:
    """Bring the current tenant's rollups up to date within `seconds`; the next run does the rest.

    `now` is for tests. Returns the number of chunks (a day at most) and of late hours that were rolled up. Raises
    WorkLockBusy when ingest or another worker holds a lock.
    """
    deadline = clock.monotonic() + seconds
    until = hour_of((now or datetime.now(UTC)) - SETTLED_AFTER)
    chunks = late = 0
    _mark_until(until)
    while clock.monotonic() < deadline and _roll_chunk():
        chunks += 1
    while clock.monotonic() < deadline and (done := _roll_up_late_hours()):
        late += done
    return {"chunks": chunks, "late": late}


def _mark_until(until: datetime) -> None:
    """Make ingest mark readings of hours before `until` from now on."""
    for attempt in range(1, _LOCK_ATTEMPTS + 1):
        try:
            with locked_step() as (cursor, state):
                if state.marked_until is not None and state.marked_until >= until:
                    return
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
                # ONLY: every insert locks the table itself, and vacuum of its partitions is not disturbed.
                cursor.execute("LOCK TABLE ONLY telemetry_reading IN SHARE MODE")
                cursor.execute("UPDATE telemetry_rollupstate SET marked_until = %s", [until])
                return
        except WorkLockBusy:
            if attempt == _LOCK_ATTEMPTS:
                raise
            clock.sleep(_LOCK_PAUSE_SECONDS)


def _roll_chunk() -> bool:
    """Roll up the next hours, up to the end of their day. Return False when there are none."""
    with locked_step() as (cursor, state):
        start = _next_chunk_start(cursor, state)
    if start is None:
        return False
    _ensure_partitions([start])
    with locked_step() as (cursor, state):
        if state.marked_until is None or _next_chunk_start(cursor, state) != start:
            return True  # another worker has done it
        stop = min(state.marked_until, day_of(start) + DAY)
        cursor.execute(_ROLL_HOURS, {"start": start, "stop": stop})
        cursor.execute(latest_table.TEXTS_BETWEEN, {"start": start, "stop": stop})
        if stop == day_of(stop):
            cursor.execute(_ROLL_DAY, {"day": stop - DAY})
        cursor.execute("UPDATE telemetry_rollupstate SET rolled_until = %s", [stop])
    return True


def _next_chunk_start(cursor: Any, state: WorkState) -> datetime | None:
    """Return the start of the next chunk; days without readings are skipped."""
    if state.marked_until is None or (state.rolled_until is not None and state.rolled_until >= state.marked_until):
        return None
    start = state.rolled_until
    if start is not None and (start != day_of(start) or state.marked_until - start <= DAY):
        return start
    cursor.execute(_FIRST_READING, {"start": start or "-infinity", "stop": state.marked_until})
    (first,) = cursor.fetchone()
    if first is not None:
        return day_of(first) if start is None else max(start, day_of(first))
    # No readings: the whole range counts as rolled up.
    cursor.execute("UPDATE telemetry_rollupstate SET rolled_until = marked_until")
    return None


def _roll_up_late_hours() -> int:
    """Roll up a batch of late hours again; return their number."""
    with locked_step() as (cursor, state):
        cursor.execute(_LATE_HOURS, [state.rolled_until, _LATE_HOURS_PER_STEP])
        hours_ = [hour for _, hour, _ in cursor.fetchall()]
    _ensure_partitions(hours_)
    with locked_step() as (cursor, state):
        cursor.execute(_LATE_HOURS, [state.rolled_until, _LATE_HOURS_PER_STEP])
        marks = [(device, hour.astimezone(UTC), mark) for device, hour, mark in cursor.fetchall()]
        if not marks:
            return 0
        # Hours whose readings were dropped keep their rollup.
        kept = [m for m in marks if state.readings_from is None or m[1] >= state.readings_from]
        _roll_up_again(cursor, state, kept)
        columns = [list(column) for column in zip(*marks, strict=True)]
        cursor.execute(_LOCK_MARKS, columns[:2])
        cursor.execute(_REMOVE_MARKS, columns)
        return len(marks)


def _roll_up_again(cursor: Any, state: WorkState, marks: list[tuple[int, datetime, int]]) -> None:
    pairs = [(device, hour) for device, hour, _ in marks]
    if not pairs or state.rolled_until is None:
        return
    cursor.execute(_REDO_HOURS, _columns(pairs))
    cursor.execute(latest_table.TEXTS_IN_HOURS, _columns(pairs))
    days = sorted({(device, day_of(hour)) for device, hour in pairs})
    if whole := [(device, day) for device, day in days if day + DAY <= state.rolled_until]:
        cursor.execute(_REDO_DAYS, _columns(whole))
    if state.packed_until is not None:
        cursor.execute(_REPACK, [*_columns(days), state.packed_until])


def _columns(pairs: Sequence[tuple[int, datetime]]) -> list[list[Any]]:
    return [list(column) for column in zip(*pairs, strict=True)]


def _ensure_partitions(times: Collection[datetime]) -> None:
    """Create the partitions in separate transactions: readers of the rollups wait for them."""
    now = datetime.now(UTC)
    for month in sorted({(time.year, time.month) for time in times}):
        if partitions.age_in_months(month, now) <= partitions.KEPT_MONTHS:
            django_connection.ensure_connection()
            partitions.create_partitions(django_connection.connection, current_schema(), month, [partitions.HOURS])
