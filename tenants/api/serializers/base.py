"""Strict serializers, and the fields and query parameters that all apps share."""

import copy
import datetime
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, TypeVar, cast
from zoneinfo import ZoneInfo, available_timezones

from django.core.exceptions import ValidationError as ModelError
from django.db import models
from django.db.models import ManyToManyField, Model
from django.utils.datastructures import MultiValueDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.fields import empty
from rest_framework.request import Request
from rest_framework.validators import UniqueValidator

from tenants.api.error_items import model_error_detail
from tenants.api.explanations import explain, type_refusal
from tenants.api.pagination import MAX_LIMIT, range_refusal
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.error_values import shown


class ExplainedSerializer(serializers.Serializer):
    """States the errors of its fields in the project's words."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the value that the client sent; raises ValidationError."""
        try:
            return super().to_internal_value(data)
        except ValidationError as error:
            raise ValidationError(explain(self.fields, data, error.detail)) from error


class StrictSerializer(ExplainedSerializer):
    """Rejects members that are unknown or read-only instead of ignoring them, and JSON of another type.

    REST framework reads `0` as the text "0", and "1" as a number or a boolean.
    """

    def to_internal_value(self, data: Any) -> Any:
        """Return the value that the client sent; raises ValidationError."""
        if isinstance(data, Mapping):
            refuse_unwritable(data, self)
        value = super().to_internal_value(data)
        if not isinstance(data, MultiValueDict):  # a form has only texts
            errors = {
                name: error for name, sent in data.items() if (error := _type_error(self.fields[name], name, sent))
            }
            if errors:
                raise ValidationError(errors)
        return value


def _type_error(field: serializers.Field, name: str, value: Any) -> Any:
    """Return the detail of an error where a value that the field accepts has another type in JSON; else None."""
    child = getattr(field, "child_relation", None) or getattr(field, "child", None)
    if isinstance(value, list) and isinstance(child, serializers.Field):
        errors = ((number, _type_error(child, name, part)) for number, part in enumerate(value))
        return {number: error for number, error in errors if error} or None
    expected = next((types for kinds, types in _JSON_TYPES if isinstance(field, kinds)), None)
    if (
        value is None
        or expected is None
        or (isinstance(value, expected) and isinstance(value, bool) is (bool in expected))
    ):
        return None
    return [ErrorDetail(type_refusal(field) % {"name": name, "value": shown(value)}, ErrorCode.INVALID_TYPE)]


class QuickSerializer(serializers.Serializer):
    """Shows the members in `quick` by their functions, without fields: for lists of up to 1000 objects.

    Each function must return what the field of the same name returns; other members are shown by their fields. With
    `fields` in the context, a set of names, only these members are shown.
    """

    quick: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    def to_representation(self, instance: Any) -> dict[str, Any]:
        """Return the object for JSON."""
        quick, wanted = self.quick, self.context.get("fields")
        return {
            name: quick[name](instance) if name in quick else self._by_field(name, instance)
            for name in self.Meta.fields  # type: ignore[attr-defined]
            if wanted is None or name in wanted
        }

    def _by_field(self, name: str, instance: Any) -> Any:
        field = self.fields[name]
        value = field.get_attribute(instance)
        return None if value is None else field.to_representation(value)


class ExactNumber(serializers.FloatField):
    """A number that is stored as it was sent: an integer that no 64-bit float represents is refused."""

    def to_internal_value(self, data: Any) -> float:
        """Return the number. Raises ValidationError."""
        value = super().to_internal_value(data)
        if isinstance(data, int) and math.isfinite(value) and int(value) != data:
            text = _("%(name)r must be a number that a 64-bit float represents exactly, not %(value)s.")
            raise serializers.ValidationError(text % {"name": self.field_name, "value": data}, ErrorCode.NOT_STORABLE)
        return value


AnyModel = TypeVar("AnyModel", bound=Model)


class StrictModelSerializer(StrictSerializer, serializers.ModelSerializer[AnyModel]):
    """A StrictSerializer of a model: runs `full_clean()` before saving, and saves only changed fields."""

    serializer_field_mapping: ClassVar = {
        **serializers.ModelSerializer.serializer_field_mapping,
        models.FloatField: ExactNumber,
    }
    # Members that can be set at creation only.
    fixed: tuple[str, ...] = ()
    # Fields that the model derives from others.
    derived: tuple[str, ...] = ()

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        fields = super().get_fields()
        for field in fields.values():
            # full_clean() checks it too, once, and names the object.
            field.validators = [one for one in field.validators if not isinstance(one, UniqueValidator)]
        if self.instance is not None and not isinstance(self.instance, list):
            for name in self.fixed:
                fields[name].read_only = True
        return fields

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Validate the members together; raises ValidationError."""
        candidate = copy.copy(self.instance) if self.instance is not None else self._model()
        for name in self._columns(attrs):
            setattr(candidate, name, attrs[name])
        try:
            candidate.full_clean()
        except ModelError as error:
            raise ValidationError(model_error_detail(error)) from error
        return attrs

    def update(self, instance: AnyModel, validated_data: dict[str, Any]) -> AnyModel:
        """Change the object."""
        columns = self._columns(validated_data)
        for name in columns:
            setattr(instance, name, validated_data[name])
        instance.save(update_fields=[*columns, *self.derived])
        for name in validated_data.keys() - set(columns):
            getattr(instance, name).set(validated_data[name])
        return instance

    def _columns(self, attrs: Mapping[str, Any]) -> list[str]:
        fields = self._model._meta
        return [name for name in attrs if not isinstance(fields.get_field(name), ManyToManyField)]

    @property
    def _model(self) -> type[AnyModel]:
        return cast("type[AnyModel]", self.Meta.model)


def refuse_unwritable(data: Mapping[str, Any], serializer: serializers.Serializer[Any]) -> None:
    """Raise ValidationError (400) with an error for every member that would have no effect."""
    fields = serializer.fields
    writable = ", ".join(sorted(name for name, field in fields.items() if not field.read_only)) or "–"
    errors = {}
    for name in data:
        values = {"name": name, "known": writable}
        if name not in fields:
            text = _("%(name)r is not a known member. Known members: %(known)s.") % values
            errors[str(name)] = ErrorDetail(text, ErrorCode.UNKNOWN_MEMBER)
        elif fields[name].read_only:
            text = _("%(name)r cannot be changed. Members that can be changed: %(known)s.") % values
            errors[str(name)] = ErrorDetail(text, ErrorCode.READ_ONLY)
    if errors:
        raise serializers.ValidationError(errors)


def refuse_body(request: Request) -> None:
    """Raise ValidationError for members in the JSON of a request that has none."""
    if "json" in (request.content_type or ""):
        StrictSerializer(data=request.data).is_valid(raise_exception=True)


class _StrictRelation(serializers.RelatedField):
    """Rejects an empty text instead of reading it as null."""

    def run_validation(self, data: Any = empty) -> Any:
        """Return the object. Raises ValidationError."""
        if data == "":
            name = self.field_name or getattr(self.parent, "field_name", "")
            raise serializers.ValidationError(_("%(name)r must not be empty.") % {"name": name}, ErrorCode.BLANK)
        return super().run_validation(data)


class NamedObjectField(_StrictRelation, serializers.SlugRelatedField):
    """An object by the text that names it."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the object. Raises ValidationError."""
        if isinstance(data, str) and "\x00" in data:  # which PostgreSQL cannot even compare
            self.fail("does_not_exist", slug_name=self.slug_field, value=data)
        return super().to_internal_value(data)


class NumberedObjectField(_StrictRelation, serializers.PrimaryKeyRelatedField):
    """An object by its id."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the object. Raises ValidationError."""
        if isinstance(data, float) and not data.is_integer():  # the library rounds 1.5, and fails for infinity
            self.fail("incorrect_type", data_type="float")
        return super().to_internal_value(data)


_JSON_TYPES: tuple[tuple[Any, tuple[type, ...]], ...] = (
    ((serializers.ListField, serializers.ManyRelatedField), (list,)),
    (serializers.BooleanField, (bool,)),
    ((serializers.IntegerField, serializers.FloatField, NumberedObjectField), (int, float)),
    ((serializers.CharField, serializers.UUIDField, NamedObjectField), (str,)),
)
# In a URL an unescaped + is a space; a space before the offset can be nothing else.
_SPACE_FOR_PLUS = re.compile(r"^([^ ]+[T ][0-9:.,]+) ([0-9]{2}:?[0-9]{2})$")


# The calendars of all time zones have room on both sides.
_EARLIEST = datetime.datetime(1, 1, 3, tzinfo=datetime.UTC)
_LATEST = datetime.datetime(9999, 12, 29, tzinfo=datetime.UTC)


@extend_schema_field(OpenApiTypes.DATETIME)
class Timestamp(serializers.Field):
    """ISO 8601 with an offset or Z, as UTC. A time without an offset is rejected as ambiguous."""

    default_error_messages = {  # noqa: RUF012 (REST framework collects these)
        "invalid": gettext_lazy(
            "{value} is not a valid ISO 8601 time;"
            " use a form such as 2026-11-22T09:30:00Z or 2026-11-22T18:30:00+09:00."
        ),
        "naive": gettext_lazy("{value} has no offset. Add Z, or an offset like +09:00 (+ is %2B in a URL)."),
    }

    def to_internal_value(self, data: Any) -> datetime.datetime:
        """Return the time in UTC. Raises ValidationError."""
        # A NUL ends the text for Python's parser.
        if not isinstance(data, str) or "\x00" in data:
            raise self._refusal("invalid", data)
        try:
            value = datetime.datetime.fromisoformat(_SPACE_FOR_PLUS.sub(r"\1+\2", data))
        except ValueError:
            raise self._refusal("invalid", data) from None
        if value.tzinfo is None:
            raise self._refusal("naive", data)
        try:
            return self._within_calendars(value)
        except OverflowError:
            raise self._refusal("invalid", data) from None

    def _within_calendars(self, value: datetime.datetime) -> datetime.datetime:
        """Return the time in UTC, or the nearest one that every time zone's calendar has. Raises OverflowError."""
        return min(max(value.astimezone(datetime.UTC), _EARLIEST), _LATEST)

    def _refusal(self, code: str, data: Any) -> serializers.ValidationError:
        return serializers.ValidationError(
            self.error_messages[code].format(value=shown(data)), code=ErrorCode.INVALID_FORMAT
        )

    def to_representation(self, value: datetime.datetime) -> str:
        """Return the time as ISO 8601 with Z."""
        return time_text(value)


@extend_schema_field(OpenApiTypes.DATETIME)
class StoredTimestamp(Timestamp):
    """A Timestamp that is stored as it was sent: one beyond all calendars is refused, not moved."""

    def _within_calendars(self, value: datetime.datetime) -> datetime.datetime:
        """Return the time in UTC. Raises ValidationError."""
        if not _EARLIEST <= value <= _LATEST:
            text = _("%(name)r must be a time from %(earliest)s to %(latest)s.")
            values = {"name": self.field_name, "earliest": time_text(_EARLIEST), "latest": time_text(_LATEST)}
            raise serializers.ValidationError(text % values, ErrorCode.OUT_OF_RANGE)
        return value.astimezone(datetime.UTC)


def time_text(time: datetime.datetime) -> str:
    """Return the time as the API shows it: ISO 8601 in UTC with Z."""
    if time.tzinfo is not datetime.UTC:
        time = time.astimezone(datetime.UTC)
    return f"{time.isoformat()[:-6]}Z"


class WholeNumber(serializers.IntegerField):
    """An integer from `min_value` to `max_value`; its error names the range and the value."""

    def __init__(self, *, min_value: int, max_value: int, **options: Any) -> None:
        super().__init__(min_value=min_value, max_value=max_value, **options)
        self._range = min_value, max_value

    def run_validation(self, data: Any = empty) -> Any:
        """Return the number. Raises ValidationError."""
        try:
            return super().run_validation(data)
        except serializers.ValidationError:
            if data is empty:
                raise
            refusal = range_refusal(self.field_name or "", *self._range, data)
            raise serializers.ValidationError(refusal, ErrorCode.OUT_OF_RANGE) from None


def time_zone(name: str) -> ZoneInfo:
    """Return the time zone of that name. Raises ValidationError."""
    if name not in _zones():
        raise serializers.ValidationError(
            _("%(value)r is not a valid time zone; use a name such as Asia/Seoul or UTC.") % {"value": name},
            ErrorCode.INVALID_CHOICE,
        )
    return ZoneInfo(name)


@cache
def _zones() -> frozenset[str]:
    """The names of all time zones. Kept, because finding them reads some two thousand files."""
    return frozenset(available_timezones())


def limit_field(default: int = 100) -> WholeNumber:
    """Return the parameter `limit`: how many results a page holds."""
    return WholeNumber(
        min_value=1, max_value=MAX_LIMIT, default=default, help_text=f"How many results, 1 to {MAX_LIMIT}."
    )


class RangeParameters(ExplainedSerializer):
    """A range of time: `from` inclusive, `to` exclusive."""

    from_required: ClassVar[bool] = False
    from_help: ClassVar[str] = "Not before this time (ISO 8601 with an offset)."
    to_help: ClassVar[str] = "Before this time (ISO 8601 with an offset)."

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the fields with `from` and `to`."""
        # "from" is a keyword: a class body cannot hold it.
        return super().get_fields() | {
            "from": Timestamp(required=self.from_required, help_text=self.from_help),
            "to": Timestamp(required=False, help_text=self.to_help),
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse a range that ends before it begins."""
        if "from" in attrs and "to" in attrs and attrs["from"] >= attrs["to"]:
            refusal = ErrorDetail(_("'from' must be earlier than 'to'."), ErrorCode.INVALID_RANGE)
            raise serializers.ValidationError({"from": refusal})
        valid: dict[str, Any] = super().validate(attrs)
        return valid


class CursorParameters(ExplainedSerializer):
    """A page: `limit` and `cursor`."""

    limit = limit_field()
    cursor = serializers.CharField(required=False, help_text="From `next` of the page before; not made by hand.")
