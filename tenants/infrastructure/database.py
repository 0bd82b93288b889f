"""The tenant's schema of Django's connection, its settings, and connection parameters of the database."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connection, connections
from django.db.utils import load_backend
from django_tenants.utils import schema_context
from psycopg.types.datetime import TimestamptzLoader

# The database backend of django-tenants adds these methods; the type of Django's connection has none of them.
_connection: Any = connection

T = TypeVar("T")


def current_schema() -> str:
    """Return the schema of this thread's queries; `public` outside tenants."""
    return str(_connection.schema_name)


def leave_schema() -> None:
    """Set the public schema."""
    _connection.set_schema_to_public()


def enter_schema_of(tenant: object) -> None:
    """Set the tenant's schema for the rest of a request. Other code must use `tenant_context`, which restores it."""
    _connection.set_tenant(tenant)


def release_connection() -> None:
    """Return this thread's connection to the pool, if there is a pool and no transaction is open.

    The next query takes one again, in the same schema.
    """
    if _connection.settings_dict["OPTIONS"].get("pool") and not _connection.in_atomic_block:
        _connection.close()


async def run_in_schema(schema: str, function: Callable[[], T]) -> T:
    """Return the result of a synchronous function in the schema, in a thread; closes the thread's connections."""

    def run() -> T:
        try:
            with schema_context(schema):
                return function()
        finally:
            connections.close_all()

    return await sync_to_async(run)()


async def leave_request_thread() -> None:
    """Close the connections of the request's thread, and end the thread: a stream lasts for hours and needs neither.

    A later synchronous call of the request gets a new thread.
    """
    await sync_to_async(connections.close_all)()
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor = SyncToAsync.context_to_thread_executor.pop(context, None) if context is not None else None
    if executor is not None:
        executor.shutdown(wait=False)


# The keys of Django's OPTIONS that are not libpq's. Also `options`: time limits of Django's statements, which other
# connections set for themselves.
_NOT_LIBPQ = frozenset(
    {"pool", "isolation_level", "server_side_binding", "assume_role", "cursor_factory", "context", "options"}
)


def conninfo(**parameters: Any) -> str:
    """Return the connection string of Django's database, for a connection outside Django; `parameters` are libpq's.

    It has the parameters of DATABASE_URL too, TLS among them: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`.
    """
    wanted = connection.settings_dict
    given = {name: value for name, value in wanted["OPTIONS"].items() if name not in _NOT_LIBPQ}
    return psycopg.conninfo.make_conninfo(
        **{
            **given,
            "host": wanted["HOST"] or None,
            "port": wanted["PORT"] or None,
            "user": wanted["USER"] or None,
            "password": wanted["PASSWORD"] or None,
            "dbname": wanted["NAME"],
            **parameters,
        }
    )


def bound_lock_waits(milliseconds: int) -> None:
    """Limit how long statements of this process' Django connection wait for a lock."""
    connection.settings_dict["OPTIONS"]["options"] = f"-c lock_timeout={milliseconds}"
    connection.close()


def use_own_connection(lock_milliseconds: int) -> None:
    """Give this thread a Django connection outside of the pool, whose statements wait so long for a lock.

    For a thread that lasts as long as its process: it must neither keep a connection of the requests' pool, nor wait
    for locks as long as a request.
    """
    wanted = copy.deepcopy(connections.settings["default"])
    wanted["OPTIONS"].pop("pool", None)
    wanted["OPTIONS"]["options"] = f"-c lock_timeout={lock_milliseconds}"
    connections["default"] = load_backend(wanted["ENGINE"]).DatabaseWrapper(wanted, "default")


@contextmanager
def cursor_for_many() -> Iterator[Any]:
    """Open Django's cursor with psycopg's loader of times, in C: Django's own costs several microseconds for each."""
    with connection.cursor() as cursor:
        cursor.adapters.register_loader("timestamptz", TimestamptzLoader)
        yield cursor
