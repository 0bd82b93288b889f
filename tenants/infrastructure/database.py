"""Connection parameters of the database, and settings of Django's connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection
from psycopg.types.datetime import TimestamptzLoader


def conninfo(**parameters: Any) -> str:
    """Return the connection string of Django's database, for a connection outside Django; `parameters` are libpq's."""
    wanted = connection.settings_dict
    return psycopg.conninfo.make_conninfo(
        host=wanted["HOST"] or None,
        port=wanted["PORT"] or None,
        user=wanted["USER"] or None,
        password=wanted["PASSWORD"] or None,
        dbname=wanted["NAME"],
        **parameters,
    )


def bound_lock_waits(milliseconds: int) -> None:
    """Limit how long statements of this process' Django connection wait for a lock."""
    connection.settings_dict["OPTIONS"]["options"] = f"-c lock_timeout={milliseconds}"
    connection.close()


@contextmanager
def cursor_for_many() -> Iterator[Any]:
    """Open Django's cursor with psycopg's loader of times, in C: Django's own costs several microseconds for each."""
    with connection.cursor() as cursor:
        cursor.adapters.register_loader("timestamptz", TimestamptzLoader)
        yield cursor
