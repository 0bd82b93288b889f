"""Serializers that ignore nothing they are given."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from django.core.exceptions import ValidationError as ModelError
from django.db.models import ManyToManyField, Model
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from tenants.api.errors import model_error_detail


class StrictSerializer(serializers.Serializer):
    """Refuses members that do not exist or cannot be written, instead of leaving them out silently."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the value that the client sent; raises ValidationError."""
        if isinstance(data, Mapping):
            refuse_unwritable(data, self)
        return super().to_internal_value(data)


AnyModel = TypeVar("AnyModel", bound=Model)


class StrictModelSerializer(serializers.ModelSerializer[AnyModel]):
    """As StrictSerializer, for a model: runs `full_clean()` before it saves, and saves what changed."""

    # Members that may be given at creation and never changed.
    fixed: tuple[str, ...] = ()
    # Fields that the model works out when others change.
    derived: tuple[str, ...] = ()

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        fields = super().get_fields()
        if self.instance is not None and not isinstance(self.instance, list):
            for name in self.fixed:
                fields[name].read_only = True
        return fields

    def to_internal_value(self, data: Any) -> Any:
        """Return the value that the client sent; raises ValidationError."""
        if isinstance(data, Mapping):
            refuse_unwritable(data, self)
        return super().to_internal_value(data)

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
    """400 for every member of the body that would have no effect."""
    fields = serializer.fields
    writable = ", ".join(sorted(name for name, field in fields.items() if not field.read_only))
    errors = {}
    for name in data:
        if name not in fields:
            errors[str(name)] = _("%(name)r is not a known member. Known members: %(known)s.") % {
                "name": name,
                "known": writable,
            }
        elif fields[name].read_only:
            errors[str(name)] = _("%(name)r cannot be changed. Members that can be changed: %(known)s.") % {
                "name": name,
                "known": writable,
            }
    if errors:
        raise serializers.ValidationError(errors)
