"""Rows of the changes for quarantined messages that are changed or removed after they were stored."""

from collections.abc import Collection

import psycopg
from django.db import connection as django_connection

from telemetry.models import ChangeBatch
from tenants.infrastructure.database import current_schema

from .change_generations import ensure_generation
from .message_rows import POSITION
from .statements import per_schema, run

_NOTE = per_schema(
    "INSERT INTO {changes} (generation, transaction, part, stored_at, quarantined, quarantined_ids)"
    f" SELECT {POSITION}, {ChangeBatch.SETTLED}, now(), cardinality($1::bigint[]), $1",
    changes="telemetry_changebatch",
    generation="telemetry_changegeneration",
)


def note_changes(connection: psycopg.Connection, schema: str, ids: Collection[int]) -> None:
    """Name messages that the transaction changes in the quarantine, or removes from it; once in a transaction."""
    if ids:
        ensure_generation(connection, schema)
        run(connection, _NOTE(schema), [sorted(ids)])


def note_removed(ids: Collection[int]) -> None:
    """Name messages that Django's transaction removes from the current tenant's quarantine."""
    note_changes(django_connection.connection, current_schema(), ids)
