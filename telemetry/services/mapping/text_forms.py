"""The form of a value in a sample message: a number or switch that is sent as text, and values that stand for none."""

import re
from typing import NamedTuple

from devices.domain import paths, text_values
from devices.models import Metric, Unit
from devices.services.metadata.unit_inference import infer_metric

# Digits that identify something: with leading zeros, or too many for a measurement.
_IDENTIFIER = re.compile(r"[+-]?(0[0-9]|[0-9]{10})")
_NO_VALUES = frozenset({"n/a", "na", "nan", "null", "none", "unavailable", "unknown", "-", "--", "---"})
# Numbers that sensors and drivers report instead of a fault.
_FAULT_NUMBERS = (-127, -999, -9999, -32768, 32767, 65535)
_DS18B20_AFTER_RESET = 85
# A number that a name with a unit can have in nearly every unit.
_USUAL_NUMBER = 20


class WrittenNumber(NamedTuple):
    """A number that is sent as text: its form, and the unit beside it; or a usual one in the place of a sentinel."""

    number: float
    number_format: str = text_values.POINT
    unit: str = ""
    sentinel: str = ""


def read_value(path: paths.Path, value: object) -> WrittenNumber | None:
    """Return the number that is sent as text, or the number for which the value is a sentinel; None for other values.

    A sentinel such as N/A or -127 stands for a missing number only where the name has a unit.
    """
    if isinstance(value, str):
        if _IDENTIFIER.match(value.strip()):
            return None
        for number_format in (text_values.POINT, text_values.COMMA):
            if (found := text_values.split_number(value, number_format)) is not None:
                return WrittenNumber(found[0], number_format, found[1])
    if _is_sentinel(path, value) and infer_metric(path, _USUAL_NUMBER).unit:
        return WrittenNumber(_USUAL_NUMBER, sentinel=str(value).strip())
    return None


def _is_sentinel(path: paths.Path, value: object) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in _NO_VALUES
    is_after_reset = value == _DS18B20_AFTER_RESET and "ds18b20" in "".join(path).lower()
    return is_after_reset or (not isinstance(value, bool) and value in _FAULT_NUMBERS)


def set_form(metric: Metric, written: WrittenNumber, units: dict[str, Unit]) -> None:
    """Set how the metric reads the number, with its unit. A text with an unknown unit stays a text."""
    metric.number_format, metric.sentinels = written.number_format, written.sentinel
    if not written.unit:
        return
    inferred, metric.unit = metric.unit, units.get(written.unit)
    if metric.unit is not None:
        return
    metric.unit_path = metric.path
    for candidate in (inferred, *units.values()):
        metric.unit = candidate
        metric.work_out_conversion()
        if written.unit in metric.conversions:
            return
    metric.value_type, metric.unit, metric.unit_path = Metric.ValueType.TEXT, None, ""
    metric.number_format = Metric.NumberFormat.POINT
    metric.work_out_conversion()


def is_switch(text: str) -> bool:
    """Return whether the text is one of the usual words for true and false, and no single letter: N may be north."""
    word = text.strip().casefold()
    return len(word) > 1 and word in text_values.boolean_words("", "")
