"""The fast way for messages that are most likely new: all tenants of a batch in one transaction, sent in one go.

Nothing is asked first, and nothing is waited for while it is sent: one pipeline holds everything from BEGIN to
COMMIT, and its answer is looked at later. Where a message, a reading or a counter is there already, a statement
fails, PostgreSQL undoes the transaction, and `Conflict` is raised: the batch then goes the exact way.
"""

import select
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from telemetry.services.pipeline.results import AcceptedItem, Outcome

from . import daily_totals, late_readings, message_rows, quarantine_rows, sequences, signature_upgrades
from .series import SeriesIds
from .statements import run
from .suppression import FloodGuard


class Conflict(Exception):
    """Something of the batch is stored already."""


# Called with the connection, a schema, and what is stored there: sends statements whose answers nobody waits for.
Last = Callable[[psycopg.Connection, str, Outcome], None]


@dataclass(slots=True, eq=False)
class Group:
    """A tenant's part of a batch, ready to be sent. What is accepted is in `outcome.stored` from the beginning."""

    schema: str
    outcome: Outcome
    parameters: Sequence[Any]  # of `rows.STORE_NEW`; empty: nothing was accepted


def pack(schema: str, accepted: list[AcceptedItem], outcome: Outcome, series: SeriesIds) -> Group:
    """A tenant's messages as what is sent of them. Asks nobody.

    Raises KeyError where a series is not known yet, and Conflict where two messages have one counter.
    """
    if not accepted:
        return Group(schema, outcome, ())
    outcome.stored, outcome.readings = accepted, message_rows.readings(accepted, series)
    counters = sequences.counters_of(accepted)
    if len(set(counters)) != len(counters):
        raise Conflict
    boots = len({(counter.device_id, counter.boot) for counter in counters})
    parameters = [
        *message_rows.message_arrays(accepted),
        *message_rows.reading_arrays(outcome.readings),
        *sequences.arrays(counters),
    ]
    return Group(schema, outcome, [*parameters, boots])


class Sending:
    """A transaction on its way: everything is sent when it is made, and `receive` waits for the answer."""

    def __init__(
        self, connection: psycopg.Connection, groups: Sequence[Group], guard: FloodGuard, last: Last | None = None
    ) -> None:
        """Raises Conflict, or another psycopg.Error; nothing is stored then."""
        self._connection = connection
        self._open = ExitStack()
        try:
            self._open.enter_context(guard.transaction())
            self._open.enter_context(connection.pipeline())
            connection.execute("BEGIN")
            _write(connection, sorted(groups, key=lambda group: group.schema), guard)
            if last is not None:
                for group in groups:
                    last(connection, group.schema, group.outcome)
            connection.execute("COMMIT")
            _flush(connection)
        except BaseException as error:
            # An answer may have come while it was being sent.
            with suppress(psycopg.Error):
                self._open.__exit__(type(error), error, error.__traceback__)
            self._undo()
            if _is_conflict(error):
                raise Conflict from error
            raise

    def receive(self) -> None:
        """Wait until it is committed. Raises Conflict, or another psycopg.Error; nothing is stored then, or, where
        the connection was lost, perhaps everything."""
        try:
            self._open.close()
        except BaseException as error:
            self._undo()
            if _is_conflict(error):
                raise Conflict from error
            raise

    def _undo(self) -> None:
        if self._connection.info.transaction_status in (TransactionStatus.INERROR, TransactionStatus.INTRANS):
            self._connection.execute("ROLLBACK")


def _is_conflict(error: BaseException) -> bool:
    return isinstance(error, psycopg.errors.UniqueViolation | psycopg.errors.DivisionByZero)


def _flush(connection: psycopg.Connection) -> None:
    """Send what is queued, and ask that the answers are sent as they come; those are not waited for."""
    server = connection.pgconn
    server.send_flush_request()
    while server.flush():
        # PostgreSQL reads no more while nobody reads what it says.
        if select.select([server.socket], [server.socket], [])[0]:
            server.consume_input()


def _write(connection: psycopg.Connection, groups: Sequence[Group], guard: FloodGuard) -> None:
    for group in groups:
        if group.parameters:
            run(connection, message_rows.STORE_NEW(group.schema), group.parameters)
    for group in groups:
        late_readings.mark(connection, group.schema, group.outcome.stored)
        signature_upgrades.raise_floors(connection, group.schema, group.outcome.stored)
        quarantine_rows.quarantine(connection, group.schema, guard, group.outcome.quarantined)
    for group in groups:
        daily_totals.add(connection, group.schema, group.outcome)
