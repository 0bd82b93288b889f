"""What keeps the quarantine from being filled by one source: beyond a number a day its messages are counted.

Each process counts for itself, from what the tables say is counted already, so that of a source that begins anew in
several listeners each may keep the number once. The same message again is counted in its own row, as always.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import psycopg
from django.conf import settings

from . import binary
from .statements import per_schema, run

# Schema of what belongs to no tenant.
NOBODY = ""
# What waits for its time and is judged again is never thrown away.
_KEPT = frozenset({"key_unavailable", "quota_exceeded"})
# Everybody who is no device of the tenant may have so many times what one source may: UUIDs are easily made up.
_STRANGERS = 10
# One source may fill this part of the whole quarantine on a day.
_BYTES_PART = 10
_RECENT = 20_000
_SOURCE_LENGTH = 120

_FULL = per_schema("SELECT reason, device_id, source FROM {flood} WHERE day = $1", flood="telemetry_quarantineflood")
_FULL_NOBODY = b"SELECT reason, NULL::bigint, source FROM public.tenants_unroutedflood WHERE day = $1"
_UPDATE = (
    " ON CONFLICT ({key}) DO UPDATE SET times = f.times + EXCLUDED.times, detail = EXCLUDED.detail,"
    " last_received_at = greatest(f.last_received_at, EXCLUDED.last_received_at)"
)
# In one order, so that two listeners do not wait for each other crosswise.
_ADD = per_schema(
    "INSERT INTO {flood} AS f (day, reason, device_id, source, times, detail, last_received_at)"  # noqa: S608
    " SELECT $1, reason, nullif(device_id, 0), source, times, detail, at"
    " FROM unnest($2, $3, $4, $5, $6, $7) AS r(reason, device_id, source, times, detail, at) ORDER BY 2, 3, 4"
    + _UPDATE.format(key="day, reason, device_id, source"),
    flood="telemetry_quarantineflood",
)
_ADD_NOBODY = (
    "INSERT INTO public.tenants_unroutedflood AS f (day, reason, source, times, detail, last_received_at)"  # noqa: S608
    " SELECT $1, reason, source, times, detail, at"
    " FROM unnest($2, $3, $4, $5, $6, $7) AS r(reason, device_id, source, times, detail, at) ORDER BY 2, 3"
    + _UPDATE.format(key="day, reason, source")
).encode()


class Kind(NamedTuple):
    """Messages that are like each other. Without device and source: those of all strangers together."""

    reason: str
    device_id: int | None
    source: str


class RefusedRow(NamedTuple):
    """A refused message; `times` it came in this batch."""

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
class _Day:
    """What a tenant's sources have had of a day."""

    day: date
    full: set[Kind]
    had: dict[Kind, tuple[int, int]] = field(default_factory=dict)  # messages, bytes


class FloodGuard:
    """Of one process. Not shared between threads."""

    def __init__(self) -> None:
        self._days: dict[str, _Day] = {}
        # Kept lately: when they come again, it is in their own rows that they are counted.
        self._recent: dict[tuple[str, bytes], None] = {}
        # Of the transaction: what is kept, and what the sources had before.
        self._pending: list[tuple[str, bytes]] = []
        self._before: list[tuple[_Day, Kind, tuple[int, int]]] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is sifted inside counts when the block ends, and not at all when it raises."""
        self._pending, self._before = [], []
        try:
            yield
        except BaseException:
            for known, kind, had in reversed(self._before):
                known.had[kind] = had
            raise
        self._recent.update(dict.fromkeys(self._pending))
        for _ in range(len(self._recent) - _RECENT):
            del self._recent[next(iter(self._recent))]

    def open(self, connection: psycopg.Connection, schema: str) -> None:
        """Know the tenant's day. To be called before `sift`; asks the server once a day, not in a pipeline."""
        today = datetime.now(UTC).date()
        known = self._days.get(schema)
        if settings.QUARANTINE_SOURCE_MESSAGES and (known is None or known.day != today):
            statement = _FULL(schema) if schema != NOBODY else _FULL_NOBODY
            self._days[schema] = _Day(today, {Kind(*row) for row in run(connection, statement, [today])})

    def sift(self, schema: str, rows: Iterable[RefusedRow]) -> tuple[list[RefusedRow], dict[Kind, list[RefusedRow]]]:
        """The rows that are kept, and those that are counted."""
        known = self._days.get(schema)
        if not settings.QUARANTINE_SOURCE_MESSAGES or known is None:
            return list(rows), {}
        kept: list[RefusedRow] = []
        counted: dict[Kind, list[RefusedRow]] = {}
        for row in rows:
            kind = None
            if row.reason not in _KEPT and (schema, row.name) not in self._recent:
                kind = self._counted_as(schema, known, row)
            if kind is None:
                kept.append(row)
            else:
                counted.setdefault(kind, []).append(row)
        return kept, counted

    def _counted_as(self, schema: str, known: _Day, row: RefusedRow) -> Kind | None:
        """None: the row is kept, and its source has had one more."""
        own = Kind(row.reason, row.device_id, "" if row.device_id is not None else source_of(row.topic))
        strangers = None if row.device_id is not None else Kind(row.reason, None, "")
        if strangers is not None and self._is_full(known, strangers, row, _STRANGERS):
            return strangers
        if self._is_full(known, own, row, 1):
            return own
        for kind in (own, strangers):
            if kind is not None:
                had = known.had.get(kind, (0, 0))
                self._before.append((known, kind, had))
                known.had[kind] = had[0] + 1, had[1] + len(row.payload)
        self._pending.append((schema, row.name))
        return None

    def _is_full(self, known: _Day, kind: Kind, row: RefusedRow, share: int) -> bool:
        if kind in known.full:
            return True
        messages, size = known.had.get(kind, (0, 0))
        most = settings.QUARANTINE_MEGABYTES * 2**20 // _BYTES_PART
        too_large = bool(most) and size + len(row.payload) > most * min(share, _BYTES_PART // 2)
        return too_large or messages >= settings.QUARANTINE_SOURCE_MESSAGES * share

    def count(self, connection: psycopg.Connection, schema: str, counted: dict[Kind, list[RefusedRow]]) -> None:
        """Write down what is not kept. Sends one statement, or none; also in a pipeline."""
        if counted:
            columns: list[list[Any]] = [list(column) for column in zip(*_sums(counted), strict=True)]
            arrays: Sequence[binary.Array] = [
                binary.texts(columns[0]),
                binary.int8s(columns[1]),
                binary.texts(columns[2]),
                binary.int8s(columns[3]),
                binary.texts(columns[4]),
                binary.times(columns[5]),
            ]
            statement = _ADD(schema) if schema != NOBODY else _ADD_NOBODY
            run(connection, statement, [self._days[schema].day, *arrays])


def source_of(topic: str) -> str:
    """What a topic names where there is no device: its second and third level."""
    return "/".join(topic.split("/", 3)[1:3])[:_SOURCE_LENGTH]


def _sums(counted: dict[Kind, list[RefusedRow]]) -> Iterator[tuple[str, int, str, int, str, int]]:
    """Reason, device (0: none), source, times, last words, last time."""
    for kind, rows in counted.items():
        last = max(rows, key=lambda row: row.last_at)
        times = sum(row.times for row in rows)
        yield kind.reason, kind.device_id or 0, kind.source, times, last.detail, binary.micros(last.last_at)
