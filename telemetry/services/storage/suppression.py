"""Suppression: beyond its share of a day, one source's refused messages are counted instead of kept.

A source has a number of messages for each reason, and a part of the day's bytes. Half of the bytes are open to all
sources; of the other half each has a small part of its own, so that no source can use up the room of another.

Each process counts for itself, beginning with what the tables have of the day, so that each of several listeners may
keep a share once. A repeated message is always counted in its own row.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
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
# One source may fill this part of the whole quarantine on a day, and all sources together all of it.
_SOURCE_PART = 10
# Once half of it is filled, a source may fill this part only.
_RESERVED_PART = 1000
# The approximate size of a row beside its texts, with the indexes.
ROW_BYTES = 250
# So many rows of the day are read by a listener that starts.
_LOADED_ROWS = 100_000
_RECENT = 20_000
_SOURCE_LENGTH = 120

_SUPPRESSED = per_schema(
    "SELECT reason, device_id, source FROM {flood} WHERE day = $1", flood="telemetry_quarantineflood"
)
_SUPPRESSED_UNROUTED = b"SELECT reason, NULL::bigint, source FROM public.tenants_unroutedflood WHERE day = $1"
# The source of refused values, which have a share of their own: their messages are stored.
VALUES = "values"
# As `source_of` a topic.
TOPIC_SOURCE = f"coalesce(nullif(left(substring(topic from '^[^/]*/([^/]*(?:/[^/]*)?)'), {_SOURCE_LENGTH}), ''), '-')"
# Sizes as `_size_of` counts them; they are read without the values.
_TODAY = (
    f"SELECT *, octet_length(payload) + octet_length(topic) + octet_length(detail) + {ROW_BYTES} AS size"  # noqa: S608
    " FROM {quarantined} WHERE last_received_at >= $1 AND first_received_at >= $1"
    f" ORDER BY last_received_at DESC LIMIT {_LOADED_ROWS}"
)
_USED = per_schema(
    f"SELECT reason, device_id, CASE WHEN device_id IS NULL THEN {TOPIC_SOURCE} WHEN metric <> '' THEN '{VALUES}'"  # noqa: S608
    " ELSE '' END, count(*),"
    f" sum(size)::bigint FROM ({_TODAY}) AS today GROUP BY 1, 2, 3",
    quarantined="telemetry_quarantined",
)
_USED_UNROUTED = (
    f"SELECT reason, NULL::bigint, {TOPIC_SOURCE}, count(*), sum(size)::bigint"  # noqa: S608
    f" FROM ({_TODAY.format(quarantined='public.tenants_unroutedmessage')}) AS today GROUP BY 1, 3"
).encode()
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


# Messages that were not validated, so that only this is known of them.
LIMITED = "rate_limited"
_LIMITED_DETAIL = "Messages of unregistered publishers beyond their common rate of refusals."
_ADD_LIMITED_UNROUTED = (
    "INSERT INTO public.tenants_unroutedflood AS f (day, reason, source, times, detail, last_received_at)"  # noqa: S608
    " VALUES ((now() AT TIME ZONE 'UTC')::date, $1, '', $2, $3, now())" + _UPDATE.format(key="day, reason, source")
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
    metric: str = ""


@dataclass(slots=True)
class _DayUsage:
    """What a tenant's sources have used of a day; `suppressed` are those that have used it up.

    `sizes` are the bytes of each source (device, or source of the topic), `size` those of all.
    """

    day: date
    suppressed: set[SuppressionKey]
    messages: Counter[SuppressionKey] = field(default_factory=Counter)
    sizes: Counter[tuple[int | None, str]] = field(default_factory=Counter)
    size: int = 0

    def add(self, key: SuppressionKey, messages: int, size: int) -> None:
        """Add messages of a source, of `size` bytes in total; negative numbers undo it."""
        self.messages[key] += messages
        if key.device_id is None:
            self.messages[_unregistered(key.reason)] += messages
        self.sizes[key.device_id, key.source] += size
        self.size += size

    def has_room(self, key: SuppressionKey, size: int) -> bool:
        """Return whether the source may store so many bytes more."""
        limit = settings.QUARANTINE_MEGABYTES * 2**20
        if not limit:
            return True
        of_source, of_all = self.sizes[key.device_id, key.source] + size, self.size + size
        if of_source > limit // _SOURCE_PART or of_all > limit:
            return False
        # Sources that are not devices have nothing of their own, because they are easily made up.
        reserved = limit // _RESERVED_PART if key.device_id is not None else 0
        return of_all <= limit // 2 or of_source <= reserved


class QuarantineSuppressor:
    """The suppression of one process. Not shared between threads."""

    def __init__(self) -> None:
        self._days: dict[str, _DayUsage] = {}
        # Kept lately: when they are received again, they are counted in their own rows.
        self._recent: dict[tuple[str, bytes], None] = {}
        # Of the transaction: the messages that are kept, and what they added to the use of the day.
        self._pending: list[tuple[str, bytes]] = []
        self._added: list[tuple[_DayUsage, SuppressionKey, int]] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the splits inside the block final when it ends, and undo them when it raises."""
        self._pending, self._added = [], []
        try:
            yield
        except BaseException:
            for usage, key, size in self._added:
                usage.add(key, -1, -size)
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
            usage = _DayUsage(today, {SuppressionKey(*row) for row in run(connection, query, [today])})
            query = _USED(schema) if schema != UNROUTED else _USED_UNROUTED
            for reason, device_id, source, messages, size in run(connection, query, [_beginning_of(today)]):
                if reason not in ALWAYS_STORED:
                    usage.add(SuppressionKey(reason, device_id, source), messages, size)
            self._days[schema] = usage

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
        source = source_of(row.topic) if row.device_id is None else VALUES if row.metric else ""
        own = SuppressionKey(row.reason, row.device_id, source)
        size = _size_of(row)
        if row.device_id is None and self._is_used_up(usage, _unregistered(row.reason), _UNREGISTERED_SHARE):
            return _unregistered(row.reason)
        if self._is_used_up(usage, own, 1) or not usage.has_room(own, size):
            return own
        usage.add(own, 1, size)
        self._added.append((usage, own, size))
        self._pending.append((schema, row.name))
        return None

    def _is_used_up(self, usage: _DayUsage, key: SuppressionKey, shares: int) -> bool:
        return key in usage.suppressed or usage.messages[key] >= settings.QUARANTINE_SOURCE_MESSAGES * shares

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


def add_limited_unrouted(connection: psycopg.Connection, count: int) -> None:
    """Add to the day's number of unrouted messages that were over the rate of unregistered publishers."""
    run(connection, _ADD_LIMITED_UNROUTED, [LIMITED, count, _LIMITED_DETAIL])


def source_of(topic: str) -> str:
    """Return the source that a topic names where no device is known: its second and third level, or a hyphen."""
    return "/".join(topic.split("/", 3)[1:3])[:_SOURCE_LENGTH] or "-"


def _unregistered(reason: str) -> SuppressionKey:
    """Return the key of all sources together that are not devices."""
    return SuppressionKey(reason, None, "")


def _size_of(row: QuarantineRow) -> int:
    return len(row.payload) + len(row.topic.encode()) + len(row.detail.encode()) + ROW_BYTES


def _beginning_of(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _sums(suppressed: dict[SuppressionKey, list[QuarantineRow]]) -> Iterator[tuple[str, int, str, int, str, int]]:
    """Yield (reason, device or 0, source, count, last detail, last time)."""
    for key, rows in suppressed.items():
        last = max(rows, key=lambda row: row.last_at)
        times = sum(row.times for row in rows)
        yield key.reason, key.device_id or 0, key.source, times, last.detail, statements.micros(last.last_at)
