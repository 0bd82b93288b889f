"""SQL statements with the schema's name in them, and PostgreSQL's binary arrays as their parameters.

A statement is composed once for each schema: composing one and searching for its placeholders cost more than sending
it, so the statements of the hot path have `$1` and are cached. Arrays for `unnest` are packed here: psycopg's own
dumpers take as long for each value as everything else for the whole message.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import sql
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

_NULL = b"\xff\xff\xff\xff"
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# The zero of `micros`, in microseconds since 1970.
EPOCH_MICROS = 946_684_800_000_000
_MICROSECOND = timedelta(microseconds=1)


def per_schema(template: str, **tables: str) -> Callable[[str], bytes]:
    """Return a function from a schema's name to the statement with that schema's tables; parameters are `$1` ….

    `tables` names the tables that the template has in braces.
    """

    @lru_cache(maxsize=4096)
    def compose(schema: str) -> bytes:
        named = {name: sql.Identifier(schema, table) for name, table in tables.items()}
        return sql.SQL(template).format(**named).as_bytes(None)

    return compose


def run(connection: psycopg.Connection, statement: bytes, parameters: Sequence[Any] = ()) -> psycopg.Cursor:
    """Execute a statement with `$1` … and return its cursor."""
    cursor = psycopg.RawCursor(connection)
    cursor.execute(statement, parameters)
    return cursor


def micros(moment: datetime) -> int:
    """Return a time as PostgreSQL stores it: microseconds since 2000."""
    return (moment - _POSTGRES_EPOCH) // _MICROSECOND


class Array(bytes):
    """The binary form of an array; `oid` is its type."""

    oid = 0


class Int2Array(Array):
    """int2[]"""

    oid = 1005


class Int4Array(Array):
    """int4[]"""

    oid = 1007


class Int8Array(Array):
    """int8[]"""

    oid = 1016


class Float8Array(Array):
    """float8[]"""

    oid = 1022


class BoolArray(Array):
    """bool[]"""

    oid = 1000


class TextArray(Array):
    """text[]"""

    oid = 1009


class BytesArray(Array):
    """bytea[]"""

    oid = 1001


class TimeArray(Array):
    """timestamptz[]"""

    oid = 1185


class UuidArray(Array):
    """uuid[]"""

    oid = 2951


def int8_array(values: Sequence[int]) -> Int8Array:
    """Return integers of 64 bits as int8[]."""
    return Int8Array(_fixed(20, "q", 8, values))


def int4_array(values: Sequence[int]) -> Int4Array:
    """Return integers of 32 bits as int4[]."""
    return Int4Array(_fixed(23, "i", 4, values))


def int2_array(values: Sequence[int]) -> Int2Array:
    """Return integers of 16 bits as int2[]."""
    return Int2Array(_fixed(21, "h", 2, values))


def bool_array(values: Sequence[bool]) -> BoolArray:
    """Return truth values as bool[]."""
    return BoolArray(_fixed(16, "?", 1, values))


def time_array(values: Sequence[int]) -> TimeArray:
    """Return times, in `micros`, as timestamptz[]."""
    return TimeArray(_fixed(1184, "q", 8, values))


def uuid_array(values: Sequence[bytes]) -> UuidArray:
    """Return UUIDs, 16 bytes each, as uuid[]."""
    return UuidArray(_fixed(2950, "16s", 16, values))


def float8_array(values: Sequence[float | None]) -> Float8Array:
    """Return numbers of 64 bits, or NULL, as float8[]."""
    if None in values:
        return Float8Array(_header(701, len(values)) + b"".join(map(_float_or_null, values)))
    return Float8Array(_fixed(701, "d", 8, values))


def bytes_array(values: Sequence[bytes]) -> BytesArray:
    """Return byte strings as bytea[]."""
    return BytesArray(_variable(17, values))


def text_array(values: Sequence[str | None]) -> TextArray:
    """Return texts, or NULL, as text[]."""
    return TextArray(_variable(25, [None if value is None else value.encode() for value in values]))


def null_texts(count: int) -> TextArray:
    """Return so many NULLs as text[]."""
    return TextArray(_header(25, count) + _NULL * count)


def register_arrays(adapters: AdaptersMap) -> None:
    """Register the array types as parameters of a connection."""
    for kind in Array.__subclasses__():
        adapters.register_dumper(kind, type(f"{kind.__name__}Dumper", (_ArrayDumper,), {"oid": kind.oid}))


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:  # it has its binary form already
        return obj


def _header(element: int, count: int) -> bytes:
    # One dimension, NULLs possible, the element's type, how many, counted from 1.
    return struct.pack(">iiIii", 1, 1, element, count, 1) if count else struct.pack(">iiI", 0, 0, element)


def _fixed(element: int, code: str, size: int, values: Sequence[object]) -> bytes:
    count = len(values)
    sized: list[object] = [size] * (2 * count)
    sized[1::2] = values
    return _header(element, count) + struct.pack(">" + f"i{code}" * count, *sized)


def _variable(element: int, values: Iterable[bytes | None]) -> bytes:
    listed = list(values)
    parts = [_header(element, len(listed))]
    for value in listed:
        if value is None:
            parts.append(_NULL)
        else:
            parts += (len(value).to_bytes(4), value)
    return b"".join(parts)


def _float_or_null(value: float | None) -> bytes:
    return _NULL if value is None else struct.pack(">id", 8, value)
