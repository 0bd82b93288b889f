"""PostgreSQL's binary forms of what ingest writes: arrays for `unnest`.

Packed by hand: psycopg's own dumpers cost as much for each value as everything else for the whole message.
"""

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
# Where `micros` begin, in microseconds since 1970.
EPOCH_MICROS = 946_684_800_000_000
_MICROSECOND = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    """A timestamptz as PostgreSQL holds it: microseconds since 2000."""
    return (moment - _POSTGRES_EPOCH) // _MICROSECOND


class Array(bytes):
    """An array's binary form; the type is that of the element."""

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


def int8s(values: Sequence[int]) -> Int8Array:
    """Whole numbers of 64 bits."""
    return Int8Array(_fixed(20, "q", 8, values))


def int4s(values: Sequence[int]) -> Int4Array:
    """Whole numbers of 32 bits."""
    return Int4Array(_fixed(23, "i", 4, values))


def int2s(values: Sequence[int]) -> Int2Array:
    """Whole numbers of 16 bits."""
    return Int2Array(_fixed(21, "h", 2, values))


def bools(values: Sequence[bool]) -> BoolArray:
    """Truth values."""
    return BoolArray(_fixed(16, "?", 1, values))


def times(values: Sequence[int]) -> TimeArray:
    """Times, as `micros` gives them."""
    return TimeArray(_fixed(1184, "q", 8, values))


def uuids(values: Sequence[bytes]) -> UuidArray:
    """UUIDs, 16 bytes each."""
    return UuidArray(_fixed(2950, "16s", 16, values))


def floats(values: Sequence[float | None]) -> Float8Array:
    """Numbers of 64 bits, or NULL."""
    if None in values:
        return Float8Array(_header(701, len(values)) + b"".join(map(_float_or_null, values)))
    return Float8Array(_fixed(701, "d", 8, values))


def byte_strings(values: Sequence[bytes]) -> BytesArray:
    """Byte strings."""
    return BytesArray(_variable(17, values))


def texts(values: Sequence[str | None]) -> TextArray:
    """Texts, or NULL."""
    return TextArray(_variable(25, [None if value is None else value.encode() for value in values]))


def register(adapters: AdaptersMap) -> None:
    """Let a connection take the arrays above as parameters."""
    for kind in Array.__subclasses__():
        adapters.register_dumper(kind, type(f"{kind.__name__}Dumper", (_ArrayDumper,), {"oid": kind.oid}))


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:  # it is in its binary form already
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
            parts.append(b"\xff\xff\xff\xff")
        else:
            parts += (len(value).to_bytes(4), value)
    return b"".join(parts)


def _float_or_null(value: float | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else struct.pack(">id", 8, value)
