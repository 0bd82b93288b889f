"""Cells that a spreadsheet program has changed: identifiers that became numbers, formulas or errors."""

import re

from django.utils.translation import gettext as _

_SHORTENED = re.compile(r"[+-]?[0-9](?:[.,][0-9]+)?[eE][+-][0-9]{1,3}")
_FRACTION = re.compile(r"[0-9]{4,}[.,]0+")
# A formula for a text, which keeps the zeros at its beginning.
_QUOTED = re.compile(r'=".*"', re.DOTALL)
_ERRORS = re.compile(r"#(?:N/A|NAME\?|REF!|VALUE!|NUM!|NULL!|DIV/0!|SPILL!|#+)", re.IGNORECASE)


def check_identifier(text: str) -> str:
    """Return the text of a serial, id or name. Raises ValueError where a spreadsheet program has damaged it."""
    found = repr(text[:80])
    if _SHORTENED.fullmatch(text):
        raise ValueError(
            _("%(found)s is a number that a spreadsheet program has shortened. Enter it again in a column of text.")
            % {"found": found}
        )
    if _FRACTION.fullmatch(text):
        raise ValueError(
            _("%(found)s is a number with a decimal sign. Enter it again without it, in a column of text.")
            % {"found": found}
        )
    if _QUOTED.fullmatch(text):
        raise ValueError(_("%(found)s is a formula. Enter the value itself, in a column of text.") % {"found": found})
    if _ERRORS.fullmatch(text):
        raise ValueError(_("%(found)s is an error of a spreadsheet program. Enter the value again.") % {"found": found})
    return text
