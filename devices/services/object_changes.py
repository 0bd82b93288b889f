"""The feed of changed objects: which devices, types, places and so on a program must read again.

Triggers record the changes in their transactions. A position is given to a change when it is read first, after its
commit: a transaction that commits late gets a later position, and none is passed by. Positions have no gaps. Each
change has a random mark, which shows that a restored backup has given a position to another change.

All functions use the current schema.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from devices.models import ObjectChange
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.error_codes import ErrorCode
from tenants.services.active_tenants import sum_over_active

# Changes that one statement numbers, or removes.
_NUMBERED_AT_ONCE = 10_000
_REMOVED_AT_ONCE = 10_000
# Before every change.
_BEGINNING = (0, 0)
_NUMBER = """
UPDATE devices_objectchange AS o
SET position = (SELECT coalesce(max(position), 0) FROM devices_objectchange) + n.number
FROM (
    SELECT id, row_number() OVER (ORDER BY id) AS number
    FROM (SELECT id FROM devices_objectchange WHERE position IS NULL ORDER BY id LIMIT %s) AS unnumbered
) AS n
WHERE o.id = n.id
"""


@dataclass(frozen=True, slots=True)
class ObjectChangesPage:
    """The keys of changed objects, each once, in the order of their last change; and the token of the end."""

    keys: list[str]
    end: list[int]
    has_more: bool


class ObjectsLost(Exception):
    """A position after which changes are not there any more; `code` and the text say why."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def newest() -> list[int]:
    """Return the token behind every change that is committed now."""
    _number_all()
    return list(_newest())


def newest_of(kinds: Sequence[str]) -> int:
    """Return the position of the last committed change of these kinds; 0 without one."""
    _number_all()
    last = ObjectChange.objects.filter(kind__in=kinds, position__isnull=False).aggregate(last=Max("position"))
    return int(last["last"] or 0)


def changed_keys(kind: str, after: Sequence[int], limit: int) -> ObjectChangesPage:
    """Return the keys of at most `limit` changes of a kind after a token. Raises ObjectsLost."""
    with transaction.atomic():
        # Retention must not remove changes between the check and the read.
        _lock()
        has_unnumbered = _number_some() == _NUMBERED_AT_ONCE
        _check(after)
        end = _newest()
        changes = ObjectChange.objects.filter(kind=kind, position__gt=after[0]).order_by("position")
        rows: list[Any] = list(changes.values_list("key", "position", "mark")[: limit + 1])
    has_more = len(rows) > limit
    if has_more:
        rows = rows[:limit]
        end = (rows[-1][1], rows[-1][2])
    keys = dict.fromkeys(reversed([row[0] for row in rows]))
    return ObjectChangesPage(list(reversed(keys)), list(end), has_more or has_unnumbered)


def remove_expired() -> int:
    """Remove the changes of more than `OBJECT_CHANGE_DAYS` days in the current tenant; return how many.

    Every change is numbered before: a cursor must be behind all that is removed, or it is lost. The newest stays, so
    that a cursor at it is valid for as long as nothing changes.
    """
    _number_all()
    kept_from = timezone.now() - timedelta(days=settings.OBJECT_CHANGE_DAYS)
    kept = ObjectChange.objects.filter(recorded_at__gte=kept_from, position__isnull=False).order_by("position").first()
    # The one before it stays too: the cursor of a program that has read everything is at it.
    first_kept = (kept.position or 0) - 1 if kept is not None else _newest()[0]
    count, removed = 0, _REMOVED_AT_ONCE
    while removed == _REMOVED_AT_ONCE:
        expired = ObjectChange.objects.filter(position__lt=first_kept).order_by("position")[:_REMOVED_AT_ONCE]
        with transaction.atomic():
            _lock()
            removed = ObjectChange.objects.filter(pk__in=list(expired.values_list("pk", flat=True))).delete()[0]
        count += removed
    return count


def remove_all_expired() -> int:
    """Remove the expired changes of every active tenant; return how many."""
    return sum_over_active("object_changes", remove_expired)


def _number_all() -> None:
    numbered = _NUMBERED_AT_ONCE
    while numbered == _NUMBERED_AT_ONCE:
        with transaction.atomic():
            _lock()
            numbered = _number_some()


def _number_some() -> int:
    """Number the next committed changes, under the lock; return how many."""
    with connection.cursor() as cursor:
        cursor.execute(_NUMBER, [_NUMBERED_AT_ONCE])
        return int(cursor.rowcount)


def _newest() -> tuple[int, int]:
    """Return position and mark of the last numbered change."""
    last = ObjectChange.objects.filter(position__isnull=False).order_by("-position").first()
    return (last.position or 0, last.mark) if last is not None else _BEGINNING


def _check(after: Sequence[int]) -> None:
    """Raise ObjectsLost unless every change after the token is there."""
    position, mark = after
    row = ObjectChange.objects.filter(position=position).first()
    if row is not None and row.mark == mark:
        return
    first = ObjectChange.objects.filter(position__isnull=False).order_by("position").first()
    if (position, mark) == _BEGINNING and (first is None or first.position == 1):
        return
    if row is None and first is not None and first.position is not None and position < first.position:
        text = _("Changes after this position are not kept any more. Start with changed_since=newest, from a new copy.")
        raise ObjectsLost(ErrorCode.POSITION_DROPPED, text)
    text = _(
        "The position is of another installation, or of changes that a restored backup lacks. Start with"
        " changed_since=newest, from a new copy."
    )
    raise ObjectsLost(ErrorCode.FEED_RESTARTED, text)


def _lock() -> None:
    """Lock the tenant's positions until the end of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtext('gwanje_object_changes'), hashtext(%s))", [current_schema()]
        )
