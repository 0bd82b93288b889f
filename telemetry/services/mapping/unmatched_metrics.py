"""Metrics of a component type that found no value in the newest messages, with the paths that they may mean."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from devices.domain import paths, specs
from devices.domain.metric_spec import MetricSpec
from devices.models import ComponentType, Metric
from devices.services.specs.loader import metric_spec
from telemetry.services.pipeline import entries, unmapped_values
from telemetry.services.pipeline.normalization import normalize
from telemetry.services.pipeline.results import Refusal

from .sample_messages import recent_messages

_MAX_METRICS = 64
_MAX_PATHS = 200
_MAX_NEAR = 3
# The share of equal letters from which two paths are near each other.
_NEAR = 0.75
_NOT_A_LETTER = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class UnmatchedMetric:
    """A metric without a value, and the paths in the messages that resemble its own."""

    metric: Metric
    near: list[str]


@dataclass(frozen=True, slots=True)
class UnmatchedMetrics:
    """The number of messages that were read, and the metrics that found nothing in any of them."""

    messages: int
    metrics: list[UnmatchedMetric]


def find_unmatched(component_type: ComponentType) -> UnmatchedMetrics:
    """Return the type's metrics that found no value in the newest messages of its components.

    Without a message no metric is unmatched: nothing is known then.
    """
    messages = [_entries_of(message, component_type) for message in recent_messages(component_type)]
    metrics = list(component_type.metrics.select_related("unit"))
    known = [(metric, metric_spec(metric)) for metric in metrics]
    unmatched = [
        metric for metric, spec in known if messages and not any(_has_value(spec, message) for message in messages)
    ]
    sent = _sent_paths(messages, {spec.path for _, spec in known}) if unmatched else {}
    return UnmatchedMetrics(
        len(messages), [UnmatchedMetric(metric, _near(metric.path, sent)) for metric in unmatched[:_MAX_METRICS]]
    )


def _entries_of(message: dict[str, Any], component_type: ComponentType) -> dict[str, Any]:
    try:
        return entries.sample(message, component_type.entries)
    except Refusal:  # an invalid list has no values
        return message


def _has_value(spec: MetricSpec, message: dict[str, Any]) -> bool:
    """Return whether the metric finds a value in the message: a valid one, one that is refused, or null."""
    try:
        found = normalize(message, specs.ComponentSpec("", "", True, True, (spec,), specs.IGNORE))
        if found.measurements or found.unmapped:  # those of a wildcard
            return True
    except Refusal:
        return True
    return paths.find(message, spec.path) is not paths.MISSING


def _sent_paths(messages: Sequence[dict[str, Any]], taken: set[paths.Path]) -> dict[str, str]:
    """Return the paths in the messages that belong to no metric, by their letters without signs and capitals."""
    empty = specs.ComponentSpec("", "", True, True, ())
    found: dict[str, str] = {}
    for path in _leaves(messages, empty.layout.tree):
        if path not in taken:
            text = paths.format_path(path)
            found.setdefault(_letters(text), text)
            if len(found) == _MAX_PATHS:
                break
    return found


def _leaves(messages: Iterable[dict[str, Any]], tree: Any) -> Iterator[paths.Path]:
    for message in messages:
        for path, value in unmapped_values.leaves(message, tree, ()):
            if value is not unmapped_values.CUT:
                yield path


def _near(path: str, sent: dict[str, str]) -> list[str]:
    """Return the sent paths that differ from the metric's in capitals, signs or blanks, in few letters, or in depth."""
    wanted, last = _letters(path), _last_letters(path)
    by_last: dict[str, list[str]] = {}
    for name, text in sent.items():
        by_last.setdefault(_last_letters(text), []).append(name)
    names = [wanted] if wanted in sent else []
    names += by_last.get(last, [])
    names += get_close_matches(wanted, list(sent), n=_MAX_NEAR, cutoff=_NEAR)
    names += [name for close in get_close_matches(last, list(by_last), n=1, cutoff=_NEAR) for name in by_last[close]]
    return [sent[name] for name in dict.fromkeys(names)][:_MAX_NEAR]


def _last_letters(path: str) -> str:
    return _letters(paths.parse(path)[-1])


def _letters(text: str) -> str:
    return _NOT_A_LETTER.sub("", text).casefold()
