"""Delivery of key commands: signed commands to devices, repeated until the device's signature confirms them.

Commands are sent only when every listener knows the new key, with or without Redis, so that no message signed with it
is rejected.
"""

import base64
import hashlib
import hmac
import json
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from devices.models import Device, RotationCampaign, RotationMember
from devices.services.broker import commands
from devices.services.broker.errors import BrokerUnavailable
from devices.services.vault.secret_store import SecretMissing, provisioner
from tenants.infrastructure.database import current_schema
from tenants.models import Tenant

from . import command_channel, secret_transport

logger = logging.getLogger(__name__)

Member = RotationMember.State
_BATCH = 200
_RESPONSE_SECONDS = 3.0
_RETRY_AFTER = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 360))


@dataclass(frozen=True, slots=True)
class _Keys:
    """The two secrets of a device whose key changes, during a batch."""

    old_version: int
    new_version: int
    old: str
    new: str

    def __repr__(self) -> str:
        return f"<keys {self.old_version} and {self.new_version}>"


@dataclass(frozen=True, slots=True)
class CommandResponse:
    """A device's verified response to its command: the key that signed it, and the result."""

    member: RotationMember
    signed_with: int
    ok: bool
    detail: str


def send_due(campaign: RotationCampaign) -> tuple[int, list[CommandResponse]]:
    """Send the due commands, up to a batch. Return how many, and the immediate responses.

    Raises SecretsUnavailable and BrokerUnavailable; unsent commands stay due.
    """
    now = timezone.now()
    members = [member for member in _due(campaign, now) if _claim(member, now)]
    ids = {member.device.uuid: str(uuid4()) for member in members}
    keys = {member.device.uuid: pair for member in members if (pair := _keys(member)) is not None}
    by_uuid = {member.device.uuid: member for member in members if member.device.uuid in keys}
    written = {uuid: _command(by_uuid[uuid], pair, ids[uuid]) for uuid, pair in keys.items()}
    if not written:
        return len(members), []
    slug = Tenant.objects.get(schema_name=current_schema()).slug
    try:
        responses = command_channel.exchange(slug, written, wait=_RESPONSE_SECONDS)
    except BrokerUnavailable:
        RotationMember.objects.filter(pk__in=[member.pk for member in members]).update(next_at=now)
        raise
    verified = (
        _verified(by_uuid[uuid], keys[uuid], payload, ids[uuid])
        for uuid, payloads in responses.items()
        for payload in payloads
    )
    return len(members), [response for response in verified if response is not None]


def _due(campaign: RotationCampaign, now: datetime) -> list[RotationMember]:
    # A listener that misses a change reads specifications again after this time.
    known = now - timedelta(seconds=2 * settings.INGEST_SPEC_TTL)
    members = campaign.members.filter(
        open=True,
        state__in=[Member.ISSUED, Member.SENT, Member.ROLLING_BACK],
        device__min_signature_version=Device.Signature.V2,
        device__active=True,
        credential__created_at__lte=known,
    ).exclude(next_at__gt=now)
    return list(members.select_related("device", "credential").order_by("pk")[:_BATCH])


def _claim(member: RotationMember, now: datetime) -> bool:
    """Return whether this step sends the command: exactly one of several does."""
    again = now + _RETRY_AFTER[min(member.attempts, len(_RETRY_AFTER) - 1)]
    state = Member.ROLLING_BACK if member.state == Member.ROLLING_BACK else Member.SENT
    mine = RotationMember.objects.filter(pk=member.pk, attempts=member.attempts, state=member.state, open=True)
    return bool(mine.update(state=state, attempts=F("attempts") + 1, sent_at=now, next_at=again))


def _keys(member: RotationMember) -> _Keys | None:
    """Return both secrets; None, with a note, if one is missing."""
    if member.credential is None or member.old_version is None:
        return None
    schema, uuid = current_schema(), member.device.uuid
    try:
        old = provisioner().read(schema, uuid, member.old_version)
        new = provisioner().read(schema, uuid, member.credential.version)
    except SecretMissing:
        RotationMember.objects.filter(pk=member.pk).update(note="one of its keys is not in Vault")
        return None
    return _Keys(old.version, new.version, old.secret, new.secret)


def _command(member: RotationMember, keys: _Keys, command_id: str) -> bytes:
    uuid = member.device.uuid
    if member.state == Member.ROLLING_BACK:
        back = commands.compose("use_key", uuid, kid=str(keys.old_version)) | {"id": command_id}
        return commands.sign(back, keys.new.encode(), keys.new_version)
    versions = {"old_version": keys.old_version, "new_version": keys.new_version}
    sealed = secret_transport.encrypt_secret(keys.new, keys.old, uuid=uuid, **versions)
    forth = commands.compose("rotate_key", uuid, kid=str(keys.new_version), **sealed) | {"id": command_id}
    return commands.sign(forth, keys.old.encode(), keys.old_version)


def _verified(member: RotationMember, keys: _Keys, payload: bytes, command_id: str) -> CommandResponse | None:
    """Return the response to this command if it is signed with one of the device's two keys; None otherwise."""
    mine = (command_id, str(member.device.uuid))
    for version, secret in ((keys.new_version, keys.new), (keys.old_version, keys.old)):
        claims = _opened(payload, secret)
        if claims is not None and (claims.get("id"), claims.get("device_uuid")) == mine:
            detail = str(claims.get("detail", ""))[:200]
            return CommandResponse(member, version, claims.get("status") == "ok", detail)
    return None


def _opened(payload: bytes, secret: str) -> dict[str, object] | None:
    try:
        header, claims, signature = payload.split(b".")
        digest = hmac.digest(secret.encode(), header + b"." + claims, hashlib.sha256)
        if not hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"="), signature):
            return None
        opened = json.loads(base64.urlsafe_b64decode(claims + b"=" * (-len(claims) % 4)))
    except (ValueError, RecursionError):
        return None
    return opened if isinstance(opened, dict) else None
