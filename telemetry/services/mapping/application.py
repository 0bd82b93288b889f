"""Application of a metric mapping: it creates the metrics and assigns the existing series of their values to them.

A series of values without a metric is named by its path and has no unit. It gets the metric's key and the unit that
the device sends. No stored value is converted, so queries find history and new readings together, each with its unit;
if the device sends the metric's own unit, they are one series.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction

from devices import change_feeds
from devices.domain import paths
from devices.models import ComponentType, Metric
from devices.services import audit
from tenants.infrastructure.database import current_schema

from . import proposal

_RENAME = """
UPDATE telemetry_series AS s SET metric = %(metric)s, unit = %(unit)s
FROM devices_component AS c
WHERE c.component_type_id = %(type)s AND s.device_id = c.device_id AND s.component = c.key
AND s.metric = %(name)s AND s.unit = '' AND s.value_type = ANY(%(kinds)s)
AND NOT EXISTS (SELECT 1 FROM telemetry_series AS o WHERE o.device_id = s.device_id AND o.component = s.component
    AND o.metric = %(metric)s AND o.unit = %(unit)s AND o.value_type = s.value_type)
"""
_UNASSIGNED = """
SELECT count(*) FROM telemetry_series AS s
JOIN devices_component AS c ON s.device_id = c.device_id AND s.component = c.key
WHERE c.component_type_id = %(type)s AND s.metric = %(name)s AND s.unit = ''
"""


@dataclass(frozen=True, slots=True)
class SeriesAssignment:
    """The existing series of a metric's values.

    `series`: the number that have the metric's key and `unit` now. `unassigned_series`: the number that keep the name
    of their path, because the message names the unit (the past unit is unknown), the value type differs, or a series
    with the metric's key exists.
    """

    metric: Metric
    unit: str
    series: int
    unassigned_series: int


@dataclass(frozen=True, slots=True)
class AppliedMapping:
    """The created metrics, and the assignment of their series."""

    metrics: list[Metric] = field(default_factory=list)
    assignments: list[SeriesAssignment] = field(default_factory=list)


def apply_mapping(
    component_type: ComponentType, metrics: Sequence[Metric], *, acting_user: audit.Actor
) -> AppliedMapping:
    """Create the metrics and assign their existing series, in one transaction.

    Raises ValidationError when a metric is invalid; nothing is created then.
    """
    with transaction.atomic():
        # Serializes two mappings of the same type.
        ComponentType.objects.select_for_update().get(pk=component_type.pk)
        proposal.validate_metrics(component_type, metrics)
        done = AppliedMapping()
        for metric in metrics:
            metric.save()
            done.metrics.append(metric)
            done.assignments.append(_assign_series(metric))
            audit.record(acting_user, "add", metric, _audit_text(done.assignments[-1]))
        # After the news of the metrics, which are announced as they are saved: who hears of the names first would
        # make series anew under the old ones.
        schema = current_schema()
        transaction.on_commit(lambda: change_feeds.publish_renamed_series(schema))
    return done


def _assign_series(metric: Metric) -> SeriesAssignment:
    path = paths.parse(metric.path)
    unit = (metric.sent_unit or metric.unit).symbol if metric.unit else ""
    assigned = unassigned = 0
    for name in _series_names(path):
        values: dict[str, Any] = {
            "type": metric.component_type_id,
            "name": name,
            "metric": metric.key,
            "unit": unit,
            "kinds": _value_types(metric),
        }
        with connection.cursor() as cursor:
            if not metric.unit_path and (metric.key, unit) != (name, ""):
                cursor.execute(_RENAME, values)
                assigned += cursor.rowcount
            cursor.execute(_UNASSIGNED, values)
            left = int(cursor.fetchone()[0])
        if not metric.unit_path and (metric.key, unit) == (name, ""):
            assigned += left  # they have the metric's name as they are
        else:
            unassigned += left
    return SeriesAssignment(metric, unit, assigned, unassigned)


def _series_names(path: paths.Path) -> Iterable[str]:
    """What values at the path were kept as: also where another metric had that name for a key."""
    plain = paths.series_name(path)
    return dict.fromkeys((plain, paths.series_name(path, frozenset({plain}))))


def _value_types(metric: Metric) -> list[str]:
    """The types that the values were kept as: words and 0 and 1 become booleans only when there is a metric."""
    if metric.value_type == Metric.ValueType.BOOLEAN:
        return [str(kind) for kind in Metric.ValueType.values]
    return [str(metric.value_type)]


def _audit_text(assignment: SeriesAssignment) -> str:
    return f"metric mapping applied; {assignment.series} series assigned, {assignment.unassigned_series} kept separate"
