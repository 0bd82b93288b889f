"""Searching the audit of the current tenant, and its entries as a table."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from devices.models import AuditEntry
from tenants.infrastructure.spreadsheets import write_table
from tenants.infrastructure.table_formats import DEFAULT, TableFormat

MOST_EXPORTED = 100_000
_CHUNK = 2000
_COLUMNS = (
    "id", "at", "user_label", "user_id", "key_id", "address", "request_id", "action", "object_type", "object_id",
    "object_label", "detail", "changes", "position", "hash",
)  # fmt: skip
# The columns under the names of the API.
_HEADINGS = [{"user_label": "user", "object_label": "object"}.get(name, name) for name in _COLUMNS]
# Filter → lookup.
_LOOKUPS = {
    "user": "user_label",
    "key_id": "key_id",
    "address": "address",
    "request_id": "request_id",
    "action": "action",
    "object_type": "object_type",
    "object_id": "object_id",
    "from": "at__gte",
    "to": "at__lt",
}


def entries(wanted: Mapping[str, Any], after: tuple[datetime, int] | None = None) -> QuerySet[AuditEntry]:
    """Return the entries that the filters select, newest first; those behind the position (time, id) `after`."""
    chosen = AuditEntry.objects.filter(**{_LOOKUPS[name]: value for name, value in wanted.items()})
    if after is not None:
        time, pk = after
        chosen = chosen.filter(Q(at__lt=time) | Q(at=time, pk__lt=pk), at__lte=time)
    return chosen.order_by("-at", "-id")


def as_csv(chosen: QuerySet[AuditEntry], table_format: TableFormat = DEFAULT) -> bytes:
    """Return the entries as CSV for spreadsheet programs. Raises ValidationError for more than 100,000."""
    if chosen[MOST_EXPORTED : MOST_EXPORTED + 1].exists():
        raise ValidationError(
            _("A file can contain at most %(most)d entries. Narrow the range with 'from' and 'to'.")
            % {"most": MOST_EXPORTED}
        )
    return write_table(_HEADINGS, _rows(chosen, table_format), "csv", table_format)


def _rows(chosen: QuerySet[AuditEntry], table_format: TableFormat) -> Iterable[list[Any]]:
    for row in chosen.values_list(*_COLUMNS).iterator(chunk_size=_CHUNK):
        yield [_cell(value, table_format) for value in row]


def _cell(value: Any, table_format: TableFormat) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(table_format.zone).isoformat()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
