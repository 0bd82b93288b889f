"""XLSX files made part by part, for what no spreadsheet program would write."""

import io
import zipfile
from collections.abc import Sequence

_MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PARTS = {"worksheet": "worksheets/sheet1.xml", "sharedStrings": "sharedStrings.xml", "styles": "styles.xml"}


def xlsx_file(
    cells: Sequence[Sequence[str]] = (),
    *,
    sheet: str = "",
    strings: str = "",
    styles: str = "",
    prolog: str = "",
    workbook: str = "",
    relation: str = "",
    compression: int = zipfile.ZIP_DEFLATED,
) -> bytes:
    """Return a file whose parts have this content.

    `cells` are rows of complete `<c>` elements, `relation` attributes of the relations to sheet, strings and styles.
    """
    rows = "".join(f'<row r="{n}">{"".join(row)}</row>' for n, row in enumerate(cells, 1))
    relations = "".join(
        f'<Relationship Id="rId{n}" Type="{_RELATION}/{kind}" {relation}Target="{name}"/>'
        for n, (kind, name) in enumerate(_PARTS.items(), 1)
    )
    parts = {
        "_rels/.rels": f'<R><Relationship Id="a" Type="{_RELATION}/officeDocument" Target="xl/workbook.xml"/></R>',
        "xl/_rels/workbook.xml.rels": f"<R>{relations}</R>",
        "xl/workbook.xml": f'<workbook {_MAIN} xmlns:r="{_RELATION}">{workbook}<sheets>'
        '<sheet name="a" r:id="rId1"/></sheets></workbook>',
        "xl/worksheets/sheet1.xml": sheet or f"<worksheet {_MAIN}><sheetData>{rows}</sheetData></worksheet>",
        "xl/sharedStrings.xml": f"{prolog}<sst {_MAIN}>{strings}</sst>",
        "xl/styles.xml": f"<styleSheet {_MAIN}>{styles}</styleSheet>",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return packed.getvalue()


def text_cell(reference: str, text: str) -> str:
    """Return a cell with a text of its own."""
    return f'<c r="{reference}" t="inlineStr"><is><t>{text}</t></is></c>'
