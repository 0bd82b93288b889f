"""Recording the statements by which migrations fill an empty schema."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django_tenants.utils import get_public_schema_name, schema_context

from tenants.services.recorded_schemas import RecordedSchema, record_path

_TENANT_SCHEMA = "t_recorded"


def record() -> list[Path]:
    """Write the records of both kinds of schema, from an empty database; return the files."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {_TENANT_SCHEMA}")
    schemas = [get_public_schema_name(), _TENANT_SCHEMA]
    for schema in schemas:
        record_path(schema).write_text(_record_migrations(schema).as_text(), encoding="utf-8")
    return [record_path(schema) for schema in schemas]


def run_migrations(schema: str) -> tuple[tuple[str, str], ...]:
    """Run all migrations in the empty schema without a record; return their apps and names."""
    with schema_context(schema):
        executor = MigrationExecutor(connection)
        _without_public(schema, executor.recorder.ensure_schema)
        executor.migrate(executor.loader.graph.leaf_nodes())
        return tuple(executor.recorder.applied_migrations())


def _record_migrations(schema: str) -> RecordedSchema:
    statements: list[str] = []
    with connection.execute_wrapper(_recorder(schema, statements)):
        migrations = run_migrations(schema)
    return RecordedSchema(migrations, tuple(statements))


def _without_public(schema: str, call: Callable[[], None]) -> None:
    """Call with the schema alone in the search path: the table of migrations of `public` is not the schema's."""
    tenants_connection: Any = connection
    tenants_connection.set_schema(schema, include_public=False)
    call()
    tenants_connection.set_schema(schema)


def _recorder(schema: str, statements: list[str]) -> Callable[..., Any]:
    def record_statement(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        text = str(sql).strip().rstrip(";")
        if not text.startswith(_NOT_RECORDED):
            if params or schema in text.replace('"', "").split():
                raise ValueError(f"A statement with parameters or the schema's name cannot be replayed: {text}")
            statements.append(text)
        return execute(sql, params, many, context)

    return record_statement


# Queries, the search path, and the rows of the table of migrations, whose times are those of the replay.
_NOT_RECORDED = ("SELECT", "SHOW", "SET search_path", "SAVEPOINT", "RELEASE", 'INSERT INTO "django_migrations"')
