"""Steps of rotation campaigns, which the workers do every minute.

A campaign needs no lease of `resumable_jobs`: its progress is in the members' states, each of which changes by compare
and set, so a step may die or run twice at a time.
"""

import logging
import time
from datetime import timedelta

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from devices.models import DeviceCredential, RotationCampaign, RotationMember
from devices.models.base import announce_change
from devices.services import audit
from devices.services.broker.errors import BrokerUnavailable
from devices.services.vault.secret_store import SecretsUnavailable, provisioner
from tenants.infrastructure import jobs
from tenants.infrastructure.schema_context import current_schema
from tenants.services.active_tenants import sum_over_active

from . import campaigns
from .delivery import Answer, send_due
from .issuing import issue_batch

logger = logging.getLogger(__name__)

State, Member = RotationCampaign.State, RotationMember.State
UNDER_WAY = (State.RUNNING, State.ENDING, State.RETURNING)
# A step ends before the queue considers its worker lost; the next step continues.
_SECONDS = 40.0
_AT_ONCE = 100


def step_all() -> int:
    """Queue a step of each campaign that is under way, in every active tenant; return how many."""
    return sum_over_active(_enqueue_steps)


def step(campaign_id: int) -> str:
    """Do the work that is due for a campaign of the current tenant; return its progress in words."""
    campaign = RotationCampaign.objects.filter(pk=campaign_id, state__in=UNDER_WAY).first()
    if campaign is None:
        return "nothing to do"
    try:
        if campaign.state == State.RUNNING:
            _run(campaign)
        elif campaign.state == State.ENDING:
            _finish(campaign)
        else:
            _return(campaign)
    except (SecretsUnavailable, BrokerUnavailable, ImproperlyConfigured) as error:
        logger.warning("The key rotation %s of %s goes on later: %s", campaign, current_schema(), error)
        return f"goes on later: {error}"
    return str(campaigns.progress(campaign))


def _enqueue_steps() -> int:
    campaigns_under_way = list(RotationCampaign.objects.filter(state__in=UNDER_WAY).values_list("pk", flat=True))
    for pk in campaigns_under_way:
        jobs.enqueue(campaigns.STEP, pk)
    return len(campaigns_under_way)


def _run(campaign: RotationCampaign) -> None:
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until and issue_batch(campaign):
        pass
    _send(campaign, until)
    campaigns.settle_moved(campaign)
    with transaction.atomic():
        locked = RotationCampaign.objects.select_for_update().get(pk=campaign.pk)
        if locked.state == State.RUNNING:
            _turn(locked)


def _turn(campaign: RotationCampaign) -> None:
    """End the old keys when the last device has moved, or at the deadline, whichever is first."""
    members = campaign.members.filter(open=True)
    if members.exclude(state=Member.MOVED).exists():
        if timezone.now() < campaign.deadline:
            return
        if campaign.at_deadline == RotationCampaign.AtDeadline.EXTEND:
            deadline = timezone.now() + timedelta(days=campaign.extend_days)
            campaigns.move_deadline(campaign, deadline)
            audit.record(None, "extend rotation", campaign, f"until {deadline.isoformat()}")
            return
    campaigns.end_old_keys(campaign)


def _send(campaign: RotationCampaign, until: float) -> list[Answer]:
    answers: list[Answer] = []
    sent = 0
    while time.monotonic() < until:
        count, heard = send_due(campaign)
        answers += heard
        sent += count
        if not count:
            break
    for answer in answers:
        note = "" if answer.ok else f"the device says: {answer.detail}"
        RotationMember.objects.filter(pk=answer.member.pk).exclude(note=note).update(note=note)
    if sent:
        audit.record(None, "send key", campaign, f"{sent} commands, {sum(answer.ok for answer in answers)} answered ok")
    return answers


def _finish(campaign: RotationCampaign) -> None:
    """The old keys have ended: destroy them, and let the devices go."""
    if campaign.turned_at is None or timezone.now() < campaign.turned_at:
        return
    campaigns.settle_moved(campaign)
    destroyed = 0
    while members := list(campaign.members.filter(open=True).select_related("device")[:_AT_ONCE]):
        for member in members:
            destroyed += _destroy_old(campaign, member)
        RotationMember.objects.filter(pk__in=[member.pk for member in members]).update(open=False)
    with transaction.atomic():
        if RotationCampaign.objects.filter(pk=campaign.pk, state=State.ENDING).update(state=State.ENDED):
            audit.record(None, "destroy old keys", campaign, f"{destroyed} keys")


def _destroy_old(campaign: RotationCampaign, member: RotationMember) -> int:
    versions = list(campaigns.old_keys(campaign).filter(device=member.device_id).values_list("version", flat=True))
    if versions:
        provisioner().destroy(current_schema(), member.device.uuid, versions)
    return len(versions)


def _return(campaign: RotationCampaign) -> None:
    """Tell devices to go back; withdraw the new key of each that has, or that never had it."""
    answers = _send(campaign, time.monotonic() + _SECONDS)
    # It confirms the command, or rejects it with an answer that it signed with its old key.
    said = [answer.member.pk for answer in answers if answer.ok or _holds_old(answer)]
    _withdraw(campaign, campaign.members.filter(pk__in=said))
    seen = campaign.members.filter(
        device__credentials__version=F("old_version"), device__credentials__in_use_since__gt=campaign.turned_at
    )
    _withdraw(campaign, seen)
    with transaction.atomic():
        late = timezone.now() >= campaign.deadline
        waiting = campaign.members.filter(open=True)
        if late:
            waiting.update(state=Member.LEFT, open=False, note="was not seen to return before its new key ended")
        if late or not waiting.exists():
            won = RotationCampaign.objects.filter(pk=campaign.pk, state=State.RETURNING).update(state=State.RETURNED)
            if won:
                audit.record(None, "rolled back", campaign)


def _holds_old(answer: Answer) -> bool:
    return answer.signed_with == answer.member.old_version


def _withdraw(campaign: RotationCampaign, members: QuerySet[RotationMember]) -> None:
    with transaction.atomic():
        found = list(members.filter(open=True, state=Member.RETURNING).values_list("pk", "credential"))
        if not found:
            return
        DeviceCredential.objects.filter(pk__in=[key for _, key in found]).update(revoked_at=timezone.now())
        RotationMember.objects.filter(pk__in=[pk for pk, _ in found]).update(state=Member.RETURNED, open=False, note="")
        announce_change()
    logger.info("%d devices of %s are back at their old keys", len(found), campaign)
