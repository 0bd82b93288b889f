"""Overflow: messages of tenants whose tables are locked or faulty, in the public schema until they can be stored.

They are safe there and can be acknowledged. The broker sends only a window of messages ahead of their
acknowledgements, and messages that wait unacknowledged would fill the window of the other tenants.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC

import psycopg

from telemetry.services.pipeline.results import Incoming, LimitedItem

from . import bookkeeping, statements
from .statements import run

_SPILL = (
    b"INSERT INTO public.tenants_waitingmessage (schema_name, topic, payload, received_at)"
    b" SELECT $1, topic, payload, received_at"
    b" FROM unnest($2, $3, $4) WITH ORDINALITY AS m(topic, payload, received_at, place) ORDER BY place"
)
_OLDEST = (
    b"SELECT id, topic, payload, received_at FROM public.tenants_waitingmessage"
    b" WHERE schema_name = $1 ORDER BY id LIMIT $2"
)
_DELETE = b"DELETE FROM public.tenants_waitingmessage WHERE id = ANY($1)"
# From one schema to the next by the index, however many messages each has.
_SCHEMAS = (
    b"WITH RECURSIVE s(name) AS (SELECT min(schema_name) FROM public.tenants_waitingmessage UNION ALL"
    b" SELECT (SELECT min(schema_name) FROM public.tenants_waitingmessage WHERE schema_name > s.name) FROM s"
    b" WHERE s.name IS NOT NULL) SELECT name FROM s WHERE name IS NOT NULL"
    b" UNION SELECT schema_name FROM public.tenants_overflowcount"
)
_ADD_COUNTS = (
    b'INSERT INTO public.tenants_overflowcount AS c (schema_name, "limit", device_id, count)'
    b" SELECT schema, name, nullif(device, 0), count FROM unnest($1, $2, $3, $4) AS r(schema, name, device, count)"
    # In one order, so that two listeners do not wait for each other crosswise.
    b" ORDER BY 1, 2, 3"
    b' ON CONFLICT (schema_name, "limit", device_id) DO UPDATE SET count = c.count + EXCLUDED.count'
)
_TAKE_COUNTS = b'DELETE FROM public.tenants_overflowcount WHERE schema_name = $1 RETURNING "limit", device_id, count'
# Locks of the session, so that they end with the process.
_LOCK = b"SELECT pg_try_advisory_lock($1, hashtext($2))"
_UNLOCK = b"SELECT pg_advisory_unlock($1, hashtext($2))"
_LOCK_CLASS = 20_261_128


def spill(connection: psycopg.Connection, schema: str, messages: Sequence[Incoming]) -> None:
    """Append messages to the tenant's overflow. They may be acknowledged afterwards."""
    columns = [
        statements.text_array([message.topic for message in messages]),
        statements.bytes_array([message.payload for message in messages]),
        statements.time_array([statements.micros(message.received_at) for message in messages]),
    ]
    run(connection, _SPILL, [schema, *columns])


def oldest(connection: psycopg.Connection, schema: str, limit: int) -> list[Incoming]:
    """Return the tenant's oldest messages; `mid` is the number that `delete` expects."""
    rows = run(connection, _OLDEST, [schema, limit])
    return [Incoming(topic, bytes(payload), at.astimezone(UTC), mid, 0) for mid, topic, payload, at in rows]


def delete(connection: psycopg.Connection, mids: Sequence[int]) -> None:
    """Delete messages that are stored."""
    run(connection, _DELETE, [statements.int8_array(mids)])


def schemas(connection: psycopg.Connection) -> list[str]:
    """Return the schemas of the tenants that have overflow."""
    return [name for (name,) in run(connection, _SCHEMAS)]


def add_counts(connection: psycopg.Connection, items: Iterable[LimitedItem]) -> None:
    """Add the counts of braked messages of blocked tenants. The messages may be acknowledged afterwards."""
    counts: Counter[tuple[str, str, int]] = Counter()
    for item in items:
        counts[item.spec.tenant.schema, item.limit, item.device_id or 0] += item.count
    schemas, names, devices = zip(*counts, strict=True)
    columns = [
        statements.text_array(schemas),
        statements.text_array(names),
        statements.int8_array(devices),
        statements.int8_array(list(counts.values())),
    ]
    run(connection, _ADD_COUNTS, columns)


def restore_counts(connection: psycopg.Connection, schema: str) -> int:
    """Move the tenant's counts to its own, in one transaction; return the number of messages. Raises psycopg.Error."""
    with connection.transaction():
        counts = {(name, device_id): count for name, device_id, count in run(connection, _TAKE_COUNTS, [schema])}
        if counts:
            bookkeeping.add_limited(connection, schema, counts)
    return sum(counts.values())


@contextmanager
def restore_lock(connection: psycopg.Connection, schema: str) -> Iterator[bool]:
    """Yield whether this process may restore the tenant's messages now: two at a time would store them twice."""
    row = run(connection, _LOCK, [_LOCK_CLASS, schema]).fetchone()
    if row is None or not row[0]:
        yield False
        return
    try:
        yield True
    finally:
        if not connection.closed:
            run(connection, _UNLOCK, [_LOCK_CLASS, schema])
