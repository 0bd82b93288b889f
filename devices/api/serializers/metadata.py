"""Units, hardware models, component types and metrics."""

from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from devices.domain import unit_spellings
from devices.models import ComponentType, HardwareModel, Metric, Unit
from tenants.api.serializers.base import NamedObjectField, StrictModelSerializer


def _type_by_key(**options: Any) -> NamedObjectField:
    return NamedObjectField(
        slug_field="key",
        queryset=ComponentType.objects.all(),
        error_messages={
            "does_not_exist": _("There is no component type {value}. Create it at component-types/ first.")
        },
        **options,
    )


class SpelledUnitField(NamedObjectField):
    """A unit by its symbol, also in another spelling of it: μg/m³, ug/m3, ºC."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the unit. Raises ValidationError where none, or more than one, is spelled so."""
        try:
            return super().to_internal_value(data)
        except serializers.ValidationError:
            found = [unit for unit in Unit.objects.all() if isinstance(data, str) and _is_spelled(unit, data)]
            if len(found) != 1:
                raise
            return found[0]


def _is_spelled(unit: Unit, name: str) -> bool:
    return len(name) <= _LONGEST_NAME and unit_spellings.spelled(unit.symbol) == unit_spellings.spelled(name)


_LONGEST_NAME = 80


def _unit_by_symbol(**options: Any) -> SpelledUnitField:
    return SpelledUnitField(
        slug_field="symbol",
        queryset=Unit.objects.all(),
        required=False,
        allow_null=True,
        error_messages={"does_not_exist": _("There is no unit {value}. Create it at units/ first.")},
        **options,
    )


class UnitSerializer(StrictModelSerializer[Unit]):
    """A unit: `symbol` is what people read, `ucum` its UCUM code."""

    class Meta:
        model = Unit
        fields: ClassVar = ["id", "symbol", "name", "quantity", "ucum"]


class HardwareModelSerializer(StrictModelSerializer[HardwareModel]):
    """A board and its revision. `allowed_component_types` empty: every type is allowed."""

    allowed_component_types = _type_by_key(many=True, required=False)

    class Meta:
        model = HardwareModel
        fields: ClassVar = ["id", "name", "version", "allowed_component_types", "timeout_seconds", "text_wills"]
        validators = ()  # full_clean() checks the constraints, once


class NestedMetricSerializer(StrictModelSerializer[Metric]):
    """One value in a component's message. `minimum` and `maximum` are in `unit`, inclusive."""

    derived = Metric.DERIVED

    unit = _unit_by_symbol(help_text="The symbol of the unit that values are kept in.")
    sent_unit = _unit_by_symbol(help_text="The symbol of the unit that the device sends, where it is another one.")

    class Meta:
        model = Metric
        fields: ClassVar = [
            "id",
            "key",
            "name",
            "path",
            "value_type",
            "unit",
            "sent_unit",
            "unit_path",
            "minimum",
            "maximum",
            "true_value",
            "false_value",
            "number_format",
            "sentinels",
            "sentinel_treatment",
            "numbers_as_text",
        ]
        validators = ()
        # A device can send names with blanks at their ends.
        extra_kwargs: ClassVar = {name: {"trim_whitespace": False} for name in ("path", "unit_path")}


class MetricSerializer(NestedMetricSerializer):
    """A metric with the component type that it belongs to for good."""

    fixed = ("component_type",)

    component_type = _type_by_key()

    class Meta(NestedMetricSerializer.Meta):
        fields: ClassVar = ["id", "component_type", *NestedMetricSerializer.Meta.fields[1:]]


_ENTRIES = ("list_path", "list_form", "time_path", "time_format", "time_zone")


class ComponentTypeSerializer(StrictModelSerializer[ComponentType]):
    """A kind of sensor or actuator. Its metrics are read here and written at `metrics/`.

    `unmapped` is what becomes of values that no metric is for, `invalid_values` of those that a metric rejects.
    """

    metrics = NestedMetricSerializer(many=True, read_only=True)

    class Meta:
        model = ComponentType
        fields: ClassVar = [
            "id",
            "key",
            "name",
            "description",
            "expected_interval",
            "unmapped",
            "invalid_values",
            *_ENTRIES,
            "metrics",
        ]
