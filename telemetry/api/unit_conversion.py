"""The parameter `unit`: numbers of an answer in another unit than that of their measurement."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from django.utils.translation import gettext as _
from rest_framework.exceptions import ErrorDetail, ValidationError

from devices.domain import units
from devices.domain.conversion import Conversion, conversion_of
from devices.domain.unit_spellings import spelled
from devices.models import Metric, Unit
from devices.services.metadata.unit_catalogue import UNITS
from telemetry.models import Series
from telemetry.services.queries.aggregates import AggregateBucket
from telemetry.services.queries.interpolation import InterpolatedAggregate
from tenants.infrastructure.error_codes import ErrorCode

_NO_TIMES = Fraction(0)


@dataclass(frozen=True, slots=True)
class UnitTarget:
    """A requested unit, and the conversion to it: converted = measured × factor + offset."""

    unit: str
    factor: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)
    conversion: Conversion | None = None  # None changes nothing

    def value(self, measured: float) -> float:
        """Return the number in this unit, rounded once. Raises ValidationError where it does not fit a float."""
        if self.conversion is None:
            return measured
        try:
            return self.conversion.apply(measured)
        except OverflowError:
            text = _("%(value)r is too large in %(unit)s.") % {"value": measured, "unit": self.unit}
            raise ValidationError({"unit": ErrorDetail(text, ErrorCode.OUT_OF_RANGE)}) from None

    def bucket(self, measured: AggregateBucket) -> AggregateBucket:
        """Return the aggregates of numbers in this unit."""
        if self.conversion is None or measured.min is None or measured.max is None:
            return measured
        low, high = sorted((self.value(measured.min), self.value(measured.max)))
        last = self.value(measured.last) if isinstance(measured.last, float) else measured.last
        total = self._total(measured.sum, Fraction(measured.count))
        mean = None if measured.avg is None else self.value(measured.avg)
        return replace(measured, min=low, max=high, sum=total, last=last, mean=mean)

    def _total(self, measured: float | None, times: Fraction = _NO_TIMES) -> float | None:
        """Return the total of numbers in this unit; None where it is too large for a float.

        `times` is the number of offsets in it: the count of a sum, the seconds of an integral.
        """
        if measured is None:
            return None
        try:
            return Conversion(self.factor, times * self.offset).apply(measured)
        except OverflowError:
            return None

    def line(self, measured: InterpolatedAggregate) -> InterpolatedAggregate:
        """Return the same in this unit; None where a number is too large for a float."""
        if self.conversion is None:
            return measured
        delta, rate = self._total(measured.delta), self._total(measured.rate)
        integral = self._total(measured.integral, Fraction(measured.seconds))
        return InterpolatedAggregate(measured.seconds, delta, rate, integral)


class UnitConverter:
    """Converts numbers to the first requested unit that measures the same quantity."""

    def __init__(self, wanted: Iterable[str]) -> None:
        """Raise ValidationError for a unit that is neither a symbol nor a UCUM code of the tenant's units."""
        self._codes = {symbol: ucum for symbol, _name, _quantity, ucum in UNITS}
        own = list(Unit.objects.order_by("pk").values_list("symbol", "ucum"))
        self._codes |= dict(own)
        symbols = {ucum: symbol for symbol, ucum in (*self._codes.items(), *own)}
        symbols = {spelled(symbol): symbol for symbol in self._codes} | symbols
        self._wanted: list[str] = []
        for name in wanted:
            symbol = name if name in self._codes else symbols.get(name, symbols.get(spelled(name[:80])))
            if symbol is None:
                text = _("There is no unit %(unit)r. units/ lists the units; use a symbol or a UCUM code.")
                raise ValidationError({"unit": ErrorDetail(text % {"unit": name}, ErrorCode.DOES_NOT_EXIST)})
            self._wanted.append(symbol)
        self._targets: dict[str, UnitTarget | None] = {}

    def find(self, measured: str) -> UnitTarget | None:
        """Return the target of numbers that were measured in this unit; None where they cannot be converted."""
        if measured not in self._targets:
            self._targets[measured] = next(filter(None, (self._target(measured, unit) for unit in self._wanted)), None)
        return self._targets[measured]

    def target(self, metric: str, measured: str) -> UnitTarget:
        """Return the same. Raises ValidationError that names the metric and its unit."""
        target = self.find(measured)
        if target is None:
            raise self.refusal(metric, measured)
        return target

    def refusal(self, metric: str, measured: str) -> ValidationError:
        """Return the error of a metric that cannot be converted."""
        values = {"metric": metric, "unit": measured, "wanted": ", ".join(self._wanted)}
        text = (
            _("%(metric)r was measured in %(unit)s, which cannot be converted to %(wanted)s. Select other metrics.")
            if measured
            else _("%(metric)r has values without a unit, which cannot be converted to %(wanted)s.")
        )
        return ValidationError({"unit": ErrorDetail(text % values, ErrorCode.INCOMPATIBLE_UNITS)})

    def of_series(self, one: Series, *, is_empty: bool = False) -> UnitTarget:
        """Return the target of a series, the unit itself of one that is empty or has no numbers."""
        target = self.find(one.unit) if one.value_type == Metric.ValueType.NUMBER else UnitTarget(one.unit)
        if target is None and not is_empty:
            raise self.refusal(one.metric, one.unit)
        return target or UnitTarget(one.unit)

    def _target(self, measured: str, wanted: str) -> UnitTarget | None:
        if measured == wanted:
            return UnitTarget(wanted)
        if measured not in self._codes:
            return None
        try:
            factor, offset = units.conversion(self._codes[measured], self._codes[wanted])
        except units.IncompatibleUnits:
            return None
        return UnitTarget(wanted, factor, offset, conversion_of(factor, offset))


def convert_rows(wanted: Iterable[str], rows: Iterable[dict[str, Any]], metric: str = "") -> None:
    """Convert `value` and `unit` of results; texts and booleans stay as they are. `metric` is that of all of them.

    Raises ValidationError for unknown units, and for numbers that cannot be converted.
    """
    converter = UnitConverter(wanted)
    for row in rows:
        if isinstance(row["value"], float):
            target = converter.target(metric or row["metric"], row["unit"] or "")
            row["value"], row["unit"] = target.value(row["value"]), target.unit


def unit_converter(wanted: dict[str, Any]) -> UnitConverter | None:
    """Return the converter of a request, None without `unit`. Raises ValidationError for unknown units."""
    return UnitConverter(wanted["unit"]) if "unit" in wanted else None


def series_targets(
    converter: UnitConverter | None, series: Sequence[Series], empty: Iterable[int] = ()
) -> dict[int, UnitTarget]:
    """Return the target of each series by id; without a converter its own unit."""
    if converter is None:
        return {one.pk: UnitTarget(one.unit) for one in series}
    ids = set(empty)
    return {one.pk: converter.of_series(one, is_empty=one.pk in ids) for one in series}
