"""The export of readings in chunks: CSV or NDJSON, series after series, each in order of time.

Each chunk is read in the tenant's schema, which is left before the chunk is sent; between two chunks the export holds
no connection and no memory beyond the chunk, however slowly the client reads. An export that cannot be finished ends
with `ExportAborted`, so that the server aborts the connection: a partial file must not look complete.
"""

import logging
import time as clock
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from asgiref.sync import sync_to_async
from django.db import connections
from django_tenants.utils import schema_context

from telemetry.models import Series
from telemetry.services.queries.completeness import PartialReason
from telemetry.services.queries.readings import ReadingPosition, ReadingRow, ReadingValue, readings
from tenants.infrastructure.database import run_in_schema
from tenants.infrastructure.retry import DATABASE_LOST
from tenants.infrastructure.spreadsheets import csv_line
from tenants.infrastructure.table_formats import DEFAULT, TableFormat, begin

logger = logging.getLogger(__name__)

READINGS_PER_CHUNK = 5000  # readings
# The interval of the check that the client may still read.
CHECK_SECONDS = 15.0
COLUMNS = ("time", "device", "component", "metric", "value", "unit")


class ExportAborted(Exception):
    """The export cannot be finished; the part that was sent is incomplete."""


@dataclass(frozen=True, slots=True)
class ExportedSeries:
    """A series, and the UUID of its device."""

    series: Series
    device: str


@dataclass(frozen=True, slots=True)
class ReadingsExportRequest:
    """The selection of an export: readings of the series with start ≤ time < stop."""

    schema: str
    series: Sequence[ExportedSeries]
    start: datetime | None
    stop: datetime
    form: str  # csv or ndjson
    warnings: Sequence[PartialReason]  # known at the start
    table_format: TableFormat = DEFAULT


class ReadingsExport:
    """An export in progress; it returns its chunks one by one."""

    def __init__(self, wanted: ReadingsExportRequest) -> None:
        self._wanted = wanted
        self._number = 0  # of the series that is next
        self._after: ReadingPosition | None = None
        self._count = 0
        self._ended = False

    def begin(self) -> bytes:
        """Return the header before the readings."""
        if self._wanted.form != "csv":
            return b""
        return begin() + csv_line(COLUMNS, self._wanted.table_format.separator).encode()

    def next(self) -> bytes | None:
        """Return the next chunk, read in the current schema; None at the end."""
        if self._ended:
            return None
        chunks: list[bytes] = []
        room = READINGS_PER_CHUNK
        while room > 0 and self._number < len(self._wanted.series):
            one = self._wanted.series[self._number]
            rows = readings(
                [one.series], start=self._wanted.start, stop=self._wanted.stop, after=self._after, limit=room
            )
            table_format = self._wanted.table_format
            as_lines = _as_csv if self._wanted.form == "csv" else as_ndjson
            chunks.append(as_lines(one, rows, table_format))
            if len(rows) < room:
                self._number, self._after = self._number + 1, None
            else:
                self._after = ReadingPosition(rows[-1].time, rows[-1].series, rows[-1].key)
            room -= max(len(rows), 1)
            self._count += len(rows)
        if self._number == len(self._wanted.series):
            self._ended = True
            chunks.append(self._end())
        return b"".join(chunks)

    def broken(self, why: str) -> bytes:
        """Return the last line of an export that is aborted."""
        if self._wanted.form == "csv":
            return b""
        return _line({"complete": False, "readings": self._count, "detail": why})

    def _end(self) -> bytes:
        if self._wanted.form == "csv":
            return b""
        warnings = [asdict(warning) for warning in self._wanted.warnings]
        return _line({"complete": not warnings, "readings": self._count, "warnings": warnings})


async def stream_readings(wanted: ReadingsExportRequest, may_read: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """Yield the export for an asynchronous server; between two chunks it holds no connection. Raises ExportAborted."""
    export = ReadingsExport(wanted)
    await sync_to_async(connections.close_all)()  # the one that the request's checks used
    yield export.begin()
    checked_at = clock.monotonic()
    why = ""
    try:
        while (piece := await run_in_schema(wanted.schema, export.next)) is not None:
            yield piece
            if clock.monotonic() - checked_at >= CHECK_SECONDS:
                if not await run_in_schema(wanted.schema, may_read):
                    why = "The right to read ended."
                    break
                checked_at = clock.monotonic()
    except DATABASE_LOST as error:
        logger.warning("An export of %s is aborted because the database is unavailable: %s", wanted.schema, error)
        why = "The database connection was lost."
    if why:
        yield export.broken(why)
        raise ExportAborted(why)


def readings_chunks(wanted: ReadingsExportRequest) -> Iterator[bytes]:
    """Yield the export for a synchronous server, which has a connection for each thread. Raises ExportAborted."""
    export = ReadingsExport(wanted)
    yield export.begin()
    while True:
        try:
            with schema_context(wanted.schema):
                piece = export.next()
        except DATABASE_LOST as error:
            yield export.broken("The database connection was lost.")
            raise ExportAborted(str(error)) from error
        if piece is None:
            return
        yield piece


def as_ndjson(one: ExportedSeries, rows: Sequence[ReadingRow], table_format: TableFormat = DEFAULT) -> bytes:
    """Return the rows as NDJSON, with times in the zone of the format."""
    head = {"device": one.device, "component": one.series.component, "metric": one.series.metric}
    unit = one.series.unit or None
    zone = table_format.zone
    return b"".join(
        _line(
            {"time": row.time if zone is UTC else row.time.astimezone(zone), **head, "value": row.value, "unit": unit}
        )
        for row in rows
    )


def _line(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


def _as_csv(one: ExportedSeries, rows: Sequence[ReadingRow], table_format: TableFormat) -> bytes:
    """Return the rows as CSV. Only names and texts are quoted: checking every number takes half of the time."""
    between = table_format.separator
    head = _cells(between, one.device, one.series.component, one.series.metric)
    unit = _cells(between, one.series.unit)
    return "".join(
        f"{table_format.time(row.time)}{between}{head}{between}{_cell(row.value, table_format)}{between}{unit}\r\n"
        for row in rows
    ).encode()


def _cell(value: ReadingValue, table_format: TableFormat) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _cells(table_format.separator, value) if isinstance(value, str) else table_format.number(value)


def _cells(separator: str, *texts: str) -> str:
    """Texts as one line of CSV, without its end."""
    return csv_line(texts, separator).removesuffix("\r\n")
