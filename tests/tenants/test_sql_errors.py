"""The kind of SQL errors: of data, of a lock, of a schema, or of the server."""

import django.db
import psycopg
import pytest

from tenants.infrastructure.sql_errors import ErrorKind, is_of_tenant, kind_of

ERRORS: dict[ErrorKind, list[Exception]] = {
    ErrorKind.DATA: [
        psycopg.DataError("a string literal cannot contain NUL"),
        psycopg.errors.NumericValueOutOfRange(),
        psycopg.errors.CheckViolation(),
        psycopg.errors.ForeignKeyViolation(),
        psycopg.errors.ProgramLimitExceeded("index row size 3000 exceeds the maximum"),
        django.db.IntegrityError(),
    ],
    ErrorKind.LOCK: [
        psycopg.errors.LockNotAvailable(),
        psycopg.errors.DeadlockDetected(),
        psycopg.errors.SerializationFailure(),
        psycopg.errors.QueryCanceled(),
        psycopg.errors.OutOfMemory("out of shared memory"),
    ],
    ErrorKind.SCHEMA: [
        psycopg.errors.UndefinedTable(),
        psycopg.errors.UndefinedColumn(),
        psycopg.errors.InvalidSchemaName(),
        psycopg.errors.InsufficientPrivilege(),
        psycopg.errors.NotNullViolation(),
        psycopg.errors.UniqueViolation(),
        psycopg.errors.RaiseException(),
        psycopg.errors.IndexCorrupted(),
        psycopg.errors.DiskFull(),
        psycopg.errors.FeatureNotSupported("cached plan must not change result type"),
    ],
    ErrorKind.SERVER: [
        psycopg.OperationalError("the server closed the connection"),
        psycopg.InterfaceError("the connection is closed"),
        psycopg.errors.AdminShutdown(),
        psycopg.errors.TooManyConnections(),
        psycopg.errors.ReadOnlySqlTransaction(),
        django.db.InterfaceError(),
    ],
}


@pytest.mark.parametrize(("kind", "error"), [(kind, error) for kind, errors in ERRORS.items() for error in errors])
def test_the_kind_of_an_error_and_of_djangos_around_it(kind: ErrorKind, error: Exception) -> None:
    assert kind_of(error) is kind
    around = django.db.OperationalError()
    around.__cause__ = error
    if getattr(error, "sqlstate", None):
        assert kind_of(around) is kind
    assert is_of_tenant(error) == (kind in (ErrorKind.LOCK, ErrorKind.SCHEMA))
