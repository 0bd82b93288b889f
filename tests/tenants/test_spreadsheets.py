"""Tables that go out and come in: no cell is a formula for any reader, and nothing is lost on the way back."""

import ast
import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenants.infrastructure.spreadsheets import csv_line, harmless, read_table, write_table

ROOT = Path(__file__).resolve().parents[2]
_BEGINS_FORMULA = re.compile(r"[\s\"]*[=+\-@＝＋－＠﹦﹢﹣﹫]")
_TEXTS = st.text(st.sampled_from("ab'\"=-+@＝＠;,|\t 1"), max_size=12)


def cells_of(text: str) -> list[str]:
    """Return what spreadsheet programs of all regions show as cells of the CSV."""
    return [cell for delimiter in ",;|\t" for row in csv.reader(io.StringIO(text), delimiter=delimiter) for cell in row]


@given(st.lists(_TEXTS, min_size=1, max_size=4))
@example(["x;=1+1"])
@example(['a;""=1+1'])
@example(["＝cmd|' /C calc'!A0"])
@example([" \t=1"])
def test_no_cell_is_a_formula_whatever_the_separator(texts: list[str]) -> None:
    assert [cell for cell in cells_of(csv_line(texts)) if _BEGINS_FORMULA.match(cell)] == []


@settings(max_examples=20)
@given(st.lists(_TEXTS, min_size=1, max_size=50))
@example(["'=1", "'  =1;'=2", "a;=1,'-2", "\t", "'"])
def test_a_written_text_is_read_as_it_was(texts: list[str]) -> None:
    for form in ("csv", "xlsx"):
        rows = read_table(write_table(["name", "other"], [[text, "x"] for text in texts], form), ["name", "other"])
        assert [row.cells["name"] for row in rows] == [text.strip() for text in texts]


def test_numbers_are_written_as_numbers() -> None:
    assert csv_line([-5, 1.5, None, "-5"]) == "-5,1.5,,'-5\r\n"


@pytest.mark.parametrize("sign", ["\t", "\n", ";", "\"'"])
def test_a_text_is_looked_at_once(sign: str) -> None:
    # A million characters: an expression that began again at each separator would take hours.
    assert harmless(sign * 1_000_000 + "a").endswith("a")


def test_one_module_writes_csv() -> None:
    own = [path for app in ("tenants", "devices", "telemetry") for path in (ROOT / app).rglob("*.py")]
    using = {
        str(path.relative_to(ROOT))
        for path in own
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and any(name.name == "csv" for name in node.names)
    }
    assert using == {"tenants/infrastructure/spreadsheets.py"}
