"""Linear conversions of numbers, computed exactly and rounded once. Pure."""

from bisect import bisect
from fractions import Fraction
from typing import Any

# Numbers of most sensors have at most so many decimals.
_USUAL_SCALE = 10**6
# Up to this number of digits, a decimal is the only one of its length that is read as the same float.
_DIGITS = 15
_LEAST_DECIMAL = 10**_DIGITS
# The least number of each magnitude, and the power of ten that makes it a whole number of 15 digits, as float and
# integer; 0 below and above.
_EXPONENTS = range(-7, _DIGITS)
_MAGNITUDES = [float(f"1e{exponent}") for exponent in (*_EXPONENTS, _DIGITS)]
_POWERS = [10 ** (_DIGITS - 1 - exponent) for exponent in _EXPONENTS]
_SCALES = [(0.0, 0), *((float(power), power) for power in _POWERS), (0.0, 0)]
# A float's fraction with a smaller denominator that is the same float is what was meant: 0.5555555555555556 is 5/9.
_LARGEST_DENOMINATOR = 10**6


class Conversion:
    """stored = (sent × numerator + offset) / denominator, in whole numbers.

    The result is the float nearest to the exact value. A number of at most 15 digits is the decimal that was written,
    any other one the float that it was read as.
    """

    __slots__ = ("_usual_denominator", "_usual_offset", "denominator", "numerator", "offset")

    def __init__(self, factor: Fraction, offset: Fraction) -> None:
        self.denominator = factor.denominator * offset.denominator
        self.numerator = factor.numerator * offset.denominator
        self.offset = offset.numerator * factor.denominator
        self._usual_offset = self.offset * _USUAL_SCALE
        self._usual_denominator = self.denominator * _USUAL_SCALE

    def apply(self, sent: float) -> float:
        """Return the stored value of a finite number. Raises OverflowError where it does not fit a float."""
        if sent.__class__ is int:
            return (sent * self.numerator + self.offset) / self.denominator  # integers divide with one rounding
        try:
            digits = round(sent * _USUAL_SCALE)
        except OverflowError:
            return self._apply_unusual(sent)
        if digits / _USUAL_SCALE == sent and -_LEAST_DECIMAL < digits < _LEAST_DECIMAL:
            return (digits * self.numerator + self._usual_offset) / self._usual_denominator
        return self._apply_unusual(sent)

    def _apply_unusual(self, sent: float) -> float:
        scale, divisor = _SCALES[bisect(_MAGNITUDES, abs(sent))]
        if not divisor:
            digits, divisor = _ratio(sent)
        elif (digits := round(sent * scale)) / divisor != sent:
            digits, divisor = sent.as_integer_ratio()
        return (digits * self.numerator + self.offset * divisor) / (self.denominator * divisor)


def conversion_of(factor: float | Fraction | str, offset: float | Fraction | str) -> Conversion | None:
    """Return the conversion by this factor and offset, None for the one that changes nothing."""
    exact = rational(factor), rational(offset)
    return None if exact == (1, 0) else Conversion(*exact)


def rational(value: Any) -> Fraction:
    """Return a stored factor or offset as a fraction: a text like 5/9 or 0.1, a number, or a fraction."""
    if not isinstance(value, float):
        return Fraction(value)
    simple = Fraction(value).limit_denominator(_LARGEST_DENOMINATOR)
    return simple if float(simple) == value else Fraction(repr(value))


def _ratio(sent: float) -> tuple[int, int]:
    """Return (numerator, denominator) of a number outside the table's magnitudes."""
    text = f"{sent:.{_DIGITS}g}"
    return Fraction(text).as_integer_ratio() if float(text) == sent else sent.as_integer_ratio()
