"""The order of storing: pages of the rows of `ChangeBatch` after a position.

A page ends before the oldest transaction that is in progress anywhere in the database cluster (`pg_snapshot_xmin`).
All transactions before that one are finished, so no row can appear before the end of a page, however many listeners
store and however long one of them takes to commit. A row's place is given by its transaction's number:
(generation, transaction, part).

All functions use the current schema.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db import connection
from django.utils.translation import gettext as _

from tenants.infrastructure.database import cursor_for_many
from tenants.infrastructure.error_codes import ErrorCode

from .change_positions import BEGINNING, ChangePosition, Generations, PositionLost, restarted

# A page reads so many batches, and stops behind the first with which it has read so many items.
_BATCHES = 500
_ITEMS = 10_000


class ChangeKind(StrEnum):
    """The kinds of changes, by the column of `ChangeBatch` that counts them."""

    READINGS = "readings"
    MESSAGES = "messages"
    QUARANTINED = "quarantined"


_ARRAYS = {
    ChangeKind.READINGS: "b.series_ids, b.times, b.numbers, b.texts",
    ChangeKind.MESSAGES: "b.message_devices, b.message_times, b.message_fingerprints",
    ChangeKind.QUARANTINED: "b.quarantined_ids",
}
_COLUMNS = {
    ChangeKind.READINGS: "series_id, time, value, text",
    ChangeKind.MESSAGES: "device_id, time, fingerprint",
    ChangeKind.QUARANTINED: "id",
}


@dataclass(frozen=True, slots=True)
class ChangedItem:
    """An item of a batch: its position, when it was stored, and the columns of its kind."""

    position: ChangePosition
    stored_at: datetime
    columns: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ChangesPage:
    """Items in the order of storing, the positions before and behind them, and the token of the second.

    `is_whole` is False where the page begins at the beginning and earlier changes are not there. `behind_seconds` is
    the age of the oldest committed batch that waits for an earlier transaction; 0.0 where none waits.
    """

    items: list[ChangedItem]
    begin_position: ChangePosition
    end_position: ChangePosition
    end: list[Any]
    has_more: bool
    is_whole: bool
    behind_seconds: float


# The page's own snapshot decides what is in progress.
_FINISHED = (
    "(generation < (SELECT max(id) FROM telemetry_changegeneration)"
    " OR transaction < pg_snapshot_xmin(pg_current_snapshot())::text::bigint)"
)
# A batch without items of the kind, or without those that are selected, has one row, with nulls.
_PAGE = f"""
SELECT b.generation, b.transaction, b.part, b.stored_at, b.{{kind}}, i.*
FROM (
    SELECT *, coalesce(sum({{kind}}) OVER (
        ORDER BY generation, transaction, part ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), 0) AS before
    FROM (
        SELECT * FROM telemetry_changebatch
        WHERE (generation, transaction, part) {{after}} (%(generation)s, %(transaction)s, %(part)s) AND {_FINISHED}
        ORDER BY generation, transaction, part LIMIT {_BATCHES}
    ) AS finished
) AS b
LEFT JOIN LATERAL (
    SELECT u.item, {{columns}} FROM unnest({{arrays}}) WITH ORDINALITY AS u({{columns}}, item)
    WHERE {{condition}} AND ((b.generation, b.transaction, b.part) <> (%(generation)s, %(transaction)s, %(part)s)
        OR u.item > %(item)s)
) AS i ON true
WHERE b.before < {_ITEMS}
ORDER BY b.generation, b.transaction, b.part, i.item LIMIT %(limit)s
"""  # noqa: S608 (constants)
_STATE = f"""
SELECT
    EXISTS (SELECT 1 FROM telemetry_changebatch WHERE generation = %s AND (transaction, part) >= (%s, %s)),
    EXISTS (SELECT 1 FROM telemetry_changebatch WHERE (generation, transaction, part) > (%s, %s, %s) AND {_FINISHED}),
    (SELECT extract(epoch FROM clock_timestamp() - min(stored_at))::float8 FROM telemetry_changebatch
        WHERE (generation, transaction, part) > (%s, %s, %s) AND NOT {_FINISHED})
"""  # noqa: S608 (constants)
_NEWEST = f"""
SELECT generation, transaction, part FROM telemetry_changebatch WHERE {_FINISHED}
ORDER BY generation DESC, transaction DESC, part DESC LIMIT 1
"""  # noqa: S608 (constants)


@dataclass(frozen=True, slots=True)
class ChangeSelection:
    """The items of a page: their kind, and SQL of a condition on their columns with its parameters."""

    kind: ChangeKind
    condition: str = "true"
    parameters: Mapping[str, Any] = field(default_factory=dict)


def changes_page(
    selection: ChangeSelection, *, after: Sequence[Any] | None = None, newest: bool = False, limit: int
) -> ChangesPage:
    """Return at most `limit` items after the position of a token, or from the beginning; with `newest` none.

    A page may have fewer items although there are more. Raises PositionLost where something between the position and
    the page is not there any more.
    """
    generations = Generations()
    begin = generations.removed if after is None else generations.position_of(after)
    if after is None and newest:
        begin = _newest_position() or begin
        return _finish(generations, begin, begin, [], is_whole=generations.is_whole)
    items, end, has_rest = _read(selection, begin, limit)
    # Read again: retention may have removed what this page should have read.
    generations = Generations()
    page = _finish(generations, begin, end, items, is_whole=after is not None or generations.is_whole)
    return replace(page, has_more=page.has_more or has_rest)


def _finish(
    generations: Generations, begin: ChangePosition, end: ChangePosition, items: list[ChangedItem], *, is_whole: bool
) -> ChangesPage:
    """Return the page. Raises PositionLost."""
    removed = generations.removed
    if begin.batch < removed.batch or (begin.batch == removed.batch and begin.item is not None):
        raise PositionLost(
            ErrorCode.POSITION_DROPPED,
            _("Retention has removed changes after this position. Start without a cursor, from a new copy."),
        )
    with connection.cursor() as cursor:
        cursor.execute(_STATE, [*begin.batch, *end.batch, *end.batch])
        is_there, has_more, behind = cursor.fetchone()
    if not is_there and begin.batch not in (BEGINNING.batch, removed.batch):
        raise restarted()
    return ChangesPage(items, begin, end, generations.token_of(end), has_more, is_whole, max(0.0, behind or 0.0))


def _read(
    selection: ChangeSelection, begin: ChangePosition, limit: int
) -> tuple[list[ChangedItem], ChangePosition, bool]:
    """Return the items, the position behind them, and whether the last batch has more of them."""
    kind = selection.kind
    statement = _PAGE.format(
        kind=kind.value,
        after=">" if begin.item is None else ">=",
        columns=_COLUMNS[kind],
        arrays=_ARRAYS[kind],
        condition=selection.condition,
    )
    bounds = begin._asdict() | {"item": begin.item or 0, "limit": limit}
    with cursor_for_many() as cursor:
        cursor.execute(statement, {**selection.parameters, **bounds})
        rows = cursor.fetchall()
    items = [
        ChangedItem(ChangePosition(row[0], row[1], row[2], row[5]), row[3], row[6:])
        for row in rows
        if row[5] is not None
    ]
    if not rows:
        return items, begin, False
    generation, transaction, part, _at, count, item = rows[-1][:6]
    has_rest = item is not None and item < count
    return items, ChangePosition(generation, transaction, part, item if has_rest else None), has_rest


def _newest_position() -> ChangePosition | None:
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST)
        row = cursor.fetchone()
    return None if row is None else ChangePosition(*row)
