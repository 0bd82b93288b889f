"""PostgreSQL's rows of a run, to be compared with the ledger."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from tenants.infrastructure.database import conninfo

Name = tuple[str, bytes]  # topic, SHA-256 of the payload


@dataclass(slots=True)
class TableContents:
    """Where each message is stored and when it was committed, and which were refused for which reason."""

    stored: dict[Name, list[tuple[str, int, float]]] = field(default_factory=dict)  # schema, device id, committed
    refused: dict[Name, list[tuple[str, str]]] = field(default_factory=dict)  # schema ("" for none), reason
    readings: int = 0
    late: int = 0
    # By schema, since the baseline.
    totals: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def rows(self) -> int:
        return sum(map(len, self.stored.values()))


class StoredRows:
    """Reads the tables. Create it before the run: the day's totals are compared with those at its start."""

    def __init__(self, devices: Mapping[str, Iterable[int]]) -> None:
        self._devices = {schema: list(ids) for schema, ids in devices.items()}
        self.began_at = time.time()
        with self._connect() as connection:
            # A commit's own time says when a row could be seen; without it, when the listener received it.
            row = connection.execute("SHOW track_commit_timestamp").fetchone()
            self._has_commit_times = row is not None and row[0] == "on"
            self._before = {schema: _totals(connection, schema) for schema in self._devices}

    def follow(self, schema: str, device_ids: Iterable[int]) -> None:
        """Read these devices too; their tenant can be new."""
        self._devices.setdefault(schema, []).extend(device_ids)
        self._before.setdefault(schema, Counter())

    def forget(self, schema: str) -> None:
        """Read this tenant no more, because it was removed."""
        self._devices.pop(schema, None)

    def read(self) -> TableContents:
        """Return all rows of one snapshot."""
        tables = TableContents()
        with self._connect() as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            for schema, ids in self._devices.items():
                self._read_schema(connection, schema, ids, tables)
            rows = connection.execute(
                "SELECT topic, sha256(payload), reason FROM public.tenants_unroutedmessage"
                " WHERE last_received_at >= to_timestamp(%s)",
                [self._since],
            )
            for topic, digest, reason in rows:
                tables.refused.setdefault((topic, digest), []).append(("", reason))
        return tables

    def count(self) -> int:
        """Return how many messages of the devices were settled since the baseline; it grows until all are."""
        with self._connect() as connection:
            return sum((_totals(connection, schema) - self._before[schema]).total() for schema in self._devices)

    def settled(self) -> int:
        """Return how many different messages were stored or refused since the baseline."""
        with self._connect() as connection:
            totals = [_totals(connection, schema) - self._before[schema] for schema in self._devices]
        return sum(one["stored"] + one["quarantined"] + one["rate_limited"] for one in totals)

    @property
    def _since(self) -> float:
        # A listener's clock may be behind by some minutes.
        return self.began_at - 3 * 3600

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(conninfo(), autocommit=True, connect_timeout=5)

    def _read_schema(
        self, connection: psycopg.Connection[Any], schema: str, ids: list[int], tables: TableContents
    ) -> None:
        committed = "pg_xact_commit_timestamp(m.xmin)" if self._has_commit_times else "m.received_at"
        rows = connection.execute(
            sql.SQL(
                "SELECT topic, sha256(payload), device_id, extract(epoch FROM {committed})::float8, late"
                " FROM {table} AS m WHERE device_id = ANY(%s) AND {committed} >= to_timestamp(%s)"
            ).format(committed=sql.SQL(committed), table=sql.Identifier(schema, "telemetry_message")),
            [ids, self.began_at if self._has_commit_times else self._since],
        )
        for topic, digest, device_id, at, late in rows:
            tables.stored.setdefault((topic, digest), []).append((schema, device_id, at))
            tables.late += late
        refused = connection.execute(
            sql.SQL(
                "SELECT topic, sha256(payload), reason FROM {}"
                " WHERE last_received_at >= to_timestamp(%s) AND metric = ''"
            ).format(sql.Identifier(schema, "telemetry_quarantined")),
            [self._since],
        )
        for topic, digest, reason in refused:
            tables.refused.setdefault((topic, digest), []).append((schema, reason))
        tables.readings += self._readings(connection, schema, ids)
        tables.totals[schema] = Counter(_totals(connection, schema))
        tables.totals[schema].subtract(self._before[schema])

    def _readings(self, connection: psycopg.Connection[Any], schema: str, ids: list[int]) -> int:
        """Return how many readings belong to the messages of the run."""
        committed = "pg_xact_commit_timestamp(r.xmin)" if self._has_commit_times else "now()"
        row = connection.execute(
            sql.SQL(
                "SELECT count(*) FROM {} AS r JOIN {} AS s ON s.id = r.series_id"
                " WHERE s.device_id = ANY(%s) AND {} >= to_timestamp(%s)"
            ).format(
                sql.Identifier(schema, "telemetry_reading"),
                sql.Identifier(schema, "telemetry_series"),
                sql.SQL(committed),
            ),
            [ids, self.began_at],
        ).fetchone()
        return int(row[0]) if row else 0


def _totals(connection: psycopg.Connection[Any], schema: str) -> Counter[str]:
    columns = ("received", "stored", "duplicates", "quarantined", "rate_limited")
    row = connection.execute(
        sql.SQL("SELECT {} FROM {}").format(
            sql.SQL(", ").join(sql.SQL("coalesce(sum({}), 0)::bigint").format(sql.Identifier(c)) for c in columns),
            sql.Identifier(schema, "telemetry_ingesttotals"),
        )
    ).fetchone()
    return Counter(dict(zip(columns, map(int, row or ()), strict=False)))
