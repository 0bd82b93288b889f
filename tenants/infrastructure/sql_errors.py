"""The kinds of SQL errors: of a statement's data, of the schema of one tenant, of a lock, and of the whole server.

The kind decides the treatment: a message whose data PostgreSQL rejects goes to staff, a tenant whose tables are locked
or faulty is blocked and tried again while all others go on, and a lost server is waited for.
"""

from enum import StrEnum

import django.db
import psycopg

# Database errors of Django's connection and of connections of our own.
DATABASE_ERRORS = (django.db.Error, psycopg.Error)


class ErrorKind(StrEnum):
    """The part of the database that an error concerns, and so whom."""

    DATA = "data"  # the values of the statement: other values can be stored
    LOCK = "lock"  # another transaction, or memory for locks: the same statement can succeed later
    SCHEMA = "schema"  # tables, columns, rights or files of a schema: statements fail until it is mended
    SERVER = "server"  # the connection or the whole server


# By SQLSTATE, or by its class: the first two characters.
_KINDS = {
    # Values: numbers out of range, too long, rejected by a constraint; an index row that is too large.
    "21": ErrorKind.DATA,
    "22": ErrorKind.DATA,
    "23": ErrorKind.DATA,
    "54": ErrorKind.DATA,
    # A column without a default that the platform does not know, and a sequence behind its table's numbers.
    "23502": ErrorKind.SCHEMA,
    "23505": ErrorKind.SCHEMA,
    # Conflicts with other transactions, a cancelled statement, and a full table of locks.
    "40": ErrorKind.LOCK,
    "55P03": ErrorKind.LOCK,
    "55006": ErrorKind.LOCK,
    "57014": ErrorKind.LOCK,
    "53200": ErrorKind.LOCK,
    # Missing or changed tables, rights, triggers, damaged or missing files, a full disk or quota of a tablespace.
    "0A": ErrorKind.SCHEMA,
    "26": ErrorKind.SCHEMA,  # a statement that was prepared in a transaction that failed: the next attempt succeeds
    "2F": ErrorKind.SCHEMA,
    "38": ErrorKind.SCHEMA,
    "39": ErrorKind.SCHEMA,
    "3F": ErrorKind.SCHEMA,
    "42": ErrorKind.SCHEMA,
    "44": ErrorKind.SCHEMA,
    "55": ErrorKind.SCHEMA,
    "58": ErrorKind.SCHEMA,
    "P0": ErrorKind.SCHEMA,
    "XX": ErrorKind.SCHEMA,
    "53100": ErrorKind.SCHEMA,
    # Connections, a server that starts or stops, a standby that cannot be written.
    "08": ErrorKind.SERVER,
    "25": ErrorKind.SERVER,
    "28": ErrorKind.SERVER,
    "3D": ErrorKind.SERVER,
    "53": ErrorKind.SERVER,
    "57": ErrorKind.SERVER,
}
_ERRORS_OF_DATA = (psycopg.DataError, psycopg.IntegrityError, django.db.DataError, django.db.IntegrityError)
_ERRORS_OF_SERVERS = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    django.db.OperationalError,
    django.db.InterfaceError,
)


def kind_of(error: BaseException) -> ErrorKind:
    """Return the kind of a database error: psycopg's, or Django's around it."""
    for one in (error, error.__cause__):
        state = getattr(one, "sqlstate", None)
        if state is not None and (kind := _KINDS.get(state) or _KINDS.get(state[:2])) is not None:
            return kind
    if isinstance(error, _ERRORS_OF_SERVERS):
        return ErrorKind.SERVER
    # Without a code psycopg found the error itself, in the values.
    return ErrorKind.DATA if isinstance(error, _ERRORS_OF_DATA) else ErrorKind.SCHEMA


def is_of_tenant(error: BaseException) -> bool:
    """Return whether the error concerns one schema, by a lock or by a fault, so that other tenants can go on."""
    return kind_of(error) in (ErrorKind.LOCK, ErrorKind.SCHEMA)
