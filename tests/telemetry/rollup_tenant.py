"""A tenant whose readings a test writes by itself, and the truth about them in a table beside."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from django.db import connection
from django_tenants.utils import schema_context
from psycopg import sql

from tenants.infrastructure.database import conninfo
from tests.factories import make_tenant, remove_tenant

_FIRST, _LAST = "'-infinity'", "'infinity'"
Row = tuple[int, datetime, float]  # series, time, value

_TABLES = (
    "telemetry_reading",
    "telemetry_readinghour",
    "telemetry_readingday",
    "telemetry_packedday",
    "telemetry_latehour",
    "telemetry_repackday",
    "telemetry_latest",
    "telemetry_retentionsettings",
    "truth",
)


@dataclass
class RollupTenant:
    """A tenant with a few devices: `devices` maps a device's id to the ids of its series of numbers."""

    schema: str
    devices: dict[int, list[int]] = field(default_factory=dict)

    @property
    def series(self) -> list[int]:
        return [one for series in self.devices.values() for one in series]

    def device_of(self, series: int) -> int:
        return next(device for device, own in self.devices.items() if series in own)

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        """A connection of one's own, in the tenant's schema."""
        with psycopg.connect(conninfo(options=f"-c search_path={self.schema}"), autocommit=True) as own:
            yield own

    def insert(self, own: psycopg.Connection, rows: Iterable[Row]) -> None:
        """What ingest does with readings, and the truth; in the caller's transaction, without marks."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        for table in ("telemetry_reading", "truth"):
            own.execute(
                sql.SQL(
                    "INSERT INTO {} (series_id, time, value)"
                    " SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::float8[]) ON CONFLICT DO NOTHING"
                ).format(sql.Identifier(table)),
                columns,
            )

    def store(self, *rows: Row) -> None:
        """Insert and mark, as one batch of ingest."""
        from telemetry.services.rollups.aggregation import mark_late

        with self.connect() as own, own.transaction():
            self.insert(own, rows)
            mark_late(own, self.schema, {(self.device_of(series), time) for series, time, _ in rows})

    def clear(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {', '.join(_TABLES)}")
            cursor.execute(
                "UPDATE telemetry_rollupstate"
                " SET marked_until = NULL, rolled_until = NULL, packed_until = NULL, readings_from = NULL"
            )


def make_rollup_tenant(slug: str, devices: int = 3) -> RollupTenant:
    """Create a tenant with `devices`, of two series each; remove it by `remove_rollup_tenant`."""
    from devices.models import Device
    from telemetry.models import Series

    made = RollupTenant(make_tenant(slug).schema_name)
    with schema_context(made.schema), connection.cursor() as cursor:
        for number in range(devices):
            device = Device.objects.create(name=f"device {number}")
            made.devices[device.pk] = [
                Series.objects.create(device=device, component="dht22", metric=metric, value_type="number").pk
                for metric in ("humidity", "temperature")
            ]
        cursor.execute(
            "CREATE TABLE truth (series_id bigint, time timestamptz, value float8, UNIQUE (series_id, time, value))"
        )
    return made


def remove_rollup_tenant(made: RollupTenant) -> None:
    """Remove the tenant with its schema."""
    from tenants.models import Tenant

    with schema_context("public"):
        remove_tenant(Tenant.objects.get(schema_name=made.schema))


# What differs between the hours as they are read and the truth, in one snapshot.
_HOUR = timedelta(hours=1)


def numbers() -> list[Any]:
    """All numbers of the current tenant as readers get them, packed or not: (series, time, value)."""
    from telemetry.services.rollups.packing import numbers_sql as sql_of_numbers

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {sql_of_numbers('> 0', _FIRST, _LAST)} n ORDER BY 1, 2, 3")  # noqa: S608
        return cursor.fetchall()


def truth() -> list[Any]:
    """The stored readings, each once: (series, time, value)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM truth ORDER BY 1, 2, 3")
        return cursor.fetchall()


def rows_of(table: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608
        return int(cursor.fetchone()[0])


def differences(made: RollupTenant, start: datetime, stop: datetime, hours: str = "") -> list[Any]:
    """Hours that are not what the readings say; `hours` is SQL of them, by default as they are read."""
    from telemetry.services.rollups.aggregation import hours_sql as read_hours

    hours_query = hours or read_hours("= ANY(%(series)s)", "%(start)s", "%(stop)s")
    query = f"""
        WITH told AS (SELECT * FROM {hours_query} h), said AS (
            SELECT series_id, date_trunc('hour', time, 'UTC') AS hour, count(*) AS count, min(value) AS min,
                max(value) AS max, sum(value) AS sum, (array_agg(value ORDER BY time DESC, value DESC))[1] AS last,
                max(time) AS last_at
            FROM truth WHERE series_id = ANY(%(series)s) AND time >= %(start)s AND time < %(stop)s GROUP BY 1, 2
        )
        SELECT told, said FROM told FULL JOIN said USING (series_id, hour)
        WHERE (told.count, told.min, told.max, told.last, told.last_at)
            IS DISTINCT FROM (said.count, said.min, said.max, said.last, said.last_at)
            OR abs(told.sum - said.sum) > 1e-9 * (1 + abs(said.sum))
    """  # noqa: S608 (our own SQL)
    with schema_context(made.schema), connection.cursor() as cursor:
        cursor.execute(query, {"series": made.series, "start": start, "stop": stop})
        return cursor.fetchall()
