"""Frozen specification of one metric of a component. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from devices.domain import paths


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A value in a component's message. stored = sent × factor + offset, in `unit`.

    If the message names the unit at `unit_path`, factor and offset are taken from `conversions`, which contains
    (name of a unit, factor, offset).
    """

    key: str
    path: paths.Path
    value_type: str
    unit: str
    factor: float = 1.0
    offset: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    true_value: str = ""
    false_value: str = ""
    unit_path: paths.Path = ()
    conversions: tuple[tuple[str, float, float], ...] = ()
    by_unit: Mapping[str, tuple[float, float]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        by_unit = {name: (factor, offset) for name, factor, offset in self.conversions}
        object.__setattr__(self, "by_unit", by_unit)  # the only way to set a field of a frozen instance
