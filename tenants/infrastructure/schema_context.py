"""The tenant's schema of the current connection."""

from typing import Any

from django.db import connection

# The database backend of django-tenants adds these methods; the type of Django's connection has none of them.
_connection: Any = connection


def current_schema() -> str:
    """Return the schema of this thread's queries; `public` outside tenants."""
    return str(_connection.schema_name)


def leave_schema() -> None:
    """Set the public schema."""
    _connection.set_schema_to_public()


def enter_schema_of(tenant: object) -> None:
    """Set the tenant's schema for the rest of a request. Other code must use `tenant_context`, which restores it."""
    _connection.set_tenant(tenant)
