"""The tenant whose device has the account of a UUID at the broker, of several that have registered it."""

from uuid import UUID

from devices.models import Device
from tenants.infrastructure.database import current_schema
from tenants.models import DeviceRoute, RouteCandidate


def holds_account(uuid: UUID) -> bool:
    """Return whether the broker's account of the UUID is the current tenant's: by its route, or as first candidate."""
    route = DeviceRoute.objects.filter(device_uuid=uuid).values_list("tenant__schema_name", flat=True).first()
    first = RouteCandidate.objects.filter(device_uuid=uuid).order_by("id")
    holder = route or first.values_list("tenant__schema_name", flat=True).first()
    return holder == current_schema()


def held_by_others() -> set[UUID]:
    """Return the UUIDs of the current tenant's devices whose account at the broker is another tenant's."""
    unproven = Device.objects.exclude(ownership=Device.Ownership.OWNED).values_list("uuid", flat=True)
    return {uuid for uuid in unproven if not holds_account(uuid)}
