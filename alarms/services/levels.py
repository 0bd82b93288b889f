"""The levels of a rule: checked, with errors that say what to mend."""

from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from alarms.domain.rule_levels import InvalidLevels, parse_levels
from alarms.domain.silence import NO_DATA, parse_silence_levels
from tenants.infrastructure.error_values import shown

_VALUES = ("value", "clear", "limit")


def check_levels(kind: str, levels: Any) -> None:
    """Raise ValidationError where the levels are not valid for the kind of rule."""
    try:
        if kind == NO_DATA:
            parse_silence_levels(levels)
        else:
            parse_levels(kind, levels)
    except InvalidLevels as error:
        values = {name: shown(value) if name in _VALUES else value for name, value in error.parameters.items()}
        text = _texts()[error.code] % values
        if error.index is not None:
            text = _("Level %(number)d: %(text)s") % {"number": error.index + 1, "text": text}
        raise ValidationError({"levels": text}) from error


def _texts() -> dict[str, str]:
    return {
        "count": _("A rule must have a list of 1 to %(most)d levels."),
        "object": _("it must be an object."),
        "unknown": _("'%(name)s' is not a known member. Members: %(known)s."),
        "required": _("'%(name)s' is missing."),
        "severity": _("'severity' must be one of %(known)s, not %(value)s."),
        "severity_twice": _("another level has the severity %(severity)s."),
        "direction": _("'direction' must be above or below, not %(value)s."),
        "directions": _("all levels of a rule must have the same 'direction'."),
        "number": _("'%(name)s' must be a number, not %(value)s."),
        "range": _("'%(name)s' must be a number within the range of 64-bit floats, not %(value)s."),
        "exact": _("'%(name)s' must be a number that a 64-bit float represents exactly, not %(value)s."),
        "delay": _("'%(name)s' must be a whole number of seconds from %(least)d to %(most)d, not %(value)s."),
        "band": _("'%(name)s' must be a list of two numbers, the low and the high limit."),
        "band_order": _("the low limit of '%(name)s' must be less than the high one."),
        "clear": _("'clear' (%(clear)s) must lie on the safe side of 'raise' (%(limit)s)."),
        "order": _("the limit of %(severity)s must not be reached before that of %(milder)s."),
        "one_delay": _("give either 'raise_after_seconds' or 'raise_after_intervals'."),
        "intervals": _("'raise_after_intervals' must be a number from 1 to %(most)d, not %(value)s."),
        "delay_members": _("all levels of a rule must have the same member for their delay."),
        "delay_order": _("%(severity)s must have a longer delay than %(milder)s."),
    }
