"""The table of newest values: it only advances, and is exact for all hours that are rolled up.

Of two values of one instant the greater counts; of texts the one that is greater in order of code points.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tenants.infrastructure.database import cursor_for_many

from .packing import PACKED_TIME


class NewestReading(NamedTuple):
    """The newest reading of a series; booleans are 0.0 and 1.0."""

    time: datetime
    value: float | str


def forward_sql(rows: str) -> str:
    """Return SQL that advances the table by rows (series id, time, value, text), each series once."""
    return f"""
INSERT INTO telemetry_latest AS l (series_id, time, value, text) {rows}
ON CONFLICT (series_id) DO UPDATE SET time = EXCLUDED.time, value = EXCLUDED.value, text = EXCLUDED.text
WHERE EXCLUDED.time > l.time OR EXCLUDED.time = l.time
    AND (EXCLUDED.value > l.value OR EXCLUDED.text COLLATE "C" > l.text COLLATE "C")
"""


_NEWEST_TEXT = """SELECT time, text FROM telemetry_reading
    WHERE series_id = s.id AND text IS NOT NULL AND time >= {start} AND time < {stop}
    ORDER BY time DESC, text COLLATE "C" DESC LIMIT 1"""
# Rollups write the newest numbers; these statements write the texts.
TEXTS_BETWEEN = forward_sql(
    "SELECT s.id, t.time, NULL, t.text FROM telemetry_series s CROSS JOIN LATERAL ("  # noqa: S608 (constants)
    + _NEWEST_TEXT.format(start="%(start)s", stop="%(stop)s")
    + ") t WHERE s.value_type = 'text'"
)
TEXTS_IN_HOURS = forward_sql(
    "SELECT DISTINCT ON (s.id) s.id, t.time, NULL, t.text"  # noqa: S608 (constants)
    " FROM unnest(%s::bigint[], %s::timestamptz[]) AS m(device_id, hour)"
    " JOIN telemetry_series s USING (device_id) CROSS JOIN LATERAL ("
    + _NEWEST_TEXT.format(start="m.hour", stop="m.hour + interval '1 hour'")
    + ") t WHERE s.value_type = 'text' ORDER BY s.id, t.time DESC"
)
_ADVANCE = forward_sql("SELECT * FROM unnest(%s::bigint[], %s::timestamptz[], %s::float8[], %s::text[])")

# Up to this time the table includes all stored readings.
_COMPLETE_UNTIL = """coalesce(least(
    (SELECT rolled_until FROM telemetry_rollupstate), (SELECT min(hour) FROM telemetry_latehour)), '-infinity')"""
_LAST_PACKED = PACKED_TIME.format(ms="p.offsets[p.count]", us="p.micros[p.count]")
# In two variants: where Redis is not trusted, also up to when the table is exact, as text because of '-infinity'.
_TABLE = (
    "SELECT series_id, time, value, text, {until} FROM telemetry_latest WHERE series_id = ANY(%(series)s::bigint[])"
)
_TABLE_ALONE = _TABLE.format(until="NULL")
_TABLE_AND_MARK = _TABLE.format(until=f"({_COMPLETE_UNTIL})::text")
# The newest of each series' readings since a time, a literal, so that PostgreSQL plans over the partitions since then
# only. One index probe a series and partition. Days may be packed after the table was read.
_NEWEST_SINCE = f"""
SELECT s.id, r.time, r.value, r.text FROM telemetry_series s CROSS JOIN LATERAL (
    (SELECT time, value, NULL AS text FROM telemetry_reading
     WHERE series_id = s.id AND text IS NULL AND s.value_type <> 'text' AND time >= %(since)s::timestamptz
     ORDER BY time DESC, value DESC LIMIT 1)
    UNION ALL
    (SELECT time, NULL, text FROM telemetry_reading
     WHERE series_id = s.id AND text IS NOT NULL AND s.value_type = 'text' AND time >= %(since)s::timestamptz
     ORDER BY time DESC, text COLLATE "C" DESC LIMIT 1)
    UNION ALL
    (SELECT {_LAST_PACKED}, p.numbers[p.count], NULL FROM telemetry_packedday p
     WHERE p.series_id = s.id AND p.day >= %(since)s::timestamptz - interval '24 hours' ORDER BY p.day DESC LIMIT 1)
) r
WHERE s.id = ANY(%(series)s::bigint[])
"""  # noqa: S608 (constants)


def find_newest(
    series: Sequence[int], cached: Mapping[int, NewestReading], *, trusted: bool
) -> dict[int, NewestReading]:
    """Return the newest of `cached` (the values in Redis), the table and, where these may be incomplete, the readings.

    `trusted`: Redis is complete for the series that it has. One query, and one more for series that neither has, and
    where Redis is not trusted.
    """
    found = dict(cached)
    with cursor_for_many() as cursor:
        cursor.execute(_TABLE_ALONE if trusted else _TABLE_AND_MARK, {"series": _array(series)})
        rows = cursor.fetchall()
        _advance_found(found, (row[:4] for row in rows))
        unknown = [pk for pk in series if pk not in found]
        if not trusted:
            # Without a row in the table nothing of it is exact.
            since = rows[0][4] if rows else "-infinity"
            _read_since(cursor, found, [pk for pk in series if pk in found], since)
        _read_since(cursor, found, unknown, "-infinity")
    return found


def _read_since(cursor: Any, found: dict[int, NewestReading], series: Collection[int], since: str) -> None:
    if series:
        cursor.execute(_NEWEST_SINCE, {"series": _array(series), "since": since})
        _advance_found(found, cursor.fetchall())


def _advance_found(found: dict[int, NewestReading], rows: Iterable[tuple[Any, ...]]) -> None:
    for pk, time, value, text in rows:
        newest = NewestReading(time, text if text is not None else value)
        known = found.get(pk)
        if known is None or known < newest:
            found[pk] = newest


def _array(series: Iterable[int]) -> str:
    """Return the ids as a PostgreSQL array literal: fast for thousands."""
    return f"{{{','.join(map(str, series))}}}"


def advance(cursor: Any, rows: Collection[tuple[int, NewestReading]]) -> None:
    """Advance the table by the rows, each series once."""
    texts = [(series, n.time, None, n.value) for series, n in rows if isinstance(n.value, str)]
    numbers = [(series, n.time, n.value, None) for series, n in rows if not isinstance(n.value, str)]
    if texts or numbers:
        cursor.execute(_ADVANCE, [list(column) for column in zip(*texts, *numbers, strict=True)])
