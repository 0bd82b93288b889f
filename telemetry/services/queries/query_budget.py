"""The time limit of one query of a request."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg.errors
from django.conf import settings
from django.db import OperationalError, connection, transaction


class QueryTooExpensive(Exception):
    """PostgreSQL cancelled the query at its time limit."""


@contextmanager
def time_limited_queries() -> Iterator[None]:
    """Open a transaction in which no statement may take longer than `QUERY_SECONDS`. Raises QueryTooExpensive."""
    milliseconds = str(int(settings.QUERY_SECONDS * 1000))
    try:
        with transaction.atomic():
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
