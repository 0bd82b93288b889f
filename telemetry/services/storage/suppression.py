"""Suppression: beyond a daily number, one source's refused messages are counted instead of kept.

Each process counts for itself, beginning with the counts in the tables, so that each of several listeners may keep
the number once for a new source. A repeated message is always counted in its own row.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import psycopg
from django.conf import settings

from telemetry.models.quarantine import ALWAYS_STORED

from . import statements
from .statements import per_schema, run

# The schema of messages that belong to no tenant.
UNROUTED = ""
# All sources that are not devices of the tenant together may have this many times the share of one source: UUIDs are
# easily made up.
_UNREGISTERED_SHARE = 10
# One source may fill this part of the whole quarantine on a day.
_BYTES_PART = 10
_RECENT = 20_000
_SOURCE_LENGTH = 120

_SUPPRESSED = per_schema(
    "SELECT reason, device_id, source FROM {flood} WHERE day = $1", flood="telemetry_quarantineflood"
)
_SUPPRESSED_UNROUTED = b"SELECT reason, NULL::bigint, source FROM public.tenants_unroutedflood WHERE day = $1"
_UPDATE = (
    " ON CONFLICT ({key}) DO UPDATE SET times = f.times + EXCLUDED.times, detail = EXCLUDED.detail,"
    " last_received_at = greatest(f.last_received_at, EXCLUDED.last_received_at)"
)
# In one order, so that two listeners do not wait for each other crosswise.
_ADD_COUNTS = per_schema(
    "INSERT INTO {flood} AS f (day, reason, device_id, source, times, detail, last_received_at)"  # noqa: S608
    " SELECT $1, reason, nullif(device_id, 0), source, times, detail, at"
    " FROM unnest($2, $3, $4, $5, $6, $7) AS r(reason, device_id, source, times, detail, at) ORDER BY 2, 3, 4"
    + _UPDATE.format(key="day, reason, device_id, source"),
    flood="telemetry_quarantineflood",
)
_ADD_UNROUTED_COUNTS = (
    "INSERT INTO public.tenants_unroutedflood AS f (day, reason, source, times, detail, last_received_at)"  # noqa: S608
    " SELECT $1, reason, source, times, detail, at"
    " FROM unnest($2, $3, $4, $5, $6, $7) AS r(reason, device_id, source, times, detail, at) ORDER BY 2, 3"
    + _UPDATE.format(key="day, reason, source")
).encode()


class SuppressionKey(NamedTuple):
    """Common attributes of similar messages. Without device and source: all unregistered sources together."""

    reason: str
    device_id: int | None
    source: str


class QuarantineRow(NamedTuple):
    """A refused message; `times`: how often it was received in this batch."""

    name: bytes  # the fingerprint
    reason: str
    detail: str
    topic: str
    payload: bytes
    first_at: datetime
    last_at: datetime
    times: int
    device_id: int | None


@dataclass(slots=True)
class _DayUsage:
    """What a tenant's sources have used of a day; `suppressed` are those that have used it up."""

    day: date
    suppressed: set[SuppressionKey]
    used: dict[SuppressionKey, tuple[int, int]] = field(default_factory=dict)  # messages, bytes


class QuarantineSuppressor:
    """The suppression of one process. Not shared between threads."""

    def __init__(self) -> None:
        self._days: dict[str, _DayUsage] = {}
        # Kept lately: when they are received again, they are counted in their own rows.
        self._recent: dict[tuple[str, bytes], None] = {}
        # Of the transaction: the messages that are kept, and what the sources had used before.
        self._pending: list[tuple[str, bytes]] = []
        self._before: list[tuple[_DayUsage, SuppressionKey, tuple[int, int]]] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the splits inside the block final when it ends, and undo them when it raises."""
        self._pending, self._before = [], []
        try:
            yield
        except BaseException:
            for usage, key, used in reversed(self._before):
                usage.used[key] = used
            raise
        self._recent.update(dict.fromkeys(self._pending))
        for _ in range(len(self._recent) - _RECENT):
            del self._recent[next(iter(self._recent))]

    def load_day(self, connection: psycopg.Connection, schema: str) -> None:
        """Load the tenant's day before `split`. Queries the server once a day; must not run in a pipeline."""
        today = datetime.now(UTC).date()
        usage = self._days.get(schema)
        if settings.QUARANTINE_SOURCE_MESSAGES and (usage is None or usage.day != today):
            query = _SUPPRESSED(schema) if schema != UNROUTED else _SUPPRESSED_UNROUTED
            self._days[schema] = _DayUsage(today, {SuppressionKey(*row) for row in run(connection, query, [today])})

    def split(
        self, schema: str, rows: Iterable[QuarantineRow]
    ) -> tuple[list[QuarantineRow], dict[SuppressionKey, list[QuarantineRow]]]:
        """Return (the rows that are kept, the rows that are only counted)."""
        usage = self._days.get(schema)
        if not settings.QUARANTINE_SOURCE_MESSAGES or usage is None:
            return list(rows), {}
        kept: list[QuarantineRow] = []
        suppressed: dict[SuppressionKey, list[QuarantineRow]] = {}
        for row in rows:
            key = None
            if row.reason not in ALWAYS_STORED and (schema, row.name) not in self._recent:
                key = self._suppressed_as(schema, usage, row)
            if key is None:
                kept.append(row)
            else:
                suppressed.setdefault(key, []).append(row)
        return kept, suppressed

    def _suppressed_as(self, schema: str, usage: _DayUsage, row: QuarantineRow) -> SuppressionKey | None:
        """Return the key under which the row is counted; None: the row is kept, and counts for its source."""
        own = SuppressionKey(row.reason, row.device_id, "" if row.device_id is not None else source_of(row.topic))
        unregistered = None if row.device_id is not None else SuppressionKey(row.reason, None, "")
        if unregistered is not None and self._is_used_up(usage, unregistered, row, _UNREGISTERED_SHARE):
            return unregistered
        if self._is_used_up(usage, own, row, 1):
            return own
        for key in (own, unregistered):
            if key is not None:
                messages, size = used = usage.used.get(key, (0, 0))
                self._before.append((usage, key, used))
                usage.used[key] = messages + 1, size + len(row.payload)
        self._pending.append((schema, row.name))
        return None

    def _is_used_up(self, usage: _DayUsage, key: SuppressionKey, row: QuarantineRow, share: int) -> bool:
        if key in usage.suppressed:
            return True
        messages, size = usage.used.get(key, (0, 0))
        max_bytes = settings.QUARANTINE_MEGABYTES * 2**20 // _BYTES_PART
        too_large = bool(max_bytes) and size + len(row.payload) > max_bytes * min(share, _BYTES_PART // 2)
        return too_large or messages >= settings.QUARANTINE_SOURCE_MESSAGES * share

    def write_counts(
        self, connection: psycopg.Connection, schema: str, suppressed: dict[SuppressionKey, list[QuarantineRow]]
    ) -> None:
        """Store the counts of suppressed messages. Sends one statement, or none; also in a pipeline."""
        if suppressed:
            columns: list[list[Any]] = [list(column) for column in zip(*_sums(suppressed), strict=True)]
            arrays: Sequence[statements.Array] = [
                statements.text_array(columns[0]),
                statements.int8_array(columns[1]),
                statements.text_array(columns[2]),
                statements.int8_array(columns[3]),
                statements.text_array(columns[4]),
                statements.time_array(columns[5]),
            ]
            insert = _ADD_COUNTS(schema) if schema != UNROUTED else _ADD_UNROUTED_COUNTS
            run(connection, insert, [self._days[schema].day, *arrays])


def source_of(topic: str) -> str:
    """Return the source that a topic names where no device is known: its second and third level."""
    return "/".join(topic.split("/", 3)[1:3])[:_SOURCE_LENGTH]


def _sums(suppressed: dict[SuppressionKey, list[QuarantineRow]]) -> Iterator[tuple[str, int, str, int, str, int]]:
    """Yield (reason, device or 0, source, count, last detail, last time)."""
    for key, rows in suppressed.items():
        last = max(rows, key=lambda row: row.last_at)
        times = sum(row.times for row in rows)
        yield key.reason, key.device_id or 0, key.source, times, last.detail, statements.micros(last.last_at)
