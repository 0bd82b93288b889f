"""Bounds of a tenant's alarms: open ones, and new ones of a rule within a minute. Also maintenance windows."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import F

from alarms.models import AlarmEpisode, AlarmTransition
from devices.models import MaintenanceWindow

from .rule_set import EvaluatedRule

_MINUTE = timedelta(minutes=1)


def may_open(rule: EvaluatedRule, now: datetime) -> bool:
    """Return whether the tenant may have one more open episode; else count it in the storm of the rule."""
    open_ones = AlarmEpisode.objects.filter(ended_at=None, retracted_at=None).order_by()
    # The count is bounded: it ends at the limit.
    if open_ones.values("pk")[: settings.ALARM_OPEN].count() < settings.ALARM_OPEN:
        return True
    _count_in_storm(rule, "warning", now)
    return False


def suppression(rule: EvaluatedRule, device: int, severity: str, now: datetime) -> str:
    """Return why people are not notified of a new episode; empty where they are."""
    recent = AlarmEpisode.objects.filter(rule=rule.pk, recorded_at__gt=now - _MINUTE, device__isnull=False, late=False)
    if recent.count() >= settings.ALARM_STORM_PER_MINUTE:
        _count_in_storm(rule, severity, now)
        return str(AlarmEpisode.AlarmSuppression.STORM)
    windows = MaintenanceWindow.objects.filter(device=device, starts_at__lte=now, ends_at__gt=now)
    return str(AlarmEpisode.AlarmSuppression.MAINTENANCE) if windows.exists() else ""


def end_storms(now: datetime) -> int:
    """End the storms whose rule had fewer new episodes than the limit in the last minute; return their number."""
    ended = 0
    for storm in AlarmEpisode.objects.filter(device=None, ended_at=None):
        recent = AlarmEpisode.objects.filter(rule=storm.rule_id, recorded_at__gt=now - _MINUTE, device__isnull=False)
        if recent.count() < settings.ALARM_STORM_PER_MINUTE:
            _record_change(storm, storm.state, AlarmEpisode.State.ENDED, now)
            AlarmEpisode.objects.filter(pk=storm.pk).update(state=AlarmEpisode.State.ENDED, ended_at=now)
            ended += 1
    return ended


def _count_in_storm(rule: EvaluatedRule, severity: str, now: datetime) -> None:
    storm = AlarmEpisode.objects.filter(rule=rule.pk, device=None, ended_at=None).first()
    if storm is not None:
        AlarmEpisode.objects.filter(pk=storm.pk).update(count=F("count") + 1)
        return
    storm = AlarmEpisode.objects.create(
        rule_id=rule.pk,
        rule_version=rule.number,
        metric=rule.metric,
        state=AlarmEpisode.State.ACTIVE,
        severity=severity,
        started_at=now,
    )
    _record_change(storm, "NORMAL", AlarmEpisode.State.ACTIVE, now)


def _record_change(storm: AlarmEpisode, from_state: str, to_state: str, now: datetime) -> None:
    is_over = to_state == AlarmEpisode.State.ENDED
    AlarmTransition.objects.create(
        episode=storm,
        at=now,
        from_state=from_state,
        to_state=to_state,
        from_severity=storm.severity if is_over else "",
        severity="" if is_over else storm.severity,
        cause=AlarmTransition.Cause.STORM,
        rule_version=storm.rule_version,
    )
