"""Boards that a tenant claims, and gives back. A claim is one transaction over the board's row and the tenant's schema.

Whoever changes the board's row first has it; the other finds it taken. Where Vault is away, or the process ends
half-way, nothing has happened, and the board can be claimed again.
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
from devices.services.provisioning.import_resource import split_parts
from tenants.infrastructure import window_counts
from tenants.infrastructure.schema_context import current_schema
from tenants.models import PreregisteredDevice, Tenant
from tenants.services import claim_codes
from tenants.services.enrollment import make_claimable

from . import activation, registration

logger = logging.getLogger(__name__)

_HOUR = 3600
# What a code is compared with where there is no such board, so that it takes the same time.
_NOBODY = claim_codes.digest("no board")


class ClaimRefused(Exception):
    """There is no board that could be claimed so. Says the same whichever of the two is wrong, or whose it is."""

    def __str__(self) -> str:
        return _(
            "No device with this serial number and this claim code can be claimed. Compare both with the label. A"
            " device that was claimed before must be released first."
        )


class AlreadyYours(Exception):
    """The board was claimed by this tenant before."""

    def __init__(self, device: Device | None, board: PreregisteredDevice) -> None:
        super().__init__(board.serial)
        self.device = device
        self.board = board

    def __str__(self) -> str:
        return _("This tenant has already claimed %(serial)s: it is the device %(device)s.") % {
            "serial": self.board.serial,
            "device": self.device or self.board.device_uuid,
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
class Claimed:
    """A device that was a board, and the board."""

    device: Device
    board: PreregisteredDevice


def claim(serial: str, code: str, *, name: str = "", acting_user: audit.Actor = None) -> Claimed:
    """Make the board a device of the current tenant, with its hardware model and components.

    Raises ValidationError for a mistyped code and for what stands against it in the tenant; ClaimRefused, AlreadyYours,
    TooManyClaims; SecretsUnavailable when Vault is away. Nothing is changed then.
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
        board = PreregisteredDevice.objects.select_for_update().filter(serial=serial.strip().upper()[:64]).first()
        right = hmac.compare_digest(board.claim_digest if board else _NOBODY, claim_codes.digest(read))
        if board is not None and right and board.tenant_id is None:
            return Claimed(_register(board, tenant, name, acting_user), board)
    if board is not None and right and board.tenant_id == tenant.pk:
        raise AlreadyYours(Device.objects.filter(uuid__in=[board.device_uuid]).first(), board)
    for counter in counters:
        window_counts.count(counter, seconds=_HOUR)
    logger.info("A claim of %s was refused", tenant.slug)
    raise ClaimRefused


def release(device: Device, *, acting_user: audit.Actor = None) -> PreregisteredDevice:
    """Give the device's board back: whoever has its label may claim it. Without readings the device is removed.

    With readings it stays, without a key that is good and switched off. Raises ValidationError for a device that was no
    board.
    """
    with transaction.atomic():
        board = of_device(device, lock=True)
        if board is None:
            raise ValidationError(_("%(device)s was not claimed, so it cannot be released.") % {"device": device})
        make_claimable(board.device_uuid)
        audit.record(acting_user, "release", device, board.serial)
        try:
            with transaction.atomic():
                registration.remove_device(device, acting_user=acting_user)
        except ValidationError:
            for key in device.credentials.filter(revoked_at=None):
                registration.revoke_key(key, acting_user=acting_user)
            activation.set_active(device, False, acting_user=acting_user)
    return board


def release_by_staff(device_uuid: str, user_id: int, user_label: str) -> None:
    """What the console calls in the tenant's schema: release the board of that device, in the name of staff."""
    device = Device.objects.filter(uuid=device_uuid).first()
    if device is None:
        make_claimable(UUID(device_uuid))
    else:
        release(device, acting_user=audit.Named(user_id, user_label))


def allow_new_fetch(device: Device, *, acting_user: audit.Actor = None) -> None:
    """Let the device fetch credentials once more: a new key and password. All that it had is no good from now on.

    Raises ValidationError for a device that was no board, SecretsUnavailable.
    """
    with transaction.atomic():
        board = of_device(device, lock=True)
        if board is None:
            raise ValidationError(
                _("%(device)s was not claimed, so its credentials cannot be reset.") % {"device": device}
            )
        registration.replace_credentials(device, acting_user=acting_user)
        PreregisteredDevice.objects.filter(pk=board.pk).update(fetched_at=None, attempt_digest="", repeated_requests=0)
        audit.record(acting_user, "allow new fetch", device, board.serial)


def of_device(device: Device, *, lock: bool = False) -> PreregisteredDevice | None:
    """The board that the device of the current tenant was, or None."""
    rows = PreregisteredDevice.objects.select_for_update(of=("self",)) if lock else PreregisteredDevice.objects
    return rows.filter(device_uuid=device.uuid, tenant__schema_name=current_schema()).first()


def _register(board: PreregisteredDevice, tenant: Tenant, name: str, acting_user: audit.Actor) -> Device:
    model = _model(board, acting_user)
    components = {key: _type(kind, acting_user) for key, kind in split_parts(board.components).items()}
    device, _issued = registration.register_device(
        name=name or board.name or board.serial,
        uuid=board.next_uuid,
        cpu_serial=board.cpu_serial,
        hardware_model=model,
        components=components,
        acting_user=acting_user,
    )
    board.tenant, board.device_uuid, board.claimed_at = tenant, device.uuid, timezone.now()
    board.save(update_fields=["tenant", "device_uuid", "claimed_at"])
    audit.record(acting_user, "claim", device, board.serial)
    return device


def _model(board: PreregisteredDevice, acting_user: audit.Actor) -> HardwareModel:
    """The tenant's hardware model; where it has none like this yet, it gets one."""
    model, made = HardwareModel.objects.get_or_create(name=board.hardware_name, version=board.hardware_version)
    if made:
        audit.record(acting_user, "add", model, board.serial)
    return model


def _type(key: str, acting_user: audit.Actor) -> ComponentType:
    """The tenant's component type; a new one keeps its values unmapped until somebody says what they are."""
    kind, made = ComponentType.objects.get_or_create(key=key, defaults={"name": key})
    if made:
        audit.record(acting_user, "add", kind)
    return kind


def _counters(tenant: Tenant, acting_user: audit.Actor) -> list[str]:
    """Of the tenant, and of a person over all tenants."""
    person = audit.named(acting_user).user_id
    return [f"claims:tenant:{tenant.schema_name}", *([f"claims:person:{person}"] if person else [])]


def _refuse_too_many(counters: list[str]) -> None:
    for counter in counters:
        failures, wait = window_counts.count(counter, seconds=_HOUR, add=0)
        if failures >= settings.CLAIM_FAILURES_PER_HOUR:
            raise TooManyClaims(wait)
