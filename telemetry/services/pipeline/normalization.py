"""Step 5, normalization: a message's nested values as flat (metric, value, unit), in the stored unit. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from devices.domain import paths
from devices.domain.conversion import Conversion
from devices.domain.layout import EXACT, GREATEST
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import IGNORE, ComponentSpec

from . import form, payload_faults, unmapped_values
from .results import Measurement, Refusal, Value, quote_json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS_FROM = 1e11
_NONE: list[Measurement] = []
# Measurement(…) does the same through a function in Python.
_new = tuple.__new__


class NormalizedValues(NamedTuple):
    """A message's values of metrics, and those without a metric; `cut`: there are more of these."""

    measurements: list[Measurement]
    unmapped: list[Measurement] = _NONE
    cut: bool = False


def normalize(message: dict[str, Any], component: ComponentSpec, source: bytes = b"") -> NormalizedValues:
    """Return the values in the component's message. A path that is missing, or null, gives no value.

    `source` is the JSON text of the message, of which the fast parser reads whole numbers beyond 64 bits as floats.

    Raises Refusal: `wrong_type`, `out_of_range` or `unit_mismatch`, naming the path, the value and the expectation.
    """
    measurements: list[Measurement] = []
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
                value = _convert(raw, member.metric, message, source)
            measurements.append(_new(Measurement, (member.key, value, member.unit, member.value_type)))
    if has_more and component.unmapped != IGNORE:
        return NormalizedValues(measurements, *unmapped_values.collect(message, component, source))
    return _new(NormalizedValues, (measurements, _NONE, False))


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
        fault = payload_faults.timestamp_fault(value) or "it must be ISO 8601 such as 2026-11-30T09:00:00Z"
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
    if not isinstance(raw, str):
        raise _wrong_type(raw, metric, "a string")
    if "\x00" in raw:
        raise Refusal("wrong_type", f"{_name(metric)}: the text must not contain a NUL character.")
    return raw


def _number(raw: Any, metric: MetricSpec, message: dict[str, Any], source: bytes) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise _wrong_type(raw, metric, "a number")
    conversion = _conversion(metric, message) if metric.unit_path else metric.conversion
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


def _conversion(metric: MetricSpec, message: dict[str, Any]) -> Conversion | None:
    """Return the conversion from the unit that the message names, or else from the registered unit."""
    named = paths.find(message, metric.unit_path)
    if named is paths.MISSING or named is None:
        return metric.conversion
    name = named.strip() if isinstance(named, str) else ""
    if name not in metric.by_unit:
        known = ", ".join(name for name, _, _ in metric.conversions[:12])
        raise Refusal(
            "unit_mismatch",
            f"{_name(metric)}: the unit {quote_json(named, 40)} at {paths.format_path(metric.unit_path)} "
            f"cannot be converted to {metric.unit}. Known units are {known}, and others; correct the unit that the "
            "device sends, or add it to the tenant's units.",
        )
    return metric.by_unit[name]


def _boolean(raw: Any, metric: MetricSpec) -> bool:
    if metric.true_value and isinstance(raw, str):
        if raw == metric.true_value:
            return True
        if raw == metric.false_value:
            return False
        raise _wrong_type(raw, metric, f"{metric.true_value} or {metric.false_value}")
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, int | float) and raw in (0, 1):
        return bool(raw)
    raise _wrong_type(raw, metric, "true or false")


def _wrong_type(raw: Any, metric: MetricSpec, expected: str) -> Refusal:
    return Refusal(
        "wrong_type",
        f"{_name(metric)}: expected {expected}, got {quote_json(raw)}. "
        "Correct the metric's type or path, or the value that the device sends.",
    )


def _name(metric: MetricSpec) -> str:
    return f"Metric {metric.key} at {paths.format_path(metric.path)}"
