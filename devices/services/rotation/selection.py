"""Selection of a campaign's devices."""

from collections.abc import Collection
from dataclasses import dataclass, field
from uuid import UUID

from django.db.models import OuterRef, Q, QuerySet, Subquery

from devices.models import Device, DeviceCredential, HardwareModel


@dataclass(frozen=True, slots=True)
class DeviceSelection:
    """Criteria for devices, all of which must match. Without criteria, all devices."""

    marked: bool = False  # its newest key is marked to be rotated
    hardware_model: HardwareModel | None = None
    search: str = ""  # in its name, UUID or CPU serial
    uuids: Collection[UUID] = field(default_factory=tuple)


def select(selection: DeviceSelection) -> QuerySet[Device]:
    """Return the active devices of the current tenant that a campaign with this selection would include.

    Devices in a running campaign are excluded.
    """
    devices = Device.objects.filter(active=True).exclude(rotations__open=True)
    if selection.marked:
        keys = DeviceCredential.objects.filter(device=OuterRef("pk"), revoked_at=None).order_by("-version")
        devices = devices.annotate(marked=Subquery(keys.values("rotate")[:1])).filter(marked=True)
    if selection.hardware_model is not None:
        devices = devices.filter(hardware_model=selection.hardware_model)
    if selection.uuids:
        devices = devices.filter(uuid__in=selection.uuids)
    if text := selection.search.strip():
        found = Q(name__icontains=text) | Q(cpu_serial__icontains=text) | Q(uuid__icontains=text)
        devices = devices.filter(found)
    return devices
