"""Filling an empty schema by the recorded statements of its migrations, at a fraction of their processor time.

Migrations render the state of all models again at each step, which takes seconds; their statements take a tenth of
one. The records of `tenants/schemas/` name the migrations that they contain; later ones run on the result as on any
schema. `make schemas` records them again.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django_tenants.utils import get_public_schema_name, schema_context

_DIRECTORY = Path(__file__).resolve().parents[1] / "schemas"
_MIGRATION = "-- migration: "
_END = ";\n\n"
_HEAD = "-- The statements of these migrations in an empty schema. Written by `make schemas`: do not edit.\n"
_IS_EMPTY = """
SELECT NOT EXISTS (
    SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace WHERE nspname = %s
)
"""


@dataclass(frozen=True, slots=True)
class RecordedSchema:
    """Migrations, as pairs of app and name, and their statements without the final semicolon, in order."""

    migrations: tuple[tuple[str, str], ...]
    statements: tuple[str, ...]

    def as_text(self) -> str:
        """Return the record as its file contains it. Raises ValueError where it could not be read again."""
        names = [f"{_MIGRATION}{app} {name}\n" for app, name in self.migrations]
        text = "".join([_HEAD, *names, "\n", *(statement + _END for statement in self.statements)])
        if RecordedSchema.of_text(text) != self:
            raise ValueError("A statement contains the mark between two statements.")
        return text

    @staticmethod
    def of_text(text: str) -> "RecordedSchema":
        """Return the record of a file's text."""
        head, _, body = text.partition("\n\n")
        names = (line.removeprefix(_MIGRATION) for line in head.splitlines() if line.startswith(_MIGRATION))
        pairs = ((app, name) for app, _, name in (each.partition(" ") for each in names))
        return RecordedSchema(tuple(pairs), tuple(body.split(_END)[:-1]))


def record_path(schema: str) -> Path:
    """Return the file with the record for the schema: one for `public`, one for all tenants."""
    return _DIRECTORY / ("public.sql" if schema == get_public_schema_name() else "tenant.sql")


def fill_empty_schema(schema: str) -> bool:
    """Execute the record in the schema, in one transaction.

    Return False where migrations must do all: in a schema that has tables, or where this version has no migration of
    a recorded name.
    """
    with schema_context(schema), transaction.atomic():
        return _lock_if_empty(schema) and _execute(_read_record(record_path(schema)))


@cache
def _read_record(path: Path) -> RecordedSchema:
    return RecordedSchema.of_text(path.read_text(encoding="utf-8"))


def _lock_if_empty(schema: str) -> bool:
    """Return whether the schema has no tables, and keep other processes from filling it until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"fill_empty_schema:{schema}"])
        cursor.execute(_IS_EMPTY, [schema])
        return bool(cursor.fetchone()[0])


def _execute(recorded: RecordedSchema) -> bool:
    """Fill the schema; return False, and change nothing, where the record names a migration that there is not."""
    if not set(recorded.migrations) <= set(MigrationLoader(None).disk_migrations):
        return False
    with connection.cursor() as cursor:
        for statement in recorded.statements:
            cursor.execute(statement)
    applied = MigrationRecorder(connection).migration_qs
    applied.bulk_create(applied.model(app=app, name=name) for app, name in recorded.migrations)
    return True
