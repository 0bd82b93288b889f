"""Changing audit entries, as the owner of their table can, and as the platform never does."""

from typing import Any

from django.db import connection, transaction

_RIGHTS = "UPDATE, DELETE ON devices_auditentry"
_OWN = "GRANT UPDATE (position, previous_hash, hash) ON devices_auditentry TO CURRENT_USER"


def forge(statement: str, *values: Any) -> None:
    """Execute a statement on the current tenant's audit with every right."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"GRANT {_RIGHTS} TO CURRENT_USER")
        cursor.execute(statement, values or None)
        cursor.execute(f"REVOKE {_RIGHTS} FROM CURRENT_USER")
        cursor.execute(_OWN)
