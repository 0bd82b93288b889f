"""Numbers, switches and sentinels as devices and people write them in texts. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# The forms of a number that is sent as a text: none is taken, with a decimal point, with a decimal comma.
JSON, POINT, COMMA = "json", "point", "comma"
# What a sentinel means: no value, as null, or a refused one.
SKIP, REFUSE = "skip", "refuse"

# Of a number with its unit. Digits beyond this would take long to read, and no float has them.
_MAX_NUMBER_LENGTH = 64
# Sign, digits, exponent, and a unit that begins with a letter or sign.
_NUMBER = re.compile(
    r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)((?:[eE][+-]?[0-9]{1,4})?)(?![0-9.,])\s*([^\W\d_].*|[%°℃℉‰].*|)"
)
_TRUE_WORDS = ("on", "true", "1", "open", "yes", "y", "켜짐", "열림")
_FALSE_WORDS = ("off", "false", "0", "closed", "no", "n", "꺼짐", "닫힘")


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Values that stand for none: numbers are compared as numbers, texts without regard to case."""

    numbers: frozenset[float] = frozenset()
    texts: frozenset[str] = frozenset()

    def __contains__(self, value: object) -> bool:
        if isinstance(value, str):
            return value.strip().casefold() in self.texts or read_number(value, POINT) in self.numbers
        return not isinstance(value, bool) and isinstance(value, int | float) and value in self.numbers


def split_words(text: str) -> tuple[str, ...]:
    """Return the words of a list with commas between them."""
    return tuple(word for part in text.split(",") if (word := part.strip()))


def sentinels_of(text: str) -> Sentinels:
    """Return the sentinels of a list with commas: `-127, 85, N/A`."""
    words = split_words(text)
    numbers = frozenset(number for word in words if (number := read_number(word, POINT)) is not None)
    return Sentinels(numbers, frozenset(map(str.casefold, words)))


def boolean_words(true: str, false: str) -> Mapping[str, bool]:
    """Return word → value for lists of words with commas; the usual words where both lists are empty.

    A word is also found in other capitals, unless the lists distinguish two words by these: look up the word itself,
    then `word.casefold()`.
    """
    if not true and not false:
        return _USUAL_WORDS
    # The whole text too: a word may contain a comma.
    exact = dict.fromkeys((true, *split_words(true)), True) | dict.fromkeys((false, *split_words(false)), False)
    folded = {value: {word.casefold() for word, meant in exact.items() if meant is value} for value in (True, False)}
    ambiguous = folded[True] & folded[False]
    either = {word: value for value, words in folded.items() for word in words - ambiguous}
    return either | exact


_USUAL_WORDS = MappingProxyType(dict.fromkeys(_TRUE_WORDS, True) | dict.fromkeys(_FALSE_WORDS, False))


def read_number(text: str, number_format: str) -> float | None:
    """Return the number in the text; None if there is none, or something beside it."""
    found = split_number(text, number_format)
    return None if found is None or found[1] else found[0]


def split_number(text: str, number_format: str) -> tuple[float, str] | None:
    """Return (number, unit) of a text like `21.5 °C` in the form `POINT` or `COMMA`; None if it has no number.

    Whole numbers are integers, so that none is changed.
    """
    if len(text) > _MAX_NUMBER_LENGTH or number_format == JSON:
        return None
    written = text.strip().replace("\N{MINUS SIGN}", "-")
    if number_format == COMMA:
        # A point would separate thousands, so that 1.234 is not 1234 / 1000.
        written = "" if "." in written else written.replace(",", ".", 1)
    match = _NUMBER.fullmatch(written)
    if match is None:
        return None
    sign, digits, exponent, unit = match.groups()
    return (float if "." in digits or exponent else int)(f"{sign}{digits}{exponent}"), unit
