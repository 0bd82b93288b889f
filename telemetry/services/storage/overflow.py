"""Messages put aside: of tenants whose tables are locked, in the public schema, until those are free.

Here they are safe and can be acknowledged: the broker sends only so many ahead, and while they waited unacknowledged
they would take the room of the other tenants' messages.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC

import psycopg

from telemetry.services.pipeline.results import Incoming

from . import binary
from .statements import run

_PUT = (
    b"INSERT INTO public.tenants_waitingmessage (schema_name, topic, payload, received_at)"
    b" SELECT $1, topic, payload, received_at"
    b" FROM unnest($2, $3, $4) WITH ORDINALITY AS m(topic, payload, received_at, place) ORDER BY place"
)
_FIRST = (
    b"SELECT id, topic, payload, received_at FROM public.tenants_waitingmessage"
    b" WHERE schema_name = $1 ORDER BY id LIMIT $2"
)
_DROP = b"DELETE FROM public.tenants_waitingmessage WHERE id = ANY($1)"
# From one schema to the next by the index, however many messages each has.
_SCHEMAS = (
    b"WITH RECURSIVE s(name) AS (SELECT min(schema_name) FROM public.tenants_waitingmessage UNION ALL"
    b" SELECT (SELECT min(schema_name) FROM public.tenants_waitingmessage WHERE schema_name > s.name) FROM s"
    b" WHERE s.name IS NOT NULL) SELECT name FROM s WHERE name IS NOT NULL"
)
# Of this session, so that it ends with the process.
_LOCK = b"SELECT pg_try_advisory_lock($1, hashtext($2))"
_UNLOCK = b"SELECT pg_advisory_unlock($1, hashtext($2))"
_LOCK_CLASS = 20_261_128


def put(connection: psycopg.Connection, schema: str, messages: Sequence[Incoming]) -> None:
    """Put a tenant's messages behind those that are there. They may be acknowledged afterwards."""
    columns = [
        binary.texts([message.topic for message in messages]),
        binary.byte_strings([message.payload for message in messages]),
        binary.times([binary.micros(message.received_at) for message in messages]),
    ]
    run(connection, _PUT, [schema, *columns])


def first(connection: psycopg.Connection, schema: str, most: int) -> list[Incoming]:
    """The tenant's oldest messages; `mid` is what `drop` calls them by."""
    rows = run(connection, _FIRST, [schema, most])
    return [Incoming(topic, bytes(payload), at.astimezone(UTC), mid, 0) for mid, topic, payload, at in rows]


def drop(connection: psycopg.Connection, mids: Sequence[int]) -> None:
    """These are stored."""
    run(connection, _DROP, [binary.int8s(mids)])


def schemas(connection: psycopg.Connection) -> list[str]:
    """Whose messages are there."""
    return [name for (name,) in run(connection, _SCHEMAS)]


@contextmanager
def taking(connection: psycopg.Connection, schema: str) -> Iterator[bool]:
    """Whether it is this process that takes the tenant's messages back now: two would store them twice at a time."""
    row = run(connection, _LOCK, [_LOCK_CLASS, schema]).fetchone()
    if row is None or not row[0]:
        yield False
        return
    try:
        yield True
    finally:
        if not connection.closed:
            run(connection, _UNLOCK, [_LOCK_CLASS, schema])
