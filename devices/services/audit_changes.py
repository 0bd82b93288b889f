"""The changed members of an object, before and after, for its audit entry. Secrets are never among them."""

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

from django.db.models import BinaryField, Field, Model

# A longer text is cut: an entry is evidence of a change, not a backup.
MOST_CHARACTERS = 1000
# What proves a secret, and what the platform counts for itself.
_NEVER = frozenset({"digest", "salt", "password", "secret", "token", "rows"})

Values = dict[str, Any]
Changes = dict[str, dict[str, Any]]


def snapshot(obj: Model) -> Values:
    """Return the object's values by field, as JSON; of other objects their names."""
    values = {field.name: _plain(_value(obj, field)) for field in obj._meta.concrete_fields if _is_recorded(field)}
    related = {field.name: sorted(map(str, getattr(obj, field.name).all())) for field in obj._meta.many_to_many}
    return values | related


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Return what has changed: `{member: {"before": …, "after": …}}`."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: {"before": before.get(name), "after": after.get(name)} for name in names}


def added(obj: Model) -> Changes:
    """Return the changes of an object that was added: what is set, with null before."""
    return difference({}, {name: value for name, value in snapshot(obj).items() if value not in ("", [], {})})


def removed(obj: Model) -> Changes:
    """Return the changes of an object that is removed: what was set, with null after."""
    return difference({name: value for name, value in snapshot(obj).items() if value not in ("", [], {})}, {})


def _is_recorded(field: "Field[Any, Any]") -> bool:
    return not (field.primary_key or isinstance(field, BinaryField) or field.name in _NEVER)


def _value(obj: Model, field: "Field[Any, Any]") -> Any:
    value = getattr(obj, field.name)
    return str(value) if isinstance(value, Model) else value


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _cut(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple | dict):
        text = json.dumps(value, default=str)
        return json.loads(text) if len(text) <= MOST_CHARACTERS else _cut(text)
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…"
