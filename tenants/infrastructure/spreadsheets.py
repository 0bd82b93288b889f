"""Uploaded and downloaded tables: CSV in the encodings of spreadsheet programs, and XLSX.

What is read is bounded: bytes, rows, columns, and what a packed file grows to; a process of its own with limits reads
XLSX. A table is a list of rows, each a mapping of column to text, with the number of the row in the spreadsheet.
"""

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from openpyxl import Workbook

from .database import release_connection
from .limited_process import MemoryExceeded, ProgramFailed, TimeExceeded, TooManyPrograms, run_limited
from .table_formats import DEFAULT, TableFormat, begin
from .text_encodings import decode

logger = logging.getLogger(__name__)

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
CONTENT_TYPES = {"csv": "text/csv; charset=utf-8", "xlsx": XLSX}
# A spreadsheet program interprets a cell that begins with one of these as a formula; the wide and small forms too, in
# Chinese, Japanese and Korean editions. A cell begins also after a separator of another region's CSV, and spaces and
# quotes before the sign are dropped.
_SIGNS = "=+\\-@\\t\\r＝＋－＠﹦﹢﹣﹫"
_BEGINS = r"(?:^|(?<=[,;|\t\r\n]))"
# Without the separators, so that a text is looked at once, however many of them it has.
_DROPPED = r"(?:[^\S\t\r\n]|[\"'])*"
_FORMULA = re.compile(rf"{_BEGINS}(?={_DROPPED}[{_SIGNS}])")
_HARMLESS = re.compile(rf"{_BEGINS}'(?={_DROPPED}[{_SIGNS}])")
_MOST_COLUMNS = 40
_MOST_CELL = 4000  # characters
# A file of 5 MB with more than this unpacked is a decompression bomb.
_MOST_UNPACKED = 20  # times what may be uploaded
# Lines of CSV for each row: a cell may have several, and there may be empty ones.
_MOST_LINES = 10
# Elements of XML for each row: three for a cell. A workbook that was copied together for years has many styles.
_MOST_ELEMENTS = 60
_MOST_STYLES = 500_000
_XLSX_READER = Path(__file__).with_name("xlsx_reader.py")


class TooManyFiles(ValidationError):
    """As many files as may be read at once are being read; the same upload can be repeated."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row: its number in the file (the heading has 1) and its cells as text."""

    number: int
    cells: dict[str, str]


@dataclass(frozen=True, slots=True)
class TableFile:
    """The rows of a file, and the encoding of its text; empty for XLSX, which has one of its own."""

    rows: list[TableRow]
    encoding: str


def read_table(content: bytes, known: Sequence[str], needed: Sequence[str] = ()) -> list[TableRow]:
    """Return the rows of a CSV or XLSX file in an encoding that can be recognized. Raises ValidationError."""
    return read_file(content, known, needed).rows


def read_file(content: bytes, known: Sequence[str], needed: Sequence[str] = (), encoding: str = "") -> TableFile:
    """Return the rows of a CSV or XLSX file, and the encoding that was used. Raises ValidationError.

    `known` are the columns that a file may have, `needed` those that it must have. Rows without any cell are left out.
    `encoding` is that of a CSV, recognized unless it is given.
    """
    if len(content) > settings.IMPORT_MAX_BYTES:
        raise ValidationError(
            _("The file must not be larger than %(most)d bytes. Split it.") % {"most": settings.IMPORT_MAX_BYTES}
        )
    if not content.strip():
        raise ValidationError(_("The file is empty."))
    # Other requests need the connection more than a request that only computes.
    release_connection()
    if content.startswith(b"PK"):
        return TableFile(_rows(_xlsx_lines(content), known, needed), "")
    text, used = decode(content, encoding)
    return TableFile(_rows(_csv_lines(text), known, needed), used)


def check_rows(rows: Iterable[dict[str, Any]], known: Sequence[str], needed: Sequence[str] = ()) -> list[TableRow]:
    """Return rows of JSON objects in the form of `read_table`; the first has the number 1."""
    listed = list(rows)
    _check_count(len(listed))
    _check_columns([*dict.fromkeys(name for row in listed for name in row)], known, ())
    found = [TableRow(number, {k: _text(v) for k, v in row.items()}) for number, row in enumerate(listed, 1)]
    for name in needed:
        if not any(name in row.cells for row in found):
            _check_columns([], known, needed)
    return found


def write_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], form: str, table_format: TableFormat = DEFAULT
) -> bytes:
    """Return the table as CSV (UTF-8) or XLSX; no cell is a formula."""
    if form == "csv":
        lines = "".join(csv_line(row, table_format.separator) for row in (columns, *rows))
        return begin() + lines.encode()
    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(list(columns))
    for row in rows:
        sheet.append([_harmless(cell) for cell in row])
    packed = io.BytesIO()
    book.save(packed)
    return packed.getvalue()


def csv_line(cells: Iterable[Any], separator: str = ",") -> str:
    """Return the cells as one line of CSV with its end; no cell is a formula, whatever the separator of the reader."""
    to = io.StringIO()
    csv.writer(to, delimiter=separator).writerow(_harmless(cell) for cell in cells)
    return to.getvalue()


def harmless(text: str) -> str:
    """Return the text with a `'` wherever a spreadsheet program would begin a formula; `read_table` removes it."""
    return _FORMULA.sub("'", text)


def _harmless(cell: Any) -> Any:
    if isinstance(cell, int | float):
        return cell  # a negative number is not a formula
    text = "" if cell is None else str(cell)
    # Characters that XML does not allow would make the file unreadable.
    return harmless("".join(c for c in text if c >= " " or c in "\t\n"))


def _meant(text: str) -> str:
    """Return the text without the signs of `harmless`, so that an exported file is imported unchanged."""
    return _HARMLESS.sub("", text)


def _rows(lines: Iterator[tuple[int, list[str]]], known: Sequence[str], needed: Sequence[str]) -> list[TableRow]:
    number, heading = next(((n, line) for n, line in lines if any(line)), (0, []))
    columns = [name.strip().lower().replace(" ", "_") for name in heading]
    while columns and not columns[-1]:
        columns.pop()
    _check_columns(columns, known, needed)
    rows = []
    for number, line in lines:
        if not any(line):
            continue
        if any(line[len(columns) :]):
            raise ValidationError(
                _("Row %(row)d must not have more cells than the heading row (%(count)d).")
                % {"row": number, "count": len(columns)}
            )
        rows.append(TableRow(number, dict(zip(columns, line, strict=False))))
        _check_count(len(rows))
    if not rows:
        raise ValidationError(_("The file has a heading row and no other rows."))
    return rows


def _check_count(count: int) -> None:
    if count > settings.IMPORT_MAX_ROWS:
        raise ValidationError(_too_many_rows())


def _too_many_rows() -> str:
    return _("The file must not have more than %(most)d rows. Split it.") % {"most": settings.IMPORT_MAX_ROWS}


def _check_columns(columns: Sequence[str], known: Sequence[str], needed: Sequence[str]) -> None:
    values = {"known": ", ".join(known)}
    if missing := [name for name in needed if name not in columns]:
        raise ValidationError(
            _("The column %(missing)s is missing. The first row must name the columns. Valid columns: %(known)s.")
            % {**values, "missing": ", ".join(missing)}
        )
    if unknown := [name or "(empty)" for name in columns if name not in known]:
        raise ValidationError(
            _("%(unknown)s is not a valid column. Valid columns: %(known)s.")
            % {**values, "unknown": ", ".join(unknown[:5])}
        )
    if twice := sorted({name for name in columns if list(columns).count(name) > 1}):
        raise ValidationError(_("The column %(twice)s must not occur more than once.") % {"twice": ", ".join(twice)})


def _text(value: Any) -> str:
    """Return a cell as text; a float without a fraction becomes an integer again."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    text = (value.isoformat() if isinstance(value, date | datetime) else str(value)).strip()
    if len(text) > _MOST_CELL or "\0" in text:
        raise ValidationError(
            _("A cell must not have more than %(most)d characters, and no NUL character.") % {"most": _MOST_CELL}
        )
    return text


# --- CSV ------------------------------------------------------------------------------------------------------


def _csv_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for line in reader:
            if len(line) > _MOST_COLUMNS:
                raise ValidationError(_too_wide())
            if reader.line_num > _MOST_LINES * settings.IMPORT_MAX_ROWS:
                raise ValidationError(_too_many_rows())
            yield reader.line_num, [_text(_meant(cell)) for cell in line]
    except csv.Error as error:
        raise ValidationError(
            _("Row %(row)d is not valid CSV: %(error)s") % {"row": reader.line_num, "error": error}
        ) from error


# --- XLSX -----------------------------------------------------------------------------------------------------


def _xlsx_lines(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of the first sheet, read in a process of its own with limits."""
    megabytes, seconds = settings.IMPORT_PARSE_MEGABYTES, settings.IMPORT_PARSE_SECONDS
    arguments = [json.dumps(_xlsx_limits())]
    try:
        found = run_limited(_XLSX_READER, arguments, content, memory=megabytes * 2**20, seconds=seconds)
    except MemoryExceeded as error:
        raise ValidationError(
            _("Reading the file must not need more than %(most)d MB of memory. Split it, or save it as CSV.")
            % {"most": megabytes}
        ) from error
    except TooManyPrograms as error:
        raise TooManyFiles(_("Too many files are being read at the moment. Upload it again in a minute.")) from error
    except ProgramFailed as error:
        logger.exception("An uploaded XLSX file could not be read")
        raise ValidationError(_xlsx_problem({"error": "invalid"})) from error
    except TimeExceeded as error:
        raise ValidationError(
            _("Reading the file must not need more than %(most)d seconds. Split it, or save it as CSV.")
            % {"most": seconds}
        ) from error
    result = json.loads(found)
    if isinstance(result, dict):
        raise ValidationError(_xlsx_problem(result))
    for number, cells in result:
        yield number, [_text(_meant(cell)) for cell in cells]


def _xlsx_limits() -> dict[str, int]:
    return {
        "unpacked": _MOST_UNPACKED * settings.IMPORT_MAX_BYTES,
        "elements": _MOST_ELEMENTS * settings.IMPORT_MAX_ROWS + _MOST_STYLES,
        "text": 2 * settings.IMPORT_MAX_BYTES,
        "rows": settings.IMPORT_MAX_ROWS,
        "columns": _MOST_COLUMNS,
        "cell": _MOST_CELL,
    }


def _xlsx_problem(found: dict[str, Any]) -> str:
    """Return the text for a problem of the reader, with what is allowed."""
    limits = _xlsx_limits()
    match found["error"]:
        case "rows":
            return _too_many_rows()
        case "columns":
            return _too_wide()
        case "unpacked":
            return _("The unpacked file must not be larger than %(most)d bytes.") % {"most": limits["unpacked"]}
        case "growth":
            return _("The part %(part)s of the file must not unpack to more than %(most)d times its size.") % found
        case "elements":
            return _("The file must not contain more than %(most)d XML elements. Split it, or save it as CSV.") % {
                "most": limits["elements"]
            }
        case "text":
            return _("The cells must not contain more than %(most)d characters together. Split the file.") % {
                "most": limits["text"]
            }
        case "cell":
            return _("Cell %(cell)s must not have more than %(most)d characters.") % found
        case "string":
            return _("A text of the file must not have more than %(most)d characters.") % found
        case "formula":
            return _("Cell %(cell)s has a formula without a value. Replace the formula by its value.") % found
        case "error_value":
            return _("Cell %(cell)s contains the error %(value)s. Replace it by a value.") % found
        case "entities":
            return _("The XML of the file must not contain a document type or entities.")
        case "packing":
            return _("The parts of the file must be stored or deflated, without a password.")
    return _("The file is not a valid XLSX file. Save it again, or save it as CSV.")


def _too_wide() -> str:
    return _("The file must not have more than %(most)d columns.") % {"most": _MOST_COLUMNS}
