"""Rotation campaigns as users control them: start, progress, extension, expiry of the old keys, rollback."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, F, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from devices.models import DeviceCredential, RotationCampaign, RotationMember
from devices.models.base import announce_change
from devices.services import audit
from tenants.infrastructure import tasks
from tenants.infrastructure.error_codes import ErrorCode

from .selection import DeviceSelection, select

State, Member = RotationCampaign.State, RotationMember.State
STEP = "devices.services.rotation.steps.step"
# How long a device that returns to its old key may still use the new one.
ROLLBACK_OVERLAP = timedelta(days=7)
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """The progress of a campaign. `version`: the new key's, if it is the same for all devices, else 0."""

    devices: int
    confirmed: int
    waiting: int
    sent: int
    handed_over: int
    missed: int
    rolled_back: int
    version: int

    @property
    def percent(self) -> int:
        """Return the percentage of confirmed devices, rounded down: 100 means all."""
        return 100 * self.confirmed // self.devices if self.devices else 0

    def __str__(self) -> str:
        """Return the progress as a sentence."""
        numbers = {"moved": self.confirmed, "devices": self.devices, "version": self.version}
        if self.version:
            return (
                ngettext(
                    "%(moved)d of %(devices)d now signs with key %(version)d",
                    "%(moved)d of %(devices)d now sign with key %(version)d",
                    self.confirmed,
                )
                % numbers
            )
        return (
            ngettext(
                "%(moved)d of %(devices)d now signs with its new key",
                "%(moved)d of %(devices)d now sign with their new keys",
                self.confirmed,
            )
            % numbers
        )


def progress(campaign: RotationCampaign) -> CampaignProgress:
    """Return the present counts, including confirmations that no worker has recorded yet."""
    used = Q(credential__in_use_since__isnull=False) & ~Q(state__in=[Member.ROLLING_BACK, Member.ROLLED_BACK])
    confirmed = Q(state=Member.CONFIRMED) | (Q(open=True) & used)
    counts = campaign.members.aggregate(
        devices=Count("pk"),
        confirmed=Count("pk", filter=confirmed),
        waiting=Count("pk", filter=Q(state__in=[Member.PENDING, Member.ISSUED]) & ~confirmed),
        sent=Count("pk", filter=Q(state=Member.SENT) & ~confirmed),
        handed_over=Count("pk", filter=Q(state=Member.HANDED_OVER) & ~confirmed),
        missed=Count("pk", filter=Q(state=Member.MISSED)),
        rolled_back=Count("pk", filter=Q(state=Member.ROLLED_BACK)),
    )
    versions = set(new_keys(campaign).order_by().values_list("version", flat=True).distinct()[:2])
    return CampaignProgress(**counts, version=versions.pop() if len(versions) == 1 else 0)


def start(
    *,
    name: str,
    selection: DeviceSelection,
    deadline: datetime,
    at_deadline: str = RotationCampaign.AtDeadline.END,
    extend_days: int = 7,
    acting_user: audit.Actor = None,
) -> RotationCampaign:
    """Start a campaign over the devices selected now; workers execute it.

    Raises ValidationError if no device is selected, or if the deadline is too soon.
    """
    least = timedelta(seconds=10 * settings.INGEST_SPEC_TTL)
    if deadline < timezone.now() + least:
        minutes = round(least.total_seconds() / 60) or 1
        refusal = _("The deadline must be at least %(minutes)d minutes from now.") % {"minutes": minutes}
        raise ValidationError({"deadline": refusal})
    with transaction.atomic():
        campaign = RotationCampaign(
            name=name,
            deadline=deadline,
            at_deadline=at_deadline,
            extend_days=extend_days,
            created_by_label=audit.label(acting_user),
        )
        campaign.full_clean()
        campaign.save()
        members = [
            RotationMember(campaign=campaign, device_id=pk) for pk in select(selection).values_list("pk", flat=True)
        ]
        if not members:
            raise ValidationError(
                _("No device is selected. Inactive devices and devices in another rotation are excluded.")
            )
        # Another campaign may include some of them at this moment: the constraint decides.
        RotationMember.objects.bulk_create(members, batch_size=_BATCH, ignore_conflicts=True)
        audit.record(acting_user, "start rotation", campaign, f"{len(members)} devices")
        transaction.on_commit(lambda: tasks.enqueue(STEP, campaign.pk))
    return campaign


def extend(campaign: RotationCampaign, deadline: datetime, *, acting_user: audit.Actor = None) -> None:
    """Move the deadline. Raises ValidationError if the campaign is not running."""
    with transaction.atomic():
        locked = _locked(campaign, State.RUNNING)
        if deadline <= timezone.now():
            raise ValidationError({"deadline": _("The deadline must be in the future.")})
        with audit.changing(acting_user, "extend rotation", locked, f"until {deadline.isoformat()}"):
            move_deadline(locked, deadline)
    campaign.refresh_from_db()


def move_deadline(campaign: RotationCampaign, deadline: datetime) -> None:
    """Move the campaign's deadline and that of its old keys, in the caller's transaction."""
    old_keys(campaign).filter(not_after=campaign.deadline).update(not_after=deadline)
    campaign.deadline, campaign.extended = deadline, campaign.extended + 1
    campaign.save(update_fields=["deadline", "extended"])
    announce_change()


def end(campaign: RotationCampaign, *, acting_user: audit.Actor = None) -> None:
    """Expire the old keys now, also of devices without confirmation. Raises ValidationError if not running."""
    with transaction.atomic():
        expire_old_keys(_locked(campaign, State.RUNNING), acting_user)
    campaign.refresh_from_db()


def expire_old_keys(campaign: RotationCampaign, acting_user: audit.Actor = None) -> None:
    """Expire every old key of a device with a new one, after a grace, in the caller's transaction."""
    ends = timezone.now() + timedelta(seconds=settings.ROTATION_GRACE_SECONDS)
    record_confirmed(campaign)
    without_key = campaign.members.filter(open=True, credential=None)
    without_key.update(state=Member.MISSED, open=False, note="no key could be issued; it keeps its old one")
    old = old_keys(campaign).filter(Q(not_after=None) | Q(not_after__gt=ends))
    count = old.update(not_after=ends)
    missed = campaign.members.filter(open=True).exclude(state=Member.CONFIRMED)
    missed.update(state=Member.MISSED, note="had not moved when the old keys ended")
    campaign.state, campaign.cutover_at = State.ENDING, ends
    campaign.save(update_fields=["state", "cutover_at"])
    announce_change()
    audit.record(acting_user, "end old keys", campaign, f"{count} keys end at {ends.isoformat()}")


def roll_back(campaign: RotationCampaign, *, acting_user: audit.Actor = None) -> None:
    """Withdraw the new keys; the old ones are valid again. Raises ValidationError where it is not running.

    A device that may have its new key receives a command to return; its new key stays valid until then, or for a week.
    """
    now = timezone.now()
    with transaction.atomic():
        locked = _locked(campaign, State.RUNNING)
        record_confirmed(locked)
        old_keys(locked).filter(not_after=locked.deadline).update(not_after=None)
        members = locked.members.filter(open=True)
        members.filter(credential=None).update(state=Member.ROLLED_BACK, open=False)
        delivered = [Member.SENT, Member.HANDED_OVER, Member.CONFIRMED]
        new_keys(locked).exclude(pk__in=members.filter(state__in=delivered).values("credential")).update(revoked_at=now)
        members.filter(state=Member.ISSUED).update(state=Member.ROLLED_BACK, open=False)
        back = members.filter(state__in=delivered)
        new_keys(locked).filter(pk__in=back.values("credential")).update(not_after=now + ROLLBACK_OVERLAP)
        back.update(state=Member.ROLLING_BACK, next_at=now, attempts=0)
        locked.state, locked.cutover_at = State.ROLLING_BACK, now
        locked.deadline = now + ROLLBACK_OVERLAP
        locked.save(update_fields=["state", "cutover_at", "deadline"])
        announce_change()
        audit.record(acting_user, "roll back rotation", locked, f"{locked.members.filter(open=True).count()} to return")
        transaction.on_commit(lambda: tasks.enqueue(STEP, campaign.pk))
    campaign.refresh_from_db()


def old_keys(campaign: RotationCampaign) -> QuerySet[DeviceCredential]:
    """Return the keys before the new ones, of the campaign's devices with new ones."""
    return DeviceCredential.objects.filter(
        revoked_at=None,
        device__rotations__in=campaign.members.filter(open=True, credential__isnull=False),
        version__lt=F("device__rotations__credential__version"),
    )


def new_keys(campaign: RotationCampaign) -> QuerySet[DeviceCredential]:
    """Return the keys that the campaign has issued."""
    return DeviceCredential.objects.filter(pk__in=campaign.members.exclude(credential=None).values("credential"))


def record_confirmed(campaign: RotationCampaign) -> int:
    """Record the devices that have used their new key; return how many."""
    moved = campaign.members.filter(
        open=True,
        state__in=[Member.ISSUED, Member.SENT, Member.HANDED_OVER],
        credential__in_use_since__isnull=False,
    )
    return moved.update(state=Member.CONFIRMED, confirmed_at=timezone.now(), note="")


def _locked(campaign: RotationCampaign, *states: str) -> RotationCampaign:
    locked = RotationCampaign.objects.select_for_update().get(pk=campaign.pk)
    if locked.state not in states:
        raise ValidationError(
            _("The rotation must be running; its state is: %(state)s.") % {"state": locked.get_state_display()},
            ErrorCode.WRONG_STATE,
        )
    return locked
