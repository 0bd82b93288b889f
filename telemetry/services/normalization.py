"""Stage 5: a message's nested values to flat (metric, value, unit), in the unit that is kept. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from devices.services.paths import MISSING, find
from devices.services.specs import MetricSpec

from .refusal import Refused, quote

Value = float | bool | str

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS_FROM = 1e11


class Measurement(NamedTuple):
    """One value of one metric. Numbers are floats in `unit`."""

    metric: str
    value: Value
    unit: str
    value_type: str


def normalize(message: dict[str, Any], metrics: Iterable[MetricSpec]) -> list[Measurement]:
    """The metrics' values in the message. A path that is not there, or null there, gives nothing.

    Raises Refused: `wrong_type` or `out_of_range`, naming the path, what came and what was expected.
    """
    measurements = []
    for metric in metrics:
        raw = find(message, metric.path)
        if raw is not MISSING and raw is not None:
            measurements.append(Measurement(metric.key, _value(raw, metric), metric.unit, metric.value_type))
    return measurements


def read_timestamp(value: Any) -> datetime:
    """ISO 8601 with an offset, or a Unix time (seconds; milliseconds from 1e11 up), as an aware UTC time.

    Raises Refused (`malformed`).
    """
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                raise Refused("malformed", f"The timestamp {quote(value)} has no offset; end it with Z or +00:00.")
            return moment.astimezone(UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _EPOCH + timedelta(seconds=value / 1000 if value >= _MILLISECONDS_FROM else value)
    except (ValueError, OverflowError) as error:
        raise Refused("malformed", f"The timestamp {quote(value)} cannot be read: {error}") from error
    raise Refused(
        "malformed",
        "The message has no timestamp; it is ISO 8601 with an offset, or a Unix time as a number."
        if value is None
        else f"The timestamp {quote(value)} is neither text nor a number.",
    )


def _value(raw: Any, metric: MetricSpec) -> Value:
    if metric.value_type == "number":
        return _number(raw, metric)
    if metric.value_type == "boolean":
        return _boolean(raw, metric)
    if not isinstance(raw, str):
        raise _wrong_type(raw, metric, "text")
    if "\x00" in raw:
        raise Refused("wrong_type", f"{_name(metric)}: the text holds a NUL character, which cannot be stored.")
    return raw


def _number(raw: Any, metric: MetricSpec) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise _wrong_type(raw, metric, "a number")
    try:
        value = float(raw)
    except OverflowError:
        raise _wrong_type(raw, metric, "a number that fits 64 bits") from None
    if metric.factor != 1.0 or metric.offset != 0.0:
        # Twelve digits: 68 °F is 20 °C and not 20.000000000000004.
        value = float(f"{value * metric.factor + metric.offset:.12g}")
    low, high = metric.minimum, metric.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        raise Refused(
            "out_of_range",
            f"{_name(metric)}: {value:g} {metric.unit} is outside the valid range "
            f"{'' if low is None else f'{low:g}'} to {'' if high is None else f'{high:g}'} {metric.unit}.",
        )
    return value


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
    raise _wrong_type(raw, metric, "a boolean")


def _wrong_type(raw: Any, metric: MetricSpec, expected: str) -> Refused:
    return Refused("wrong_type", f"{_name(metric)}: expected {expected}, got {quote(raw)}.")


def _name(metric: MetricSpec) -> str:
    return f"Metric {metric.key} at {'/'.join(metric.path)}"
