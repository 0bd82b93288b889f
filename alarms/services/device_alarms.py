"""Devices that are not online: the alarms of their silent components are suppressed, and one alarm of each says it."""

from collections import defaultdict
from datetime import datetime

from django.db.models import Exists, OuterRef, QuerySet

from alarms.domain.rules import SEVERITIES
from alarms.domain.silence import NO_DATA
from alarms.models import AlarmEpisode, AlarmRule, AlarmTransition
from devices.models import DeviceStatus

from .rule_set import RuleSet
from .storms import AlarmBudget

_PARENT_OFFLINE = AlarmEpisode.AlarmSuppression.PARENT_OFFLINE


def sync_devices(rule_set: RuleSet, now: datetime) -> None:
    """Suppress or release the alarms of silent components, and begin and end the alarms of their devices."""
    rows = _open().exclude(component="")
    online = Exists(DeviceStatus.objects.filter(device=OuterRef("device"), status=DeviceStatus.Status.ONLINE))
    rows.filter(~online, suppressed_by="").update(suppressed_by=_PARENT_OFFLINE)
    rows.filter(online, suppressed_by=_PARENT_OFFLINE).update(suppressed_by="")
    hidden: dict[tuple[int, int | None], list[AlarmEpisode]] = defaultdict(list)
    for one in rows.filter(suppressed_by=_PARENT_OFFLINE):
        hidden[one.rule_id, one.device_id].append(one)
    devices = {(one.rule_id, one.device_id): one for one in _open().filter(component="", device__isnull=False)}
    budget = AlarmBudget(now)
    for key, components in hidden.items():
        if key in devices:
            _raise_severity(devices.pop(key), components, now)
        else:
            _begin(rule_set, key[0], components, now, budget)
    for device in devices.values():
        _end(device, now)
    budget.write_storms()


def _open() -> QuerySet[AlarmEpisode]:
    rules = AlarmRule.objects.filter(kind=NO_DATA).values("pk")
    return AlarmEpisode.objects.filter(rule__in=rules, ended_at=None, retracted_at=None).order_by()


def _highest(components: list[AlarmEpisode]) -> str:
    return max((one.severity for one in components), key=SEVERITIES.index)


def _begin(rule_set: RuleSet, rule: int, components: list[AlarmEpisode], now: datetime, budget: AlarmBudget) -> None:
    if rule not in rule_set.rules:
        return
    first = min(components, key=lambda one: one.started_at)
    evaluated, severity, device = rule_set.rules[rule], _highest(components), first.device_id
    if device is None or not budget.may_open(evaluated, is_open=True):
        return
    episode = AlarmEpisode.objects.create(
        rule_id=rule,
        rule_version=evaluated.number,
        device_id=device,
        state=AlarmEpisode.State.ACTIVE,
        severity=severity,
        started_at=first.started_at,
        suppressed_by=budget.suppression_of_device(evaluated, device, severity),
    )
    _record(episode, "NORMAL", "", first.started_at)


def _raise_severity(device: AlarmEpisode, components: list[AlarmEpisode], now: datetime) -> None:
    severity, before = _highest(components), device.severity
    if severity != before:
        AlarmEpisode.objects.filter(pk=device.pk).update(severity=severity)
        device.severity = severity
        _record(device, device.state, before, now)


def _end(device: AlarmEpisode, now: datetime) -> None:
    """End the alarm; if late data has shown that no component was silent, it never was."""
    components = AlarmEpisode.objects.filter(rule=device.rule_id, device=device.device_id).exclude(component="")
    lasted = components.filter(retracted_at=None).exclude(ended_at__lte=device.started_at).exists()
    fields = {"state": AlarmEpisode.State.ENDED, "ended_at": now}
    if not lasted:
        fields |= {"retracted_at": now, "late": True, "ended_at": device.started_at}
    AlarmEpisode.objects.filter(pk=device.pk).update(**fields)
    before, device.severity = device.severity, ""
    _record(device, device.state, before, now, to_state=AlarmEpisode.State.ENDED)


def _record(device: AlarmEpisode, from_state: str, before: str, at: datetime, to_state: str = "ACTIVE") -> None:
    AlarmTransition.objects.create(
        episode=device,
        at=at,
        from_state=from_state,
        to_state=to_state,
        from_severity=before,
        severity=device.severity,
        cause=AlarmTransition.Cause.PARENT_OFFLINE,
        rule_version=device.rule_version,
    )
