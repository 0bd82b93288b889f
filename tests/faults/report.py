"""The table of results in docs/reliability.md, between its markers."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from .run import RowResult

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
_PLACE = re.compile(re.escape(BEGIN) + r"\n(.*?)\n?" + re.escape(END), re.DOTALL)
_SUMMARY = re.compile(r"^[0-9]+ of [0-9]+ rows passed\.$")
_HEAD = (
    "| row | fault | acknowledged | lost | doubled | phantom | wrong schema | lag (s): p50 · p99 · longest "
    "| measured | result |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def table(outcomes: Sequence[RowResult], *, rate: float, seconds: float, tenants: int, devices: int) -> str:
    """Return the results in Markdown, with time and parameters of the run."""
    said = (
        f"Run on {_now()} with {rate:g} messages a second for {seconds:g} s a row, {devices} devices of {tenants} "
        "tenants, versions 1 and 2 mixed."
    )
    lines = [_line(outcome) for outcome in outcomes]
    return "\n".join([said, _summary(lines), "", *_HEAD, *lines])


def replace_rows(before: str, outcomes: Sequence[RowResult], *, seconds: float) -> str:
    """Return the table of an earlier run with these rows replaced, and a sentence that says so.

    Raises ValueError where the table before lacks a row.
    """
    lines = before.splitlines()
    places = {_name(line): place for place, line in enumerate(lines) if line.startswith("| ")}
    for outcome in outcomes:
        if outcome.row.name not in places:
            raise ValueError(f"The table has no row {outcome.row.name}: play all rows.")
        lines[places[outcome.row.name]] = _line(outcome)
    names = ", ".join(outcome.row.name for outcome in outcomes)
    end = next(place for place, line in enumerate(lines) if line.startswith("|"))
    said = [line for line in lines[:end] if line and not _SUMMARY.match(line)]
    said.append(f"Played again on {_now()}, {seconds:g} s a row: {names}.")
    rows = lines[end + len(_HEAD) :]
    return "\n".join([*said, _summary(rows), "", *_HEAD, *rows])


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def _name(line: str) -> str:
    return line.split("|", 2)[1].strip()


def _summary(lines: Sequence[str]) -> str:
    played = [line for line in lines if not line.endswith("| not played |")]
    failed = sum("| **FAILED**: " in line for line in played)
    return f"{len(played) - failed} of {len(played)} rows passed."


def _line(outcome: RowResult) -> str:
    cells = [outcome.row.name, outcome.row.title]
    if result := outcome.result:
        lags = " · ".join(f"{result.lag(share):.3f}" for share in (0.5, 0.99, 1.0))
        cells += [f"{result.acknowledged:,}", *(f"{count:,}" for count in result.counts.values()), lags]
    else:
        cells += ["–"] * 6
    return (
        "| "
        + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in [*cells, *_result_cells(outcome)])
        + " |"
    )


def _result_cells(outcome: RowResult) -> tuple[str, str]:
    if outcome.passed is None:
        return outcome.measured, "not played"
    if outcome.passed:
        return outcome.measured, "failed, as it must" if outcome.row.control else "passed"
    return outcome.measured, "**FAILED**: " + "; ".join(outcome.failures)


def read(document: Path = DOCUMENT) -> str:
    """Return the table between the markers. Raises ValueError where the document has none."""
    found = _PLACE.findall(document.read_text(encoding="utf-8"))
    if len(found) != 1:
        raise ValueError(f"{document} has no place for the table: {BEGIN} … {END}")
    return str(found[0])


def write(text: str, document: Path = DOCUMENT) -> None:
    """Put the table between the markers. Raises ValueError where the document has none."""
    read(document)
    before = document.read_text(encoding="utf-8")
    document.write_text(_PLACE.sub(lambda _: f"{BEGIN}\n{text}\n{END}", before), encoding="utf-8")
