"""Units and their conversions, from UCUM codes, worked out by pint when metadata is saved."""

from functools import cache
from typing import Any

from django.utils.translation import gettext as _


class UnknownUnit(ValueError):
    """The code is not one that UCUM defines."""


class Incompatible(ValueError):
    """The two units do not measure the same thing."""


@cache
def _registry() -> Any:
    # Half a second to load: only where somebody edits metadata, never in the listener.
    import pint
    from ucumvert import PintUcumRegistry

    registry = PintUcumRegistry()
    registry.define("pH_value = [acidity]")  # UCUM has [pH]; pint's registry has no such unit
    pint.set_application_registry(registry)  # the one that UCUM codes are looked up in
    return registry


@cache
def parse(ucum: str) -> Any:
    """The pint unit of a UCUM code. Raises UnknownUnit."""
    try:
        return _registry().from_ucum(ucum).units
    except Exception as error:  # the grammar, the registry and pint raise errors of a dozen unrelated types
        raise UnknownUnit(_("%(code)s is not a UCUM code.") % {"code": repr(ucum)}) from error


def conversion(sent: str, kept: str) -> tuple[float, float]:
    """(factor, offset) so that kept = sent × factor + offset, for two UCUM codes.

    Raises Incompatible where they measure different quantities, or where the conversion is not linear.
    """
    registry = _registry()
    try:
        at_0, at_1, at_100 = (registry.Quantity(float(x), parse(sent)).to(parse(kept)).magnitude for x in (0, 1, 100))
    except UnknownUnit as error:
        raise Incompatible(str(error)) from error
    except Exception as error:  # pint: DimensionalityError, OffsetUnitCalculusError, LogarithmicUnitCalculusError
        raise Incompatible(_("%(sent)s cannot be converted to %(kept)s.") % {"sent": sent, "kept": kept}) from error
    factor = (at_100 - at_0) / 100
    if abs(at_1 - at_0 - factor) > 1e-9 * max(1.0, abs(factor)):
        raise Incompatible(_("%(sent)s to %(kept)s is not linear.") % {"sent": sent, "kept": kept})
    return factor, at_0
