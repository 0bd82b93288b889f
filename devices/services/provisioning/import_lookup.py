"""Lookup of the devices and metadata that an import's rows refer to, with a fixed number of queries."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from devices.models import Component, ComponentType, Device, HardwareModel, Place
from tenants.infrastructure.chunks import chunks
from tenants.models import DeviceRoute

_AT_ONCE = 5000


@dataclass(slots=True)
class ImportLookup:
    """The devices that the rows may refer to, and the tenant's metadata."""

    by_uuid: dict[UUID, Device]
    by_external_id: dict[str, Device]
    by_serial: dict[str, list[Device]]
    by_name: dict[str, list[Device]]
    taken: set[UUID]  # registered, in any tenant
    places: Mapping[str, Place]
    models: Sequence[HardwareModel]
    types: Mapping[str, ComponentType]
    allowed: Mapping[int, set[int]]  # hardware model → component types; a model without any allows all
    parts: Mapping[int, Mapping[str, str]]  # device → component key → key of its type

    def add(self, device: Device) -> None:
        """Add a registered device, or a changed one: a later row may refer to it."""
        if device.external_id:
            self.by_external_id[device.external_id] = device
        if device.uuid in self.by_uuid:
            return
        self.by_uuid[device.uuid] = device
        self.taken.add(device.uuid)
        self.by_serial.setdefault(device.cpu_serial, []).append(device)
        self.by_name.setdefault(device.name, []).append(device)

    def match(self, uuid: UUID | None, external_id: str, serial: str, name: str) -> Device | None:
        """Return the device that a row refers to, by UUID, external id, CPU serial or name; None for a new one.

        Raises ValidationError if several match.
        """
        if uuid is not None:
            return self.by_uuid.get(uuid)
        if external_id and external_id in self.by_external_id:
            return self.by_external_id[external_id]
        if serial and (found := _without_other_id(self.by_serial.get(serial, []), external_id)):
            return _only(found, "cpu_serial")
        named = _without_other_id(self.by_name.get(name, []), external_id)
        named = [device for device in named if not (serial and device.cpu_serial)]
        return _only(named, "name") if name and named else None

    def has_other_with(self, external_id: str | None, device: Device) -> bool:
        """Return whether another device has this external id."""
        other = self.by_external_id.get(external_id) if external_id else None
        return other is not None and other.pk != device.pk

    def place_with(self, key: str) -> Place:
        """Return the place with that key. Raises ValueError."""
        found = self.places.get(key)
        if found is None:
            values = {"key": key, "places": _listed(self.places)}
            raise ValueError(_("There is no place %(key)s. Existing places: %(places)s.") % values)
        return found

    def model_named(self, text: str) -> HardwareModel:
        """Return the hardware model by “name version”, or by name if it has one version. Raises ValueError."""
        exact = [model for model in self.models if str(model) == text]
        found = exact or [model for model in self.models if model.name == text]
        if len(found) == 1:
            return found[0]
        if found:
            versions = ", ".join(str(model) for model in found)
            raise ValueError(
                _("More than one hardware model has this name: give name and version (%(models)s).")
                % {"models": versions}
            )
        raise ValueError(
            _("There is no hardware model %(name)s. Existing hardware models: %(models)s.")
            % {"name": text, "models": _listed(map(str, self.models))}
        )

    def type_named(self, key: str) -> ComponentType:
        """Return the component type with that key. Raises ValueError."""
        found = self.types.get(key)
        if found is None:
            raise ValueError(
                _("There is no component type %(key)s. Existing component types: %(types)s.")
                % {"key": key, "types": _listed(self.types)}
            )
        return found


def load_lookup(rows: Sequence[Mapping[str, str]]) -> ImportLookup:
    """Return the current tenant's devices and metadata that the rows may refer to."""
    uuids = {uuid for row in rows if (uuid := as_uuid(row.get("uuid", "")))}
    devices: dict[int, Device] = {}
    for field, values in (
        ("uuid", uuids),
        ("external_id", {row.get("external_id", "") for row in rows} - {""}),
        ("cpu_serial", {row.get("cpu_serial", "") for row in rows} - {""}),
        ("name", {row.get("name", "") for row in rows} - {""}),
    ):
        for some in chunks(sorted(values, key=str), _AT_ONCE):
            found = Device.objects.filter(**{f"{field}__in": some}).select_related("hardware_model", "place")
            devices |= {device.pk: device for device in found}
    taken: set[UUID] = set()
    for listed in chunks(uuids, _AT_ONCE):
        taken |= set(DeviceRoute.objects.filter(device_uuid__in=listed).values_list("device_uuid", flat=True))
    known = ImportLookup({}, {}, {}, {}, taken, _places(), *_metadata(), parts_of(devices))
    for device in devices.values():
        known.add(device)
    return known


def parts_of(devices: Iterable[int]) -> dict[int, dict[str, str]]:
    """Return component key → key of its type, for each device (by primary key)."""
    parts: dict[int, dict[str, str]] = {}
    for some in chunks(devices, _AT_ONCE):
        rows = Component.objects.filter(device__in=some).order_by("device", "key")
        for device, key, kind in rows.values_list("device_id", "key", "component_type__key"):
            parts.setdefault(device, {})[key] = kind
    return parts


def as_uuid(text: str) -> UUID | None:
    """Return the UUID, or None for other text."""
    try:
        return UUID(text)
    except ValueError:
        return None


def _metadata() -> tuple[list[HardwareModel], dict[str, ComponentType], dict[int, set[int]]]:
    models = list(HardwareModel.objects.prefetch_related("allowed_component_types"))
    allowed = {model.pk: {kind.pk for kind in model.allowed_component_types.all()} for model in models}
    return models, {kind.key: kind for kind in ComponentType.objects.all()}, allowed


def _places() -> dict[str, Place]:
    return {place.key: place for place in Place.objects.all()}


def _without_other_id(devices: Iterable[Device], external_id: str) -> list[Device]:
    """Return the devices without those that have an external id, where the row names another one."""
    return [device for device in devices if not (external_id and device.external_id)]


def _only(devices: Sequence[Device], column: str) -> Device:
    if len(devices) > 1:
        raise ValidationError(
            {column: _("%(count)d devices have this value: give the UUID instead.") % {"count": len(devices)}}
        )
    return devices[0]


def _listed(names: Iterable[str], most: int = 20) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "") if listed else _("none")
