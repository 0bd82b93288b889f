"""Readings as one long text, in pieces: CSV or NDJSON, series after series, each in order of time.

Each piece is read by itself, in the tenant's schema, which is left again before the piece is sent; between two pieces
nothing is held, neither a connection nor more than the piece, however slowly the client reads. A text that cannot be
finished ends with `ExportBroken`, for the server to break the connection off: half a file must not look like a whole
one.
"""

import csv
import io
import json
import logging
import time as clock
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.db import InterfaceError, OperationalError, connections
from django_tenants.utils import schema_context

from telemetry.models import Series

from .completeness import Lack
from .queries import Position, ReadingRow, Value, readings

logger = logging.getLogger(__name__)

PIECE = 5000  # readings
# How often it is asked whether whoever reads still may.
CHECK_SECONDS = 15.0
COLUMNS = ("time", "device", "component", "metric", "value", "unit")
# With one of these a spreadsheet takes a text for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

T = TypeVar("T")


class ExportBroken(Exception):
    """The text cannot be finished. What was sent so far is not whole."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A series, and the UUID of its device."""

    series: Series
    device: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is exported: readings of the series with start ≤ time < stop."""

    schema: str
    series: Sequence[Exported]
    start: datetime | None
    stop: datetime
    form: str  # csv or ndjson
    lacks: Sequence[Lack]  # what is known to be missing from the beginning


class Export:
    """The pieces of a text, one by one."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._number = 0  # of the series that is next
        self._after: Position | None = None
        self._count = 0
        self._ended = False

    def begin(self) -> str:
        """What comes before the readings."""
        return ",".join(COLUMNS) + "\r\n" if self._wanted.form == "csv" else ""

    def next(self) -> str | None:
        """The next piece, read in the present schema; None when there is no more."""
        if self._ended:
            return None
        pieces: list[str] = []
        room = PIECE
        while room > 0 and self._number < len(self._wanted.series):
            one = self._wanted.series[self._number]
            rows = readings(
                [one.series], start=self._wanted.start, stop=self._wanted.stop, after=self._after, limit=room
            )
            pieces.append(self._text(one, rows))
            if len(rows) < room:
                self._number, self._after = self._number + 1, None
            else:
                self._after = Position(rows[-1].time, rows[-1].series, rows[-1].key)
            room -= max(len(rows), 1)
            self._count += len(rows)
        if self._number == len(self._wanted.series):
            self._ended = True
            pieces.append(self._end())
        return "".join(pieces)

    def broken(self, why: str) -> str:
        """The last words of a text that cannot be finished."""
        if self._wanted.form == "csv":
            return ""
        return json.dumps({"complete": False, "readings": self._count, "detail": why}) + "\n"

    def _text(self, one: Exported, rows: Sequence[ReadingRow]) -> str:
        if self._wanted.form == "csv":
            return _as_csv(one, rows)
        head = {"device": one.device, "component": one.series.component, "metric": one.series.metric}
        tail = {"unit": one.series.unit or None}
        return "".join(
            json.dumps({"time": said(row.time), **head, "value": row.value, **tail}, ensure_ascii=False) + "\n"
            for row in rows
        )

    def _end(self) -> str:
        if self._wanted.form == "csv":
            return ""
        lacks = [asdict(lack) for lack in self._wanted.lacks]
        return json.dumps({"complete": not lacks, "readings": self._count, "incomplete": lacks}) + "\n"


async def stream(wanted: Wanted, may_read: Callable[[], bool]) -> AsyncIterator[str]:
    """The text for an asynchronous server: between two pieces no connection is held."""
    export = Export(wanted)
    await sync_to_async(connections.close_all)()  # the one that the request was judged with
    yield export.begin()
    checked_at = clock.monotonic()
    why = ""
    try:
        while (piece := await _unit(wanted.schema, export.next)) is not None:
            yield piece
            if clock.monotonic() - checked_at >= CHECK_SECONDS:
                if not await _unit(wanted.schema, may_read):
                    why = "The right to read ended."
                    break
                checked_at = clock.monotonic()
    except (OperationalError, InterfaceError) as error:
        logger.warning("An export of %s breaks off, since the database is away: %s", wanted.schema, error)
        why = "The database went away."
    if why:
        yield export.broken(why)
        raise ExportBroken(why)


def pieces(wanted: Wanted) -> Iterator[str]:
    """The text for a synchronous server, which has a connection for each thread anyway."""
    export = Export(wanted)
    yield export.begin()
    while True:
        try:
            with schema_context(wanted.schema):
                piece = export.next()
        except (OperationalError, InterfaceError) as error:
            yield export.broken("The database went away.")
            raise ExportBroken(str(error)) from error
        if piece is None:
            return
        yield piece


def said(time: datetime) -> str:
    """A time as the API writes it."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _as_csv(one: Exported, rows: Sequence[ReadingRow]) -> str:
    to = io.StringIO()
    names = one.device, harmless(one.series.component), harmless(one.series.metric)
    unit = harmless(one.series.unit)
    csv.writer(to).writerows((said(row.time), *names, _cell(row.value), unit) for row in rows)
    return to.getvalue()


def _cell(value: Value) -> str | float:
    if isinstance(value, bool):
        return "true" if value else "false"
    return harmless(value) if isinstance(value, str) else value


async def _unit(schema: str, ask: Callable[[], T]) -> T:
    """One synchronous unit in the tenant's schema, which gives the connection back."""

    def run() -> T:
        try:
            with schema_context(schema):
                return ask()
        finally:
            connections.close_all()

    return await sync_to_async(run)()
