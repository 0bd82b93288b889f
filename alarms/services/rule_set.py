"""The rules of a tenant with the series that they evaluate, as plain values in memory."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection
from django.utils.translation import gettext as _

from alarms.domain.rule_levels import parse_levels
from alarms.domain.rules import RuleHistory, RuleVersion
from alarms.domain.silence import NO_DATA, SilenceVersion, parse_silence_levels
from alarms.models import AlarmEpisode, AlarmRule, AlarmSeries
from devices.domain.selector import Selector
from devices.models import ComponentType, Metric
from devices.services.presence.freshness import MISSED_REPORTS
from devices.services.visibility import selected_devices
from tenants.infrastructure.error_codes import ErrorCode

from .preview import MAX_SERIES, PreviewSeries

_ROWS_AT_ONCE = 5000
_COMPONENTS = """
SELECT c.device_id, c.key, coalesce(c.expected_interval, t.expected_interval), array_agg(s.id ORDER BY s.id)
FROM devices_component c
JOIN devices_componenttype t ON t.id = c.component_type_id
JOIN telemetry_series s ON s.device_id = c.device_id AND s.component = c.key
WHERE c.component_type_id = %s AND s.metric = %s AND s.unit = %s AND s.value_type <> 'text'
GROUP BY c.device_id, c.key, 3
"""

# All series of a component together: only devices that count as present can be silent.
_SILENCE_COMPONENTS = """
SELECT c.device_id, c.key, coalesce(c.expected_interval, t.expected_interval), array_agg(s.id ORDER BY s.id)
FROM devices_component c
JOIN devices_componenttype t ON t.id = c.component_type_id
JOIN devices_device d ON d.id = c.device_id
JOIN telemetry_series s ON s.device_id = c.device_id AND s.component = c.key
WHERE c.component_type_id = %s AND c.attached AND d.active
GROUP BY c.device_id, c.key, 3
"""


@dataclass(frozen=True, slots=True)
class EvaluatedRule:
    """A rule with its versions, and the metric and unit of its series; of the kind no_data, `silence` has them."""

    pk: int
    history: RuleHistory
    metric: str
    unit: str
    number: int
    silence: tuple[SilenceVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchedSeries:
    """The series of a component that a rule evaluates; `pk` is that of its AlarmSeries, `ids` those of its Series."""

    pk: int
    rule: EvaluatedRule
    device: int
    component: str
    max_gap: timedelta
    ids: tuple[int, ...]
    interval: timedelta = timedelta()


@dataclass(slots=True)
class RuleSet:
    """The rules, and their series by the id of a series. `known` are ids of series that need no search.

    `silences` are the components of rules of the kind no_data.
    """

    number: int
    rules: dict[int, EvaluatedRule] = field(default_factory=dict)
    by_series: dict[int, list[WatchedSeries]] = field(default_factory=lambda: defaultdict(list))
    watched: dict[int, WatchedSeries] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)
    silences: dict[int, WatchedSeries] = field(default_factory=dict)
    silences_by_series: dict[int, list[WatchedSeries]] = field(default_factory=lambda: defaultdict(list))


def load_rule_set(number: int) -> RuleSet:
    """Return the enabled rules of the current tenant with their series."""
    rule_set = RuleSet(number)
    components: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    rules = AlarmRule.objects.filter(enabled=True, removed_at=None).select_related("metric__unit")
    for rule in rules.prefetch_related("versions"):
        evaluated = rule_set.rules[rule.pk] = evaluated_rule(rule)
        key = _key_of(rule, evaluated)
        if key not in components:
            components[key] = _read_components(key)
        by_pk, by_series = rule_set.watched, rule_set.by_series
        if evaluated.silence:
            by_pk, by_series = rule_set.silences, rule_set.silences_by_series
        for watched in _watched(rule, evaluated, components[key]):
            by_pk[watched.pk] = watched
            for series in watched.ids:
                by_series[series].append(watched)
    rule_set.known.update(rule_set.by_series, rule_set.silences_by_series)
    return rule_set


def evaluated_rule(rule: AlarmRule) -> EvaluatedRule:
    """Return the rule with its versions, which are read if they are not yet."""
    rows = sorted(rule.versions.all(), key=lambda one: one.number)
    if rule.metric is None:
        silence = tuple(
            SilenceVersion(one.number, one.effective_at, parse_silence_levels(one.levels) if one.levels else ())
            for one in rows
        )
        history = RuleHistory([RuleVersion(one.number, one.effective_at) for one in rows])
        return EvaluatedRule(rule.pk, history, "", "", rule.version, silence)
    versions = [
        RuleVersion(one.number, one.effective_at, parse_levels(rule.kind, one.levels) if one.levels else ())
        for one in rows
    ]
    unit = rule.metric.unit.symbol if rule.metric.unit else ""
    return EvaluatedRule(rule.pk, RuleHistory(versions), rule.metric.key, unit, rule.version)


def watched_of(rule: AlarmRule, series: AlarmSeries) -> WatchedSeries:
    """Return one series of a rule, also of a rule that is disabled or does not select it any more."""
    evaluated = evaluated_rule(rule)
    for device, key, interval, ids in _read_components(_key_of(rule, evaluated)):
        if (device, key) == (series.device_id, series.component):
            gap = _max_gap(rule, interval)
            return WatchedSeries(series.pk, evaluated, device, key, gap, tuple(ids), _seconds(interval))
    return WatchedSeries(series.pk, evaluated, series.device_id, series.component, _max_gap(rule, 60), (), _seconds(60))


def unwatched_open_series(rule_set: RuleSet) -> list[AlarmSeries]:
    """Return the series with an open episode that no enabled rule evaluates."""
    open_ones = set(
        AlarmEpisode.objects.filter(ended_at=None, retracted_at=None, device__isnull=False)
        .order_by()
        .values_list("rule", "device", "component")
    )
    watched = {
        (one.rule.pk, one.device, one.component) for one in [*rule_set.watched.values(), *rule_set.silences.values()]
    }
    missing = open_ones - watched
    rows = AlarmSeries.objects.filter(device__in={device for _, device, _ in missing}).select_related("rule")
    return [row for row in rows if (row.rule_id, row.device_id, row.component) in missing]


def _key_of(rule: AlarmRule, evaluated: EvaluatedRule) -> tuple[Any, ...]:
    """Return what selects the components of a rule."""
    return (
        (rule.component_type_id, evaluated.metric, evaluated.unit)
        if rule.kind != NO_DATA
        else (rule.component_type_id,)
    )


def _read_components(key: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(_COMPONENTS if len(key) > 1 else _SILENCE_COMPONENTS, key)
        return list(cursor.fetchall())


def _watched(
    rule: AlarmRule, evaluated: EvaluatedRule, components: Iterable[tuple[Any, ...]]
) -> Iterable[WatchedSeries]:
    selector = Selector.from_stored(rule.selector)
    selected = set(selected_devices(selector).order_by().values_list("pk", flat=True)) if selector else None
    wanted = [one for one in components if selected is None or one[0] in selected]
    rows = AlarmSeries.objects.filter(rule=rule)
    numbers = {(device, key): pk for pk, device, key in rows.values_list("pk", "device", "component")}
    missing = [AlarmSeries(rule=rule, device_id=one[0], component=one[1]) for one in wanted if one[:2] not in numbers]
    if missing:
        AlarmSeries.objects.bulk_create(missing, _ROWS_AT_ONCE, ignore_conflicts=True)
        numbers = {(device, key): pk for pk, device, key in rows.values_list("pk", "device", "component")}
    for device, key, interval, ids in wanted:
        gap = _max_gap(rule, interval)
        yield WatchedSeries(numbers[device, key], evaluated, device, key, gap, tuple(ids), _seconds(interval))


def _max_gap(rule: AlarmRule, interval: int) -> timedelta:
    return timedelta(seconds=rule.max_gap_seconds or MISSED_REPORTS * interval)


def preview_series(
    component_type: ComponentType, metric: Metric, selector: dict[str, Any], max_gap: int | None
) -> list[PreviewSeries]:
    """Return the series that such a rule would evaluate. Raises ValidationError where there are too many."""
    rows = _read_components((component_type.pk, metric.key, metric.unit.symbol if metric.unit else ""))
    devices = selected_devices(Selector.from_stored(selector)).filter(pk__in={row[0] for row in rows})
    uuids = dict(devices.order_by().values_list("pk", "uuid"))
    found = [
        PreviewSeries(device, uuids[device], key, tuple(ids), _seconds(max_gap or MISSED_REPORTS * interval))
        for device, key, interval, ids in rows
        if device in uuids
    ]
    if len(found) > MAX_SERIES:
        text = _("The preview reads at most %(most)d series; the rule has %(count)d. Give it a selector.")
        raise ValidationError(text % {"most": MAX_SERIES, "count": len(found)}, ErrorCode.TOO_EXPENSIVE)
    return sorted(found, key=lambda one: (str(one.uuid), one.component))


def _seconds(seconds: int) -> timedelta:
    return timedelta(seconds=seconds)
