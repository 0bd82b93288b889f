"""A plain COPY of the rows that the listener stored: what PostgreSQL can take at most, indexes and all."""

import time
from typing import Any

import psycopg
from psycopg import sql

from .bench import Bench
from .fleet import Fleet

SCHEMA = "plain_copy"
_TABLES = ("telemetry_message", "telemetry_reading")
_PART = 256 * 1024


def run(bench: Bench, fleet: Fleet, messages: int) -> dict[str, Any]:
    """The newest `messages` messages of the fleet's first tenant and their readings, in their order, in one go."""
    schema = fleet.schemas[0]
    look = bench.look
    look.execute(sql.SQL("DROP SCHEMA IF EXISTS {0} CASCADE; CREATE SCHEMA {0}").format(sql.Identifier(SCHEMA)))
    for table in _TABLES:
        names = sql.Identifier(SCHEMA, table), sql.Identifier(schema, table)
        look.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(*names))
    rows = {
        "telemetry_message": _read(look, schema, "telemetry_message", messages),
        "telemetry_reading": _read(look, schema, "telemetry_reading", 3 * messages),
    }
    with psycopg.connect(look.info.dsn, password=look.info.password) as connection:
        meter = bench.meter()
        before, began = meter.read(), time.monotonic()
        for table, data in rows.items():
            with connection.cursor().copy(
                sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(sql.Identifier(SCHEMA, table))
            ) as copy:
                for start in range(0, len(data), _PART):
                    copy.write(data[start : start + _PART])
        connection.commit()
        seconds = time.monotonic() - began
        spent = meter.read()["postgres"] - before["postgres"]
    counts = [_count(look, table) for table in _TABLES]
    if counts != [messages, 3 * messages]:
        raise AssertionError(f"{counts} rows were copied of {messages} messages")
    return {
        "messages": messages,
        "seconds": round(seconds, 3),
        "messages_per_s": round(messages / seconds),
        "rows_per_s": round(4 * messages / seconds),
        "cpu_s": {"postgres": round(spent, 2)},
    }


def _read(look: psycopg.Connection, schema: str, table: str, rows: int) -> bytes:
    """The table's newest rows as COPY gives them, oldest first."""
    newest = sql.SQL("SELECT * FROM (SELECT * FROM {} ORDER BY time DESC LIMIT {}) AS newest ORDER BY time").format(
        sql.Identifier(schema, table), sql.Literal(rows)
    )
    with look.cursor().copy(sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(newest)) as copy:
        return b"".join(copy)


def _count(look: psycopg.Connection, table: str) -> int:
    row = look.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(SCHEMA, table))).fetchone()
    return int(row[0]) if row else 0
