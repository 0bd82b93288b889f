"""Step 7, storage: a batch into PostgreSQL, in plain SQL with the schema's name in it (no search path)."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from telemetry.services.pipeline.results import AcceptedItem, MessageResult, RefusedItem, TenantResult
from telemetry.services.rollups.partitions import KEPT_MONTHS, Partitions

from . import conflict_aware_writer, message_rows, optimistic_writer, quarantine_rows, statements, unmapped_series
from .change_generations import ChangeGenerations
from .optimistic_writer import PackedTenant
from .series import SeriesIds
from .suppression import QuarantineSuppressor

logger = logging.getLogger(__name__)

# How long a statement waits for a lock, so that a tenant whose tables are being changed does not hold up the others.
LOCK_TIMEOUT_MS = 50
# Plans that the server keeps for this connection; each tenant has several.
_PREPARED_STATEMENTS = 2000


@dataclass(slots=True)
class PackedBatch:
    """A batch on its way into PostgreSQL. `tenants` is None where something must be queried for it first."""

    parts: list[tuple[list[AcceptedItem], TenantResult]]
    tenants: list[PackedTenant] | None


class TenantWriter:
    """Writes tenants' messages. It has one connection of its own, and is not shared between threads.

    A batch is packed, sent, and received: between the last two the next batch can be validated. While one is in flight
    nothing else can be stored.
    """

    def __init__(self, conninfo: str, *, kept_months: int = KEPT_MONTHS) -> None:
        """`kept_months`: rows of older months go to the default partitions."""
        self._conninfo = conninfo
        self._connection: psycopg.Connection | None = None
        self._in_flight: optimistic_writer.OptimisticTransaction | None = None
        self._partitions = Partitions(kept_months)
        self._series: dict[str, SeriesIds] = {}
        self._suppressor = QuarantineSuppressor()
        self._generations = ChangeGenerations()

    @property
    def answer_socket(self) -> int | None:
        """The socket on which the answer to the batch in flight will come; None: none will come."""
        if self._in_flight is None or self._connection is None or self._connection.closed:
            return None
        return self._connection.fileno()

    def pack(self, batch: Mapping[str, Sequence[MessageResult]]) -> PackedBatch:
        """Return several tenants' messages, by schema, as they are sent, as far as that needs no query."""
        packed = PackedBatch([_split(schema, items) for schema, items in batch.items()], [])
        try:
            packed.tenants = [self._pack_known(*part) for part in packed.parts]
        except (KeyError, optimistic_writer.AlreadyStored):
            packed.tenants = None
        return packed

    def send(self, packed: PackedBatch, final_statements: optimistic_writer.FinalStatements | None = None) -> None:
        """Send a batch, to be stored in one transaction as new; `final_statements` are sent for each tenant at its end.

        Raises AlreadyStored where some of it is known to exist, and psycopg.Error; nothing of it is stored then.
        """
        connection = self.connect()
        if packed.tenants is None:
            packed.tenants = [
                optimistic_writer.pack(accepted, result, self._prepare(connection, result.schema, accepted))
                for accepted, result in packed.parts
            ]
        for tenant in packed.tenants:
            self._generations.ensure(connection, tenant.result.schema)
            if tenant.result.quarantined or tenant.result.refused_values:
                self._suppressor.load_day(connection, tenant.result.schema)
        self._in_flight = optimistic_writer.OptimisticTransaction(
            connection, packed.tenants, self._suppressor, final_statements
        )

    def receive(self, packed: PackedBatch) -> list[TenantResult]:
        """Wait for the answer to the batch in flight, and return the tenants' results. Raises as `send` does."""
        in_flight, self._in_flight = self._in_flight, None
        assert in_flight is not None  # noqa: S101 (a batch is received after it was sent)
        in_flight.receive()
        return [result for _, result in packed.parts]

    def store(
        self,
        schema: str,
        items: Sequence[MessageResult],
        patience_ms: int | None = None,
        before: Callable[[psycopg.Connection], None] | None = None,
        after: Callable[[psycopg.Connection, TenantResult], None] | None = None,
    ) -> TenantResult:
        """Store a tenant's messages, of which some may exist already, and return their result.

        `patience_ms`: how long to wait for locks, instead of the default. `before` and `after` run in the same
        transaction. Raises psycopg.Error; nothing is stored then.
        """
        connection = self.connect()
        accepted, result = _split(schema, items)
        with self._lock_timeout(connection, patience_ms):
            series = self._prepare(connection, schema, accepted)
            self._generations.ensure(connection, schema)
            with self._suppressor.transaction(), connection.transaction():
                if before is not None:
                    before(connection)
                conflict_aware_writer.store(connection, accepted, result, series, self._suppressor)
                if after is not None:
                    after(connection, result)
        return result

    def find_known(self, schema: str, accepted: Sequence[AcceptedItem]) -> set[int]:
        """Return the ids (`mid`) of the messages that are stored, or whose counter was used. Raises psycopg.Error."""
        return conflict_aware_writer.find_known(self.connect(), schema, accepted)

    def store_unrouted(self, refused: Sequence[RefusedItem], limited: int = 0) -> None:
        """Keep messages that belong to no tenant, for staff; `limited`: how many more are only counted."""
        quarantine_rows.add_unrouted(self.connect(), self._suppressor, refused, limited)

    def forget(self, schema: str) -> None:
        """Forget what is known of the tenant's tables, which may have been created anew."""
        self._series.pop(schema, None)
        self._generations.forget(schema)
        self._partitions.forget(schema)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._in_flight is not None:
            in_flight, self._in_flight = self._in_flight, None
            with suppress(psycopg.Error):
                in_flight.receive()

    def connect(self) -> psycopg.Connection:
        """Return the connection. Raises RuntimeError while a batch is in flight on it."""
        if self._in_flight is not None:
            raise RuntimeError("The batch in flight must be received before anything else is stored.")
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._conninfo,
                autocommit=True,
                connect_timeout=5,
                application_name="gwanje-ingest",
                # A message is acknowledged after the commit, so the commit must be on disk.
                options=f"-c synchronous_commit=on -c lock_timeout={LOCK_TIMEOUT_MS}",
            )
            self._connection.prepared_max = _PREPARED_STATEMENTS
            self._generations.clear()  # it may be another database, restored or promoted
            statements.register_arrays(self._connection.adapters)
        return self._connection

    @contextmanager
    def _lock_timeout(self, connection: psycopg.Connection, patience_ms: int | None) -> Iterator[None]:
        if patience_ms is None:
            yield
            return
        connection.execute(sql.SQL("SET lock_timeout = {}").format(patience_ms))
        try:
            yield
        finally:
            if not connection.closed:
                connection.execute(sql.SQL("SET lock_timeout = {}").format(LOCK_TIMEOUT_MS))

    def _pack_known(self, accepted: list[AcceptedItem], result: TenantResult) -> PackedTenant:
        """Raise KeyError where something must be queried, or created."""
        if any(item.result.unmapped or item.result.cut for item in accepted):
            raise KeyError(result.schema)
        if self._partitions.missing(result.schema, _times(accepted)):
            raise KeyError(result.schema)
        return optimistic_writer.pack(accepted, result, self._series[result.schema])

    def _prepare(self, connection: psycopg.Connection, schema: str, accepted: Sequence[AcceptedItem]) -> SeriesIds:
        """Create the partitions and the series that the messages need; they stay even where the messages do not."""
        self._partitions.ensure(connection, schema, _times(accepted))
        series = self._series.get(schema)
        if series is None:
            series = self._series[schema] = SeriesIds()
        unmapped_series.admit(connection, schema, series, accepted)
        series.resolve(connection, schema, accepted)
        return series


def _times(accepted: Sequence[AcceptedItem]) -> Iterable[datetime]:
    times = [item.result.time for item in accepted]
    for item in accepted:
        if item.result.is_timed:
            times.extend(message_rows.own_times(item.result))
    return times


def _split(schema: str, items: Sequence[MessageResult]) -> tuple[list[AcceptedItem], TenantResult]:
    """Return (the messages to store, a result with the others)."""
    accepted, result = [], TenantResult(schema, items)
    for item in items:
        if isinstance(item, AcceptedItem):
            accepted.append(item)
        elif isinstance(item, RefusedItem):
            result.quarantined.append(item)
        else:
            result.limited.append(item)
    return accepted, result
