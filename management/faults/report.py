"""The table of results in docs/reliability.md, between its markers."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from .run import Outcome

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
_HEAD = (
    "| row | fault | acknowledged | lost | doubled | phantom | wrong schema | lag (s): p50 · p99 · longest "
    "| measured | verdict |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def table(outcomes: Sequence[Outcome], *, rate: float, seconds: float, tenants: int, devices: int) -> str:
    """The results in Markdown, with when and how they were had."""
    played = [outcome for outcome in outcomes if outcome.passed is not None]
    passed = sum(outcome.passed is True for outcome in played)
    said = (
        f"Run on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC with {rate:g} messages a second for {seconds:g} s a row, "
        f"{devices} devices of {tenants} tenants, versions 1 and 2 mixed: {passed} of {len(played)} rows passed."
    )
    return "\n".join([said, "", *_HEAD, *(_line(outcome) for outcome in outcomes)])


def _line(outcome: Outcome) -> str:
    cells = [outcome.row.name, outcome.row.title]
    if result := outcome.result:
        lags = " · ".join(f"{result.lag(share):.3f}" for share in (0.5, 0.99, 1.0))
        cells += [f"{result.acknowledged:,}", *(f"{count:,}" for count in result.counts.values()), lags]
    else:
        cells += ["–"] * 6
    return (
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in [*cells, *_verdict(outcome)]) + " |"
    )


def _verdict(outcome: Outcome) -> tuple[str, str]:
    if outcome.passed is None:
        return outcome.measured, "not played"
    if outcome.passed:
        return outcome.measured, "red, as it must be" if outcome.row.control else "passed"
    return outcome.measured, "**FAILED**: " + "; ".join(outcome.failures)


def write(text: str, document: Path = DOCUMENT) -> None:
    """Put the table between the markers. Raises ValueError where the document has none."""
    before = document.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(BEGIN) + r"\n.*?" + re.escape(END), re.DOTALL)
    after, count = pattern.subn(lambda _: f"{BEGIN}\n{text}\n{END}", before)
    if count != 1:
        raise ValueError(f"{document} has no place for the table: {BEGIN} … {END}")
    document.write_text(after, encoding="utf-8")
