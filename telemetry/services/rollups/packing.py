"""Packing of readings: one row for each series and day (UTC), with arrays of times and numbers.

A day is packed some days after its end. A row of `RepackDay` requests it, for due days and for days with late
readings. One statement moves a device's day, so its readings are always in exactly one place. A reading that arrives
again in another message can be in both; readers and packing remove the duplicate. Texts are not packed.
"""

import time as clock
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import connection

from telemetry.services.work_lock import WorkLockBusy, locked_step, work_state
from tenants.infrastructure.database import current_schema

from . import partitions

_PACKED_UNTIL = "(SELECT packed_until FROM telemetry_rollupstate)"
# The time of a packed number. Whole microseconds, so that nothing is rounded.
PACKED_TIME = "p.day + ({ms} * 1000::bigint + coalesce({us}, 0)) * interval '1 microsecond'"
UNPACKED_TIME = PACKED_TIME.format(ms="u.ms", us="u.us")
UNPACKED = "unnest(p.offsets, p.micros, p.numbers) AS u(ms, us, value)"
# count(*) and not EXISTS, so that PostgreSQL evaluates it for single rows, of which there are few, and never for the
# whole table.
_NOT_PACKED = f"""(
    r.time >= coalesce({_PACKED_UNTIL}, '-infinity') OR 0 = (
        SELECT count(*) FROM telemetry_packedday p CROSS JOIN LATERAL {UNPACKED}
        WHERE p.series_id = r.series_id AND p.day = date_trunc('day', r.time, 'UTC')
            AND r.value = ANY(p.numbers) AND u.value = r.value AND {UNPACKED_TIME} = r.time
    )
)"""  # noqa: S608 (constants)


def numbers_sql(which: str, start: str, stop: str) -> str:
    """Return SQL of all numbers and booleans with start ≤ time < stop, packed or not: `(series_id, time, value)`.

    A subquery in brackets, without an order. `which` is what follows `series_id`, as `= s.id` or
    `= ANY(%(series)s)`; `start` and `stop` are SQL of a timestamptz, where '-infinity' and 'infinity' are allowed.
    One snapshot reads both places, so a reading appears exactly once while its day is being packed.
    """
    return f"""(
        SELECT r.series_id, r.time, r.value FROM telemetry_reading r
        WHERE r.series_id {which} AND r.text IS NULL AND r.time >= {start} AND r.time < {stop} AND {_NOT_PACKED}
        UNION ALL
        SELECT p.series_id, {UNPACKED_TIME}, u.value FROM telemetry_packedday p CROSS JOIN LATERAL {UNPACKED}
        WHERE p.series_id {which} AND p.day > {start}::timestamptz - interval '24 hours' AND p.day < {stop}
            AND {UNPACKED_TIME} >= {start} AND {UNPACKED_TIME} < {stop}
    )"""  # noqa: S608 (the caller's own SQL)


# --- the work -------------------------------------------------------------------------------------------------

DAY = timedelta(days=1)
_DEVICES_PER_STEP = 50
_FIRST_DAY = """
SELECT date_trunc('day', min(f.time), 'UTC') FROM telemetry_series s CROSS JOIN LATERAL (
    SELECT time FROM telemetry_reading WHERE series_id = s.id AND text IS NULL
        AND time >= %(start)s AND time < %(stop)s ORDER BY time LIMIT 1
) f WHERE s.value_type <> 'text'
"""
_REQUEST_DAY = """
INSERT INTO telemetry_repackday (device_id, day)
SELECT DISTINCT s.device_id, %(day)s FROM telemetry_series s CROSS JOIN LATERAL (
    SELECT 1 FROM telemetry_reading WHERE series_id = s.id AND text IS NULL
        AND time >= %(day)s AND time < %(day)s + interval '24 hours' LIMIT 1
) f WHERE s.value_type <> 'text'
ON CONFLICT DO NOTHING
"""
_REQUESTED = """
SELECT day, array_agg(device_id) FROM (
    SELECT device_id, day FROM telemetry_repackday WHERE day = (SELECT min(day) FROM telemetry_repackday)
    ORDER BY device_id LIMIT %s
) AS asked GROUP BY day
"""
_MICROS = "round(date_part('epoch', time - day) * 1e6)::bigint"
_IN_ORDER = "ORDER BY time, value"
_PACK = f"""
WITH moved AS (
    DELETE FROM telemetry_reading r USING telemetry_series s
    WHERE s.device_id = ANY(%(devices)s) AND s.value_type <> 'text' AND r.series_id = s.id AND r.text IS NULL
        AND r.time >= %(day)s AND r.time < %(day)s + interval '24 hours'
    RETURNING r.series_id, r.time, r.value
), whole AS (
    SELECT series_id, %(day)s::timestamptz AS day, time, value FROM moved
    UNION
    SELECT p.series_id, p.day, {UNPACKED_TIME}, u.value FROM telemetry_packedday p CROSS JOIN LATERAL {UNPACKED}
    WHERE p.day = %(day)s AND p.series_id IN (SELECT series_id FROM moved)
)
INSERT INTO telemetry_packedday (series_id, day, count, offsets, micros, numbers)
SELECT series_id, day, count(*), array_agg(({_MICROS} / 1000)::integer {_IN_ORDER}),
    CASE WHEN bool_or({_MICROS} %% 1000 <> 0) THEN array_agg(({_MICROS} %% 1000)::smallint {_IN_ORDER}) END,
    array_agg(value {_IN_ORDER})
FROM whole GROUP BY series_id, day
ON CONFLICT (series_id, day) DO UPDATE
SET count = EXCLUDED.count, offsets = EXCLUDED.offsets, micros = EXCLUDED.micros, numbers = EXCLUDED.numbers
"""  # noqa: S608 (constants)
_REMOVE_REQUEST = "DELETE FROM telemetry_repackday WHERE day = %(day)s AND device_id = ANY(%(devices)s)"


def pack(*, now: datetime | None = None, seconds: float = 120.0) -> dict[str, int]:
    """Pack the current tenant's due days within `seconds`; the next run does the rest.

    Returns the number of days requested, of series' days packed, and of partitions emptied. Raises WorkLockBusy when
    ingest or another worker holds a lock.
    """
    deadline = clock.monotonic() + seconds
    until = due_before(now or datetime.now(UTC))
    days = packed = 0
    while clock.monotonic() < deadline:
        if (done := _pack_requested()) is not None:
            packed += done
        elif until is not None and _request_next_day(until):
            days += 1
        else:
            return {"days": days, "packed": packed, "emptied": _reclaim()}
    return {"days": days, "packed": packed, "emptied": 0}


def due_before(now: datetime) -> datetime | None:
    """Return the time before which days are packed; None when packing is off."""
    if not settings.READINGS_PACK_AFTER_DAYS:
        return None
    return _midnight(now) - settings.READINGS_PACK_AFTER_DAYS * DAY


def _midnight(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _request_next_day(until: datetime) -> bool:
    """Request the next day. Return False when there is none, or it is not rolled up yet.

    `packed_until` moves first: from then on readers remove readings that are in both places.
    """
    with locked_step() as (cursor, now):
        if now.rolled_until is None:
            return False
        until = min(until, _midnight(now.rolled_until))
        if now.packed_until is not None and now.packed_until >= until:
            return False
        cursor.execute(_FIRST_DAY, {"start": now.packed_until or "-infinity", "stop": until})
        (day,) = cursor.fetchone()
        if day is not None:
            cursor.execute(_REQUEST_DAY, {"day": day})
        reached = until if day is None else day + DAY
        cursor.execute("UPDATE telemetry_rollupstate SET packed_until = %s", [reached])
        return day is not None


def _pack_requested() -> int | None:
    """Pack the requested day of some devices; return the number of series' days, or None without a request."""
    with connection.cursor() as cursor:
        cursor.execute(_REQUESTED, [_DEVICES_PER_STEP])
        row = cursor.fetchone()
    if row is None:
        return None
    day, devices = row
    if partitions.age_in_months((day.year, day.month), datetime.now(UTC)) <= partitions.KEPT_MONTHS:
        partitions.create_partitions(
            connection.connection, current_schema(), (day.year, day.month), [partitions.PACKED]
        )
    with locked_step() as (cursor, now):
        packed = 0
        if now.readings_from is None or day >= now.readings_from:
            cursor.execute(_PACK, {"day": day, "devices": devices})
            packed = cursor.rowcount
        cursor.execute(_REMOVE_REQUEST, {"day": day, "devices": devices})
        return int(packed)


# --- space ----------------------------------------------------------------------------------------------------

# Texts and late readings: a partition that has few of them for its size is rewritten.
_MOST_LEFT = 100_000
_BYTES_LEFT = 1000
_LEAST_GAIN = 1_000_000


def _reclaim() -> int:
    """Free the space of packed months; return the number of partitions."""
    now = work_state()
    if now.packed_until is None:
        return 0
    emptied = 0
    for month, name in partitions.month_partitions(
        connection.connection, current_schema(), partitions.READINGS
    ).items():
        if partitions.month_bounds(month)[1] <= now.packed_until:
            try:
                emptied += _rewrite(connection.ops.quote_name(name))
            except WorkLockBusy:
                continue  # a reader holds it: the next run rewrites it
    return emptied


def _rewrite(name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_size(%s::regclass)", [name])
        (size,) = cursor.fetchone()
        cursor.execute(f"SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT {_MOST_LEFT + 1}) AS r")  # noqa: S608 (quoted)
        (left,) = cursor.fetchone()
    if not size or left > _MOST_LEFT or (left and size < left * _BYTES_LEFT + _LEAST_GAIN):
        return False
    with locked_step(lock_timeout="500ms") as (cursor, _):
        cursor.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(f"CREATE TEMPORARY TABLE gwanje_left ON COMMIT DROP AS SELECT * FROM {name}")  # noqa: S608
        cursor.execute(f"TRUNCATE {name}")
        cursor.execute(f"INSERT INTO {name} SELECT * FROM gwanje_left")  # noqa: S608
    return True
