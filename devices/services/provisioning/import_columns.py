"""Cells of a table of devices: their forms, and the values that they stand for."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from import_export.widgets import BooleanWidget, Widget

from devices.domain import attributes, tags
from devices.models import ComponentType, HardwareModel, Place
from devices.models.base import validate_key
from tenants.infrastructure.spreadsheet_errors import check_identifier

from . import import_lookup

_YES, _NO = {"yes", "true", "1", "y", "예"}, {"no", "false", "0", "n", "아니요"}


class UuidCell(Widget):
    """A cell with a UUID."""

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> UUID:
        """Validate the fields together; raises ValidationError."""
        found = import_lookup.as_uuid(value)
        if found is None:
            raise ValueError(_("The value must be a UUID such as 6d1f6a3e-5f0e-4c53-9d68-0a6f0c8a1f11, or empty."))
        return found


class IdentifierCell(Widget):
    """A cell with a serial, an id or a name, as it was before a spreadsheet program opened the file."""

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> str:
        """Return the text; raises ValueError."""
        return check_identifier(str(value))


class SecondsCell(Widget):
    """A cell with a whole number of seconds."""

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> int:
        """Validate the fields together; raises ValidationError."""
        if not value.isascii() or not value.isdecimal() or not 0 < int(value[:10]) < 2**31 or len(value) > 10:
            raise ValueError(_("The value must be a whole number of seconds, at least 1."))
        return int(value)


class YesCell(BooleanWidget):
    """A cell with yes or no."""

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> bool:
        """Validate the fields together; raises ValidationError."""
        if value.lower() not in _YES | _NO:
            raise ValueError(_("The value must be yes or no."))
        return value.lower() in _YES

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> str:
        """Return the rendered value."""
        return "yes" if value else "no"


class ModelCell(Widget):
    """A cell with a hardware model's name and version."""

    lookup: import_lookup.ImportLookup

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> HardwareModel:
        """Validate the fields together; raises ValidationError."""
        return self.lookup.model_named(value)

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> str:
        """Return the rendered value."""
        return str(value or "")


class PlaceCell(Widget):
    """A cell with a place's key."""

    lookup: import_lookup.ImportLookup

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> Place:
        """Return the place; raises ValueError."""
        return self.lookup.place_with(value)

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> str:
        """Return the rendered value."""
        return value.key if value else ""


class TagsCell(Widget):
    """A cell with tags: `rented;north`."""

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> list[str]:
        """Return the tags; raises ValueError."""
        return tags.split(value)

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> str:
        """Return the rendered value."""
        return ";".join(value)


class AttributesCell(Widget):
    """A cell with attributes as a JSON object."""

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> attributes.Attributes:
        """Return the attributes; raises ValueError."""
        try:
            given = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(_('The value must be a JSON object such as {"crop": "tomato"}.')) from error
        return attributes.normalize(given)

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> str:
        """Return the rendered value."""
        return json.dumps(value, ensure_ascii=False) if value else ""


class PartsCell(Widget):
    """A cell with components: `dht22;dht22-2:dht22;pump`, each a key and its type, which defaults to the key."""

    lookup: import_lookup.ImportLookup

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> dict[str, ComponentType]:
        """Validate the fields together; raises ValidationError."""
        return {key: self.lookup.type_named(kind) for key, kind in split_parts(value).items()}

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> str:
        """Return the rendered value."""
        return join_parts(value or {})


def split_parts(text: str) -> dict[str, str]:
    """Return component key → key of its type. Raises ValueError."""
    parts: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        key, _colon, kind = (word.strip() for word in part.partition(":"))
        try:
            validate_key(key)
        except ValidationError as error:
            raise ValueError(f"{part}: {' '.join(error.messages)}") from error
        if key in parts:
            raise ValueError(_("The component %(key)s is listed twice.") % {"key": key})
        parts[key] = kind or key
    return parts


def join_parts(parts: Mapping[str, str]) -> str:
    """Return the cell that `split_parts` reads."""
    return ";".join(key if key == kind else f"{key}:{kind}" for key, kind in parts.items())
