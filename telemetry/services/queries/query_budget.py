"""The budget of expensive queries: the time of one statement, and how many a tenant and a process run at a time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg.errors
from django.conf import settings
from django.db import OperationalError, connection, transaction

from devices.services import concurrency_limits
from tenants.infrastructure import concurrency
from tenants.infrastructure.concurrency import Lease, LimitReached, Operation

_PAUSE_SECONDS = 0.05
_RETRY_SECONDS = 5


class QueryTooExpensive(Exception):
    """PostgreSQL cancelled the query at its time limit."""


@contextmanager
def time_limited_queries() -> Iterator[None]:
    """Open a transaction in which no statement may take longer than `QUERY_SECONDS`.

    It waits up to `QUERY_WAIT_SECONDS` for its turn among the tenant's and the process' queries. Raises
    QueryTooExpensive, and LimitReached without a turn.
    """
    milliseconds = str(int(settings.QUERY_SECONDS * 1000))
    try:
        with _turn(), transaction.atomic():
            with connection.cursor() as cursor:
                # Compiling these queries takes longer than running them.
                cursor.execute(
                    "SELECT set_config('statement_timeout', %s, true), set_config('jit', 'off', true)", [milliseconds]
                )
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise QueryTooExpensive from error
        raise


def _turn() -> Lease:
    """Return a lease for a query; the wait holds no connection. Raises LimitReached."""
    until = time.monotonic() + settings.QUERY_WAIT_SECONDS
    shares = concurrency_limits.shares(Operation.QUERY)
    while True:
        try:
            return concurrency.acquire(Operation.QUERY, shares, retry_seconds=_RETRY_SECONDS)
        except LimitReached:
            if time.monotonic() >= until:
                raise
        if not connection.in_atomic_block:
            connection.close()  # Others can use it meanwhile.
        time.sleep(_PAUSE_SECONDS)
