"""Forms of CSV: separator, decimal sign, zone and byte order mark; and cells that spreadsheets have damaged."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import translation

from tenants.infrastructure.spreadsheet_errors import check_identifier
from tenants.infrastructure.spreadsheets import read_file, write_table
from tenants.infrastructure.table_formats import SEPARATORS, TableFormat, from_parameters

AT = datetime(2026, 7, 1, 12, 0, 0, 250000, tzinfo=UTC)


def test_times_and_numbers() -> None:
    seoul = from_parameters({"timezone": ZoneInfo("Asia/Seoul"), "decimal": "comma", "separator": "semicolon"})
    assert seoul.time(AT) == "2026-07-01T21:00:00.250000+09:00"
    assert (seoul.number(-1.5), seoul.number(1e-7), seoul.number(2.0)) == ("-1,5", "1e-07", "2,0")
    plain = from_parameters({"timezone": ZoneInfo("UTC")})
    assert plain == TableFormat()
    assert (plain.time(AT), plain.number(1.5)) == ("2026-07-01T12:00:00.250000Z", "1.5")
    assert TableFormat(zone=ZoneInfo("Europe/Berlin")).time(AT).endswith("+02:00")


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("has_mark", [True, False])
def test_a_table_is_read_back_with_each_separator(settings: Any, separator: str, has_mark: bool) -> None:
    settings.CSV_BYTE_ORDER_MARK = has_mark
    rows = [["온실, 1동", "a;b\tc"], ["=1+1", "-5"]]
    content = write_table(["name", "other"], rows, "csv", from_parameters({"separator": separator}))
    assert content.startswith(b"\xef\xbb\xbf") is has_mark
    table = read_file(content, ["name", "other"])
    assert table.encoding == "utf-8"
    assert [list(row.cells.values()) for row in table.rows] == rows


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("1E+15", "a number that a spreadsheet program has shortened"),
        ("1.23457E+11", "shortened"),
        ("1,23E+11", "shortened"),
        ("1e+16", "shortened"),
        ("2E-05", "shortened"),
        ("12345678.0", "decimal sign"),
        ('="0000000099999999"', "a formula"),
        ('="A-1"', "a formula"),
        ("#NAME?", "an error of a spreadsheet program"),
        ("#N/A", "an error"),
        ("########", "an error"),
    ],
)
def test_damaged_identifiers_are_refused_by_name(cell: str, words: str) -> None:
    with translation.override("en"), pytest.raises(ValueError, match=words) as error:
        check_identifier(cell)
    assert repr(cell) in str(error.value)


@pytest.mark.parametrize(
    "cell",
    [
        "10000000e1234567",
        "00e15",
        "1e15",
        "E+15",
        "12E",
        "0000000099999999",
        "v1.0",
        "1.0",
        "#3",
        "a=b",
        "=1+1",
        "-",
        "온실",
    ],
)
def test_other_identifiers_are_taken(cell: str) -> None:
    assert check_identifier(cell) == cell
