"""The import of the old server's record of received messages: in batches, checked or stored, and resumable."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from uuid import UUID

import django.db
import psycopg
from django.utils import timezone

from devices.domain.specs import DeviceSpec
from devices.services import audit
from telemetry.models import LegacyImport
from telemetry.services.legacy_import import (
    ImportBatch,
    ImportBatchResult,
    ImportPosition,
    LegacyImportWriter,
    LegacyRow,
    LegacyRowValidator,
)
from telemetry.services.pipeline.results import RefusedItem
from tenants.infrastructure.resumable_jobs import Superseded
from tenants.infrastructure.retry import DATABASE_LOST, Backoff, first_line

from .dump import CsvFile, columns_of
from .report import Problem, TableReport
from .tables import TELEMETRY_DATA

logger = logging.getLogger(__name__)

_BATCH_ROWS = 2000
_BATCH_BYTES = 8 * 2**20
# The largest difference between the old server's clock and this one's.
_CLOCKS = timedelta(days=1)

# Called after each batch with the number of bytes of the file on disk that are done.
Progress = Callable[[int], None]


class Unreadable(ValueError):
    """A row that is not a message."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


@dataclass(slots=True)
class RowReader:
    """Converts records to rows; `uuids` are the dump's devices by their ids and UUIDs."""

    file: CsvFile
    uuids: Mapping[str, UUID]
    time_zone: tzinfo | None
    places: dict[str, int] = field(init=False)
    now: datetime = field(default_factory=timezone.now)

    def __post_init__(self) -> None:
        self.places = columns_of(self.file, TELEMETRY_DATA)

    def read(self, record: list[str]) -> LegacyRow:
        """Return the row of a record. Raises Unreadable."""
        if len(record) != len(self.file.header):
            raise Unreadable("", f"It has {len(record)} fields, the header {len(self.file.header)}.")
        places = self.places
        topic, payload = record[places["topic"]], record[places["payload"]]
        received = self._time("received_time", record[places["received_time"]])
        if received is None:
            raise Unreadable("received_time", "It is empty; it must be a time with an offset.")
        if received > self.now + _CLOCKS:
            raise Unreadable("received_time", f"{received.isoformat()} is in the future.")
        if not topic or "\x00" in topic:
            raise Unreadable("topic", "It must not be empty, nor contain a NUL character.")
        try:
            topic.encode()
            body = payload.encode()
        except UnicodeEncodeError as error:
            raise Unreadable("payload", "It is not UTF-8: export it as UTF-8.") from error
        measured = self._time("device_time", record[places["device_time"]])
        return LegacyRow(self.file.line, topic, body, measured, received, self._device(record))

    def _time(self, column: str, text: str) -> datetime | None:
        if not text:
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise Unreadable(column, f"{text[:80]!r} is not a valid time; it must be one with an offset.") from error
        if moment.tzinfo is None:
            if self.time_zone is None:
                message = f"{text!r} has no offset: give the zone of the old server's times with --time-zone."
                raise Unreadable(column, message)
            moment = moment.replace(tzinfo=self.time_zone)
        try:
            return moment.astimezone(UTC)
        except OverflowError as error:
            raise Unreadable(column, f"{text!r} is not a possible time.") from error

    def _device(self, record: list[str]) -> UUID | None:
        place = self.places.get("device_id")
        named = record[place].strip().lower() if place is not None else ""
        if not named:
            return None
        uuid = self.uuids.get(named)
        if uuid is None:
            raise Unreadable("device_id", f"{named[:80]!r} is not a device of devices.csv: add it there.")
        return uuid


def batches(reader: RowReader, report: TableReport) -> Iterator[ImportBatch]:
    """Yield the rest of the file in batches; lines that are not messages are reported."""
    file, name = reader.file, reader.file.name
    batch = ImportBatch([], 0, 0, ImportPosition(0, "", 0))
    size = 0
    for record in file.records():
        batch.read += 1
        try:
            if isinstance(record, str):
                raise Unreadable("", record)
            row = reader.read(record)
        except Unreadable as error:
            batch.unreadable += 1
            report.fail(Problem(name, file.line, error.column, str(error)), rows=0)
        else:
            batch.rows.append(row)
            size += len(row.payload)
        if batch.read >= _BATCH_ROWS or size >= _BATCH_BYTES:
            batch.end = ImportPosition(file.position, file.digest, file.line)
            yield batch
            batch, size = ImportBatch([], 0, 0, ImportPosition(0, "", 0)), 0
    if batch.read:
        batch.end = ImportPosition(file.position, file.digest, file.line)
        yield batch


def dry_run(
    path: Path,
    reader_of: Callable[[CsvFile], RowReader],
    validator: LegacyRowValidator,
    report: TableReport,
    progress: Progress,
) -> None:
    """Report the result that each row would have, without writing anything. Raises DumpError."""
    file = CsvFile(path, path.name)
    try:
        for batch in batches(reader_of(file), report):
            report.read += batch.read
            report.errors += batch.unreadable
            for row, item in zip(batch.rows, validator.validate(batch.rows), strict=True):
                if isinstance(item, RefusedItem):
                    report.skip(_reason(item.result.reason), f"line {row.line}: {item.result.detail}")
                else:
                    report.created += 1
            progress(file.raw_position)
    finally:
        file.close()


def _reason(reason: str) -> str:
    return f"quarantined as {reason}"


def specs_of(specs: Mapping[UUID, DeviceSpec]) -> Callable[..., Mapping[UUID, DeviceSpec | None]]:
    """Return a lookup of the devices of a dry run, which are in no database."""
    return lambda _uuids: specs


class RecordImporter:
    """Stores the record of one file in the current tenant. Resumes where an import of the same bytes stopped."""

    def __init__(
        self,
        schema: str,
        path: Path,
        reader_of: Callable[[CsvFile], RowReader],
        report: TableReport,
        progress: Progress,
    ) -> None:
        self._schema = schema
        self._path = path
        self._reader_of = reader_of
        self._report = report
        self._progress = progress
        self._backoff = Backoff()

    def run(self, *, again: bool) -> None:
        """Import the file; wait while PostgreSQL is unavailable; with `again`, from the beginning. Raises DumpError."""
        writer = LegacyImportWriter(self._schema)
        before: LegacyImport | None = None
        try:
            while True:
                try:
                    row, file = self._open(again=again)
                    again = False
                    before = before or LegacyImport(stored=row.stored)
                    self._go_on(writer, row, file)
                    break
                except Superseded:
                    logger.info("The import was continued by an unconfirmed commit, or by another process")
                except DATABASE_LOST as error:
                    logger.warning("PostgreSQL is unavailable: waiting (%s)", first_line(error))
                    django.db.connection.close()
                    time.sleep(self._backoff.fail())
                writer.recover()
        finally:
            with suppress(psycopg.Error):
                writer.close()
        self._report_result(row, before.stored)

    def _open(self, *, again: bool) -> tuple[LegacyImport, CsvFile]:
        """Return the import of this file, and the file at the import's position."""
        file = CsvFile(self._path, self._path.name)
        row = None if again else LegacyImport.objects.filter(file=file.name).first()
        if row is not None and row.position >= file.position:
            file.skip_to(row.position, row.line)
            if file.digest == row.digest:
                return row, file
        if row is None or row.position:
            # Another file of the same name, or the first: stored messages are recognized as duplicates.
            row = LegacyImport.objects.create(file=file.name)
            audit.record(
                None, "import", row, "begun; the old server had verified the signatures, nothing is verified again"
            )
        file.close()
        return row, CsvFile(self._path, self._path.name)

    def _go_on(self, writer: LegacyImportWriter, row: LegacyImport, file: CsvFile) -> None:
        try:
            reader = self._reader_of(file)
            for batch in batches(reader, self._report):
                self._show(writer.settle(row, batch))
                self._backoff.reset()
                self._progress(file.raw_position)
        finally:
            file.close()
        row.refresh_from_db()
        if row.finished_at is None:
            finished = timezone.now()
            LegacyImport.objects.filter(pk=row.pk).update(finished_at=finished)
            audit.record(
                None,
                "import",
                row,
                f"{row.stored} stored, {row.duplicates} duplicates, {sum(row.refused.values())} refused",
            )

    def _show(self, settled: ImportBatchResult) -> None:
        for row, refusal in settled.refused:
            kept = self._report.examples.setdefault(_reason(refusal.reason), [])
            if len(kept) < 3:
                kept.append(f"line {row.line}: {refusal.detail}")

    def _report_result(self, row: LegacyImport, before: int) -> None:
        """Report the result for the whole file; messages that an earlier run stored count as unchanged."""
        report = self._report
        report.read = row.read
        report.created = row.stored - before
        report.unchanged = before + row.duplicates
        report.errors += row.unreadable
        report.skipped.update({_reason(reason): times for reason, times in row.refused.items()})
