"""Reader of the dump: CSV files with a header, as PostgreSQL's COPY … (FORMAT CSV, HEADER) writes them."""

import csv
import gzip
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from .report import Problem
from .tables import SECRET_NAMES, Column, Table

# The limit of a field; an unclosed quote would include the rest of the file.
_MOST_FIELD = 4 * 2**20
_CHUNK = 2**20


class DumpError(Exception):
    """A file cannot be read; the message says what to correct."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Row:
    """A row's values by the columns' own names; None for an empty value."""

    line: int
    values: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)


def find(directory: Path, table: Table) -> Path | None:
    """Return the table's file, plain or compressed; None when there is none."""
    names = (f"{table.name}.csv", f"{table.name}.csv.gz")
    return next((directory / name for name in names if (directory / name).is_file()), None)


def required(directory: Path, table: Table) -> Path:
    """Return the table's file. Raises DumpError when there is none."""
    found = find(directory, table)
    if found is None:
        words = (
            f"There is no such file in {directory}. If the old table was empty, provide a file with the header alone."
        )
        raise DumpError(Problem(f"{table.name}.csv", 0, "", words))
    return found


class CsvFile:
    """A CSV file that is read once, from its beginning or from a position; bytes are counted uncompressed."""

    def __init__(self, source: Path | IO[bytes], name: str = "") -> None:
        """Open the file. Raises DumpError when it cannot be opened or has no header."""
        csv.field_size_limit(_MOST_FIELD)
        self.name = name or getattr(source, "name", "")
        self.position = 0
        self.line = 0
        self._hash = hashlib.sha256()
        self._raw: IO[bytes] = self._open(source) if isinstance(source, Path) else source
        packed = self.name.endswith(".gz")
        self._file = cast("IO[bytes]", gzip.GzipFile(fileobj=self._raw)) if packed else self._raw
        self.header = self._read_header()

    def _open(self, path: Path) -> IO[bytes]:
        try:
            return path.open("rb")
        except OSError as error:
            raise DumpError(Problem(self.name, 0, "", f"It cannot be read: {error.strerror}.")) from error

    def _read_header(self) -> list[str]:
        first = next(self.records(), None)
        if not isinstance(first, list) or not any(first):
            raise DumpError(Problem(self.name, 1, "", "It has no header: export it with HEADER."))
        return [name.strip().lstrip("\ufeff").lower() for name in first]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what was read."""
        return self._hash.hexdigest()

    @property
    def raw_position(self) -> int:
        """Return how many bytes of the file on the disk were read."""
        return self._raw.tell()

    def skip_to(self, position: int, line: int) -> None:
        """Skip to a position that was reached before, or to the end."""
        while self.position < position and (chunk := self._file.read(min(_CHUNK, position - self.position))):
            self.position += len(chunk)
            self._hash.update(chunk)
        self.line = line

    def records(self) -> Iterator[list[str] | str]:
        """Yield the records; for one that is not CSV, a text that says why. `position` and `line` are its end.

        Bytes that are not UTF-8 become surrogates.
        """
        reader, before = csv.reader(self._lines(), strict=True), self.line
        while True:
            try:
                record: list[str] | str = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                record = f"It is not valid CSV: {error}. Export it again with FORMAT CSV."
            self.line = before + reader.line_num
            if record:
                yield record

    def _lines(self) -> Iterator[str]:
        try:
            for raw in self._file:
                self.position += len(raw)
                self._hash.update(raw)
                yield raw.decode("utf-8", "surrogateescape")
        except (OSError, EOFError) as error:  # a damaged .gz
            raise DumpError(Problem(self.name, self.line, "", f"It cannot be read any further: {error}.")) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()


def columns_of(file: CsvFile, table: Table) -> dict[str, int]:
    """Return the positions of the used columns. Raises DumpError for an unknown, duplicate or missing one."""
    by_name = {name: column for column in table.columns for name in (column.name, *column.aliases)}
    expected = ", ".join(_described(column) for column in table.columns)
    places: dict[str, int] = {}
    for place, name in enumerate(file.header):
        column = by_name.get(name)
        if column is None and name in table.left_out:
            continue
        if column is None:
            raise DumpError(Problem(file.name, 1, name, _unknown(name, expected)))
        if column.name in places:
            raise DumpError(Problem(file.name, 1, name, f"Two columns are named {column.name}; remove one."))
        places[column.name] = place
    for column in table.columns:
        if column.required and column.name not in places:
            words = f"The column is missing ({column.expected}); expected are {expected}."
            raise DumpError(Problem(file.name, 1, column.name, words))
    return places


def _unknown(name: str, expected: str) -> str:
    if name in SECRET_NAMES:
        return "Secrets must not be in the dump; remove the column and pass them with --secrets."
    return f"The column is not known; expected are {expected}. Remove or rename it."


def _described(column: Column) -> str:
    also = f" (or {', '.join(column.aliases)})" if column.aliases else ""
    return f"{column.name}{also}" if column.required else f"{column.name}{also}, optional"


def rows(file: CsvFile, table: Table) -> Iterator[Row | Problem]:
    """Yield the file's rows, or the problem of each. Raises DumpError for the file as a whole."""
    places = columns_of(file, table)
    taken = [(column, places[column.name]) for column in table.columns if column.name in places]
    for record in file.records():
        yield _row(file, record, taken)


def _row(file: CsvFile, record: list[str] | str, taken: list[tuple[Column, int]]) -> Row | Problem:
    if isinstance(record, str):
        return Problem(file.name, file.line, "", record)
    if len(record) != len(file.header):
        words = f"It has {len(record)} fields; the header has {len(file.header)}."
        return Problem(file.name, file.line, "", words)
    values: dict[str, Any] = {}
    for column, place in taken:
        text = record[place]
        if not _is_text(text):
            return Problem(file.name, file.line, column.name, "It is not UTF-8 or contains a NUL; export it as UTF-8.")
        if not text.strip():
            if column.filled:
                return Problem(file.name, file.line, column.name, f"It is empty; expected is {column.expected}.")
            values[column.name] = None
            continue
        try:
            values[column.name] = column.parse(text)
        except (ValueError, KeyError, RecursionError):
            words = f"{text[:80]!r} cannot be taken; expected is {column.expected}."
            return Problem(file.name, file.line, column.name, words)
    return Row(file.line, values)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def of_bytes(data: bytes, name: str) -> CsvFile:
    """Return a file in memory, for the standard input."""
    return CsvFile(io.BytesIO(data), name)
