"""The system check of PostgreSQL's table of locks, which a dump of many tenants can fill."""

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Tags, register
from django.db import Error, connection

# A dump locks each table of every schema for reading. PostgreSQL counts what all transactions lock together.
_QUERY = """
SELECT count(*), current_setting('max_locks_per_transaction')::int,
    current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int
FROM pg_class WHERE relkind IN ('r', 'p')
"""
# The rest is for what else runs during a dump.
_SHARE = 0.7


@register(Tags.database)
def check_lock_table(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Warn where a dump would not leave room in the table of locks; ingest waits then until the dump has ended."""
    if databases is None:
        return []
    try:
        with connection.cursor() as cursor:
            cursor.execute(_QUERY)
            tables, per_transaction, transactions = cursor.fetchone()
    except Error:
        return []  # the check of the connection itself reports it
    return warnings_for(tables, per_transaction, transactions)


def warnings_for(tables: int, per_transaction: int, transactions: int) -> list[CheckMessage]:
    """Return a warning where the tables take more than their share of the locks that PostgreSQL has room for."""
    room = per_transaction * transactions
    if tables <= _SHARE * room:
        return []
    wanted = -(-int(tables / _SHARE) // transactions)
    return [
        checks.Warning(
            f"A dump locks {tables} tables, and PostgreSQL has room for {room} locks.",
            hint=f"Set max_locks_per_transaction to at least {wanted} (it is {per_transaction}) then restart it.",
            id="gwanje.W001",
        )
    ]
