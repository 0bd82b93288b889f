"""Filters of the lists. An invalid value is rejected, never ignored."""

from typing import Any
from uuid import UUID

from django import forms
from django.db.models import Model, Q, QuerySet
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework.exceptions import ErrorDetail, NotFound

from devices.api.visibility import visible_devices
from devices.domain import attributes, tags
from devices.models import (
    Component,
    ComponentType,
    Device,
    DeviceStatus,
    HardwareModel,
    MaintenanceWindow,
    Metric,
    Place,
    Unit,
    WaitingPublisher,
)
from devices.models.places import within
from devices.services.presence.contacts import sends_without_activity
from tenants.api.errors import InvalidParameters
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.error_values import shown
from tenants.models import Membership
from tenants.services.roles import Role

_NO_SUCH_TYPE = _("There is no component type with this key. component-types/ lists the component types.")
ATTRIBUTE_PREFIX = "attribute."
_BOOLEANS = {"true": True, "false": False}


def device_by_uuid(request: Any, uuid: UUID, *columns: str) -> Device:
    """Return a device that the client can see, with these columns alone where some are named.

    Raises NotFound, with the same text for a device of another tenant.
    """
    found = visible_devices(request).filter(uuid=uuid).order_by()
    # Not first(), which would order by the key.
    for device in (found.only(*columns) if columns else found)[:1]:
        return device
    raise NotFound(_t("There is no device with the UUID %(uuid)s. devices/ lists the devices.") % {"uuid": uuid})


def _devices(request: Any, texts: list[str]) -> list[Device]:
    """Return the devices with these UUIDs. Raises InvalidParameters and NotFound."""
    uuids = []
    for text in texts:
        try:
            uuids.append(UUID(text))
        except ValueError as error:
            refusal = _t("%(name)r must be a UUID, not %(value)s.") % {"name": "device", "value": shown(text)}
            raise InvalidParameters({"device": ErrorDetail(refusal, ErrorCode.INVALID_FORMAT)}) from error
    found = {device.uuid: device for device in visible_devices(request).filter(uuid__in=uuids).only("uuid").order_by()}
    return [found.get(uuid) or device_by_uuid(request, uuid) for uuid in uuids]


class TrueOrFalseField(forms.TypedChoiceField):
    """The texts `true` and `false` as a bool; the library's own field ignores any other text."""

    def __init__(self, **options: Any) -> None:
        options |= {"choices": [(text, text) for text in _BOOLEANS], "coerce": lambda text: _BOOLEANS[text]}
        super().__init__(empty_value=None, **options)


@extend_schema_field(OpenApiTypes.BOOL)
class TrueOrFalseFilter(filters.Filter):
    """A filter by `true` or `false`."""

    field_class = TrueOrFalseField


def is_attribute_parameter(parameter: str) -> bool:
    """Return whether the parameter selects devices by an attribute."""
    return parameter.startswith(ATTRIBUTE_PREFIX)


def _attribute_is(name: str, text: str) -> Q:
    """Return the condition that an attribute is the text, or the number or boolean that the text spells."""
    try:
        attributes.check_name(name)
    except ValueError as error:
        raise InvalidParameters({f"{ATTRIBUTE_PREFIX}{name}": [str(error)]}) from error
    condition = Q(pk__in=[])
    for value in attributes.values_of(text):
        condition |= Q(attributes__contains={name: value})
    return condition


class ChoicesFilter(filters.MultipleChoiceFilter):
    """A filter by one or several of the choices: any of them suffices."""

    is_repeatable = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"distinct": False, **options})


class ObjectsFilter(filters.ModelMultipleChoiceFilter):
    """A filter by one or several objects: any of them suffices."""

    is_repeatable = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"distinct": False, **options})


class TagsFilter(filters.CharFilter):
    """A filter by tags, all of which a device must have."""

    is_repeatable = True


class DevicesFilter(filters.CharFilter):
    """A filter by one or several devices, which the client must see."""

    is_repeatable = True


def by_object(model: type[Model], refusal: str | Promise, **options: Any) -> ObjectsFilter:
    """Return a filter by the ids or keys of objects, which must exist."""
    messages = {"invalid_choice": refusal, "invalid_pk_value": refusal}
    made = ObjectsFilter(queryset=model._default_manager.all(), error_messages=messages, **options)
    if "to_field_name" in options:
        extend_schema_field({"type": "string"})(made)  # of one value: the parameter is a list of them
    return made


class DeviceFilter(filters.FilterSet):
    status = ChoicesFilter(field_name="presence__status", choices=DeviceStatus.Status.choices)
    active = TrueOrFalseFilter(field_name="active")
    refused = TrueOrFalseFilter(
        method="with_refused_contact",
        label="Whether it is not ONLINE although it sent, within a day, verified messages that do not count.",
    )
    hardware_model = by_object(
        HardwareModel, _("There is no hardware model with this id."), label="A hardware model's id."
    )
    place = by_object(
        Place,
        _("There is no place with this key. places/ lists the places."),
        to_field_name="key",
        method="in_place",
        label="A place's key; devices at places below it are included.",
    )
    gateway = filters.UUIDFilter(method="of_gateway", label="A gateway's UUID: the devices that it speaks for.")
    tag = TagsFilter(method="with_tags", label="A tag. Given several times: devices with all these tags.")
    external_id = filters.CharFilter()
    search = filters.CharFilter(method="in_name_or_numbers", label="Part of the name, UUID or CPU serial.")

    class Meta:
        model = Device
        fields: tuple[str, ...] = ()

    @extend_schema_field(OpenApiTypes.BOOL)
    def with_refused_contact(self, queryset: QuerySet[Device], _name: str, refused: bool) -> QuerySet[Device]:
        condition = sends_without_activity(timezone.now())
        return queryset.filter(condition) if refused else queryset.exclude(condition)

    @extend_schema_field({"type": "string"})
    def in_place(self, queryset: QuerySet[Device], _name: str, places: list[Place]) -> QuerySet[Device]:
        return queryset.filter(within([place.path for place in places], "place__path")) if places else queryset

    def of_gateway(self, queryset: QuerySet[Device], _name: str, uuid: UUID) -> QuerySet[Device]:
        return queryset.filter(gateway=device_by_uuid(self.request, uuid, "uuid"))

    @extend_schema_field({"type": "array", "items": {"type": "string"}})
    def with_tags(self, queryset: QuerySet[Device], _name: str, _last: str) -> QuerySet[Device]:
        try:
            return queryset.filter(tags__contains=tags.normalize(self.data.getlist("tag")))
        except ValueError as error:
            raise InvalidParameters({"tag": [str(error)]}) from error

    def filter_queryset(self, queryset: QuerySet[Device]) -> QuerySet[Device]:
        """Return the devices that all parameters select, `attribute.…` included."""
        selected = super().filter_queryset(queryset)
        for parameter in filter(is_attribute_parameter, self.data):
            name = parameter.removeprefix(ATTRIBUTE_PREFIX)
            selected = selected.filter(_attribute_is(name, self.data[parameter]))
        return selected

    def in_name_or_numbers(self, queryset: QuerySet[Device], _name: str, text: str) -> QuerySet[Device]:
        words = text.strip()
        return queryset.filter(Q(name__icontains=words) | Q(cpu_serial__icontains=words) | Q(uuid__icontains=words))


class OfDevice(filters.FilterSet):
    """By the device that an object belongs to."""

    device = DevicesFilter(method="of_device", label="A device's UUID; may be given several times.")

    @extend_schema_field({"type": "array", "items": {"type": "string", "format": "uuid"}})
    def of_device(self, queryset: QuerySet[Any], name: str, _last: str) -> QuerySet[Any]:
        return queryset.filter(device__in=[device.pk for device in _devices(self.request, self.data.getlist(name))])


class ComponentFilter(OfDevice):
    component_type = by_object(
        ComponentType,
        _NO_SUCH_TYPE,
        field_name="component_type__key",
        to_field_name="key",
        label="A component type's key.",
    )
    attached = TrueOrFalseFilter(field_name="attached")

    class Meta:
        model = Component
        fields: tuple[str, ...] = ()


class MaintenanceWindowFilter(OfDevice):
    ongoing = TrueOrFalseFilter(method="at_present", label="Whether it is now.")

    class Meta:
        model = MaintenanceWindow
        fields: tuple[str, ...] = ()

    @extend_schema_field(OpenApiTypes.BOOL)
    def at_present(
        self, queryset: QuerySet[MaintenanceWindow], _name: str, ongoing: bool
    ) -> QuerySet[MaintenanceWindow]:
        now = timezone.now()
        present = Q(starts_at__lte=now, ends_at__gt=now)
        return queryset.filter(present if ongoing else ~present)


class WaitingPublisherFilter(filters.FilterSet):
    gateway = filters.UUIDFilter(method="of_gateway", label="A gateway's UUID.")

    class Meta:
        model = WaitingPublisher
        fields: tuple[str, ...] = ()

    def of_gateway(self, queryset: QuerySet[WaitingPublisher], _name: str, uuid: UUID) -> QuerySet[WaitingPublisher]:
        return queryset.filter(gateway=device_by_uuid(self.request, uuid))


class ComponentTypeFilter(filters.FilterSet):
    key = filters.CharFilter()

    class Meta:
        model = ComponentType
        fields: tuple[str, ...] = ()


class MetricFilter(filters.FilterSet):
    component_type = by_object(
        ComponentType,
        _NO_SUCH_TYPE,
        field_name="component_type__key",
        to_field_name="key",
        label="A component type's key.",
    )
    key = filters.CharFilter()

    class Meta:
        model = Metric
        fields: tuple[str, ...] = ()


class PlaceFilter(filters.FilterSet):
    parent = by_object(
        Place, _("There is no place with this key. places/ lists the places."), field_name="parent__key",
        to_field_name="key", label="The key of the place that contains them.",
    )  # fmt: skip
    kind = filters.CharFilter(label="For example house.")
    search = filters.CharFilter(method="in_key_or_name", label="Part of the key or name.")

    class Meta:
        model = Place
        fields: tuple[str, ...] = ()

    def in_key_or_name(self, queryset: QuerySet[Place], _name: str, text: str) -> QuerySet[Place]:
        return queryset.filter(Q(key__icontains=text.strip()) | Q(name__icontains=text.strip()))


class MemberFilter(filters.FilterSet):
    role = ChoicesFilter(choices=Role.choices)

    class Meta:
        model = Membership
        fields: tuple[str, ...] = ()


class UnitFilter(filters.FilterSet):
    quantity = filters.CharFilter(label="For example temperature.")
    symbol = filters.CharFilter()

    class Meta:
        model = Unit
        fields: tuple[str, ...] = ()


class HardwareModelFilter(filters.FilterSet):
    name = filters.CharFilter()
    version = filters.CharFilter()

    class Meta:
        model = HardwareModel
        fields: tuple[str, ...] = ()
