"""Monthly partitions, one level deep: ingest creates those of messages, readings and changes with the first row of a
month, and the worker those of rollups and packed days.

Rows older than `KEPT_MONTHS`, or than the tenant's retention, go to the default partition: a device whose clock
is in 1970 creates no partition, and a dropped partition is not created again.
"""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime

import psycopg
from psycopg import sql

logger = logging.getLogger(__name__)

MESSAGES, READINGS = "telemetry_message", "telemetry_reading"
PACKED, HOURS = "telemetry_packedday", "telemetry_readinghour"
CHANGES = "telemetry_changebatch"
# The tables that ingest writes by the time of the device, and the retention setting of each table.
INGEST_TABLES = (MESSAGES, READINGS)
RETENTION = {
    MESSAGES: "messages_months",
    READINGS: "readings_months",
    PACKED: "readings_months",
    HOURS: "rollups_months",
    CHANGES: "messages_months",
}
KEPT_MONTHS = 24

Month = tuple[int, int]


class Partitions:
    """A process' cache of the partitions that exist or are not needed."""

    def __init__(self, kept_months: int = KEPT_MONTHS) -> None:
        self._kept_months = kept_months
        self._known: set[tuple[str, Month]] = set()

    def ensure(self, connection: psycopg.Connection, schema: str, times: Iterable[datetime]) -> None:
        """Create the partitions that rows of these times need, outside the caller's transaction.

        Waits for locks up to the connection's lock timeout, and raises then: a row must not go to the default
        partition because its own could not be created.
        """
        for month in self.missing(schema, times):
            _make(connection, schema, month, INGEST_TABLES)
            if age_in_months(month, datetime.now(UTC)) <= 0:
                # Changes have the time of storing.
                _make(connection, schema, month, [CHANGES])
            self._known.add((schema, month))

    def missing(self, schema: str, times: Iterable[datetime]) -> set[Month]:
        """Return the months of these times, and the present one, whose partitions are needed and not known to exist."""
        today = datetime.now(UTC)
        months = {(time.year, time.month) for time in times} | {(today.year, today.month)}
        months = {month for month in months if (schema, month) not in self._known}
        if months:
            now = datetime.now(UTC)
            return {month for month in months if age_in_months(month, now) <= self._kept_months}
        return months

    def forget(self, schema: str) -> None:
        """Forget the schema: it was dropped or created again."""
        self._known = {(name, month) for name, month in self._known if name != schema}


def create_partitions(
    connection: psycopg.Connection, schema: str, month: Month, tables: Iterable[str], lock_timeout: str = "0"
) -> None:
    """Create the month's partitions of the tables, except those that retention would drop.

    Locks the tables for a moment. With a `lock_timeout`, it gives up on a conflict, and a later run tries again.
    """
    try:
        _make(connection, schema, month, tables, lock_timeout)
    except psycopg.errors.LockNotAvailable:
        logger.info("%s: the partitions of %s are made later", schema, month)


def _make(
    connection: psycopg.Connection, schema: str, month: Month, tables: Iterable[str], lock_timeout: str = ""
) -> None:
    now = datetime.now(UTC)
    try:
        with connection.transaction():
            if lock_timeout:
                connection.execute("SELECT set_config('lock_timeout', %s, true)", [lock_timeout])
            # IF NOT EXISTS alone is not safe against another listener doing the same.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"partitions:{schema}"])
            kept = _kept_months(connection, schema)
            for table in tables:
                months = kept.get(RETENTION[table])
                name = sql.Identifier(schema, partition_name(table, month))
                if (months is None or age_in_months(month, now) <= months) and not _exists(connection, name):
                    _create(connection, name, sql.Identifier(schema, table), month)
    except psycopg.errors.CheckViolation:
        logger.warning("%s: rows of %s are in the default partition and stay there", schema, month)


def _create(connection: psycopg.Connection, name: sql.Identifier, table: sql.Identifier, month: Month) -> None:
    start, stop = month_bounds(month)
    connection.execute(
        sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
            name, table, sql.Literal(start), sql.Literal(stop)
        )
    )


def _exists(connection: psycopg.Connection, name: sql.Identifier) -> bool:
    row = connection.execute("SELECT to_regclass(%s)", [name.as_string(connection)]).fetchone()
    return row is not None and row[0] is not None


def _kept_months(connection: psycopg.Connection, schema: str) -> dict[str, int | None]:
    columns = sorted(set(RETENTION.values()))
    row = connection.execute(
        sql.SQL("SELECT {} FROM {}").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(schema, "telemetry_retentionsettings")
        )
    ).fetchone()
    return dict(zip(columns, row, strict=True)) if row else {}


def month_partitions(connection: psycopg.Connection, schema: str, table: str) -> dict[Month, str]:
    """Return the table's monthly partitions as month → name, without the default partition."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid WHERE inhparent = %s::regclass",
        [sql.Identifier(schema, table).as_string(connection)],
    ).fetchall()
    names = {name for (name,) in rows if name != f"{table}_default"}
    return {(int(name[-6:-2]), int(name[-2:])): name for name in sorted(names)}


def partition_name(table: str, month: Month) -> str:
    """Return the name of the table's partition of the month."""
    return f"{table}_{month[0]:04d}{month[1]:02d}"


def month_bounds(month: Month) -> tuple[datetime, datetime]:
    """Return the beginning of the month and of the next one."""
    year, number = month
    following = (year + 1, 1) if number == 12 else (year, number + 1)
    return datetime(year, number, 1, tzinfo=UTC), datetime(*following, 1, tzinfo=UTC)


def month_before(now: datetime, months: int) -> Month:
    """Return the month that is `months` before the one of `now`."""
    number = now.year * 12 + now.month - 1 - months
    return number // 12, number % 12 + 1


def age_in_months(month: Month, now: datetime) -> int:
    """Return the age of the month in months; 0 for the current one."""
    return (now.year - month[0]) * 12 + now.month - month[1]
