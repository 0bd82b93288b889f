"""Violations of the database's constraints as errors of the API: a race has the same answer as a check before it."""

import re
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError as ModelError
from django.db import IntegrityError
from django.db.models import Model

_UNIQUE_VIOLATION = "23505"
# "Key (component_type_id, key)=(7, dht22) already exists."
_COLUMNS = re.compile(r"\(([^)]*)\)=")


def uniqueness_error(error: IntegrityError) -> ModelError | None:
    """Return what `full_clean()` raises for the values that exist; None for a violation of another kind."""
    cause: Any = error.__cause__
    if getattr(cause, "sqlstate", "") != _UNIQUE_VIOLATION:
        return None
    model = next((model for model in apps.get_models() if model._meta.db_table == cause.diag.table_name), None)
    columns = _COLUMNS.search(cause.diag.message_detail or "")
    fields = _fields(model, columns[1].split(", ")) if model is not None and columns is not None else ()
    if model is None or not fields:
        return None
    found = model().unique_error_message(model, fields)
    return ModelError({fields[0]: [found]} if len(fields) == 1 else [found])


def _fields(model: type[Model], columns: list[str]) -> tuple[str, ...]:
    names = {field.column: field.name for field in model._meta.concrete_fields}
    return tuple(names[column] for column in columns if column in names)
