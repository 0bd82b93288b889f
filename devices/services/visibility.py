"""The devices that a device selector selects, and querysets that are narrowed to them."""

from typing import TypeVar

from django.db.models import Model, Q, QuerySet

from devices.domain.selector import Selector
from devices.models import Device, Place
from devices.models.places import within

AnyModel = TypeVar("AnyModel", bound=Model)


def selected_devices(selector: Selector) -> QuerySet[Device]:
    """Return the current tenant's devices that the selector selects; an empty one selects all."""
    if not selector:
        return Device.objects.all()
    condition = Q(hardware_model__in=selector.hardware_models) | Q(uuid__in=selector.devices)
    if selector.tags:
        condition |= Q(tags__overlap=list(selector.tags))
    if selector.places:
        paths = Place.objects.filter(pk__in=selector.places).values_list("path", flat=True)
        condition |= Q(place__in=Place.objects.filter(within(paths)))
    return Device.objects.filter(condition)


def narrow(queryset: QuerySet[AnyModel], selector: Selector, path: str) -> QuerySet[AnyModel]:
    """Return the rows whose device the selector selects; `path` is the lookup from a row to its device."""
    if not selector:
        return queryset
    return queryset.filter(**{f"{path}__in": selected_devices(selector).order_by().values("pk")})


def visible_places(selector: Selector) -> QuerySet[Place]:
    """Return the places that the selector names, those below them, and the places of its devices."""
    if not selector:
        return Place.objects.all()
    paths = Place.objects.filter(pk__in=selector.places).values_list("path", flat=True)
    of_devices = Q(pk__in=selected_devices(selector).order_by().values("place"))
    return Place.objects.filter(within(paths) | of_devices)


def uuids_of(selector: Selector) -> frozenset[str] | None:
    """Return the UUIDs of the selected devices; None for all."""
    return frozenset(map(str, selected_devices(selector).values_list("uuid", flat=True))) if selector else None
