"""Tokens for devices that no command reaches: each unwraps the device's new secret once, for manual installation."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from devices.models import RotationCampaign, RotationMember
from devices.services import audit
from devices.services.vault.secret_store import provisioner
from tenants.infrastructure.database import current_schema

Member = RotationMember.State
MAX_TOKENS = 200


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A single-use token of Vault (`sys/wrapping/unwrap`) for a device's new key; not stored."""

    uuid: UUID
    name: str
    kid: int
    token: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"<WrappedKey of {self.uuid}, key {self.kid}>"


def hand_over(
    campaign: RotationCampaign, uuids: Iterable[UUID] = (), *, acting_user: audit.Actor = None
) -> list[WrappedKey]:
    """Return tokens for these devices of the campaign; by default for all that no command reaches, up to `MAX_TOKENS`.

    A device can be handed over again: each token is valid once, until it expires. Raises ValidationError without such
    devices, SecretMissing and SecretsUnavailable; no token is issued then.
    """
    wanted = list(uuids)
    members = campaign.members.exclude(credential=None).filter(credential__revoked_at=None)
    if wanted:
        members = members.filter(device__uuid__in=wanted)
    else:
        members = members.filter(open=True, state=Member.ISSUED, device__min_signature_version__lt=2)
    chosen = list(members.select_related("device", "credential").order_by("device__name", "pk")[: MAX_TOKENS + 1])
    if not chosen or (wanted and len(chosen) < len(set(wanted))):
        raise ValidationError(_("No device of this rotation has a new key that can be handed over."))
    if len(chosen) > MAX_TOKENS:
        if wanted:
            raise ValidationError(_("At most %(most)d devices can be handed over at a time.") % {"most": MAX_TOKENS})
        chosen.pop()
    with transaction.atomic():
        tokens = [_wrap(member) for member in chosen]
        handed_over = RotationMember.objects.filter(pk__in=[member.pk for member in chosen])
        handed_over.filter(state__in=[Member.ISSUED, Member.SENT]).update(state=Member.HANDED_OVER)
        for member in chosen:
            audit.record(acting_user, "hand over key", member.device, f"key {_version(member)}, {campaign}")
    return tokens


def _wrap(member: RotationMember) -> WrappedKey:
    seconds = settings.ROTATION_TOKEN_SECONDS
    token = provisioner().wrap(current_schema(), member.device.uuid, _version(member), seconds=seconds)
    expires = timezone.now() + timedelta(seconds=seconds)
    return WrappedKey(member.device.uuid, member.device.name, _version(member), token, expires)


def _version(member: RotationMember) -> int:
    return member.credential.version if member.credential else 0
