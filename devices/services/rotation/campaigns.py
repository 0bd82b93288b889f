"""What people do with a campaign: start it, look at it, give it more time, end it, roll it back."""

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
from tenants.infrastructure import jobs

from .selection import Selection, select

State, Member = RotationCampaign.State, RotationMember.State
STEP = "devices.services.rotation.steps.step"
# How long a device that must go back to its old key may still use the new one.
RETURN_OVERLAP = timedelta(days=7)
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is. `version`: the new key's, where it is the same for all devices, else 0."""

    devices: int
    moved: int
    waiting: int
    sent: int
    carried: int
    left: int
    returned: int
    version: int

    @property
    def percent(self) -> int:
        """Of the devices that are still in it, rounded down: 100 means all."""
        return 100 * self.moved // self.devices if self.devices else 0

    def __str__(self) -> str:
        """The sentence of the campaign's page."""
        numbers = {"moved": self.moved, "devices": self.devices, "version": self.version}
        if self.version:
            return (
                ngettext(
                    "%(moved)d of %(devices)d now signs with key %(version)d",
                    "%(moved)d of %(devices)d now sign with key %(version)d",
                    self.moved,
                )
                % numbers
            )
        return (
            ngettext(
                "%(moved)d of %(devices)d now signs with its new key",
                "%(moved)d of %(devices)d now sign with their new keys",
                self.moved,
            )
            % numbers
        )


def progress(campaign: RotationCampaign) -> Progress:
    """The counts as they are now, also what no worker has settled yet."""
    used = Q(credential__in_use_since__isnull=False) & ~Q(state__in=[Member.RETURNING, Member.RETURNED])
    moved = Q(state=Member.MOVED) | (Q(open=True) & used)
    counts = campaign.members.aggregate(
        devices=Count("pk"),
        moved=Count("pk", filter=moved),
        waiting=Count("pk", filter=Q(state__in=[Member.PENDING, Member.ISSUED]) & ~moved),
        sent=Count("pk", filter=Q(state=Member.SENT) & ~moved),
        carried=Count("pk", filter=Q(state=Member.CARRIED) & ~moved),
        left=Count("pk", filter=Q(state=Member.LEFT)),
        returned=Count("pk", filter=Q(state=Member.RETURNED)),
    )
    versions = set(new_keys(campaign).order_by().values_list("version", flat=True).distinct()[:2])
    return Progress(**counts, version=versions.pop() if len(versions) == 1 else 0)


def start(
    *,
    name: str,
    selection: Selection,
    deadline: datetime,
    at_deadline: str = RotationCampaign.AtDeadline.END,
    extend_days: int = 7,
    acting_user: audit.Actor = None,
) -> RotationCampaign:
    """Begin a campaign over the devices that are selected now; the workers do the rest.

    Raises ValidationError where no device is selected, or the deadline is too soon to move any.
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
        # Another campaign may take some of them at this moment: the constraint says who was first.
        RotationMember.objects.bulk_create(members, batch_size=_AT_ONCE, ignore_conflicts=True)
        audit.record(acting_user, "start rotation", campaign, f"{len(members)} devices")
        transaction.on_commit(lambda: jobs.enqueue(STEP, campaign.pk))
    return campaign


def extend(campaign: RotationCampaign, deadline: datetime, *, acting_user: audit.Actor = None) -> None:
    """Give the devices until another deadline. Raises ValidationError where the campaign is not running."""
    with transaction.atomic():
        locked = _locked(campaign, State.RUNNING)
        if deadline <= timezone.now():
            raise ValidationError({"deadline": _("The deadline must be in the future.")})
        move_deadline(locked, deadline)
        audit.record(acting_user, "extend rotation", locked, f"until {deadline.isoformat()}")
    campaign.refresh_from_db()


def move_deadline(campaign: RotationCampaign, deadline: datetime) -> None:
    """Inside a transaction: the campaign's deadline, and that of the old keys that end with it."""
    old_keys(campaign).filter(not_after=campaign.deadline).update(not_after=deadline)
    campaign.deadline, campaign.extended = deadline, campaign.extended + 1
    campaign.save(update_fields=["deadline", "extended"])
    announce_change()


def end(campaign: RotationCampaign, *, acting_user: audit.Actor = None) -> None:
    """End the old keys now, also of devices that have not moved. Raises ValidationError where it is not running."""
    with transaction.atomic():
        end_old_keys(_locked(campaign, State.RUNNING), acting_user)
    campaign.refresh_from_db()


def end_old_keys(campaign: RotationCampaign, acting_user: audit.Actor = None) -> None:
    """Inside a transaction: every old key of a device that has a new one ends, after a moment for what is under way."""
    ends = timezone.now() + timedelta(seconds=settings.ROTATION_GRACE_SECONDS)
    settle_moved(campaign)
    without = campaign.members.filter(open=True, credential=None)
    without.update(state=Member.LEFT, open=False, note="no key could be issued; it keeps its old one")
    old = old_keys(campaign).filter(Q(not_after=None) | Q(not_after__gt=ends))
    count = old.update(not_after=ends)
    left = campaign.members.filter(open=True).exclude(state=Member.MOVED)
    left.update(state=Member.LEFT, note="had not moved when the old keys ended")
    campaign.state, campaign.turned_at = State.ENDING, ends
    campaign.save(update_fields=["state", "turned_at"])
    announce_change()
    audit.record(acting_user, "end old keys", campaign, f"{count} keys end at {ends.isoformat()}")


def roll_back(campaign: RotationCampaign, *, acting_user: audit.Actor = None) -> None:
    """Withdraw the new keys; the old ones are valid again. Raises ValidationError where it is not running.

    A device that may have its new key receives a command to return; its new key stays valid until then, or for a week.
    """
    now = timezone.now()
    with transaction.atomic():
        locked = _locked(campaign, State.RUNNING)
        settle_moved(locked)
        old_keys(locked).filter(not_after=locked.deadline).update(not_after=None)
        members = locked.members.filter(open=True)
        members.filter(credential=None).update(state=Member.RETURNED, open=False)
        given = [Member.SENT, Member.CARRIED, Member.MOVED]
        new_keys(locked).exclude(pk__in=members.filter(state__in=given).values("credential")).update(revoked_at=now)
        members.filter(state=Member.ISSUED).update(state=Member.RETURNED, open=False)
        back = members.filter(state__in=given)
        new_keys(locked).filter(pk__in=back.values("credential")).update(not_after=now + RETURN_OVERLAP)
        back.update(state=Member.RETURNING, next_at=now, attempts=0)
        locked.state, locked.turned_at = State.RETURNING, now
        locked.deadline = now + RETURN_OVERLAP
        locked.save(update_fields=["state", "turned_at", "deadline"])
        announce_change()
        audit.record(acting_user, "roll back rotation", locked, f"{locked.members.filter(open=True).count()} to return")
        transaction.on_commit(lambda: jobs.enqueue(STEP, campaign.pk))
    campaign.refresh_from_db()


def old_keys(campaign: RotationCampaign) -> QuerySet[DeviceCredential]:
    """The keys before the new ones, of the devices in the campaign that have new ones."""
    return DeviceCredential.objects.filter(
        revoked_at=None,
        device__rotations__in=campaign.members.filter(open=True, credential__isnull=False),
        version__lt=F("device__rotations__credential__version"),
    )


def new_keys(campaign: RotationCampaign) -> QuerySet[DeviceCredential]:
    """The keys that the campaign has issued."""
    return DeviceCredential.objects.filter(pk__in=campaign.members.exclude(credential=None).values("credential"))


def settle_moved(campaign: RotationCampaign) -> int:
    """Set down who has used its new key; how many that were."""
    moved = campaign.members.filter(
        open=True,
        state__in=[Member.ISSUED, Member.SENT, Member.CARRIED],
        credential__in_use_since__isnull=False,
    )
    return moved.update(state=Member.MOVED, moved_at=timezone.now(), note="")


def _locked(campaign: RotationCampaign, *states: str) -> RotationCampaign:
    locked = RotationCampaign.objects.select_for_update().get(pk=campaign.pk)
    if locked.state not in states:
        raise ValidationError(
            _("The rotation must be running; its state is: %(state)s.") % {"state": locked.get_state_display()}
        )
    return locked
