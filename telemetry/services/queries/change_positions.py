"""Positions in the order of storing, the tokens that programs keep of them, and the positions that are lost."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.utils.translation import gettext as _

from telemetry.models import ChangeGeneration
from tenants.infrastructure.error_codes import ErrorCode


class ChangePosition(NamedTuple):
    """A place in the order of storing: behind the item with this number in its batch; None: behind the whole batch."""

    generation: int
    transaction: int
    part: int
    item: int | None = None

    @property
    def batch(self) -> tuple[int, int, int]:
        """The place of the batch."""
        return self.generation, self.transaction, self.part


BEGINNING = ChangePosition(0, 0, 0)


class PositionLost(Exception):
    """A position from which nothing can be resumed without missing something; `code` and the text say why."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Generations:
    """The tenant's generations, and the last batch that retention has removed."""

    def __init__(self) -> None:
        self.rows = list(ChangeGeneration.objects.order_by("id"))

    @property
    def removed(self) -> ChangePosition:
        """The last batch that was removed; the beginning where none was."""
        for row in reversed(self.rows):
            if row.removed_transaction is not None:
                return ChangePosition(row.pk, row.removed_transaction, row.removed_part or 0)
        return BEGINNING

    @property
    def is_whole(self) -> bool:
        """Whether everything that was ever stored is in the order."""
        return self.removed == BEGINNING and not (self.rows and self.rows[0].has_earlier)

    def find(self, name: str) -> ChangeGeneration | None:
        """Return the generation with this name, None for the time before the first. Raises PositionLost."""
        for row in self.rows:
            if str(row.name) == name:
                return row
        if name:
            raise restarted()
        return None

    def position_of(self, token: Sequence[Any]) -> ChangePosition:
        """Return the position of a token. Raises PositionLost for one of another installation."""
        name, transaction, part, item = token
        row = self.find(name)
        return BEGINNING if row is None else ChangePosition(row.pk, transaction, part, item)

    def token_of(self, position: ChangePosition) -> list[Any]:
        """Return a position as plain JSON values, with the name of its generation."""
        names = {row.pk: str(row.name) for row in self.rows}
        return [names.get(position.generation, ""), position.transaction, position.part, position.item]


def restarted() -> PositionLost:
    """Return the error of a position that this database does not have."""
    return PositionLost(
        ErrorCode.FEED_RESTARTED,
        _("The cursor is of another installation, or of changes that a restored backup lacks. Start without a cursor."),
    )
