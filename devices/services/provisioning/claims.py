"""Claims of preregistered devices, and their release. A claim is one transaction over the row and the tenant's schema.

The first transaction to change the row wins; the other one finds it claimed. If Vault is unavailable or the process
dies, nothing has changed, and the device can be claimed again.
"""

import hmac
import logging
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from devices.models import ComponentType, Device, HardwareModel
from devices.services import audit
from devices.services.provisioning.import_columns import split_parts
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.throttling import RedisCounter
from tenants.models import PreregisteredDevice, Tenant
from tenants.services import claim_codes
from tenants.services.enrollment import make_claimable

from . import activation, registration

logger = logging.getLogger(__name__)

_failed_claims = RedisCounter(seconds=3600)
# Compared with the code if the serial number is unknown, so that the time is the same.
_NO_DIGEST = claim_codes.digest("no preregistered device")


class ClaimRefused(Exception):
    """The serial number and the code match no device that can be claimed. The message never says which is wrong."""

    def __str__(self) -> str:
        return _(
            "No device with this serial number and this claim code can be claimed. Compare both with the label. A"
            " device that was claimed before must be released first."
        )


class AlreadyClaimed(Exception):
    """This tenant claimed the device before."""

    def __init__(self, device: Device | None, preregistered: PreregisteredDevice) -> None:
        super().__init__(preregistered.serial)
        self.device = device
        self.preregistered = preregistered

    def __str__(self) -> str:
        return _("This tenant has already claimed %(serial)s: it is the device %(device)s.") % {
            "serial": self.preregistered.serial,
            "device": self.device or self.preregistered.device_uuid,
        }


class TooManyClaims(Exception):
    """Too many wrong codes within the hour."""

    def __init__(self, wait: int) -> None:
        super().__init__(wait)
        self.wait = wait

    def __str__(self) -> str:
        return _(
            "More than %(most)d wrong claim codes within an hour (claim_failures). Try again in %(minutes)d minutes."
        ) % {
            "most": settings.CLAIM_FAILURES_PER_HOUR,
            "minutes": -(-self.wait // 60),
        }


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The new device and its preregistration."""

    device: Device
    preregistered: PreregisteredDevice


def claim(serial: str, code: str, *, name: str = "", acting_user: audit.Actor = None) -> ClaimResult:
    """Make the preregistered device a device of the current tenant, with its hardware model and components.

    Raises ValidationError for a mistyped code and for conflicts in the tenant; ClaimRefused, AlreadyClaimed,
    TooManyClaims; SecretsUnavailable if Vault is unavailable. Nothing is changed then.
    """
    read = claim_codes.read_claim_code(code)
    if read is None:
        raise ValidationError(
            {
                "code": _(
                    "A claim code must have 16 letters and digits with a valid check character; this one is mistyped."
                )
            }
        )
    tenant = Tenant.objects.get(schema_name=current_schema())
    counters = _counters(tenant, acting_user)
    _refuse_too_many(counters)
    with transaction.atomic():
        preregistered = (
            PreregisteredDevice.objects.select_for_update().filter(serial=serial.strip().upper()[:64]).first()
        )
        right = hmac.compare_digest(
            preregistered.claim_digest if preregistered else _NO_DIGEST, claim_codes.digest(read)
        )
        if preregistered is not None and right and preregistered.tenant_id is None:
            return ClaimResult(_register(preregistered, tenant, name, acting_user), preregistered)
    if preregistered is not None and right and preregistered.tenant_id == tenant.pk:
        raise AlreadyClaimed(Device.objects.filter(uuid__in=[preregistered.device_uuid]).first(), preregistered)
    for counter in counters:
        _failed_claims.add(counter)
    logger.info("A claim of the tenant %s was rejected", tenant.slug)
    raise ClaimRefused


def release(device: Device, *, acting_user: audit.Actor = None) -> PreregisteredDevice:
    """Release the device: anyone with its label can claim it. A device without readings is removed.

    With readings it stays, deactivated and with its keys revoked. Raises ValidationError if it was not claimed.
    """
    with transaction.atomic():
        preregistered = preregistration_of(device, lock=True)
        if preregistered is None:
            raise ValidationError(
                _("%(device)s was not claimed, so it cannot be released.") % {"device": device},
                ErrorCode.NOT_CLAIMED,
            )
        make_claimable(preregistered.device_uuid)
        audit.record(acting_user, "release", device, preregistered.serial)
        try:
            with transaction.atomic():
                registration.remove_device(device, acting_user=acting_user)
        except ValidationError:
            for key in device.credentials.filter(revoked_at=None):
                registration.revoke_key(key, acting_user=acting_user)
            activation.set_active(device, False, acting_user=acting_user)
    return preregistered


def release_by_staff(device_uuid: str, user_id: int, user_label: str) -> None:
    """Release the device in the tenant's schema, in the name of staff. Called by the console."""
    device = Device.objects.filter(uuid=device_uuid).first()
    if device is None:
        make_claimable(UUID(device_uuid))
    else:
        release(device, acting_user=audit.Named(user_id, user_label))


def reset_credentials(device: Device, *, acting_user: audit.Actor = None) -> None:
    """Replace the device's credentials and let it fetch the new ones once. The present ones become invalid.

    Raises ValidationError if the device was not claimed, SecretsUnavailable.
    """
    with transaction.atomic():
        preregistered = preregistration_of(device, lock=True)
        if preregistered is None:
            raise ValidationError(
                _("%(device)s was not claimed, so its credentials cannot be reset.") % {"device": device},
                ErrorCode.NOT_CLAIMED,
            )
        registration.replace_credentials(device, acting_user=acting_user)
        PreregisteredDevice.objects.filter(pk=preregistered.pk).update(
            fetched_at=None, attempt_digest="", repeated_requests=0
        )
        audit.record(acting_user, "allow new fetch", device, preregistered.serial)


def preregistration_of(device: Device, *, lock: bool = False) -> PreregisteredDevice | None:
    """Return the preregistration of the current tenant's device, or None."""
    rows = PreregisteredDevice.objects.select_for_update(of=("self",)) if lock else PreregisteredDevice.objects
    return rows.filter(device_uuid=device.uuid, tenant__schema_name=current_schema()).first()


def _register(preregistered: PreregisteredDevice, tenant: Tenant, name: str, acting_user: audit.Actor) -> Device:
    model = _model(preregistered, acting_user)
    components = {key: _type(kind, acting_user) for key, kind in split_parts(preregistered.components).items()}
    device, _issued = registration.register_device(
        name=name or preregistered.name or preregistered.serial,
        uuid=preregistered.next_uuid,
        is_uuid_confirmed=True,
        cpu_serial=preregistered.cpu_serial,
        hardware_model=model,
        components=components,
        acting_user=acting_user,
    )
    preregistered.tenant, preregistered.device_uuid, preregistered.claimed_at = tenant, device.uuid, timezone.now()
    preregistered.save(update_fields=["tenant", "device_uuid", "claimed_at"])
    audit.record(acting_user, "claim", device, preregistered.serial)
    return device


def _model(preregistered: PreregisteredDevice, acting_user: audit.Actor) -> HardwareModel:
    """Return the tenant's hardware model; create it if missing."""
    model, made = HardwareModel.objects.get_or_create(
        name=preregistered.hardware_name, version=preregistered.hardware_version
    )
    if made:
        audit.record(acting_user, "add", model, preregistered.serial)
    return model


def _type(key: str, acting_user: audit.Actor) -> ComponentType:
    """Return the tenant's component type; a new one stores its values unmapped until metrics are mapped."""
    kind, made = ComponentType.objects.get_or_create(key=key, defaults={"name": key})
    if made:
        audit.record(acting_user, "add", kind)
    return kind


def _counters(tenant: Tenant, acting_user: audit.Actor) -> list[str]:
    """Return the counters of wrong codes: of the tenant, and of a user over all tenants."""
    person = audit.named(acting_user).user_id
    return [f"claims:tenant:{tenant.schema_name}", *([f"claims:person:{person}"] if person else [])]


def _refuse_too_many(counters: list[str]) -> None:
    for counter in counters:
        failures, wait = _failed_claims.read(counter)
        if failures >= settings.CLAIM_FAILURES_PER_HOUR:
            raise TooManyClaims(wait)
