"""Schemas filled by recorded statements: equal to those that migrations make, whole or empty, and only where empty."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connection
from django.db.migrations.executor import MigrationExecutor

from tenants.infrastructure.database import leave_schema
from tenants.services import recorded_schemas
from tenants.services.recorded_schemas import RecordedSchema, fill_empty_schema, record_path
from tests.processes import run_at_once
from tests.schemas.catalogue import Catalogue, read_catalogue
from tests.schemas.recording import run_migrations

_SCHEMA = "t_filled"


@pytest.fixture
def empty_schema(live_db: None) -> Iterator[str]:
    _execute(f"CREATE SCHEMA {_SCHEMA}")
    yield _SCHEMA
    leave_schema()
    _execute(f"DROP SCHEMA {_SCHEMA} CASCADE")


@pytest.fixture
def without_records(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make migrations do all from now on."""

    def forget() -> None:
        monkeypatch.setattr(recorded_schemas, "_IS_EMPTY", "SELECT %s IS NULL")

    return forget


@pytest.fixture
def executed_migrations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of migrations that are executed from now on."""
    executed: list[str] = []
    apply = MigrationExecutor.apply_migration

    def count(self: Any, state: Any, migration: Any, *args: Any, **options: Any) -> Any:
        executed.append(str(migration))
        return apply(self, state, migration, *args, **options)

    monkeypatch.setattr(MigrationExecutor, "apply_migration", count)
    return executed


def test_a_tenants_schema_is_equal_to_what_migrations_make(empty_schema: str, executed_migrations: list[str]) -> None:
    call_command("migrate_schemas", tenant=True, schema_name=empty_schema, interactive=False, verbosity=0)
    by_record = read_catalogue(empty_schema)
    assert len(executed_migrations) < 20, "most migrations are in the record"
    _execute(f"DROP SCHEMA {empty_schema} CASCADE; CREATE SCHEMA {empty_schema}")
    run_migrations(empty_schema)
    _assert_equal(by_record, read_catalogue(empty_schema))


def test_the_public_schema_is_equal_to_what_migrations_make(live_db: None, without_records: Callable[[], None]) -> None:
    with _own_database("by_record"):
        assert "tenants_tenant" in _names_of_tables(_filled("public"))
        call_command("migrate_schemas", shared=True, verbosity=0)
        by_record = read_catalogue("public")
    without_records()
    with _own_database("by_migrations"):
        call_command("migrate_schemas", shared=True, verbosity=0)
        _assert_equal(by_record, read_catalogue("public"))


def test_a_schema_with_a_table_is_left_to_migrations(empty_schema: str) -> None:
    _execute(f"CREATE TABLE {empty_schema}.mine ()")
    assert not fill_empty_schema(empty_schema)
    assert _names_of_tables(empty_schema) == ["mine"]


def test_a_record_of_an_unknown_migration_is_not_used(empty_schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_record(monkeypatch, lambda record: RecordedSchema((*record.migrations, ("devices", "9999_x")), ()))
    assert not fill_empty_schema(empty_schema)
    assert _names_of_tables(empty_schema) == []


def test_a_statement_that_fails_leaves_the_schema_empty(empty_schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace_record(
        monkeypatch, lambda record: RecordedSchema(record.migrations, (*record.statements, "SELECT nothing"))
    )
    with pytest.raises(ProgrammingError, match="nothing"):
        fill_empty_schema(empty_schema)
    assert _names_of_tables(empty_schema) == []


def test_two_processes_fill_a_schema_once(empty_schema: str) -> None:
    assert sorted(run_at_once([lambda: fill_empty_schema(empty_schema)] * 2)) == [False, True]


@pytest.mark.parametrize("options", [{"app_label": "devices", "migration_name": "0001"}, {"plan": True}])
def test_a_command_for_less_than_all_migrations_does_not_replay(empty_schema: str, options: dict[str, Any]) -> None:
    call_command("migrate_schemas", tenant=True, schema_name=empty_schema, interactive=False, verbosity=0, **options)
    assert "telemetry_series" not in _names_of_tables(empty_schema)


def test_a_record_is_read_as_it_was_written() -> None:
    text = record_path(_SCHEMA).read_text(encoding="utf-8")
    assert RecordedSchema.of_text(text).as_text() == text
    with pytest.raises(ValueError, match="the mark between two statements"):
        RecordedSchema((), ("SELECT 1;\n\nSELECT 2",)).as_text()


def _filled(schema: str) -> str:
    assert fill_empty_schema(schema)
    return schema


def _replace_record(patch: pytest.MonkeyPatch, change: Callable[[RecordedSchema], RecordedSchema]) -> None:
    read = recorded_schemas._read_record
    patch.setattr(recorded_schemas, "_read_record", lambda path: change(read(path)))


def _assert_equal(one: Catalogue, other: Catalogue) -> None:
    assert one["relations"]
    for kind in one.keys() | other.keys():
        assert one.get(kind) == other.get(kind), kind


def _names_of_tables(schema: str) -> list[str]:
    return [str(row[0]) for row in read_catalogue(schema)["relations"] if row[1] == "r"]


@contextmanager
def _own_database(name: str) -> Iterator[None]:
    """Use an empty database of this name on the run's server."""
    _execute(f"CREATE DATABASE {name}")
    connection.close()
    before = connection.settings_dict["NAME"]
    connection.settings_dict["NAME"] = name
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = before
        _execute(f"DROP DATABASE {name}")


def _execute(statements: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statements)
