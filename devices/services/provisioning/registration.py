"""Registration, key changes and removal of devices, in PostgreSQL, Vault and the broker.

The secret is written to Vault inside the database transaction: if Vault is unavailable nothing is registered. The
broker is updated after the commit; if it is unavailable, `manage.py sync_broker` creates the account.
"""

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID, uuid4

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from devices.domain.attributes import Attributes
from devices.models import (
    Component,
    ComponentType,
    Device,
    DeviceCredential,
    DeviceStatus,
    HardwareModel,
    Place,
    RotationMember,
)
from devices.services import audit, audit_changes
from devices.services.broker import account_ownership, accounts, admission, passwords, retained_states
from devices.services.presence import activity
from devices.services.vault.key_versions import new_secret, next_key
from devices.services.vault.secret_store import provisioner
from tenants.infrastructure import tasks
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.error_codes import ErrorCode
from tenants.models import Tenant
from tenants.services.enrollment import make_claimable

from . import ownership

logger = logging.getLogger(__name__)

ROTATION_OVERLAP = timedelta(days=7)
_MOST_SECRET = 512
_REMOVAL = "devices.services.provisioning.registration.remove_secret"


@dataclass(frozen=True, slots=True)
class IssuedCredentials:
    """The credentials of a device; shown once to the user who registered it."""

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
    expected_intervals: Mapping[str, int | None] | None = None,
    timeout_seconds: int | None = None,
    place: Place | None = None,
    gateway: Device | None = None,
    external_id: str | None = None,
    tags: Sequence[str] = (),
    attributes: Attributes | None = None,
    secret: str | None = None,
    mqtt_password: str | None = None,
    is_uuid_confirmed: bool = False,
    acting_user: audit.Actor = None,
) -> tuple[Device, IssuedCredentials]:
    """Register a device of the current tenant with its components (key → type), their own expected intervals in seconds
    (key → interval), and its first key.

    `secret` is for a device with an existing one, for example of an old server: it becomes the first key, marked for
    rotation, because others may know it. `mqtt_password` likewise, for the broker. A given `uuid` must be proven by the
    device's first message, unless the platform generated it or staff give it (`is_uuid_confirmed`). Raises
    ValidationError if a tenant owns the UUID (the message does not say which), and SecretsUnavailable if Vault is
    unavailable; nothing is registered then.
    """
    is_uuid_confirmed = is_uuid_confirmed or uuid is None
    uuid = uuid or uuid4()
    for given in (secret, mqtt_password):
        if given is not None:
            check_secret(given)
    with transaction.atomic():
        device = make_rows(
            name=name,
            uuid=uuid,
            cpu_serial=cpu_serial,
            hardware_model=hardware_model,
            components=components,
            expected_intervals=expected_intervals,
            timeout_seconds=timeout_seconds,
            place=place,
            gateway=gateway,
            external_id=external_id,
            tags=tags,
            attributes=attributes,
            is_uuid_confirmed=is_uuid_confirmed,
        )
        issued = _first_key(device, secret, mqtt_password)
        passwords.store_hashes({device.pk: issued.mqtt_password})
        audit.record(acting_user, "register", device, changes=audit_changes.added(device))
    return device, issued


def make_rows(
    *,
    name: str,
    uuid: UUID,
    cpu_serial: str = "",
    hardware_model: HardwareModel | None = None,
    components: Mapping[str, ComponentType] | None = None,
    expected_intervals: Mapping[str, int | None] | None = None,
    timeout_seconds: int | None = None,
    place: Place | None = None,
    gateway: Device | None = None,
    external_id: str | None = None,
    tags: Sequence[str] = (),
    attributes: Attributes | None = None,
    is_uuid_confirmed: bool = False,
) -> Device:
    """Create the PostgreSQL rows of `register_device` without a key, for a rehearsal that is rolled back. Raises as it
    does.

    Must be called in a transaction.
    """
    owned = ownership.claim(uuid, is_confirmed=is_uuid_confirmed)
    device = Device(uuid=uuid, ownership=owned, name=name, cpu_serial=cpu_serial, hardware_model=hardware_model)
    device.timeout_seconds = timeout_seconds
    device.place, device.gateway, device.external_id = place, gateway, external_id or None
    device.tags, device.attributes = list(tags), dict(attributes or {})
    device.full_clean()
    device.save()
    for key, component_type in (components or {}).items():
        interval = (expected_intervals or {}).get(key)
        component = Component(device=device, key=key, component_type=component_type, expected_interval=interval)
        component.full_clean()
        component.save()
    DeviceStatus.objects.create(device=device)
    return device


def rotate_key(
    device: Device, *, overlap: timedelta = ROTATION_OVERLAP, acting_user: audit.Actor = None
) -> IssuedCredentials:
    """Issue the device's next key; earlier keys stay valid for `overlap`. A campaign then skips the device."""
    with transaction.atomic():
        Device.objects.select_for_update().get(pk=device.pk)
        _admit_if_blocked(device)
        device.credentials.filter(not_after=None, revoked_at=None).update(not_after=timezone.now() + overlap)
        key = next_key(current_schema(), device.uuid, _newest_row(device))
        DeviceCredential(device=device, version=key.version).save()
        device.rotations.filter(open=True).update(
            open=False, state=RotationMember.State.MISSED, note=f"got key {key.version} by itself"
        )
        audit.record(acting_user, "rotate key", device, f"key {key.version}")
    return IssuedCredentials(device.uuid, key.secret, key.version, key.mqtt_password)


def adopt_secret(device: Device, secret: str, *, acting_user: audit.Actor = None) -> IssuedCredentials:
    """Make a secret that the device already has its newest key, marked for rotation, because others may know it.

    Nothing is written if it is already the newest valid key. Earlier keys stay unchanged. Raises ValidationError for an
    invalid secret, and SecretsUnavailable.
    """
    check_secret(secret)
    schema = current_schema()
    with transaction.atomic():
        Device.objects.select_for_update().get(pk=device.pk)
        _admit_if_blocked(device)
        known, kept = _newest_row(device), provisioner().read(schema, device.uuid)
        if kept.secret != secret:
            version = provisioner().write(
                schema, device.uuid, secret=secret, mqtt_password=kept.mqtt_password, cas=kept.version
            )
            kept = replace(kept, secret=secret, version=version)
        if kept.version > known:
            DeviceCredential(device=device, version=kept.version, rotate=True).save()
            audit.record(acting_user, "adopt key", device, f"key {kept.version}")
    return IssuedCredentials(device.uuid, kept.secret, kept.version, kept.mqtt_password)


def replace_credentials(device: Device, *, acting_user: audit.Actor = None) -> IssuedCredentials:
    """Issue a new key and password for a device with compromised credentials; all earlier ones become invalid."""
    with transaction.atomic():
        Device.objects.select_for_update().get(pk=device.pk)
        device.credentials.filter(revoked_at=None).update(revoked_at=timezone.now())
        device.rotations.filter(open=True).update(
            open=False, state=RotationMember.State.MISSED, note="got new credentials"
        )
        issued = _first_key(device, None, None)
        passwords.store_hashes({device.pk: issued.mqtt_password})
        audit.record(acting_user, "rotate key", device, f"key {issued.key_version}, the ones before are revoked")
        # After the grant, which unblocks any device.
        schema = current_schema()
        transaction.on_commit(lambda: admission.close_sessions(schema, [device.uuid]))
    return issued


def revoke_key(credential: DeviceCredential, *, acting_user: audit.Actor = None) -> None:
    """Reject the key from now on, regardless of Vault and caches, and close the device's session at the broker.

    A device whose last valid key it was cannot connect until it has another one.
    """
    schema, uuid = current_schema(), credential.device.uuid
    with transaction.atomic():
        credential.revoked_at = timezone.now()
        credential.save(update_fields=["revoked_at"])
        audit.record(acting_user, "revoke key", credential.device, f"key {credential.version}")
        transaction.on_commit(lambda: admission.close_sessions(schema, [uuid]))


def allow_version_1(device: Device, *, acting_user: audit.Actor = None) -> None:
    """Accept version 1 signatures of the device again, until its next version 2 message."""
    with transaction.atomic(), audit.changing(acting_user, "allow version 1", device):
        device.min_signature_version = Device.Signature.V1
        device.save(update_fields=["min_signature_version"])


def remove_device(device: Device, *, acting_user: audit.Actor = None) -> None:
    """Remove a device without readings. Raises ValidationError for one with readings (deactivate it instead)."""
    schema, uuid = current_schema(), device.uuid
    with transaction.atomic():
        if _has_telemetry(device):
            raise ValidationError(
                _("%(device)s has readings, which would be lost: deactivate it instead of removing it.")
                % {"device": device},
                ErrorCode.HAS_READINGS,
            )
        audit.record(acting_user, "remove", device, str(uuid))
        holds_account = account_ownership.holds_account(device.uuid)
        device.delete()
        ownership.withdraw(uuid)
        if holds_account:
            make_claimable(uuid)
        slug = Tenant.objects.get(schema_name=schema).slug
        # The role `web` cannot remove secrets. The queue is in the database, so the task is queued by the commit.
        tasks.enqueue(_REMOVAL, str(uuid))
        transaction.on_commit(lambda: _forget(schema, slug, uuid, holds_account=holds_account))


def remove_secret(uuid: str) -> str:
    """Remove the secret of a removed device in a worker, unless its UUID is registered again.

    Raises SecretsUnavailable: the task then fails and can be queued again.
    """
    with transaction.atomic():
        # Meanwhile no device is registered with this UUID, which would lose its secret.
        ownership.lock(UUID(uuid))
        if Device.objects.filter(uuid=uuid).exists():
            return "It is registered again"
        provisioner().delete(current_schema(), UUID(uuid))
    return "Removed"


def _first_key(device: Device, given: str | None, given_password: str | None) -> IssuedCredentials:
    secret, mqtt_password = given or new_secret(), given_password or secrets.token_urlsafe(24)
    version = provisioner().write(current_schema(), device.uuid, secret=secret, mqtt_password=mqtt_password)
    DeviceCredential(device=device, version=version, rotate=given is not None).save()
    if account_ownership.holds_account(device.uuid):
        transaction.on_commit(lambda: _grant(device.uuid, mqtt_password))
    return IssuedCredentials(device.uuid, secret, version, mqtt_password)


def _newest_row(device: Device) -> int:
    return device.credentials.aggregate(newest=Max("version"))["newest"] or 0


def check_secret(secret: str) -> None:
    """Raise ValidationError for a text that cannot be a secret; the message does not contain it."""
    if not 8 <= len(secret) <= _MOST_SECRET or not secret.isprintable():
        raise ValidationError(
            {"secret": _("A secret must have 8 to %(most)d printable characters.") % {"most": _MOST_SECRET}}
        )


def _admit_if_blocked(device: Device) -> None:
    """Unblock a device without a valid key at the broker, after the commit that gives it one."""
    schema, uuid = current_schema(), device.uuid
    if not admission.valid_keys().filter(device=device).exists():
        transaction.on_commit(lambda: admission.admit(schema, [uuid]))


def _grant(uuid: UUID, mqtt_password: str) -> None:
    try:
        accounts.grant_devices([(uuid, mqtt_password)])
    except accounts.BrokerUnavailable as error:
        logger.warning("Device %s has no account at the broker yet (%s); run sync_broker", uuid, error)


def _forget(schema: str, slug: str, uuid: UUID, *, holds_account: bool) -> None:
    """Remove account, retained state and deadline of a removed device, after the commit."""
    try:
        if holds_account:
            accounts.revoke_devices([uuid])
    except accounts.BrokerUnavailable as error:
        logger.warning("The broker still has an account or a session of %s (%s); run sync_broker", uuid, error)
    try:
        retained_states.clear_retained([(slug, uuid)])
    except accounts.BrokerUnavailable as error:
        logger.warning("The broker still retains the state of %s (%s); run sync_broker --states", uuid, error)
    activity.drop_deadlines([f"{schema}:{uuid}"])


def _has_telemetry(device: Device) -> bool:
    # Queried through the reverse relation, so that devices does not import telemetry.
    return bool(device.series.exists()) if hasattr(device, "series") else False
