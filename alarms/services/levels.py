"""The levels of a rule: checked, with errors that say what to mend."""

from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from alarms.domain.rule_levels import InvalidLevels, parse_levels


def check_levels(kind: str, levels: Any) -> None:
    """Raise ValidationError where the levels are not valid for the kind of rule."""
    try:
        parse_levels(kind, levels)
    except InvalidLevels as error:
        text = _texts()[error.code] % error.parameters
        if error.index is not None:
            text = _("Level %(number)d: %(text)s") % {"number": error.index + 1, "text": text}
        raise ValidationError({"levels": text}) from error


def _texts() -> dict[str, str]:
    return {
        "count": _("A rule must have a list of 1 to %(most)d levels."),
        "object": _("it must be an object."),
        "unknown": _("'%(name)s' is not a known member. Members: %(known)s."),
        "required": _("'%(name)s' is missing."),
        "severity": _("'severity' must be one of %(known)s, not %(value)r."),
        "severity_twice": _("another level has the severity %(severity)s."),
        "direction": _("'direction' must be above or below, not %(value)r."),
        "directions": _("all levels of a rule must have the same 'direction'."),
        "number": _("'%(name)s' must be a number, not %(value)r."),
        "delay": _("'%(name)s' must be a whole number of seconds from 0 to %(most)d, not %(value)r."),
        "band": _("'%(name)s' must be a list of two numbers, the low and the high limit."),
        "band_order": _("the low limit of '%(name)s' must be less than the high one."),
        "clear": _("'clear' (%(clear)s) must lie on the safe side of 'raise' (%(limit)s)."),
        "order": _("the limit of %(severity)s must not be reached before that of %(milder)s."),
    }
