"""Stage 6: a batch into PostgreSQL, in plain SQL with the schema's name in it (no search path)."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from telemetry.services.pipeline.results import AcceptedItem, Incoming, Judged, Outcome, RefusedItem
from telemetry.services.rollups.partitions import KEPT_MONTHS, Partitions

from . import binary, conflict_aware_writer, optimistic_writer, overflow, quarantine_rows, unmapped_series
from .optimistic_writer import Group
from .series import SeriesIds
from .suppression import FloodGuard

logger = logging.getLogger(__name__)

# What a statement waits for another's lock, so that a tenant whose tables are being changed does not hold up all.
LOCK_TIMEOUT_MS = 50
# Plans that the server keeps for us; each tenant has some of its own.
_PREPARED_STATEMENTS = 2000


@dataclass(slots=True)
class Packed:
    """A batch on its way into PostgreSQL. `groups` are there when nothing has to be looked up for it."""

    parts: dict[str, tuple[list[AcceptedItem], Outcome]]
    groups: list[Group] | None


class Storage:
    """Writes batches. One connection of its own, not shared between threads.

    A batch is packed, sent, and received: between the last two there is time to judge the next one. While one is on
    its way nothing else can be stored.
    """

    def __init__(self, conninfo: str, *, kept_months: int = KEPT_MONTHS) -> None:
        """`kept_months`: rows of older months go to the default partitions."""
        self._conninfo = conninfo
        self._connection: psycopg.Connection | None = None
        self._sending: optimistic_writer.Sending | None = None
        self._partitions = Partitions(kept_months)
        self._series: dict[str, SeriesIds] = {}
        self._guard = FloodGuard()

    @property
    def answering(self) -> int | None:
        """The socket on which the answer to what was sent will come; None: none will come."""
        if self._sending is None or self._connection is None or self._connection.closed:
            return None
        return self._connection.fileno()

    def pack(self, batch: Mapping[str, Sequence[Judged]]) -> Packed:
        """What several tenants sent, by schema, as it will be sent, as far as that can be said without asking."""
        packed = Packed({schema: _outcome_of(judged) for schema, judged in batch.items()}, [])
        try:
            packed.groups = [self._pack_known(schema, *part) for schema, part in packed.parts.items()]
        except (KeyError, optimistic_writer.Conflict):
            packed.groups = None
        return packed

    def send(self, packed: Packed, last: optimistic_writer.Last | None = None) -> None:
        """Send a batch, to be stored in one transaction, all of it new; `last`: what else is sent for each tenant.

        Raises Conflict where some of it is known to be there already, and psycopg.Error; nothing of it is stored then.
        """
        connection = self._connect()
        if packed.groups is None:
            packed.groups = [
                optimistic_writer.pack(schema, accepted, outcome, self._prepare(connection, schema, accepted))
                for schema, (accepted, outcome) in packed.parts.items()
            ]
        for group in packed.groups:
            if group.outcome.quarantined:
                self._guard.open(connection, group.schema)
        self._sending = optimistic_writer.Sending(connection, packed.groups, self._guard, last)

    def receive(self, packed: Packed) -> dict[str, Outcome]:
        """Wait for the answer to what was sent: the outcomes, by schema. Raises as `send` does."""
        sending, self._sending = self._sending, None
        assert sending is not None  # noqa: S101 (what is received was sent)
        sending.receive()
        return {schema: outcome for schema, (_, outcome) in packed.parts.items()}

    def store(
        self,
        schema: str,
        judged: Sequence[Judged],
        patience_ms: int | None = None,
        also: Callable[[psycopg.Connection], None] | None = None,
        after: Callable[[psycopg.Connection, Outcome], None] | None = None,
    ) -> Outcome:
        """Store a tenant's messages, of which some may be there already.

        `patience_ms`: how long to wait for locks, instead of as long as ever. `also` and `after`: what else is done
        before and after, in the same transaction. Raises psycopg.Error; nothing of it is done then.
        """
        connection = self._connect()
        accepted, outcome = _outcome_of(judged)
        with self._waiting_for_locks(connection, patience_ms):
            series = self._prepare(connection, schema, accepted)
            with self._guard.transaction(), connection.transaction():
                if also is not None:
                    also(connection)
                conflict_aware_writer.store(connection, schema, accepted, outcome, series, self._guard)
                if after is not None:
                    after(connection, outcome)
        return outcome

    def store_unrouted(self, judged: Sequence[RefusedItem]) -> None:
        """Keep messages that belong to no tenant, for staff."""
        quarantine_rows.keep_unrouted(self._connect(), self._guard, judged)

    def put_aside(self, schema: str, messages: Sequence[Incoming]) -> None:
        """Keep messages of a tenant whose tables are locked, until they are free. See `aside`."""
        overflow.put(self._connect(), schema, messages)

    def schemas_aside(self) -> list[str]:
        """The tenants of which there are messages aside."""
        return overflow.schemas(self._connect())

    def taking_back(self, schema: str) -> AbstractContextManager[bool]:
        """A block in which the tenant's messages are taken back; whether it is this process that does it."""
        return overflow.taking(self._connect(), schema)

    def first_aside(self, schema: str, most: int) -> list[Incoming]:
        """The oldest of the tenant's messages that are aside, with their numbers as `mid`."""
        return overflow.first(self._connect(), schema, most)

    def drop_aside(self, numbers: Sequence[int]) -> None:
        """These have been stored."""
        overflow.drop(self._connect(), numbers)

    def forget(self, schema: str) -> None:
        """The tenant's tables may have been made anew: look everything up again."""
        self._series.pop(schema, None)
        self._partitions.forget(schema)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._sending is not None:
            sending, self._sending = self._sending, None
            with suppress(psycopg.Error):
                sending.receive()

    def _connect(self) -> psycopg.Connection:
        """The connection, on which nothing may be on its way."""
        if self._sending is not None:
            raise RuntimeError("A batch was sent and not received: nothing else can be stored before.")
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._conninfo,
                autocommit=True,
                connect_timeout=5,
                application_name="gwanje-ingest",
                # A message is acknowledged after the commit, so the commit must mean the disk.
                options=f"-c synchronous_commit=on -c lock_timeout={LOCK_TIMEOUT_MS}",
            )
            self._connection.prepared_max = _PREPARED_STATEMENTS
            binary.register(self._connection.adapters)
        return self._connection

    @contextmanager
    def _waiting_for_locks(self, connection: psycopg.Connection, patience_ms: int | None) -> Iterator[None]:
        if patience_ms is None:
            yield
            return
        connection.execute(sql.SQL("SET lock_timeout = {}").format(patience_ms))
        try:
            yield
        finally:
            if not connection.closed:
                connection.execute(sql.SQL("SET lock_timeout = {}").format(LOCK_TIMEOUT_MS))

    def _pack_known(self, schema: str, accepted: list[AcceptedItem], outcome: Outcome) -> Group:
        """Raises KeyError where something has to be looked up, or made."""
        if any(item.verdict.unmapped or item.verdict.cut for item in accepted):
            raise KeyError(schema)
        if self._partitions.missing(schema, _times(accepted)):
            raise KeyError(schema)
        return optimistic_writer.pack(schema, accepted, outcome, self._series[schema])

    def _prepare(self, connection: psycopg.Connection, schema: str, accepted: Sequence[AcceptedItem]) -> SeriesIds:
        """The partitions and the series that the messages need: made before, and kept whatever becomes of these."""
        self._partitions.ensure(connection, schema, _times(accepted))
        series = self._series.get(schema)
        if series is None:
            series = self._series[schema] = SeriesIds()
        unmapped_series.admit(connection, schema, series, accepted)
        series.resolve(connection, schema, accepted)
        return series


def _times(accepted: Iterable[AcceptedItem]) -> Iterable[datetime]:
    return (item.verdict.time for item in accepted)


def _outcome_of(judged: Sequence[Judged]) -> tuple[list[AcceptedItem], Outcome]:
    accepted, outcome = [], Outcome()
    for item in judged:
        if isinstance(item, AcceptedItem):
            accepted.append(item)
        elif isinstance(item, RefusedItem):
            outcome.quarantined.append(item)
        else:
            outcome.limited.append(item)
    return accepted, outcome
