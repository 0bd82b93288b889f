"""Registering, rotating, and removing devices: PostgreSQL, Vault and the broker kept in step.

The secret is written to Vault inside the database transaction: when Vault is away nothing is registered. The
broker is told after the commit; when it is away the account is made by `manage.py sync_broker`.
"""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from devices.models import Component, ComponentType, Device, DeviceCredential, DeviceStatus, HardwareModel
from devices.services import audit, broker_access, broker_passwords, presence, retained_states
from devices.services.secrets import SecretMissing, SecretsUnavailable, provisioner
from tenants.models import DeviceRoute, Tenant
from tenants.schemas import current_schema

logger = logging.getLogger(__name__)

ROTATION_OVERLAP = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class IssuedCredentials:
    """What a device needs to speak; shown once to whoever registered it."""

    uuid: UUID
    secret: str
    key_version: int
    mqtt_password: str

    def __repr__(self) -> str:
        return f"<IssuedCredentials of {self.uuid}, key {self.key_version}>"


def register_device(
    *,
    name: str,
    uuid: UUID | None = None,
    cpu_serial: str = "",
    hardware_model: HardwareModel | None = None,
    components: Mapping[str, ComponentType] | None = None,
    acting_user: audit.Actor = None,
) -> tuple[Device, IssuedCredentials]:
    """Register a device of the current tenant with its components (key → type) and its first key.

    Raises ValidationError when the UUID is registered already, in whichever tenant (the message does not say
    in which), and SecretsUnavailable when Vault is away; nothing is registered then.
    """
    uuid = uuid or uuid4()
    with transaction.atomic():
        _claim_route(uuid)
        device = Device(uuid=uuid, name=name, cpu_serial=cpu_serial, hardware_model=hardware_model)
        device.full_clean()
        device.save()
        for key, component_type in (components or {}).items():
            component = Component(device=device, key=key, component_type=component_type)
            component.full_clean()
            component.save()
        DeviceStatus.objects.create(device=device)
        issued = _issue_key(device, mqtt_password=secrets.token_urlsafe(24))
        broker_passwords.keep({device.pk: issued.mqtt_password})
        audit.record(acting_user, "register", device)
    return device, issued


def rotate_key(
    device: Device, *, overlap: timedelta = ROTATION_OVERLAP, acting_user: audit.Actor = None
) -> IssuedCredentials:
    """Issue the device's next key; the ones before it stay valid for `overlap`."""
    with transaction.atomic():
        Device.objects.select_for_update().get(pk=device.pk)
        mqtt_password = provisioner().read(current_schema(), device.uuid).mqtt_password
        device.credentials.filter(not_after=None, revoked_at=None).update(not_after=timezone.now() + overlap)
        issued = _issue_key(device, mqtt_password=mqtt_password)
        audit.record(acting_user, "rotate key", device, f"key {issued.key_version}")
    return issued


def revoke_key(credential: DeviceCredential, *, acting_user: audit.Actor = None) -> None:
    """Refuse the key from now on, whatever Vault and caches hold."""
    with transaction.atomic():
        credential.revoked_at = timezone.now()
        credential.save(update_fields=["revoked_at"])
        audit.record(acting_user, "revoke key", credential.device, f"key {credential.version}")


def allow_version_1(device: Device, *, acting_user: audit.Actor = None) -> None:
    """Take version 1 signatures of the device again, until its next version 2 message."""
    with transaction.atomic():
        device.signature_floor = Device.Signature.V1
        device.save(update_fields=["signature_floor"])
        audit.record(acting_user, "allow version 1", device)


def remove_device(device: Device, *, acting_user: audit.Actor = None) -> None:
    """Remove a device that has no readings; raises ValidationError for one that has (deactivate it instead)."""
    schema, uuid = current_schema(), device.uuid
    with transaction.atomic():
        if _has_telemetry(device):
            raise ValidationError(
                _("%(device)s has readings, which would go with it: deactivate it instead of removing it.")
                % {"device": device}
            )
        audit.record(acting_user, "remove", device, str(uuid))
        device.delete()
        DeviceRoute.objects.filter(device_uuid=uuid).delete()
        slug = Tenant.objects.get(schema_name=schema).slug
        transaction.on_commit(lambda: _forget(schema, slug, uuid))


def _claim_route(uuid: UUID) -> None:
    tenant = Tenant.objects.get(schema_name=current_schema())
    _route, created = DeviceRoute.objects.get_or_create(device_uuid=uuid, defaults={"tenant": tenant})
    if not created:
        raise ValidationError({"uuid": _("The device UUID %(uuid)s is registered already.") % {"uuid": uuid}})


def _issue_key(device: Device, *, mqtt_password: str) -> IssuedCredentials:
    secret = secrets.token_urlsafe(32)
    version = provisioner().write(current_schema(), device.uuid, secret=secret, mqtt_password=mqtt_password)
    DeviceCredential(device=device, version=version).save()
    transaction.on_commit(lambda: _grant(device.uuid, mqtt_password))
    return IssuedCredentials(device.uuid, secret, version, mqtt_password)


def _grant(uuid: UUID, mqtt_password: str) -> None:
    try:
        broker_access.grant_devices([(uuid, mqtt_password)])
    except broker_access.BrokerUnavailable as error:
        logger.warning("Device %s has no account at the broker yet (%s); run sync_broker", uuid, error)


def _forget(schema: str, slug: str, uuid: UUID) -> None:
    """After the commit: without its route the device is unknown already; these remove what is left of it."""
    try:
        broker_access.revoke_devices([uuid])
    except broker_access.BrokerUnavailable as error:
        logger.warning("The broker still has an account or a session of %s (%s); run sync_broker", uuid, error)
    try:
        retained_states.forget_states([(slug, uuid)])
    except broker_access.BrokerUnavailable as error:
        logger.warning("The broker still keeps the state of %s (%s); run sync_broker --states", uuid, error)
    try:
        provisioner().delete(schema, uuid)
    except (SecretMissing, SecretsUnavailable) as error:
        logger.warning("The secret of the removed device %s is not removed from Vault: %s", uuid, error)
    presence.drop_deadlines([f"{schema}:{uuid}"])


def _has_telemetry(device: Device) -> bool:
    # Asked by table name through the relation, so that devices does not import telemetry.
    return bool(device.series.exists()) if hasattr(device, "series") else False
