"""Which tenant's schema the connection is in."""

from typing import Any

from django.db import connection

# The tenants' backend adds these to Django's connection, whose type does not know them.
_connection: Any = connection


def current_schema() -> str:
    """The schema that queries of this thread go to; `public` outside of tenants."""
    return str(_connection.schema_name)


def leave_schema() -> None:
    """Back to the public schema."""
    _connection.set_schema_to_public()


def enter_schema_of(tenant: object) -> None:
    """For the rest of the request: the tenant's schema. Elsewhere use `tenant_context`, which leaves it again."""
    _connection.set_tenant(tenant)
