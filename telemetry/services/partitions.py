"""Monthly partitions of messages and readings, made when the first row of a month comes.

Rows older than `KEPT_MONTHS` go to the default partition: a device whose clock says 1970 makes no partition.
"""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime

import psycopg
from psycopg import sql

logger = logging.getLogger(__name__)

TABLES = ("telemetry_message", "telemetry_reading")
KEPT_MONTHS = 24

Month = tuple[int, int]


class Partitions:
    """The partitions that this process knows to be there."""

    def __init__(self) -> None:
        self._known: set[tuple[str, Month]] = set()

    def ensure(self, connection: psycopg.Connection, schema: str, times: Iterable[datetime]) -> None:
        """Make the partitions that rows of these times need. Outside the caller's transaction."""
        now = datetime.now(UTC)
        for month in {(time.year, time.month) for time in times}:
            if (schema, month) not in self._known and _age_in_months(month, now) <= KEPT_MONTHS:
                _create(connection, schema, month)
                self._known.add((schema, month))

    def forget(self, schema: str) -> None:
        """The schema was dropped or made anew."""
        self._known = {(name, month) for name, month in self._known if name != schema}


def _create(connection: psycopg.Connection, schema: str, month: Month) -> None:
    start, stop = _bounds(month)
    try:
        with connection.transaction():
            # IF NOT EXISTS alone is not safe against another listener doing the same.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"partitions:{schema}"])
            for table in TABLES:
                connection.execute(
                    sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                        sql.Identifier(schema, f"{table}_{month[0]:04d}{month[1]:02d}"),
                        sql.Identifier(schema, table),
                        sql.Literal(start),
                        sql.Literal(stop),
                    )
                )
    except psycopg.errors.CheckViolation:
        logger.warning("%s: rows of %s are in the default partition and stay there", schema, month)


def _bounds(month: Month) -> tuple[datetime, datetime]:
    year, number = month
    following = (year + 1, 1) if number == 12 else (year, number + 1)
    return datetime(year, number, 1, tzinfo=UTC), datetime(*following, 1, tzinfo=UTC)


def _age_in_months(month: Month, now: datetime) -> int:
    return (now.year - month[0]) * 12 + now.month - month[1]
