"""Uploaded XLSX files: what is read of them, and what hostile ones cost."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from tenants.infrastructure import limited_process, spreadsheets
from tenants.infrastructure.limited_process import MemoryExceeded, ProgramFailed, TimeExceeded, run_limited
from tenants.infrastructure.spreadsheets import TooManyFiles, read_table
from tests.spreadsheet_files import text_cell, xlsx_file

HEADING = [text_cell("A1", "name"), text_cell("B1", "other")]


def cells_of(*row: str, **parts: str) -> dict[str, str]:
    return read_table(xlsx_file([HEADING, row], **parts), ["name", "other"])[0].cells  # type: ignore[arg-type]


def refusal(content: bytes) -> str:
    with pytest.raises(ValidationError) as refused:
        read_table(content, ["name", "other"])
    return " ".join(refused.value.messages)


# --- cells ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('<c r="A2"><v>12345678</v></c>', "12345678"),
        ('<c r="A2"><v>90.0</v></c>', "90"),
        ('<c r="A2"><v>1E-3</v></c>', "0.001"),
        ('<c r="A2" t="b"><v>1</v></c>', "yes"),
        ('<c r="A2" t="s"><v>1</v></c>', "온실"),
        ('<c r="A2" t="str"><f>A1&amp;B1</f><v>joined</v></c>', "joined"),
        ('<c r="A2" s="1"><v>46085</v></c>', "2026-03-04T00:00:00"),
        ('<c r="A2" s="2"><v>0.5</v></c>', "12:00:00"),
        ('<c r="A2" s="0"><v>46085</v></c>', "46085"),
        ('<c r="A2" t="d"><v>2026-03-04</v></c>', "2026-03-04"),
        ("<c><v>7</v></c>", "7"),
        ('<c r="A2" t="inlineStr"><is><r><t>a</t></r><r><t>b</t></r><rPh><t>guide</t></rPh></is></c>', "ab"),
        (text_cell("A2", "a_x000A_b_x005F_c"), "a\nb_c"),
    ],
)
def test_cells(cell: str, text: str) -> None:
    strings = "<si><t>zero</t></si><si><t>온실</t><rPh><t>guide</t></rPh></si>"
    styles = '<numFmts><numFmt numFmtId="170" formatCode="[h]:mm"/></numFmts><cellStyleXfs><xf numFmtId="14"/>'
    styles += '</cellStyleXfs><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="170"/></cellXfs>'
    styles = styles.replace("[h]:mm", "h:mm")
    assert cells_of(cell, strings=strings, styles=styles) == {"name": text}


def test_cells_that_are_left_out_keep_the_columns_of_the_others() -> None:
    assert cells_of('<c r="B2"><v>1</v></c>') == {"name": "", "other": "1"}


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ('<c r="A2"><f>1+1</f></c>', "Cell A2 has a formula without a value"),
        ('<c r="A2"><f>1+1</f><v/></c>', "Cell A2 has a formula without a value"),
        ('<c r="A2" t="e"><v>#REF!</v></c>', "Cell A2 contains the error #REF!"),
        ('<c r="AO2"><v>1</v></c>', "must not have more than 40 columns"),
        (text_cell("A2", "x" * 4001), "Cell A2 must not have more than 4000 characters"),
        ('<c r="A2" t="s"><v>5</v></c>', "is not a valid XLSX file"),
        ('<c r="A2"><v>one</v></c>', "is not a valid XLSX file"),
        ("</row><row r='1'>", "is not a valid XLSX file"),
        ("<c>", "is not a valid XLSX file"),
    ],
)
def test_cells_that_are_refused(cell: str, said: str) -> None:
    assert said in refusal(xlsx_file([HEADING, [cell]]))


def test_entities_are_refused() -> None:
    nested = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x"}">' for n in range(10))
    content = xlsx_file([HEADING], prolog=f"<!DOCTYPE a [{nested}]>", strings="<si><t>&e9;</t></si>")
    assert "document type or entities" in refusal(content)


def test_a_part_that_grows_too_much_is_refused() -> None:
    styles = f"<cellXfs>{'<xf/>' * 400_000}</cellXfs>"
    content = xlsx_file([HEADING], styles=styles)
    assert len(content) < 12_000
    assert "The part xl/styles.xml of the file must not unpack to more than 200 times" in refusal(content)


def test_too_many_elements_are_refused(settings: Any) -> None:
    settings.IMPORT_MAX_ROWS = 10
    styles = "".join(f"<x{n % 9999}/>" for n in range(600_000))
    assert "more than 500600 XML elements" in refusal(xlsx_file([HEADING], styles=styles))


def test_a_string_that_many_cells_share_is_refused() -> None:
    shared = '<c r="A{0}" t="s"><v>0</v></c>'
    rows = [HEADING, *[[shared.format(n)] for n in range(2, 4000)]]
    assert "more than 10485760 characters together" in refusal(xlsx_file(rows, strings=f"<si><t>{'x' * 4000}</t></si>"))


def test_rows_are_counted(settings: Any) -> None:
    settings.IMPORT_MAX_ROWS = 10
    rows = [HEADING, *[[text_cell(f"A{n}", "x")] for n in range(2, 13)]]
    assert len(read_table(xlsx_file(rows[:-1]), ["name", "other"])) == 10
    assert "more than 10 rows" in refusal(xlsx_file(rows))


def test_other_methods_of_packing_are_refused() -> None:
    assert "stored or deflated" in refusal(xlsx_file([HEADING], compression=zipfile.ZIP_LZMA))


def test_external_parts_are_not_read() -> None:
    content = xlsx_file([HEADING, [text_cell("A2", "x")]], relation='TargetMode="External" ')
    assert "is not a valid XLSX file" in refusal(content)


def test_the_limits_of_the_process_are_named(settings: Any, monkeypatch: Any, tmp_path: Path) -> None:
    # An element with many attributes is one element, and needs memory before it can be counted.
    attributes = " ".join(f'a{n}="{n * 7919 % 100_003}"' for n in range(150_000))
    settings.IMPORT_PARSE_MEGABYTES = 40
    assert "must not need more than 40 MB of memory" in refusal(xlsx_file(sheet=f"<worksheet {attributes}/>"))
    settings.IMPORT_PARSE_SECONDS = 1
    endless = tmp_path / "endless.py"
    endless.write_text("while True: pass")
    monkeypatch.setattr(spreadsheets, "_XLSX_READER", endless)
    assert "must not need more than 1 seconds" in refusal(xlsx_file([HEADING]))


def test_the_connection_is_released_before_a_file_is_read(monkeypatch: Any) -> None:
    calls: list[str] = []

    def watched(*arguments: Any, **options: Any) -> bytes:
        calls.append("read")
        return run_limited(*arguments, **options)

    monkeypatch.setattr(spreadsheets, "release_connection", lambda: calls.append("release"))
    monkeypatch.setattr(spreadsheets, "run_limited", watched)
    assert cells_of(text_cell("A2", "x")) == {"name": "x"}
    assert calls == ["release", "read"]


def test_more_files_than_places(monkeypatch: Any) -> None:
    monkeypatch.setattr(limited_process, "_WAIT_SECONDS", 0)
    for _ in range(limited_process._AT_ONCE):
        assert limited_process._places.acquire(timeout=60)
    try:
        with pytest.raises(TooManyFiles, match="again in a minute"):
            cells_of(text_cell("A2", "x"))
    finally:
        for _ in range(limited_process._AT_ONCE):
            limited_process._places.release()
    assert cells_of(text_cell("A2", "x")) == {"name": "x"}


# --- the limited process --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("x = bytearray(10**9)", MemoryExceeded),
        ("import ctypes; ctypes.string_at(0)", MemoryExceeded),
        ("while True: pass", TimeExceeded),
        ("open('/tmp/written-by-a-limited-process', 'w').write('x' * 10**6)", ProgramFailed),
        ("import django", ProgramFailed),
        ("raise KeyError('of its own')", ProgramFailed),
    ],
)
def test_a_program_is_ended_at_its_limit(tmp_path: Path, program: str, error: type[Exception]) -> None:
    script = tmp_path / "program.py"
    script.write_text(program)
    with pytest.raises(error):
        run_limited(script, [], b"", memory=128 * 2**20, seconds=1)


def test_a_program_within_its_limits_ends_well(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("x = bytearray(10**8); print(len(x))")
    assert run_limited(script, [], b"", memory=256 * 2**20, seconds=5) == b"100000000\n"


def test_a_program_gets_no_environment_and_all_of_its_input(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("import os, sys; print(len(sys.stdin.buffer.read()), dict(os.environ), sys.argv[1:])")
    printed = run_limited(script, ["one"], b"x" * 5_000_000, memory=128 * 2**20, seconds=5).decode()
    size, _, rest = printed.partition(" ")
    assert (size, rest.strip().endswith("['one']")) == ("5000000", True)
    assert "PASSWORD" not in rest
    assert "SECRET_KEY" not in rest


def test_the_readers_limits_are_those_of_the_settings(settings: Any, monkeypatch: Any) -> None:
    given: list[Any] = []
    settings.IMPORT_MAX_ROWS, settings.IMPORT_PARSE_MEGABYTES, settings.IMPORT_PARSE_SECONDS = 7, 99, 3

    def watched(script: Path, arguments: list[str], content: bytes, **limits: int) -> bytes:
        given.append((json.loads(arguments[0])["rows"], limits))
        return run_limited(script, arguments, content, **limits)

    monkeypatch.setattr(spreadsheets, "run_limited", watched)
    cells_of(text_cell("A2", "x"))
    assert given == [(7, {"memory": 99 * 2**20, "seconds": 3})]
