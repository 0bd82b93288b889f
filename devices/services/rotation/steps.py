"""Steps of rotation campaigns, which the workers do every minute.

A campaign needs no lease of `resumable_jobs`: its progress is in the members' states, each of which changes by compare
and set, so a step may die or run twice at a time.
"""

import logging
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
from tenants.infrastructure import tasks
from tenants.infrastructure.database import current_schema
from tenants.services.active_tenants import sum_over_active

from . import campaigns
from .delivery import CommandResponse, send_due
from .issuing import issue_batch

logger = logging.getLogger(__name__)

State, Member = RotationCampaign.State, RotationMember.State
UNDER_WAY = (State.RUNNING, State.ENDING, State.ROLLING_BACK)
# A step ends before the queue considers its worker lost; the next step continues.
_SECONDS = 40.0
_AT_ONCE = 100


def step_all() -> int:
    """Queue a step of each campaign that is under way, in every active tenant; return how many."""
    return sum_over_active("rotations", _enqueue_steps)


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
            _roll_back(campaign)
    except (SecretsUnavailable, BrokerUnavailable, ImproperlyConfigured) as error:
        logger.warning("The key rotation %s of %s continues later: %s", campaign, current_schema(), error)
        return f"goes on later: {error}"
    return str(campaigns.progress(campaign))


def _enqueue_steps() -> int:
    campaigns_under_way = list(RotationCampaign.objects.filter(state__in=UNDER_WAY).values_list("pk", flat=True))
    for pk in campaigns_under_way:
        tasks.enqueue(campaigns.STEP, pk)
    return len(campaigns_under_way)


def _run(campaign: RotationCampaign) -> None:
    turn = tasks.Turn(_SECONDS)
    while not turn.is_over() and issue_batch(campaign):
        pass
    _send(campaign, turn)
    if turn.is_yielded:
        tasks.enqueue(campaigns.STEP, campaign.pk)
    campaigns.record_confirmed(campaign)
    with transaction.atomic():
        locked = RotationCampaign.objects.select_for_update().get(pk=campaign.pk)
        if locked.state == State.RUNNING:
            _cut_over(locked)


def _cut_over(campaign: RotationCampaign) -> None:
    """Expire the old keys when the last device is confirmed, or at the deadline."""
    members = campaign.members.filter(open=True)
    if members.exclude(state=Member.CONFIRMED).exists():
        if timezone.now() < campaign.deadline:
            return
        if campaign.at_deadline == RotationCampaign.AtDeadline.EXTEND:
            deadline = timezone.now() + timedelta(days=campaign.extend_days)
            campaigns.move_deadline(campaign, deadline)
            audit.record(None, "extend rotation", campaign, f"until {deadline.isoformat()}")
            return
    campaigns.expire_old_keys(campaign)


def _send(campaign: RotationCampaign, turn: tasks.Turn) -> list[CommandResponse]:
    responses: list[CommandResponse] = []
    sent = 0
    while not turn.is_over():
        count, received = send_due(campaign)
        responses += received
        sent += count
        if not count:
            break
    for response in responses:
        note = "" if response.ok else f"the device says: {response.detail}"
        RotationMember.objects.filter(pk=response.member.pk).exclude(note=note).update(note=note)
    if sent:
        audit.record(
            None, "send key", campaign, f"{sent} commands, {sum(response.ok for response in responses)} answered ok"
        )
    return responses


def _finish(campaign: RotationCampaign) -> None:
    """Destroy the expired old keys, and close the members."""
    if campaign.cutover_at is None or timezone.now() < campaign.cutover_at:
        return
    campaigns.record_confirmed(campaign)
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


def _roll_back(campaign: RotationCampaign) -> None:
    """Send the commands to return; withdraw the new key of each device that has returned or never had it."""
    turn = tasks.Turn(_SECONDS)
    responses = _send(campaign, turn)
    if turn.is_yielded:
        tasks.enqueue(campaigns.STEP, campaign.pk)
    # It confirms the command, or rejects it with a response that it signed with its old key.
    responded = [response.member.pk for response in responses if response.ok or _has_old_key(response)]
    _withdraw(campaign, campaign.members.filter(pk__in=responded))
    seen = campaign.members.filter(
        device__credentials__version=F("old_version"), device__credentials__in_use_since__gt=campaign.cutover_at
    )
    _withdraw(campaign, seen)
    with transaction.atomic():
        late = timezone.now() >= campaign.deadline
        waiting = campaign.members.filter(open=True)
        if late:
            waiting.update(state=Member.MISSED, open=False, note="was not seen to return before its new key ended")
        if late or not waiting.exists():
            won = RotationCampaign.objects.filter(pk=campaign.pk, state=State.ROLLING_BACK).update(
                state=State.ROLLED_BACK
            )
            if won:
                audit.record(None, "rolled back", campaign)


def _has_old_key(response: CommandResponse) -> bool:
    return response.signed_with == response.member.old_version


def _withdraw(campaign: RotationCampaign, members: QuerySet[RotationMember]) -> None:
    with transaction.atomic():
        found = list(members.filter(open=True, state=Member.ROLLING_BACK).values_list("pk", "credential"))
        if not found:
            return
        DeviceCredential.objects.filter(pk__in=[key for _, key in found]).update(revoked_at=timezone.now())
        RotationMember.objects.filter(pk__in=[pk for pk, _ in found]).update(
            state=Member.ROLLED_BACK, open=False, note=""
        )
        announce_change()
    logger.info("%d devices of %s have returned to their old keys", len(found), campaign)
