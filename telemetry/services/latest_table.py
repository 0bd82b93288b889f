"""The table of newest values: moved forward only, and right for all that is rolled up.

Of two values of one instant the greater counts; of texts the one that is greater in order of code points.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection

from .packing import PACKED_TIME


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest reading of a series; booleans are 0.0 and 1.0."""

    time: datetime
    value: float | str


def forward(rows: str) -> str:
    """SQL that moves the table forward by rows (series id, time, value, text), each series once."""
    return f"""
INSERT INTO telemetry_latest AS l (series_id, time, value, text) {rows}
ON CONFLICT (series_id) DO UPDATE SET time = EXCLUDED.time, value = EXCLUDED.value, text = EXCLUDED.text
WHERE EXCLUDED.time > l.time OR EXCLUDED.time = l.time
    AND (EXCLUDED.value > l.value OR EXCLUDED.text COLLATE "C" > l.text COLLATE "C")
"""  # noqa: S608 (the caller's own SQL)


_NEWEST_TEXT = """SELECT time, text FROM telemetry_reading
    WHERE series_id = s.id AND text IS NOT NULL AND time >= {start} AND time < {stop}
    ORDER BY time DESC, text COLLATE "C" DESC LIMIT 1"""
# Rollups bring the newest numbers; these the texts.
TEXTS_BETWEEN = forward(
    "SELECT s.id, t.time, NULL, t.text FROM telemetry_series s CROSS JOIN LATERAL ("
    + _NEWEST_TEXT.format(start="%(start)s", stop="%(stop)s")
    + ") t WHERE s.value_type = 'text'"
)
TEXTS_IN_HOURS = forward(
    "SELECT DISTINCT ON (s.id) s.id, t.time, NULL, t.text"
    " FROM unnest(%s::bigint[], %s::timestamptz[]) AS m(device_id, hour)"
    " JOIN telemetry_series s USING (device_id) CROSS JOIN LATERAL ("
    + _NEWEST_TEXT.format(start="m.hour", stop="m.hour + interval '1 hour'")
    + ") t WHERE s.value_type = 'text' ORDER BY s.id, t.time DESC"
)
_MOVE = forward("SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::float8[], %s::text[])")

_READ = "SELECT series_id, time, value, text FROM telemetry_latest WHERE series_id = ANY(%s)"
# Up to this time the table has everything that is stored.
_EXACT_UNTIL = """coalesce(least(
    (SELECT rolled_until FROM telemetry_rollupstate), (SELECT min(hour) FROM telemetry_latehour)), '-infinity')"""
_PROBE = f"""
SELECT s.id, r.time, r.value, r.text FROM telemetry_series s CROSS JOIN LATERAL (
    (SELECT time, value, NULL AS text FROM telemetry_reading
     WHERE series_id = s.id AND text IS NULL AND s.value_type <> 'text' AND time >= {{since}}
     ORDER BY time DESC, value DESC LIMIT 1)
    UNION ALL
    (SELECT time, NULL, text FROM telemetry_reading
     WHERE series_id = s.id AND text IS NOT NULL AND s.value_type = 'text' AND time >= {{since}}
     ORDER BY time DESC, text COLLATE "C" DESC LIMIT 1)
    {{packed}}
) r WHERE s.id = ANY(%s)
"""  # noqa: S608 (constants)
_PACKED = f"""UNION ALL
    (SELECT {PACKED_TIME.format(ms="p.offsets[p.count]", us="p.micros[p.count]")}, p.numbers[p.count], NULL
     FROM telemetry_packedday p WHERE p.series_id = s.id ORDER BY p.day DESC LIMIT 1)"""  # noqa: S608
_PROBE_NEW = _PROBE.format(since=_EXACT_UNTIL, packed="")
_PROBE_ALL = _PROBE.format(since="'-infinity'", packed=_PACKED)


def read(series: Sequence[int]) -> dict[int, Newest]:
    """What the table has of the series."""
    return _newest(_READ, series)


def probe_new(series: Sequence[int]) -> dict[int, Newest]:
    """The newest of what was stored after that up to which the table is right: a probe of an index a series."""
    return _newest(_PROBE_NEW, series)


def probe_all(series: Sequence[int]) -> dict[int, Newest]:
    """The newest of all readings, packed or not, whatever the table says."""
    return _newest(_PROBE_ALL, series)


def move(cursor: Any, rows: Collection[tuple[int, Newest]]) -> None:
    """Move the table forward by the rows, each series once."""
    texts = [(series, n.time, None, n.value) for series, n in rows if isinstance(n.value, str)]
    numbers = [(series, n.time, n.value, None) for series, n in rows if not isinstance(n.value, str)]
    if texts or numbers:
        cursor.execute(_MOVE, [list(column) for column in zip(*texts, *numbers, strict=True)])


def newer(one: Newest | None, other: Newest | None) -> Newest | None:
    """The newer of the two, of one series."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda newest: (newest.time, newest.value))


def _newest(query: str, series: Sequence[int]) -> dict[int, Newest]:
    found: dict[int, Newest] = {}
    with connection.cursor() as cursor:
        cursor.execute(query, [list(series)])
        for pk, time, value, text in cursor.fetchall():
            newest = newer(found.get(pk), Newest(time, text if text is not None else value))
            assert newest is not None  # noqa: S101 (for the type checker)
            found[pk] = newest
    return found
