"""Units and their conversions from UCUM codes, computed by pint when metadata is saved."""

from collections.abc import Iterable
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from django.utils.translation import gettext as _

from devices.domain import unit_spellings

# Codes are cached by their text.
_MAX_CODE_LENGTH = 100
# Numbers of a conversion are stored as decimal digits; of usual units they have less than 200 bits.
_MAX_BITS = 4096


class UnknownUnit(ValueError):
    """The code is not a UCUM code."""


class IncompatibleUnits(ValueError):
    """The two units do not measure the same quantity."""


@cache
def _registry() -> Any:
    # Takes half a second to load: only when metadata is edited, never in the listener.
    import pint
    from ucumvert import PintUcumRegistry

    registry = PintUcumRegistry(non_int_type=Fraction)  # exact: most units are rational multiples of each other
    registry.define("pH_value = [acidity]")  # UCUM has [pH]; pint's registry has no such unit
    pint.set_application_registry(registry)  # the registry in which UCUM codes are looked up
    return registry


def parse(ucum: str) -> Any:
    """Return the pint unit of a UCUM code, without its numeric factor, or of a usual spelling. Raises UnknownUnit."""
    return _parsed(unit_spellings.code_of(ucum) if len(ucum) <= _MAX_CODE_LENGTH else ucum)[1]


@lru_cache(maxsize=512)
def _parsed(code: str) -> tuple[Fraction, Any]:
    """Return (numeric factor, pint unit): of `60.s` 60 and the second. Raises UnknownUnit."""
    try:
        if len(code) > _MAX_CODE_LENGTH:
            raise ValueError(code[:_MAX_CODE_LENGTH])
        if unit_spellings.is_annotation(code) or code in unit_spellings.LEVELS:
            return Fraction(1), _registry().dimensionless
        quantity = _registry().from_ucum(unit_spellings.corrected(code))
        return Fraction(quantity.magnitude), quantity.units
    except Exception as error:  # the grammar, the registry and pint raise errors of a dozen unrelated types
        raise UnknownUnit(_("%(code)s is not a UCUM code.") % {"code": repr(code)}) from error


@lru_cache(maxsize=4096)
def conversion(sent: str, kept: str) -> tuple[Fraction, Fraction]:
    """Return (factor, offset) so that kept = sent × factor + offset exactly, for two UCUM codes.

    Raises IncompatibleUnits if they measure different quantities, or if the conversion is not linear.
    """
    found = _conversion(unit_spellings.code_of(sent), unit_spellings.code_of(kept))
    if found is None:
        raise IncompatibleUnits(_("%(sent)s cannot be converted to %(kept)s.") % {"sent": sent, "kept": kept})
    return found


@lru_cache(maxsize=4096)
def _conversion(sent: str, kept: str) -> tuple[Fraction, Fraction] | None:
    """Return the conversion, None where there is none."""
    levels = unit_spellings.LEVELS
    if sent == kept:
        return Fraction(1), Fraction(0)
    if sent in levels and kept in levels and levels[sent][0] == levels[kept][0]:
        return Fraction(1), Fraction(levels[sent][1] - levels[kept][1])
    # What is counted differs, and so do a level and a number.
    if any(unit_spellings.is_annotation(code) or code in levels for code in (sent, kept)):
        return None
    registry = _registry()
    try:
        (scale, one), (kept_scale, other) = _parsed(sent), _parsed(kept)
        # Without this, an angle would be a pure number, and a degree 17453 ppm.
        if registry.get_root_units(one)[1] != registry.get_root_units(other)[1]:
            return None
        at_0, at_1, at_100 = (
            Fraction(registry.Quantity(x * scale, one).to(other).magnitude) / kept_scale for x in (0, 1, 100)
        )
    # UnknownUnit; of pint: DimensionalityError, OffsetUnitCalculusError, LogarithmicUnitCalculusError
    except (ValueError, TypeError, ArithmeticError, AttributeError):
        return None
    factor = at_1 - at_0
    is_linear = at_100 - at_0 == 100 * factor
    is_short = all(part.bit_length() <= _MAX_BITS for number in (factor, at_0) for part in number.as_integer_ratio())
    return (factor, at_0) if is_linear and is_short else None


def conversions(kept: str, named: Iterable[tuple[str, str]]) -> dict[str, tuple[Fraction, Fraction]]:
    """Return name → (factor, offset) to the UCUM code `kept`, for all names of units of the same quantity.

    `named` are (name, UCUM code), of which the first of a name counts; the usual names of units come after them, and
    then the same names in other spellings (`unit_spellings.spelled`). Ambiguous names are not guessed: a message with a
    name that is not here is rejected.
    """
    target = unit_spellings.code_of(kept)
    found: dict[str, tuple[Fraction, Fraction]] = {}
    for name, ucum in unit_spellings.with_spellings([*named, *unit_spellings.usual_names()]).items():
        if (pair := _conversion(unit_spellings.code_of(ucum), target)) is not None:
            found[name] = pair
    return found
