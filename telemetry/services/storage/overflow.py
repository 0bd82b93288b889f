"""Overflow: messages of tenants whose tables are locked or faulty, in the public schema until they can be stored.

They are safe there and can be acknowledged. The broker sends only a window of messages ahead of their
acknowledgements, and messages that wait unacknowledged would fill the window of the other tenants.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC

import psycopg
from django.conf import settings

from telemetry.services.pipeline.results import Incoming, LimitedItem
from tenants.services.limits import LimitName

from . import bookkeeping, statements
from .statements import run

# The approximate size of a row beside its texts, with the index.
_ROW_BYTES = 100
_SIZE = f"octet_length(topic) + octet_length(payload) + {_ROW_BYTES}"
_SPILL = (
    "WITH added AS (INSERT INTO public.tenants_waitingmessage (schema_name, topic, payload, received_at)"  # noqa: S608
    " SELECT $1, topic, payload, received_at"
    " FROM unnest($2, $3, $4) WITH ORDINALITY AS m(topic, payload, received_at, place) ORDER BY place"
    f" RETURNING {_SIZE} AS size)"
    " INSERT INTO public.tenants_overflowusage AS u (schema_name, messages, bytes)"
    " SELECT $1, count(*), coalesce(sum(size), 0) FROM added"
    " ON CONFLICT (schema_name) DO UPDATE"
    " SET messages = u.messages + EXCLUDED.messages, bytes = u.bytes + EXCLUDED.bytes"
).encode()
_USED = b"SELECT schema_name, bytes FROM public.tenants_overflowusage"
# Rows that someone deleted by hand are not subtracted.
_FORGET_USED = (
    b"DELETE FROM public.tenants_overflowusage WHERE schema_name = $1"
    b" AND NOT EXISTS (SELECT 1 FROM public.tenants_waitingmessage WHERE schema_name = $1)"
)
_OLDEST = (
    b"SELECT id, topic, payload, received_at FROM public.tenants_waitingmessage"
    b" WHERE schema_name = $1 ORDER BY id LIMIT $2"
)
_DELETE = (
    "WITH gone AS (DELETE FROM public.tenants_waitingmessage WHERE id = ANY($1)"  # noqa: S608
    f" RETURNING schema_name, {_SIZE} AS size)"
    " UPDATE public.tenants_overflowusage AS u SET messages = u.messages - g.messages, bytes = u.bytes - g.bytes"
    " FROM (SELECT schema_name, count(*) AS messages, sum(size) AS bytes FROM gone GROUP BY 1) AS g"
    " WHERE u.schema_name = g.schema_name"
).encode()
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


def spill(connection: psycopg.Connection, schema: str, messages: Sequence[Incoming]) -> int:
    """Append messages to the tenant's overflow, as far as they fit, and count the others as refused by its limit.

    All of them may be acknowledged afterwards. Returns the number of those that fitted.
    """
    with connection.transaction():
        fitting = _fitting(connection, schema, messages)
        if fitting:
            _insert(connection, schema, messages[:fitting])
        if refused := len(messages) - fitting:
            _count(connection, Counter({(schema, LimitName.OVERFLOW_MEGABYTES.value, 0): refused}))
    return fitting


def used_shares(connection: psycopg.Connection) -> dict[str, float]:
    """Return the used part of the overflow, from 0 to 1, of each tenant that has some, by schema."""
    maximum = _max_bytes()
    return {schema: used / maximum for schema, used in run(connection, _USED)} if maximum else {}


def _max_bytes() -> int:
    return int(settings.TENANT_LIMITS[LimitName.OVERFLOW_MEGABYTES] * 2**20)


def _fitting(connection: psycopg.Connection, schema: str, messages: Sequence[Incoming]) -> int:
    """Return how many of the first messages fit into the tenant's overflow."""
    maximum = _max_bytes()
    if not maximum:
        return len(messages)
    row = run(connection, _USED + b" WHERE schema_name = $1", [schema]).fetchone()
    used = row[1] if row else 0
    for number, message in enumerate(messages):
        used += len(message.topic.encode()) + len(message.payload) + _ROW_BYTES
        if used > maximum:
            return number
    return len(messages)


def _insert(connection: psycopg.Connection, schema: str, messages: Sequence[Incoming]) -> None:
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
    _count(connection, counts)


def _count(connection: psycopg.Connection, counts: Counter[tuple[str, str, int]]) -> None:
    schemas, names, devices = zip(*counts, strict=True)
    columns = [
        statements.text_array(schemas),
        statements.text_array(names),
        statements.int8_array(devices),
        statements.int8_array(list(counts.values())),
    ]
    run(connection, _ADD_COUNTS, columns)


def restore_counts(connection: psycopg.Connection, schema: str) -> int:
    """Move the tenant's counts to its own, in one transaction; return the number of messages. Raises psycopg.Error.

    The overflow must be empty.
    """
    with connection.transaction():
        run(connection, _FORGET_USED, [schema])
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
