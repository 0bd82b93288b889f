"""Bounds of a tenant's alarms: open ones, and new ones of a rule within a minute. Also maintenance windows."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import F, QuerySet

from alarms.models import AlarmEpisode, AlarmTransition
from devices.models import DeviceStatus, MaintenanceWindow

from .rule_set import EvaluatedRule

_MINUTE = timedelta(minutes=1)


class AlarmBudget:
    """The new episodes that a step may open: counted in the database once, and then in memory.

    The caller has locked the progress, so that no other process opens episodes meanwhile.
    """

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._open: int | None = None
        self._recent: dict[int, int] = {}
        self._maintained: frozenset[int] | None = None
        self._storms: dict[int, tuple[EvaluatedRule, str, int]] = {}

    def may_open(self, rule: EvaluatedRule, *, is_open: bool) -> bool:
        """Return whether the tenant may have one more open episode; else count it in the storm of the rule."""
        if not is_open:
            return True
        if self._open is None:
            self._open = AlarmEpisode.objects.filter(ended_at=None, retracted_at=None).order_by().count()
        if self._open >= settings.ALARM_OPEN:
            self._count(rule, "warning")
            return False
        self._open += 1
        return True

    def suppression(self, rule: EvaluatedRule, device: int, severity: str) -> str:
        """Return why people are not notified of a new episode; empty where they are."""
        if rule.silence and not is_online(device):
            return str(AlarmEpisode.AlarmSuppression.PARENT_OFFLINE)
        return self.suppression_of_device(rule, device, severity)

    def suppression_of_device(self, rule: EvaluatedRule, device: int, severity: str) -> str:
        """Return the same, whether or not the device is online."""
        if rule.pk not in self._recent:
            self._recent[rule.pk] = _recent_episodes(rule.pk, self._now).filter(late=False).count()
        if self._recent[rule.pk] >= settings.ALARM_STORM_PER_MINUTE:
            self._count(rule, severity)
            return str(AlarmEpisode.AlarmSuppression.STORM)
        self._recent[rule.pk] += 1
        if self._maintained is None:
            windows = MaintenanceWindow.objects.filter(starts_at__lte=self._now, ends_at__gt=self._now)
            self._maintained = frozenset(windows.order_by().values_list("device", flat=True))
        return str(AlarmEpisode.AlarmSuppression.MAINTENANCE) if device in self._maintained else ""

    def write_storms(self) -> None:
        """Write the storms that were counted."""
        for rule, severity, count in self._storms.values():
            _count_in_storm(rule, severity, count, self._now)
        self._storms.clear()

    def _count(self, rule: EvaluatedRule, severity: str) -> None:
        _, first, count = self._storms.get(rule.pk, (rule, severity, 0))
        self._storms[rule.pk] = rule, first, count + 1


def is_online(device: int) -> bool:
    """Return whether the device is online now."""
    return DeviceStatus.objects.filter(device=device, status=DeviceStatus.Status.ONLINE).exists()


def end_storms(now: datetime) -> int:
    """End the storms whose rule had fewer new episodes than the limit in the last minute; return their number."""
    ended = 0
    for storm in AlarmEpisode.objects.filter(device=None, ended_at=None):
        if _recent_episodes(storm.rule_id, now).count() < settings.ALARM_STORM_PER_MINUTE:
            _record_change(storm, storm.state, AlarmEpisode.State.ENDED, now)
            AlarmEpisode.objects.filter(pk=storm.pk).update(state=AlarmEpisode.State.ENDED, ended_at=now)
            ended += 1
    return ended


def _recent_episodes(rule: int, now: datetime) -> QuerySet[AlarmEpisode]:
    rows = AlarmEpisode.objects.filter(rule=rule, recorded_at__gt=now - _MINUTE, device__isnull=False)
    return rows.exclude(suppressed_by=AlarmEpisode.AlarmSuppression.PARENT_OFFLINE).order_by()


def _count_in_storm(rule: EvaluatedRule, severity: str, count: int, now: datetime) -> None:
    storm = AlarmEpisode.objects.filter(rule=rule.pk, device=None, ended_at=None).first()
    if storm is not None:
        AlarmEpisode.objects.filter(pk=storm.pk).update(count=F("count") + count)
        return
    storm = AlarmEpisode.objects.create(
        rule_id=rule.pk,
        rule_version=rule.number,
        metric=rule.metric,
        state=AlarmEpisode.State.ACTIVE,
        severity=severity,
        started_at=now,
        count=count,
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
