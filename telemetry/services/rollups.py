"""Hourly and daily rollups, kept up out of band.

Ingest marks what comes late for hours that are rolled up, in its own transaction; the worker does the rest.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

# In the order of the key, so that two listeners do not wait for each other crosswise. A mark that is there is
# renewed, so that the worker that works on it sees that more has come.
LATE_HOURS = sql.SQL(
    "INSERT INTO {latehour} (device_id, hour)"
    " SELECT * FROM unnest(%s::bigint[], %s::timestamptz[]) AS late(device_id, hour)"
    " WHERE hour < (SELECT marked_until FROM {state}) ORDER BY device_id, hour"
    " ON CONFLICT (device_id, hour) DO UPDATE SET mark = EXCLUDED.mark"
)


def mark_late(connection: psycopg.Connection, schema: str, pairs: Collection[tuple[int, datetime]]) -> None:
    """Mark (device id, time) of readings that this transaction has inserted: their hours are rolled up again.

    To be called in the transaction of the insert and *after* it, for all readings that are then older than 60 s.
    The insert must have been into `telemetry_reading` itself, not a partition of it: its lock on that table is
    what keeps the worker from going on before it is committed. Reads nothing, so that it may stand in a pipeline.
    """
    hours = sorted({(device_id, hour_of(time)) for device_id, time in pairs})
    if hours:
        devices, starts = zip(*hours, strict=True)
        connection.execute(late_hours(schema), [list(devices), list(starts)])


def late_hours(schema: str) -> sql.Composed:
    """The statement of `mark_late`: its parameters are the device ids and the hours, without repetitions."""
    return LATE_HOURS.format(
        latehour=sql.Identifier(schema, "telemetry_latehour"), state=sql.Identifier(schema, "telemetry_rollupstate")
    )


def hour_of(time: datetime) -> datetime:
    """The beginning of the time's hour."""
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
