"""Generations of a tenant's changes: in one of them the numbers of transactions only grow.

A restored backup, a replica that takes over and a schema that was created again can all bring the numbers back, so a
new generation begins at the first connection to a database that is not the last generation's.
"""

from uuid import uuid4

import psycopg
from psycopg import sql

from .statements import per_schema, run

_TABLES = {
    "generation": "telemetry_changegeneration",
    "message": "telemetry_message",
    "status_feed": "devices_statusfeed",
}
# The database of now: the cluster, its timeline (the first 8 digits of a WAL file's name; another one after a recovery
# or a takeover), the database and the table. And the database of the last generation.
_COMPARE = per_schema(
    "SELECT concat_ws('-', (SELECT system_identifier FROM pg_control_system()),"
    " left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),"
    " (SELECT oid FROM pg_database WHERE datname = current_database()), $1::regclass::oid),"
    " (SELECT database FROM {generation} ORDER BY id DESC LIMIT 1)",
    **_TABLES,
)
_LOCK = per_schema("LOCK TABLE {changes} IN SHARE ROW EXCLUSIVE MODE", changes="telemetry_changebatch")
_BEGIN = per_schema(
    "INSERT INTO {generation} (name, database, started_at, has_earlier, status_position)"
    " SELECT $1, $2, now(), EXISTS (SELECT 1 FROM {message}),"
    " coalesce((SELECT max(position) FROM {status_feed}), 0)",
    **_TABLES,
)


class ChangeGenerations:
    """The tenants whose generation was compared on a connection. Not shared between threads."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def ensure(self, connection: psycopg.Connection, schema: str) -> None:
        """See that the tenant's last generation is this database's. Queries the first time; not in a pipeline."""
        if schema not in self._known:
            ensure_generation(connection, schema)
            self._known.add(schema)

    def forget(self, schema: str) -> None:
        """Forget the tenant, whose tables may have been created anew."""
        self._known.discard(schema)

    def clear(self) -> None:
        """Forget all tenants: the connection is another one."""
        self._known.clear()


def ensure_generation(connection: psycopg.Connection, schema: str) -> None:
    """Begin a generation where the database is not that of the tenant's last. One statement where it is."""
    now, last = _compare(connection, schema)
    if now == last:
        return
    with connection.transaction():
        # Readers pass the last generation at once, so no transaction may add to it any more. Two listeners begin one.
        run(connection, _LOCK(schema))
        now, last = _compare(connection, schema)
        if now != last:
            run(connection, _BEGIN(schema), [uuid4(), now])


def _compare(connection: psycopg.Connection, schema: str) -> tuple[str, str | None]:
    table = sql.Identifier(schema, "telemetry_changebatch").as_string(connection)
    row = run(connection, _COMPARE(schema), [table]).fetchone()
    assert row is not None  # noqa: S101 (a SELECT without FROM)
    return row[0], row[1]
