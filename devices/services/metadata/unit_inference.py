"""Inference of a metric's key and unit from a value's name, in the words of sensors, English and Korean. Pure.

The result is a proposal for a person: a name gives a unit only where it states one, or where its last word is a
quantity with a usual unit and the value fits that unit. Otherwise there is no unit, rather than a wrong one.
"""

import re
from typing import NamedTuple

from devices.domain.paths import Path, array_index

from .unit_names import (
    AFTER,
    AFTER_CURRENT,
    BEFORE_CURRENT,
    COMPOUND,
    JOINED,
    KOREAN,
    LETTERS,
    NEUTRAL,
    OTHER_MEANING,
    PARTICLE_QUALIFIERS,
    QUALIFIERS,
    QUANTITIES,
    SPELLED_UNITS,
    Quantity,
    SpelledUnit,
)


class InferredMetric(NamedTuple):
    """A key for the metric, and the symbol of the unit that the device sends ("" for none)."""

    key: str
    unit: str


class _Meaning(NamedTuple):
    """A name's words, its quantity (None: unknown), and the unit that it spells; `usual`: the usual unit counts."""

    words: list[str]
    quantity: Quantity | None = None
    head: int = -1  # the index of the quantity's word
    spelled: SpelledUnit | None = None
    usual: bool = False


_PARTS = re.compile(r"[A-Z]+(?![a-zµμ])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_A-Za-z]+|[℃℉%]")
_PARTICLES = re.compile(r"pm_?(?:2[._]?5|10(?:_0)?|1(?:_0)?|4(?:_0)?)(?![0-9])", re.IGNORECASE)
# A unit with capitals of its own after small letters, as in batterymV.
_CAMEL_UNIT = re.compile(r"(?<=[a-z])(mV|mA|kWh|kW|hPa|kPa|mmHg|inHg|dBm|mm|Hz|Wh)$")
# Names of weather stations without any separator: tempinf, windspeedmph.
_STATION = re.compile(r"(.*?(?:temp|dewpt|dewpoint|windchill|heatindex|feelslike))(in|out)?([fc])")
# Their pressure and rain are in inches: baromrelin, dailyrainin.
_INCHES = re.compile(r"(barom)(rel|abs)?in|((?:daily|hourly|weekly|monthly|yearly|total|event)?)(rain)in")
_WIND = re.compile(r"(wind[a-z]*?)(mph|kmh|kph)")
_PLACE = re.compile(r"(temperature|temp|humidity|baro)(indoor|outdoor|inside|outside|in|out)")
_QUANTITY_END = re.compile(r"([a-z]{2,}?)(temperature|temp|humidity|voltage|moisture|pressure|illuminance)")
_HANGUL = re.compile(r"[가-힣]+")
_NO_KEY = re.compile(r"[^a-z0-9]+")
_KEY_LENGTH = 63


def infer_metric(path: Path, value: object) -> InferredMetric:
    """Return the metric that the name of a value at the path suggests. Only a number has a unit."""
    named = _names(path)
    meaning = _meaning(named)
    unit = _unit(meaning, value) if isinstance(value, int | float) and not isinstance(value, bool) else ""
    return InferredMetric(_with_index(_key(named, meaning), path), unit)


def usual_unit(path: Path) -> str:
    """Return the unit that is usual for values of this name, whatever they are; "" if there is none."""
    meaning = _meaning(_names(path))
    if meaning.spelled:
        return _unit(meaning, 0)
    return meaning.quantity.rules[0].unit if meaning.quantity and meaning.quantity.rules and meaning.usual else ""


def quantities(path: Path) -> tuple[str, ...] | None:
    """Return the quantities that a value of this name can have: () if it is unknown, None if the name says nothing."""
    named = _names(path)
    if all(_is_neutral(_words(name)) for name in named):
        return None
    meaning = _meaning(named)
    return meaning.quantity.quantities if meaning.quantity and meaning.usual else ()


def _names(path: Path) -> list[str]:
    return [token for token in path if array_index(token) is None] or list(path)


def _meaning(named: list[str]) -> _Meaning:
    """Return the meaning of the last name; of the one above it where the last says nothing, or only a unit."""
    spelled: SpelledUnit | None = None
    for depth, name in enumerate(reversed(named)):
        words = _words(name)
        if not depth and len(words) == 1 and words[0] in AFTER and len(named) > 1:
            words = [*_words(named[-2]), *words]  # {"wind": {"deg": 210}}
        if spelled is None and len(words) == 1 and words[0] in SPELLED_UNITS and words[0] not in QUANTITIES:
            spelled = SPELLED_UNITS[words[0]]
            continue
        if words and _is_neutral(words) and depth + 1 < len(named):
            continue
        meaning = _read(words)
        if depth and meaning.words == ["current"]:
            return _Meaning(words)  # what contains values is called so for the time, not for amperes
        if spelled and (spelled.sure or not _is_neutral(_words(named[-1])) or _allows(meaning.quantity, spelled)):
            return meaning._replace(spelled=spelled)
        return meaning
    return _Meaning(_words(named[-1]), spelled=spelled)


def _is_neutral(words: list[str]) -> bool:
    return all(word in NEUTRAL or word in ("avg", "mean", "min", "max") for word in words)


def _read(words: list[str]) -> _Meaning:
    """Return the meaning of a name's words, from the last one back to the quantity."""
    spelled: SpelledUnit | None = None
    for index in range(len(words) - 1, -1, -1):
        word, before, after = words[index], words[:index], words[index + 1 :]
        quantity = _quantity(word, before, after)
        if quantity is not None:
            return _Meaning(words, quantity, index, spelled, _is_usual(quantity, word, before, after))
        unit = SPELLED_UNITS.get(word)
        if unit is not None and spelled is None:
            spelled = unit
        elif not (word.isdigit() or word in QUALIFIERS or word in PARTICLE_QUALIFIERS or word == "level"):
            break
    if words[:1] == ["t"] and words[-1] in ("c", "f"):
        return _Meaning(words, QUANTITIES["temperature"], 0, spelled, True)
    return _Meaning(words, spelled=spelled)


def _quantity(word: str, before: list[str], after: list[str]) -> Quantity | None:
    if word in AFTER and AFTER[word][1] & set(before):
        return AFTER[word][0]
    if word == "current" and any(not _follows_current(word) for word in after):
        return None  # an adjective
    # The place of a measurement can also come last: voltage_battery.
    quantity = QUANTITIES.get(word)
    if word == "level" and before and before[-1] in QUANTITIES and before[-1] != "water":
        return None
    return quantity


def _follows_current(word: str) -> bool:
    return word.isdigit() or word in AFTER_CURRENT or word in SPELLED_UNITS


def _is_usual(quantity: Quantity, word: str, before: list[str], after: list[str]) -> bool:
    """Return whether the words around a quantity leave it its usual meaning."""
    others = set(before)
    if others & OTHER_MEANING or others & quantity.unlike:
        return False
    if quantity.place and any(_is_strict(other) for other in before):
        return False
    if word == "current" and not all(other in BEFORE_CURRENT or other.isdigit() for other in before):
        return False
    if "level" in after and quantity.key not in ("battery", "noise"):
        return False
    # Inches of mercury, or indoors?
    if quantity.key == "pressure" and "in" in after:
        return False
    return word.startswith("pm") or not PARTICLE_QUALIFIERS & set(after)


def _is_strict(word: str) -> bool:
    return word in QUANTITIES and not QUANTITIES[word].place


def _unit(meaning: _Meaning, value: float) -> str:
    words, quantity, spelled = meaning.words, meaning.quantity, meaning.spelled
    if COMPOUND & set(words) and not (spelled and spelled.symbol == "%"):
        return ""
    if spelled is not None:
        if spelled.sure or _allows(quantity, spelled):
            return spelled.symbol
        # A letter is the name of a phase or a probe, where the quantity has another unit.
        if not LETTERS & set(words[meaning.head + 1 :]):
            return ""
    if quantity is None or not meaning.usual:
        return ""
    return next((rule.unit for rule in quantity.rules if _fits(value, rule.low, rule.high, rule.whole)), "")


def _allows(quantity: Quantity | None, spelled: SpelledUnit) -> bool:
    return quantity is not None and spelled.quantity in quantity.quantities


def _fits(value: float, low: float, high: float, whole: bool | None) -> bool:
    return low <= value <= high and (whole is None or (float(value).is_integer() is whole))


def _words(name: str) -> list[str]:
    """Return the words of a name in small letters, joined where they are one, and Korean ones in English."""
    joined = _PARTICLES.sub(lambda match: _particle(match[0]), name)
    joined = _CAMEL_UNIT.sub(r"_\1", joined)
    if name.lower() in SPELLED_UNITS:  # mV is neither m nor V
        return [name.lower()]
    words: list[str] = []
    for part in map(str.lower, _PARTS.findall(joined)):
        if part.isdigit() and words and words[-1] + part in (*QUANTITIES, "m3", "m2"):
            words[-1] += part  # co2 and m3 are one word
        else:
            words.extend(_hangul_words(part) if _HANGUL.fullmatch(part) else _split(part))
    return _join(words)


def _particle(text: str) -> str:
    digits = re.sub(r"[^0-9]", "", text)
    return "pm" + {"100": "10", "40": "4", "10": "10" if "_0" not in text else "1"}.get(digits, digits) + "_"


def _split(word: str) -> list[str]:
    """Return the words in a word without separators, such as curflowtemp."""
    if word in QUANTITIES or word in SPELLED_UNITS:
        return [word]
    if word == "%":
        return ["percent"]
    if match := _INCHES.fullmatch(word):
        return [*filter(None, match.groups()), "inhg" if match[1] else "inch"]
    for pattern in (_STATION, _WIND, _PLACE, _QUANTITY_END):
        if match := pattern.fullmatch(word):
            return [
                part
                for group in match.groups()
                if group
                for part in ([group] if group in QUALIFIERS else _split(group))
            ]
    return [word]


def _split_part(part: str) -> list[str]:
    return [part] if part in QUALIFIERS else _split(part)


def _hangul_words(text: str) -> list[str]:
    """Return the words of a Korean compound, from its end: each the longest that is known."""
    words: list[str] = []
    while text:
        known = next((text[start:] for start in range(len(text)) if text[start:] in KOREAN), "")
        if not known:
            return [text, *words]
        words.insert(0, KOREAN[known])
        text = text[: -len(known)]
    return words


def _join(words: list[str]) -> list[str]:
    joined: list[str] = []
    index = 0
    while index < len(words):
        for several, one in JOINED:
            if tuple(words[index : index + len(several)]) == several:
                joined.append(one)
                index += len(several)
                break
        else:
            joined.append(words[index])
            index += 1
    return joined


def _key(named: list[str], meaning: _Meaning) -> str:
    """Return the quantity's key where the name has no other words; the name's own words otherwise."""
    quantity, words = meaning.quantity, meaning.words
    if quantity and meaning.usual:
        minor = QUALIFIERS if _HANGUL.search(named[-1]) else NEUTRAL
        others = [w for index, w in enumerate(words) if index != meaning.head and w not in minor and not _is_minor(w)]
        if not others:
            return quantity.key or words[meaning.head]
        return _slug("_".join(word for word in words if word not in SPELLED_UNITS and not _HANGUL.fullmatch(word)))
    telling = [name for name in named if not _is_neutral(_words(name)) and name.lower() not in SPELLED_UNITS] or named
    return _slug("_".join(_words(telling[-1])))


def _is_minor(word: str) -> bool:
    return word.isdigit() or word in SPELLED_UNITS or _HANGUL.fullmatch(word) is not None or word == "t"


def _slug(text: str) -> str:
    return _NO_KEY.sub("_", text.lower()).strip("_")[:_KEY_LENGTH] or "value"


def _with_index(key: str, path: Path) -> str:
    """Append the number of an array's item, counted from 1."""
    index = next((array_index(token) for token in reversed(path) if array_index(token) is not None), None)
    return key if index is None else f"{key[: _KEY_LENGTH - 4]}_{index + 1}"[:_KEY_LENGTH]
