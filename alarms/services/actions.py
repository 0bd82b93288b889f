"""Acknowledging, shelving and ending an alarm by hand: each is a transition and an audit entry."""

from datetime import UTC, datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from alarms.models import AlarmEpisode, AlarmSeries, AlarmTransition
from devices.services import audit
from tenants.infrastructure.error_codes import ErrorCode

from .episode_writer import ActingUser
from .rules import lock_progress
from .tenant_evaluation import end_series

MAX_SHELVING = timedelta(days=7)


def acknowledge(episode: AlarmEpisode, *, note: str, acting_user: audit.Actor) -> AlarmEpisode:
    """Acknowledge an open alarm; one that is acknowledged already stays as it is. Raises ValidationError."""
    with transaction.atomic():
        episode = _lock_open(episode)
        if episode.acknowledged_at is not None:
            return episode
        episode.acknowledged_at = datetime.now(UTC)
        episode.acknowledged_by = audit.label(acting_user)
        episode.note = note
        episode.save(update_fields=["acknowledged_at", "acknowledged_by", "note"])
        _record_action(episode, AlarmTransition.Cause.ACKNOWLEDGED, acting_user, note)
        audit.record(acting_user, "acknowledge", episode, note)
    return episode


def shelve(episode: AlarmEpisode, *, until: datetime | None, reason: str, acting_user: audit.Actor) -> AlarmEpisode:
    """Suppress an open alarm until a time, or (None) no longer. Raises ValidationError."""
    now = datetime.now(UTC)
    if until is not None and not now < until <= now + MAX_SHELVING:
        text = _("'until' must be later than now and at most %(days)d days from now.")
        error = ValidationError(text % {"days": MAX_SHELVING.days}, ErrorCode.OUT_OF_RANGE)
        raise ValidationError({"until": error})
    with transaction.atomic():
        episode = _lock_open(episode)
        episode.shelved_until = until
        episode.save(update_fields=["shelved_until"])
        cause = AlarmTransition.Cause.SHELVED if until else AlarmTransition.Cause.UNSHELVED
        _record_action(episode, cause, acting_user, reason)
        audit.record(acting_user, "shelve", episode, f"{until:%Y-%m-%d %H:%M}" if until else "")
    return episode


def end(episode: AlarmEpisode, *, reason: str, acting_user: audit.Actor) -> AlarmEpisode:
    """End an open alarm by hand. If its condition still holds, a new one is raised at once. Raises ValidationError."""
    now = datetime.now(UTC)
    with transaction.atomic():
        lock_progress()
        episode = _lock_open(episode)
        if not episode.component:
            # A storm, or an alarm of a device: it is raised again as long as its cause is there.
            AlarmEpisode.objects.filter(pk=episode.pk).update(state=AlarmEpisode.State.ENDED, ended_at=now)
            _record_action(episode, AlarmTransition.Cause.ENDED_BY_USER, acting_user, reason)
        else:
            row = AlarmSeries.objects.get(rule=episode.rule_id, device=episode.device_id, component=episode.component)
            user = ActingUser(audit.label(acting_user), reason)
            end_series(row, now, is_final=False, user_id=audit.named(acting_user).user_id, user=user)
        audit.record(acting_user, "end", episode, reason)
    return AlarmEpisode.objects.select_related("rule", "device").get(pk=episode.pk)


def _lock_open(episode: AlarmEpisode) -> AlarmEpisode:
    """Lock and return the alarm. Raises ValidationError where it has ended."""
    rows = AlarmEpisode.objects.select_for_update(of=("self",)).select_related("rule", "device")
    locked = rows.get(pk=episode.pk)
    if locked.ended_at is not None:
        raise ValidationError(_("The alarm has already ended."), ErrorCode.WRONG_STATE)
    return locked


def _record_action(episode: AlarmEpisode, cause: str, acting_user: audit.Actor, note: str) -> None:
    is_end = cause == AlarmTransition.Cause.ENDED_BY_USER
    AlarmTransition.objects.create(
        episode=episode,
        at=datetime.now(UTC),
        from_state=episode.state,
        to_state=AlarmEpisode.State.ENDED if is_end else episode.state,
        from_severity=episode.severity,
        severity="" if is_end else episode.severity,
        cause=cause,
        rule_version=episode.rule_version,
        user_label=audit.label(acting_user),
        note=note,
        shelved_until=episode.shelved_until if cause == AlarmTransition.Cause.SHELVED else None,
    )
