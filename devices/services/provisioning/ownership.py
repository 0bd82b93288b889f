"""Ownership of UUIDs: generated ones are owned at once, and those that a tenant chose once it has proven them.

A route is the only truth. Until a chosen UUID has one, every tenant that registered it is a candidate; the first whose
device sends a message with a valid signature gets the route. Staff can decide otherwise (`disputes`).
"""

import logging
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, transaction
from django.utils.translation import gettext as _
from django_tenants.utils import schema_context

from devices.models import Device
from devices.services import audit
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.error_codes import ErrorCode
from tenants.models import DeviceRoute, RouteCandidate, Tenant

logger = logging.getLogger(__name__)

Ownership = Device.Ownership


def claim(uuid: UUID, *, is_confirmed: bool) -> Device.Ownership:
    """Claim a UUID for a new device of the current tenant, and return its ownership.

    `is_confirmed`: the platform generated it, or staff confirm it. Must be called in a transaction. Raises
    ValidationError where it has a route.
    """
    lock(uuid)
    tenant = Tenant.objects.get(schema_name=current_schema())
    if is_confirmed:
        _route, is_free = DeviceRoute.objects.get_or_create(device_uuid=uuid, defaults={"tenant": tenant})
    else:
        is_free = not DeviceRoute.objects.filter(device_uuid=uuid).exists()
    if not is_free:
        text = _("The device UUID %(uuid)s is already registered. If the device is yours, ask the platform's staff.")
        raise ValidationError({"uuid": ValidationError(text % {"uuid": uuid}, ErrorCode.EXISTS)})
    if is_confirmed:
        return Ownership.OWNED
    RouteCandidate.objects.get_or_create(device_uuid=uuid, tenant=tenant)
    return Ownership.UNPROVEN


def lock(uuid: UUID) -> None:
    """Let no other transaction claim, prove or remove the UUID until the end of this one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"uuid:{uuid}"])


def prove(uuid: UUID, schema: str) -> bool:
    """Give the UUID's route to the tenant whose device signed a message; return whether the tenant has it now.

    Leaves the connection in the schema in which it was.
    """
    with transaction.atomic():
        with schema_context("public"):
            lock(uuid)
            route = DeviceRoute.objects.filter(device_uuid=uuid).select_related("tenant").first()
            if route is not None:
                return bool(route.tenant.schema_name == schema)
            candidates = RouteCandidate.objects.filter(device_uuid=uuid)
            own = candidates.filter(tenant__schema_name=schema).first()
            if own is None:
                return False
            DeviceRoute.objects.create(device_uuid=uuid, tenant_id=own.tenant_id)
            own.delete()
            others = list(candidates.values_list("tenant__schema_name", flat=True))
        set_ownership(uuid, schema, Ownership.OWNED, None, "prove UUID")
    for other in others:
        _note_dispute(uuid, other)
    return True


def set_ownership(uuid: UUID, schema: str, ownership: Device.Ownership, actor: audit.Actor, action: str) -> None:
    """Store the ownership on the tenant's device, where it has one, with an entry of its audit."""
    with schema_context(schema), transaction.atomic():
        device = Device.objects.filter(uuid=uuid).first()
        if device is not None and Device.objects.filter(pk=device.pk).update(ownership=ownership):
            audit.record(actor, action, device, f"{uuid}: {ownership}")


def withdraw(uuid: UUID) -> None:
    """Remove the current tenant's route or candidate of a removed device."""
    mine = {"device_uuid": uuid, "tenant__schema_name": current_schema()}
    DeviceRoute.objects.filter(**mine).delete()
    RouteCandidate.objects.filter(**mine).delete()


def _note_dispute(uuid: UUID, schema: str) -> None:
    """Show the dispute to a tenant that has not proven the UUID. Its locked tables must not stop the owner."""
    try:
        set_ownership(uuid, schema, Ownership.DISPUTED, None, "lose UUID")
    except DatabaseError as error:
        logger.warning("%s does not show that its UUID %s is disputed: %s", schema, uuid, error)
