"""Step 5, normalization: a message's nested values as flat (metric, value, unit), in the stored unit. Pure."""

import json
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from devices.domain import paths, text_values
from devices.domain.conversion import Conversion
from devices.domain.layout import EXACT, GREATEST
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import IGNORE, REFUSE_VALUE, ComponentSpec
from devices.domain.unit_spellings import spelled

from . import form, payload_faults, unmapped_values
from .results import Measurement, Refusal, RefusedValue, Value, quote, quote_json

# Values that a wildcard selects in a message.
MAX_SELECTED = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS_FROM = 1e11
# The length of the longest names of units.
_UNIT_NAME_LENGTH = 80
_NONE: list[Measurement] = []
# So many invalid values are named where no value is valid.
_NAMED = 5
# Measurement(…) does the same through a function in Python.
_new = tuple.__new__


class NormalizedValues(NamedTuple):
    """A message's values of metrics, and those without a metric; `cut`: there are more of these.

    `refused` are those that their metric rejects, where the component's others are stored nevertheless.
    """

    measurements: list[Measurement]
    unmapped: list[Measurement] = _NONE
    cut: bool = False
    refused: tuple[RefusedValue, ...] = ()


def normalize(message: dict[str, Any], component: ComponentSpec, source: bytes = b"") -> NormalizedValues:
    """Return the values in the component's message. A path that is missing, or null, gives no value.

    `source` is the JSON text of the message, of which the fast parser reads whole numbers beyond 64 bits as floats.

    Raises Refusal: `wrong_type`, `out_of_range` or `unit_mismatch`, naming the path, the value and the expectation;
    where the component type refuses single values, only if no value is valid.
    """
    measurements: list[Measurement] = []
    refused: tuple[RefusedValue, ...] = ()
    objects: list[Any] = []
    has_more = False
    for holder, token, known, members in component.layout.nodes:
        node = message if holder < 0 else objects[holder]
        if holder >= 0:
            node = node.get(token) if node.__class__ is dict else _member(node, token)
        objects.append(node)
        if node.__class__ is dict:
            if not node.keys() <= known:
                has_more = True
        elif node is None:
            continue
        else:
            has_more = True
        for member in members:
            raw = node.get(member.token) if node.__class__ is dict else _member(node, member.token)
            if raw is None:
                continue
            # The usual case, in one comparison, which is false for NaN, infinity, and whole numbers beyond 64 bits.
            if member.plain and (raw.__class__ is float or raw.__class__ is int) and member.low <= raw <= member.high:
                value: Value = float(raw)
            else:
                metric = member.metric
                try:
                    if metric.no_values is not None and raw in metric.no_values:
                        _check_sentinel(raw, metric)
                        continue
                    value = _convert(raw, metric, message, source)
                except Refusal as refusal:
                    if component.invalid_values != REFUSE_VALUE:
                        raise
                    refused = (*refused, RefusedValue(member.key, refusal.reason, refusal.detail))
                    continue
            measurements.append(_new(Measurement, (member.key, value, member.unit, member.value_type)))
    unmapped, is_cut = _NONE, False
    if has_more and component.unmapped != IGNORE:
        unmapped, is_cut = unmapped_values.collect(message, component, source)
    if component.layout.selecting:
        selected = _select(message, component, source)
        measurements += selected.measurements
        unmapped, is_cut = unmapped + selected.unmapped, is_cut or selected.cut
        refused += selected.refused
    if refused and not measurements and not unmapped:
        without_values = Refusal(refused[0].reason, " ".join(value.detail for value in refused[:_NAMED]))
        without_values.values = refused
        raise without_values
    return _new(NormalizedValues, (measurements, unmapped, is_cut, refused))


def _select(message: dict[str, Any], component: ComponentSpec, source: bytes) -> NormalizedValues:
    """Return the values of metrics whose path selects.

    Those of a wildcard are named by the metric and the members. The sender chooses these, so that storage bounds their
    series as those of unmapped values.
    """
    found: tuple[list[Measurement], list[Measurement]] = [], []
    refused: list[RefusedValue] = []
    is_cut = False
    for metric in component.layout.selecting:
        selected = list(islice(paths.select(message, metric.path), MAX_SELECTED + 1))
        is_cut = is_cut or len(selected) > MAX_SELECTED
        for members, path, raw in selected[:MAX_SELECTED]:
            if raw is None:
                continue
            name = paths.series_name((metric.key, *members)) if members else metric.key
            try:
                if metric.no_values is not None and raw in metric.no_values:
                    _check_sentinel(raw, metric)
                    continue
                value = _convert(form.exact_number(raw, source, path), metric, message, b"")
            except Refusal as refusal:
                if component.invalid_values != REFUSE_VALUE:
                    raise
                refused.append(RefusedValue(metric.key, refusal.reason, refusal.detail))
                continue
            found[bool(members)].append(Measurement(name, value, metric.unit, metric.value_type))
    return NormalizedValues(found[0], found[1], is_cut, tuple(refused))


def read_timestamp(value: Any) -> datetime:
    """Return ISO 8601 with an offset, or a Unix time (seconds; milliseconds from 1e11 up), as an aware UTC time.

    Raises Refusal (`malformed`).
    """
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is UTC:
                return moment
            if moment.tzinfo is None:
                fault = payload_faults.timestamp_fault(value) or "it must have an offset, for example Z or +00:00"
                raise Refusal("malformed", f"The timestamp cannot be {quote_json(value)}: {fault}.")
            return moment.astimezone(UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _EPOCH + timedelta(seconds=value / 1000 if value >= _MILLISECONDS_FROM else value)
    except (ValueError, OverflowError) as error:
        fault = payload_faults.timestamp_fault(value, error) or "it must be ISO 8601 such as 2026-11-30T09:00:00Z"
        raise Refusal("malformed", f"The timestamp cannot be {quote_json(value)}: {fault}.") from error
    raise Refusal(
        "malformed",
        "The message must have a timestamp: ISO 8601 with an offset, or a Unix time as a number."
        if value is None
        else f"The timestamp must be ISO 8601 or a Unix time as a number, not {quote_json(value)}.",
    )


def _member(holder: Any, token: str) -> Any:
    """Return the object's or array's member under the token, None where it has none."""
    if holder.__class__ is dict:
        return holder.get(token)
    if holder.__class__ is list:
        index = paths.array_index(token)
        return holder[index] if index is not None and index < len(holder) else None
    return None


def _convert(raw: Any, metric: MetricSpec, message: dict[str, Any], source: bytes) -> Value:
    if metric.value_type == "number":
        return _number(raw, metric, message, source)
    if metric.value_type == "boolean":
        return _boolean(raw, metric)
    if metric.numbers_as_text and isinstance(raw, int | float):
        return json.dumps(form.exact_number(raw, source, metric.path))
    if not isinstance(raw, str):
        raise _wrong_type(raw, metric, "a string")
    if "\x00" in raw:
        raise Refusal("wrong_type", f"{_name(metric)}: the text must not contain a NUL character.")
    return raw


def _number(raw: Any, metric: MetricSpec, message: dict[str, Any], source: bytes) -> float:
    unit = ""
    if isinstance(raw, str):
        raw, unit = text_values.split_number(raw, metric.number_format) or (raw, "")
        source = b""  # the number at the path is a text there
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise _wrong_type(raw, metric, "a number")
    conversion = _conversion(metric, message, unit) if unit or metric.unit_path else metric.conversion
    if not -EXACT <= raw <= EXACT:
        raw = form.exact_number(raw, source, metric.path)
        if raw.__class__ is float and not -GREATEST <= raw <= GREATEST:
            raise _wrong_type(raw, metric, "a finite number")
    try:
        value = float(raw) if conversion is None else conversion.apply(raw)
    except OverflowError:
        raise _wrong_type(raw, metric, "a number that fits 64 bits") from None
    if not -GREATEST <= value <= GREATEST:
        raise _wrong_type(raw, metric, "a finite number that fits 64 bits")
    if value != raw and conversion is None:
        raise _wrong_type(raw, metric, f"a whole number up to {EXACT:.0f} or another that a 64-bit float is equal to")
    low, high = metric.minimum, metric.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        raise Refusal(
            "out_of_range",
            f"{_name(metric)}: {_with_unit(value, metric)} is outside the valid range, {_range(metric)}. "
            "Check the sensor, or widen the metric's range.",
        )
    return value


def _range(metric: MetricSpec) -> str:
    """Return the bounds of a metric's values in words, of which it has at least one."""
    low, high = metric.minimum, metric.maximum
    if low is None:
        return f"at most {_with_unit(high, metric)}"
    if high is None:
        return f"at least {_with_unit(low, metric)}"
    return f"{low:.15g} to {_with_unit(high, metric)}"


def _with_unit(value: float | None, metric: MetricSpec) -> str:
    return f"{value:.15g} {metric.unit}".rstrip()


def _conversion(metric: MetricSpec, message: dict[str, Any], unit: str) -> Conversion | None:
    """Return the conversion from the unit that the value's own text or the message names, or else from the registered
    unit.
    """
    named: Any = unit
    if not unit:
        if metric.unit_path == metric.path:
            return metric.conversion
        named = paths.find(message, metric.unit_path)
    elif unit == metric.unit and metric.conversion is None:
        return None
    if named is paths.MISSING or named is None:
        return metric.conversion
    name = named.strip() if isinstance(named, str) else ""
    if name not in metric.by_unit and len(name) <= _UNIT_NAME_LENGTH:
        name = spelled(name)
    if name not in metric.by_unit:
        if unit and not metric.unit:
            raise Refusal(
                "unit_mismatch",
                f"{_name(metric)}: the value's text has the unit {quote(unit, 40)}, and the metric has none. Choose a "
                "unit for the metric, or send the number alone.",
            )
        if unit and metric.unit_path != metric.path:
            place = paths.format_path(metric.path)
            raise Refusal(
                "unit_mismatch",
                f"{_name(metric)}: the unit {quote(unit, 40)} in the value's text is not converted to {metric.unit}, "
                f"because the metric's unit_path is not equal to its path. Set unit_path to {place}.",
            )
        known = ", ".join(name for name, _, _ in metric.conversions[:12])
        place = paths.format_path(metric.unit_path or metric.path)
        shown = quote(named, 40) if isinstance(named, str) else f"({quote_json(named, 40)})"
        raise Refusal(
            "unit_mismatch",
            f"{_name(metric)}: the unit {shown} at {place} cannot be converted to {metric.unit}. Known units are "
            f"{known}, and others; correct the unit that the device sends, or add it to the tenant's units.",
        )
    return metric.by_unit[name]


def _boolean(raw: Any, metric: MetricSpec) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str):
        word = raw.strip()
        found = metric.words.get(word)
        if found is None:
            found = metric.words.get(word.casefold())
        if found is not None:
            return found
    elif isinstance(raw, int | float):
        found = metric.words.get(f"{raw:g}") if metric.true_value else None
        if found is not None or raw in (0, 1):
            return bool(raw) if found is None else found
    if metric.true_value:
        raise _wrong_type(raw, metric, f"{metric.true_value} or {metric.false_value}")
    raise _wrong_type(raw, metric, "true or false, or a word such as on, off, yes, no, open or closed")


def _check_sentinel(raw: Any, metric: MetricSpec) -> None:
    """Raise Refusal (`out_of_range`) where the metric rejects its sentinels."""
    if metric.sentinel_treatment == text_values.REFUSE:
        raise Refusal(
            "out_of_range",
            f"{_name(metric)}: {quote_json(raw)} is one of the metric's sentinels, which stand for no valid value. "
            "Check the sensor, or let the metric skip its sentinels.",
        )


def _wrong_type(raw: Any, metric: MetricSpec, expected: str) -> Refusal:
    return Refusal(
        "wrong_type",
        f"{_name(metric)}: expected {expected}, got {quote_json(raw)}. "
        "Correct the metric's type or path, or the value that the device sends.",
    )


def _name(metric: MetricSpec) -> str:
    return f"Metric {metric.key} at {paths.format_path(metric.path)}"
