"""The fast way for messages that are probably new: all tenants of a batch in one transaction, sent in one pipeline.

Nothing is queried first, and nothing is waited for while it is sent: one pipeline holds everything from BEGIN to
COMMIT, and its answer is read later. Where a message, a reading or a counter exists already, a statement fails,
PostgreSQL rolls the transaction back, and `AlreadyStored` is raised: the conflict-aware writer then stores the batch.
"""

import select
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from telemetry.services.pipeline.results import AcceptedItem, TenantResult

from . import bookkeeping, message_rows, quarantine_rows
from .series import SeriesIds
from .statements import run
from .suppression import QuarantineSuppressor


class AlreadyStored(Exception):
    """Something of the batch is stored already."""


# Called with the connection and a tenant's result: sends further statements whose answers are not waited for.
FinalStatements = Callable[[psycopg.Connection, TenantResult], None]


@dataclass(slots=True, eq=False)
class PackedTenant:
    """A tenant's part of a batch, ready to be sent. `result.stored` holds the accepted messages from the beginning."""

    result: TenantResult
    parameters: Sequence[Any]  # of `message_rows.STORE_NEW`; empty where no message was accepted


def pack(accepted: list[AcceptedItem], result: TenantResult, series: SeriesIds) -> PackedTenant:
    """Return a tenant's messages as they are sent, without a query.

    Raises KeyError where a series is not known yet, and AlreadyStored where two messages have one counter.
    """
    if not accepted:
        return PackedTenant(result, ())
    times = message_rows.times_of(accepted)
    result.stored, result.readings = accepted, message_rows.readings_of(accepted, times, series)
    if any(item.result.refused for item in accepted):
        result.refused_values = quarantine_rows.refused_values_of(accepted)
    counters = message_rows.counters_of(accepted)
    if len(set(counters)) != len(counters):
        raise AlreadyStored
    boots = len({counter[:2] for counter in counters})
    parameters = [
        *message_rows.message_arrays(accepted, times),
        *message_rows.reading_arrays(result.readings),
        *message_rows.counter_arrays(counters),
    ]
    return PackedTenant(result, [*parameters, boots])


class OptimisticTransaction:
    """A transaction in flight: the constructor sends everything, and `receive` waits for the answer."""

    def __init__(
        self,
        connection: psycopg.Connection,
        tenants: Sequence[PackedTenant],
        suppressor: QuarantineSuppressor,
        final_statements: FinalStatements | None = None,
    ) -> None:
        """Raise AlreadyStored, or another psycopg.Error; nothing is stored then."""
        self._connection = connection
        self._open = ExitStack()
        try:
            if any(tenant.result.quarantined or tenant.result.refused_values for tenant in tenants):
                self._open.enter_context(suppressor.transaction())
            self._open.enter_context(connection.pipeline())
            connection.execute("BEGIN")
            _write(connection, sorted(tenants, key=lambda tenant: tenant.result.schema), suppressor)
            if final_statements is not None:
                for tenant in tenants:
                    final_statements(connection, tenant.result)
            connection.execute("COMMIT")
            _flush(connection)
        except BaseException as error:
            # An answer may have arrived while it was being sent.
            with suppress(psycopg.Error):
                self._open.__exit__(type(error), error, error.__traceback__)
            self._undo()
            if _is_conflict(error):
                raise AlreadyStored from error
            raise

    def receive(self) -> None:
        """Wait for the commit. Raises AlreadyStored, or another psycopg.Error.

        Nothing is stored then, except that after a lost connection everything may be stored.
        """
        try:
            self._open.close()
        except BaseException as error:
            self._undo()
            if _is_conflict(error):
                raise AlreadyStored from error
            raise

    def _undo(self) -> None:
        if self._connection.info.transaction_status in (TransactionStatus.INERROR, TransactionStatus.INTRANS):
            self._connection.execute("ROLLBACK")


def _is_conflict(error: BaseException) -> bool:
    return isinstance(error, psycopg.errors.UniqueViolation | psycopg.errors.DivisionByZero)


def _flush(connection: psycopg.Connection) -> None:
    """Send the queued statements, and request their answers as they come; the answers are not waited for."""
    server = connection.pgconn
    server.send_flush_request()
    while server.flush():
        # PostgreSQL stops reading while its answers are not read.
        if select.select([server.socket], [server.socket], [])[0]:
            server.consume_input()


def _write(connection: psycopg.Connection, tenants: Sequence[PackedTenant], suppressor: QuarantineSuppressor) -> None:
    for tenant in tenants:
        if tenant.parameters:
            run(connection, message_rows.STORE_NEW(tenant.result.schema), tenant.parameters)
    for tenant in tenants:
        result = tenant.result
        bookkeeping.mark_late_hours(connection, result.schema, result.stored)
        bookkeeping.raise_min_signature_versions(connection, result.schema, result.stored)
        if refused := [*result.quarantined, *result.refused_values]:
            quarantine_rows.add_quarantined(connection, result.schema, suppressor, refused)
    for tenant in tenants:
        bookkeeping.record_unusual(connection, tenant.result)
    for tenant in tenants:
        bookkeeping.add_totals(connection, tenant.result)
