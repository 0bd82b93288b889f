"""Frozen specification of one metric of a component. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from devices.domain import paths, text_values
from devices.domain.conversion import Conversion, conversion_of

# An exact fraction, also as the text that a metric's row contains.
Rational = Fraction | float | str


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A value in a component's message. stored = sent × factor + offset, in `unit`.

    If the message names the unit at `unit_path`, factor and offset are taken from `conversions`, which contains
    (name of a unit, factor, offset). `true_value`, `false_value` and `sentinels` are lists of words with commas.
    """

    key: str
    path: paths.Path
    value_type: str
    unit: str
    factor: Rational = 1
    offset: Rational = 0
    minimum: float | None = None
    maximum: float | None = None
    true_value: str = ""
    false_value: str = ""
    unit_path: paths.Path = ()
    conversions: tuple[tuple[str, Rational, Rational], ...] = ()
    number_format: str = text_values.POINT
    sentinels: str = ""
    sentinel_treatment: str = text_values.SKIP
    numbers_as_text: bool = False
    conversion: Conversion | None = field(init=False, compare=False, repr=False)
    by_unit: Mapping[str, Conversion | None] = field(init=False, compare=False, repr=False)
    words: Mapping[str, bool] = field(init=False, compare=False, repr=False)
    no_values: text_values.Sentinels | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # The only way to set a field of a frozen instance.
        object.__setattr__(self, "conversion", conversion_of(self.factor, self.offset))
        by_unit = {name: conversion_of(factor, offset) for name, factor, offset in self.conversions}
        object.__setattr__(self, "by_unit", by_unit)
        words = text_values.boolean_words(self.true_value, self.false_value) if self.value_type == "boolean" else {}
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "no_values", text_values.sentinels_of(self.sentinels) if self.sentinels else None)
