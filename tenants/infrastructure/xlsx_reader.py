"""Program that reads the first sheet of an XLSX file: standard input to rows as JSON on standard output.

Only the sheet, its shared strings and the formats of dates are read, element after element; colours, fonts, links,
drawings and macros never. Everything is bounded: bytes, elements, rows, columns, and the length of texts. It is run by
`limited_child.py` in a process of its own, and imports nothing but the standard library.

Its argument is a JSON object of limits. It writes `[[row number, [cell, …]], …]`, or `{"error": …, …}`.
"""

import io
import json
import posixpath
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from xml.parsers import expat

_CHUNK = 64 * 1024
# A packed part of more than a megabyte that grows more than this is a decompression bomb; sheets grow 10 to 50 times.
_MOST_GROWTH = 200
_GROWTH_FROM = 2**20
_MOST_MEMBERS = 1000
_MOST_LETTERS = 3  # of a column's name
_LONGEST_STRING = 32_767  # characters, the limit of spreadsheet programs
_ESCAPED = re.compile("_x(000[9aAdD]|005[fF])_")
_QUOTED = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]')
# Numbers of the formats that every spreadsheet program knows as dates or times.
_DATE_FORMATS = frozenset({*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)})
_YEAR_10000 = 2_958_466  # in days

Limits = dict[str, int]
Attributes = dict[str, str]


class Refused(Exception):
    """The file is refused; the code names the reason."""

    def __init__(self, error: str, **values: Any) -> None:
        super().__init__(error)
        self.problem = {"error": error, **values}


class XmlPart:
    """One part of the file, read element by element, without document types and entities."""

    def __init__(self, package: "Package", name: str) -> None:
        self._package, self._name = package, name
        self._parser = expat.ParserCreate(namespace_separator="}")
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.buffer_text = True
        self.start: Callable[[str, Attributes], None] = lambda _name, _attributes: None
        self.end: Callable[[str], None] = lambda _name: None
        self.text: Callable[[str], None] = lambda _text: None

    def read(self) -> None:
        """Read the part to its end. Raises Refused, ExpatError."""
        parser, count = self._parser, self._package.count_element
        start, end = self.start, self.end

        def on_start(name: str, attributes: Attributes) -> None:
            count()
            start(name.rpartition("}")[2], attributes)

        parser.StartElementHandler = on_start
        parser.EndElementHandler = lambda name: end(name.rpartition("}")[2])
        parser.CharacterDataHandler = self.text
        for chunk in self._package.chunks(self._name):
            parser.Parse(chunk)
        parser.Parse(b"", True)

    def _refuse(self, *_: Any) -> None:
        raise Refused("entities")


class Package:
    """The parts of the file and what may be read of all of them together."""

    def __init__(self, content: bytes, limits: Limits) -> None:
        self.limits = limits
        self._zip = zipfile.ZipFile(io.BytesIO(content))
        self._members = {member.filename.lstrip("/"): member for member in self._zip.infolist()}
        self._elements = self._bytes = 0
        self._check()

    def _check(self) -> None:
        members = self._members.values()
        if len(members) > _MOST_MEMBERS or sum(member.file_size for member in members) > self.limits["unpacked"]:
            raise Refused("unpacked")
        for member in members:
            if member.file_size > max(_GROWTH_FROM, _MOST_GROWTH * member.compress_size):
                raise Refused("growth", part=member.filename[:100], most=_MOST_GROWTH)
            # Other methods take much more memory or time, and no spreadsheet program uses them.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                raise Refused("packing")

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a part. Raises Refused beyond the limit of all parts together."""
        with self._zip.open(self._members[name]) as part:
            while chunk := part.read(_CHUNK):
                self._bytes += len(chunk)
                if self._bytes > self.limits["unpacked"]:
                    raise Refused("unpacked")
                yield chunk

    def count_element(self) -> None:
        """Count an element of any part. Raises Refused beyond the limit."""
        self._elements += 1
        if self._elements > self.limits["elements"]:
            raise Refused("elements")

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """Return the relations of a part: id → its kind and the name of the target part; external ones are left out."""
        directory, base = posixpath.split(part)
        found: dict[str, tuple[str, str]] = {}
        name = posixpath.join(directory, "_rels", f"{base}.rels")

        def start(element: str, attributes: Attributes) -> None:
            if element == "Relationship" and attributes.get("TargetMode") != "External":
                kind = attributes.get("Type", "").rpartition("/")[2]
                target = posixpath.normpath(posixpath.join("/", directory, attributes.get("Target", "")))
                found[attributes.get("Id", "")] = (kind, target.lstrip("/"))

        if name in self:
            relations = XmlPart(self, name)
            relations.start = start
            relations.read()
        return found


def read(content: bytes, limits: Limits) -> list[tuple[int, list[str]]]:
    """Return the rows that have cells: number and texts. Raises Refused, and errors of zipfile and expat."""
    package = Package(content, limits)
    workbook = _first(package.relations(""), "officeDocument") or "xl/workbook.xml"
    relations = package.relations(workbook)
    sheet, epoch = _workbook(package, workbook, relations)
    strings = _first(relations, "sharedStrings")
    styles = _first(relations, "styles")
    return Sheet(
        package,
        _shared_strings(package, strings) if strings in package else [],
        _date_styles(package, styles) if styles in package else frozenset(),
        epoch,
    ).rows(sheet)


def _first(relations: dict[str, tuple[str, str]], kind: str) -> str:
    return next((target for name, target in relations.values() if name == kind), "")


def _workbook(package: Package, name: str, relations: dict[str, tuple[str, str]]) -> tuple[str, datetime]:
    """Return the part of the first sheet, and the day with the number 0."""
    sheets: list[str] = []
    epochs = [datetime(1899, 12, 30)]  # noqa: DTZ001 (cells have no time zone)

    def start(element: str, attributes: Attributes) -> None:
        if element == "sheet" and not sheets:
            key = next((value for name, value in attributes.items() if name.endswith("relationships}id")), "")
            sheets.append(relations.get(key, ("", ""))[1])
        elif element == "workbookPr" and attributes.get("date1904") in ("1", "true"):
            epochs.append(datetime(1904, 1, 1))  # noqa: DTZ001

    part = XmlPart(package, name)
    part.start = start
    part.read()
    return sheets[0], epochs[-1]


def _shared_strings(package: Package, name: str) -> list[str]:
    """Return the shared strings in their order, without their phonetic guides."""
    strings: list[str] = []
    pieces: list[str] = []
    inside = {"t": 0, "rPh": 0}
    size = length = 0

    def start(element: str, _attributes: Attributes) -> None:
        nonlocal length
        if element in inside:
            inside[element] += 1
        elif element == "si":
            pieces.clear()
            length = 0

    def text(data: str) -> None:
        nonlocal length
        if inside["t"] and not inside["rPh"]:
            length += len(data)
            if length > _LONGEST_STRING:
                raise Refused("string", most=_LONGEST_STRING)
            pieces.append(data)

    def end(element: str) -> None:
        nonlocal size
        if element in inside:
            inside[element] -= 1
        elif element == "si":
            size += length
            if size > package.limits["text"]:
                raise Refused("text")
            strings.append(_unescaped("".join(pieces)))

    part = XmlPart(package, name)
    part.start, part.text, part.end = start, text, end
    part.read()
    return strings


def _date_styles(package: Package, name: str) -> frozenset[int]:
    """Return the numbers of the cell styles that show a number as a date or time."""
    own: set[str] = set()
    found: set[int] = set()
    position = -1  # in cellXfs; -1 outside

    def start(element: str, attributes: Attributes) -> None:
        nonlocal position
        if element == "numFmt" and set("dmyhs") & set(_QUOTED.sub("", attributes.get("formatCode", "")).lower()):
            own.add(attributes.get("numFmtId", ""))
        elif element == "cellXfs":
            position = 0
        elif element == "xf" and position >= 0:
            number = attributes.get("numFmtId", "0")
            if number in own or (number.isascii() and number.isdecimal() and int(number[:9]) in _DATE_FORMATS):
                found.add(position)
            position += 1

    def end(element: str) -> None:
        nonlocal position
        if element == "cellXfs":
            position = -1

    part = XmlPart(package, name)
    part.start, part.end = start, end
    part.read()
    return frozenset(found)


class Sheet:
    """The cells of one sheet, as text."""

    def __init__(self, package: Package, strings: list[str], dates: frozenset[int], epoch: datetime) -> None:
        self._package, self._limits = package, package.limits
        self._strings, self._dates, self._epoch = strings, dates, epoch
        self._rows: list[tuple[int, list[str]]] = []
        self._row: list[str] = []
        self._number = self._column = self._size = 0
        self._cell: Attributes = {}
        self._value: list[str] | None = None
        self._length = 0
        self._inside = {"v": 0, "t": 0, "rPh": 0, "f": 0}
        self._has_formula = False

    def rows(self, name: str) -> list[tuple[int, list[str]]]:
        """Return the rows that have cells. Raises Refused."""
        part = XmlPart(self._package, name)
        part.start, part.text, part.end = self._start, self._text, self._end
        part.read()
        return self._rows

    def _start(self, element: str, attributes: Attributes) -> None:
        if element == "c":
            self._cell, self._value, self._has_formula, self._length = attributes, None, False, 0
            self._column = self._column_of(attributes)
        elif element == "row":
            number = int(attributes.get("r", self._number + 1))
            if number <= self._number:
                raise Refused("invalid")
            self._number, self._row, self._column = number, [], -1
        elif element in self._inside:
            self._inside[element] += 1
            self._has_formula |= element == "f"
            if element in ("v", "t") and self._value is None:
                self._value = []

    def _text(self, data: str) -> None:
        if self._value is not None and (self._inside["v"] or (self._inside["t"] and not self._inside["rPh"])):
            self._length += len(data)
            if self._length > self._limits["cell"]:
                raise Refused("cell", cell=self._name(), most=self._limits["cell"])
            self._value.append(data)

    def _end(self, element: str) -> None:
        if element in self._inside:
            self._inside[element] -= 1
        elif element == "c":
            self._add(self._meaning())
        elif element == "row" and any(self._row):
            self._rows.append((self._number, self._row))
            if len(self._rows) > self._limits["rows"] + 1:  # one is the heading
                raise Refused("rows")

    def _add(self, text: str) -> None:
        if not text:
            return
        if self._column >= self._limits["columns"]:
            raise Refused("columns")
        if len(text) > self._limits["cell"]:
            raise Refused("cell", cell=self._name(), most=self._limits["cell"])
        # A long string that a million cells share would be a bomb of its own.
        self._size += len(text)
        if self._size > self._limits["text"]:
            raise Refused("text")
        self._row.extend([""] * (self._column + 1 - len(self._row)))
        self._row[self._column] = text

    def _meaning(self) -> str:
        """Return the cell as text. A formula is never evaluated: its value is the one that the file contains."""
        raw, kind = "".join(self._value or ()), self._cell.get("t", "n")
        if self._has_formula and not raw and kind != "str":
            raise Refused("formula", cell=self._name())
        if kind == "s":
            return self._strings[int(raw)] if raw else ""
        if kind == "e":
            raise Refused("error_value", cell=self._name(), value=raw[:20])
        if kind == "b":
            return "yes" if raw == "1" else "no"
        return self._number_text(raw) if kind == "n" and raw else _unescaped(raw)

    def _number_text(self, raw: str) -> str:
        value = float(raw)
        style = self._cell.get("s", "0")
        if (
            self._dates and style.isdecimal() and int(style) in self._dates and 0 <= value < 2_958_466
        ):  # the year 10,000
            moment = self._epoch + timedelta(seconds=round(value * 86_400))
            return (moment.time() if value < 1 else moment).isoformat()
        if value.is_integer() and abs(value) < 2**53:
            return str(int(value))
        return str(value)

    def _is_date(self) -> bool:
        style = self._cell.get("s", "0")
        return bool(self._dates) and style.isdecimal() and int(style) in self._dates

    def _column_of(self, attributes: Attributes) -> int:
        letters = attributes.get("r", "").rstrip("0123456789")
        if not letters:
            return self._column + 1
        if len(letters) > _MOST_LETTERS or not (letters.isascii() and letters.isalpha()):
            raise Refused("invalid")
        column = 0
        for letter in letters.upper():
            column = 26 * column + ord(letter) - ord("A") + 1
        return column - 1

    def _name(self) -> str:
        return self._cell.get("r", "")[:12] or f"R{self._number}C{self._column + 1}"


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "_x" in text else text


def main() -> None:
    """Read standard input within the limits of the argument."""
    result: Any
    try:
        result = read(sys.stdin.buffer.read(), json.loads(sys.argv[1]))
    except Refused as refused:
        result = refused.problem
    except (zipfile.BadZipFile, expat.ExpatError, KeyError, IndexError, ValueError, OverflowError, EOFError) as error:
        if "out of memory" in str(error):
            raise MemoryError from error
        result = {"error": "invalid"}
    except (OSError, NotImplementedError, zipfile.zlib.error):  # type: ignore[attr-defined]
        result = {"error": "invalid"}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
