"""Issuing of a campaign's keys in batches: first in Vault, then the rows.

After an interruption the next step continues.
"""

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.db.models import Max

from devices.models import Device, DeviceCredential, RotationCampaign, RotationMember
from devices.models.base import announce_change
from devices.services import audit
from devices.services.broker import admission
from devices.services.vault.key_versions import next_key
from devices.services.vault.secret_store import SecretMissing
from tenants.infrastructure.database import current_schema

Member = RotationMember.State
_BATCH = 50


def issue_batch(campaign: RotationCampaign) -> int:
    """Issue keys to the next pending devices; return how many were processed. Raises SecretsUnavailable."""
    waiting = campaign.members.filter(open=True, state=Member.PENDING).select_related("device").order_by("pk")
    members = list(waiting[:_BATCH])
    versions = {member.pk: _write(member) for member in members}
    with transaction.atomic():
        # Lock the devices first, in the same order as all issuers of keys.
        devices = [member.device_id for member in members]
        list(Device.objects.select_for_update(no_key=True).filter(pk__in=devices).order_by("pk"))
        locked = RotationMember.objects.select_for_update().filter(pk__in=versions, open=True, state=Member.PENDING)
        _keep([(member, versions[member.pk]) for member in locked.select_related("device").order_by("pk")], campaign)
    return len(members)


def _write(member: RotationMember) -> int:
    """Return the version of the device's next key, which is in Vault; 0 if the device has no secret there."""
    known = member.device.credentials.aggregate(newest=Max("version"))["newest"] or 0
    try:
        return next_key(current_schema(), member.device.uuid, known).version
    except SecretMissing:
        return 0


def _keep(members: Iterable[tuple[RotationMember, int]], campaign: RotationCampaign) -> None:
    """Save the rows of the keys and expire the old ones.

    A key that another process issued meanwhile waits for the next step.
    """
    issued, lost = [], []
    for member, version in members:
        keys = list(member.device.credentials.all())
        if not version:
            member.state, member.open, member.note = Member.MISSED, False, "has no secret in Vault: issue a new key"
            lost.append(member)
        elif all(key.version < version for key in keys):
            member.old_version = _in_use(keys)
            member.credential = DeviceCredential(device=member.device, version=version)
            member.state = Member.ISSUED
            issued.append(member)
    DeviceCredential.objects.bulk_create([member.credential for member in issued if member.credential])
    RotationMember.objects.bulk_update([*issued, *lost], ["state", "open", "note", "old_version", "credential"])
    if campaign.at_deadline == RotationCampaign.AtDeadline.END:
        _end_at(
            [member.device_id for member in issued], [member.credential_id or 0 for member in issued], campaign.deadline
        )
    audit.add(
        audit.entry(None, "rotate key", member.device, f"key {member.credential.version}, {campaign}")
        for member in issued
        if member.credential
    )
    if issued:
        announce_change()
        _admit_blocked(issued)


def _admit_blocked(issued: Iterable[RotationMember]) -> None:
    """Unblock devices at the broker that have no valid key but the new one, after the commit."""
    schema, members = current_schema(), {member.device_id: member for member in issued}
    older = (
        admission.valid_keys().filter(device__in=members).exclude(pk__in=[m.credential_id for m in members.values()])
    )
    blocked = members.keys() - set(older.values_list("device_id", flat=True))
    if blocked:
        uuids = [members[device].device.uuid for device in blocked]
        transaction.on_commit(lambda: admission.admit(schema, uuids))


def _end_at(devices: list[int], new: list[int], deadline: datetime) -> None:
    """Expire the keys before the new ones at the deadline, even if no worker runs then."""
    old = DeviceCredential.objects.filter(device__in=devices, not_after=None, revoked_at=None).exclude(pk__in=new)
    old.update(not_after=deadline)


def _in_use(keys: list[DeviceCredential]) -> int | None:
    """Return the key that the device is known to sign with, else the newest that is not revoked."""
    valid = [key for key in keys if key.revoked_at is None]
    used = [key for key in valid if key.in_use_since is not None]
    if used:
        return max(used, key=lambda key: key.in_use_since).version  # type: ignore[arg-type, return-value]
    return max((key.version for key in valid), default=None)
