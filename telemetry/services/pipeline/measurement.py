"""A value on its way from a message to a reading."""

from typing import NamedTuple

Value = float | bool | str


class Measurement(NamedTuple):
    """One value of one metric. Numbers are floats in `unit`."""

    metric: str
    value: Value
    unit: str
    value_type: str
