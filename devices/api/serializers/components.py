"""Components, with when they last reported."""

import datetime
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, ClassVar

from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.api.visibility import VisibleDeviceField
from devices.models import Component, ComponentType
from devices.services.presence import freshness
from devices.services.presence.freshness import Freshness
from tenants.api.serializers.base import NamedObjectField, QuickSerializer, StrictModelSerializer, Timestamp, time_text

_NO_SUCH_TYPE = _("There is no component type {value}. Create it at component-types/ first.")


def component_type_by_key() -> NamedObjectField:
    """Return a field for a component type by its key."""
    return NamedObjectField(
        slug_field="key", queryset=ComponentType.objects.all(), error_messages={"does_not_exist": _NO_SUCH_TYPE}
    )


class ReportFields(serializers.Serializer):
    """The freshness of a component. `expected_interval` is its own."""

    names = ("effective_interval_seconds", "last_reading_at", "freshness")

    effective_interval_seconds = serializers.SerializerMethodField(
        help_text="Expected interval of reports in seconds: the component's, else its type's."
    )
    last_reading_at = serializers.SerializerMethodField(help_text="The time of its newest reading.")
    freshness = serializers.SerializerMethodField(
        help_text="FRESH: its newest reading is at most two intervals old. STALE: older. NEVER: there is none."
    )

    def get_effective_interval_seconds(self, component: Component) -> int:
        return _report(component).interval

    @extend_schema_field(Timestamp(allow_null=True))
    def get_last_reading_at(self, component: Component) -> str | None:
        return time_or_null(_report(component).last_reading_at)

    def get_freshness(self, component: Component) -> Freshness:
        return _report(component).freshness


_QUICK_PART: dict[str, Callable[[Any], Any]] = {
    "id": attrgetter("pk"),
    "key": attrgetter("key"),
    "name": attrgetter("name"),
    "component_type": attrgetter("component_type.key"),
    "attached": attrgetter("attached"),
    "expected_interval": attrgetter("expected_interval"),
    "pins": attrgetter("pins"),
    "effective_interval_seconds": lambda component: _report(component).interval,
    "last_reading_at": lambda component: time_or_null(_report(component).last_reading_at),
    "freshness": lambda component: _report(component).freshness.value,
}


class ComponentSerializer(QuickSerializer, ReportFields, StrictModelSerializer[Component]):
    """A sensor or actuator on a device; `key` stands in the topic, and `device` is fixed."""

    fixed = ("device",)
    quick: ClassVar = {**_QUICK_PART, "device": lambda component: str(component.device.uuid)}

    device = VisibleDeviceField()
    component_type = component_type_by_key()

    class Meta:
        model = Component
        fields: ClassVar = [
            "id",
            "device",
            "key",
            "name",
            "component_type",
            "attached",
            "expected_interval",
            "pins",
            *ReportFields.names,
        ]
        validators = ()


class DeviceComponentSerializer(QuickSerializer, ReportFields, serializers.ModelSerializer[Component]):
    """A component within its device."""

    quick: ClassVar = _QUICK_PART

    component_type = serializers.SlugRelatedField[ComponentType](slug_field="key", read_only=True)

    class Meta:
        model = Component
        fields: ClassVar = [
            "id",
            "key",
            "name",
            "component_type",
            "attached",
            "expected_interval",
            "pins",
            *ReportFields.names,
        ]
        read_only_fields = fields


def note_reports(components: Iterable[Component]) -> None:
    """Read the last reports of all these components in one query, instead of one query for each."""
    listed = list(components)
    reports = freshness.component_reports(listed, timezone.now())
    for component in listed:
        component.report = reports[component.pk]  # type: ignore[attr-defined]


def time_or_null(time: datetime.datetime | None) -> str | None:
    """Return the time in the API's format, or None."""
    return time_text(time) if time else None


def _report(component: Any) -> freshness.ComponentReport:
    if not hasattr(component, "report"):
        note_reports([component])
    return component.report
