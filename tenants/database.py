"""The database as a connection of one's own reaches it."""

from typing import Any

import psycopg
from django.db import connection


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
