"""The database as a connection of one's own reaches it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection
from psycopg.types.datetime import TimestamptzLoader


def conninfo(**parameters: Any) -> str:
    """The database that Django uses, for a connection outside of Django; `parameters` are libpq's."""
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
    """Let no statement of this process' Django connection wait longer than this for somebody else's lock."""
    connection.settings_dict["OPTIONS"]["options"] = f"-c lock_timeout={milliseconds}"
    connection.close()


@contextmanager
def cursor_for_many() -> Iterator[Any]:
    """Django's cursor, that reads times as psycopg does, in C: Django's own way costs several microseconds each."""
    with connection.cursor() as cursor:
        cursor.adapters.register_loader("timestamptz", TimestamptzLoader)
        yield cursor
