"""Units and their conversions from UCUM codes, computed by pint when metadata is saved."""

from collections.abc import Iterable
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from django.utils.translation import gettext as _

# Names of units in messages besides the symbol and the UCUM code, by UCUM code.
ALIASES: dict[str, tuple[str, ...]] = {
    "Cel": ("C", "c", "degC", "deg C", "℃", "Celsius", "celsius", "CELSIUS", "섭씨"),
    "[degF]": ("F", "f", "degF", "deg F", "℉", "Fahrenheit", "fahrenheit", "FAHRENHEIT", "화씨"),
    "K": ("Kelvin", "kelvin"),
    "%": ("percent", "pct", "%RH", "%rh", "퍼센트"),
    "[ppm]": ("PPM",),
    "[ppb]": ("PPB",),
    "Pa": ("pascal", "PA"),
    "hPa": ("hpa", "HPA"),
    "kPa": ("kpa", "KPA"),
    "mbar": ("mb",),
    "mm[Hg]": ("mmhg",),
    "[psi]": ("PSI",),
    "V": ("volt", "volts"),
    "A": ("ampere", "amp"),
    "W": ("watt", "watts"),
    "Ohm": ("ohm", "ohms"),
    "lx": ("lux", "Lux", "LUX"),
    "um": ("µm", "μm", "micron"),
    "ug/m3": ("ug/m3", "μg/m³", "µg/m3"),
    "umol/m2/s": ("umol/m2/s", "μmol/m²/s"),
    "uS/cm": ("uS/cm", "μS/cm"),
    "L": ("l", "liter", "litre"),
    "mL": ("ml",),
    "m/s": ("mps",),
    "km/h": ("kmh", "kph", "kmph"),
    "deg": ("degree", "degrees"),
    "[pH]": ("ph", "PH"),
    "s": ("sec", "seconds"),
}

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


@lru_cache(maxsize=512)
def parse(ucum: str) -> Any:
    """Return the pint unit of a UCUM code. Raises UnknownUnit."""
    try:
        if len(ucum) > _MAX_CODE_LENGTH:
            raise ValueError(ucum[:_MAX_CODE_LENGTH])
        return _registry().from_ucum(ucum).units
    except Exception as error:  # the grammar, the registry and pint raise errors of a dozen unrelated types
        raise UnknownUnit(_("%(code)s is not a UCUM code.") % {"code": repr(ucum)}) from error


@lru_cache(maxsize=4096)
def conversion(sent: str, kept: str) -> tuple[Fraction, Fraction]:
    """Return (factor, offset) so that kept = sent × factor + offset exactly, for two UCUM codes.

    Raises IncompatibleUnits if they measure different quantities, or if the conversion is not linear.
    """
    registry = _registry()
    try:
        at_0, at_1, at_100 = (
            Fraction(registry.Quantity(Fraction(x), parse(sent)).to(parse(kept)).magnitude) for x in (0, 1, 100)
        )
    except UnknownUnit as error:
        raise IncompatibleUnits(str(error)) from error
    except Exception as error:  # pint: DimensionalityError, OffsetUnitCalculusError, LogarithmicUnitCalculusError
        raise IncompatibleUnits(
            _("%(sent)s cannot be converted to %(kept)s.") % {"sent": sent, "kept": kept}
        ) from error
    factor = at_1 - at_0
    if at_100 - at_0 != 100 * factor:
        raise IncompatibleUnits(_("%(sent)s to %(kept)s is not linear.") % {"sent": sent, "kept": kept})
    if any(part.bit_length() > _MAX_BITS for number in (factor, at_0) for part in number.as_integer_ratio()):
        raise IncompatibleUnits(_("%(sent)s cannot be converted to %(kept)s.") % {"sent": sent, "kept": kept})
    return factor, at_0


def conversions(kept: str, named: Iterable[tuple[str, str]]) -> dict[str, tuple[Fraction, Fraction]]:
    """Return name → (factor, offset) to the UCUM code `kept`, for all names of units of the same quantity.

    `named` are (name, UCUM code), of which the first of a name counts; the usual names of units come after them.
    Ambiguous names are not guessed: a message with a name that is not here is rejected.
    """
    names: dict[str, str] = {}
    for name, ucum in [*named, *_usual_names()]:
        names.setdefault(name.strip(), ucum)
    found: dict[str, tuple[Fraction, Fraction] | None] = {}
    for ucum in names.values():
        if ucum not in found:
            found[ucum] = _conversion_or_none(ucum, kept)
    return {name: pair for name, ucum in names.items() if name and (pair := found[ucum]) is not None}


def _usual_names() -> Iterable[tuple[str, str]]:
    for ucum, names in ALIASES.items():
        for name in (ucum, *names):
            yield name, ucum


def _conversion_or_none(sent: str, kept: str) -> tuple[Fraction, Fraction] | None:
    try:
        return conversion(sent, kept)
    except IncompatibleUnits:
        return None
