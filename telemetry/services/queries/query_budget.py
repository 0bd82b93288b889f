"""How much work one question may be for the database."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg.errors
from django.conf import settings
from django.db import OperationalError, connection, transaction


class QueryTooExpensive(Exception):
    """The question was given up: it takes the database longer than one question may."""


@contextmanager
def time_limited_queries() -> Iterator[None]:
    """A transaction in which no statement takes longer than `QUERY_SECONDS`. Raises QueryTooExpensive."""
    milliseconds = str(int(settings.QUERY_SECONDS * 1000))
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                # These questions are short beside what it takes to compile them.
                cursor.execute(
                    "SELECT set_config('statement_timeout', %s, true), set_config('jit', 'off', true)", [milliseconds]
                )
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise QueryTooExpensive from error
        raise
