"""Statements with the schema's name in them: composed once for each schema, and run as they are.

Composing a statement and looking for its placeholders cost more than sending it, so the hot path's have `$1` and
are kept.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import sql


def per_schema(template: str, **tables: str) -> Callable[[str], bytes]:
    """A function from a schema's name to the statement with the schema's tables in it; parameters are `$1` ….

    `tables` names the tables that stand in the template in braces.
    """

    @lru_cache(maxsize=4096)
    def compose(schema: str) -> bytes:
        named = {name: sql.Identifier(schema, table) for name, table in tables.items()}
        return sql.SQL(template).format(**named).as_bytes(None)

    return compose


def run(connection: psycopg.Connection, statement: bytes, parameters: Sequence[Any] = ()) -> psycopg.Cursor:
    """Execute a statement with `$1` …; its cursor."""
    cursor = psycopg.RawCursor(connection)
    cursor.execute(statement, parameters)
    return cursor
