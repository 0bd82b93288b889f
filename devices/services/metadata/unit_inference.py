"""Inference of a metric's key and unit from a value's name, in the words of sensors, English and Korean. Pure.

The result is a proposal for a person; a name without meaning gives none.
"""

import re
from typing import NamedTuple

from devices.domain.paths import Path, array_index


class InferredMetric(NamedTuple):
    """A key for the metric, and the symbol of the unit that the device sends ("" for none)."""

    key: str
    unit: str


class _Word(NamedTuple):
    key: str
    unit: str


# Units as a part of the name.
_UNITS = {
    "celsius": "°C", "degc": "°C", "fahrenheit": "°F", "degf": "°F", "kelvin": "K", "percent": "%", "pct": "%",
    "ppm": "ppm", "ppb": "ppb", "pa": "Pa", "hpa": "hPa", "kpa": "kPa", "mbar": "mbar", "bar": "bar", "psi": "psi",
    "mmhg": "mmHg", "mv": "mV", "ma": "mA", "kw": "kW", "wh": "Wh", "kwh": "kWh", "hz": "Hz", "ohm": "Ω", "lx": "lx",
    "mm": "mm", "cm": "cm", "kmh": "km/h", "kg": "kg", "ml": "mL", "lpm": "L/min", "db": "dB",
}  # fmt: skip
# Units as a last letter after other words, as in temp_f.
_LETTERS = {"c": "°C", "f": "°F", "k": "K", "v": "V", "a": "A", "w": "W"}
_WORDS = {
    **dict.fromkeys(("temp", "temperature", "tmp"), _Word("temperature", "°C")),
    **dict.fromkeys(("dewpoint",), _Word("dewpoint", "°C")),
    **dict.fromkeys(("hum", "humi", "humid", "humidity", "rh"), _Word("humidity", "%")),
    **dict.fromkeys(("moisture", "soil", "vwc"), _Word("moisture", "%")),
    **dict.fromkeys(("co2", "eco2"), _Word("co2", "ppm")),
    **dict.fromkeys(("tvoc", "voc"), _Word("tvoc", "ppb")),
    **dict.fromkeys(("lux", "illuminance", "light", "brightness"), _Word("illuminance", "lx")),
    **dict.fromkeys(("par", "ppfd"), _Word("ppfd", "µmol/m²/s")),
    **dict.fromkeys(("radiation", "irradiance", "solar"), _Word("irradiance", "W/m²")),
    **dict.fromkeys(("pressure", "press", "baro", "barometer"), _Word("pressure", "hPa")),
    **dict.fromkeys(("voltage", "volt", "volts", "vcc"), _Word("voltage", "V")),
    **dict.fromkeys(("current", "amps", "ampere"), _Word("current", "A")),
    **dict.fromkeys(("power", "watt", "watts"), _Word("power", "W")),
    **dict.fromkeys(("energy",), _Word("energy", "kWh")),
    **dict.fromkeys(("frequency", "freq"), _Word("frequency", "Hz")),
    **dict.fromkeys(("ph",), _Word("ph", "pH")),
    **dict.fromkeys(("ec", "conductivity"), _Word("ec", "mS/cm")),
    **dict.fromkeys(("pm1", "pm10", "pm25"), _Word("", "µg/m³")),
    **dict.fromkeys(("noise", "sound", "spl"), _Word("noise", "dB")),
    **dict.fromkeys(("wind", "windspeed"), _Word("wind_speed", "m/s")),
    **dict.fromkeys(("weight",), _Word("weight", "kg")),
    **dict.fromkeys(("flow",), _Word("flow", "L/min")),
    **dict.fromkeys(("distance",), _Word("distance", "cm")),
    **dict.fromkeys(("rain", "rainfall"), _Word("rainfall", "mm")),
    **dict.fromkeys(("battery", "batt", "soc"), _Word("battery", "%")),
}
# Longer words first: 토양수분 is not 수분.
_KOREAN = {
    "토양수분": _Word("moisture", "%"),
    "이산화탄소": _Word("co2", "ppm"),
    "초미세먼지": _Word("pm25", "µg/m³"),
    "미세먼지": _Word("pm10", "µg/m³"),
    "전기전도도": _Word("ec", "mS/cm"),
    "전도도": _Word("ec", "mS/cm"),
    "일사량": _Word("irradiance", "W/m²"),
    "배터리": _Word("battery", "%"),
    "강수량": _Word("rainfall", "mm"),
    "전력량": _Word("energy", "kWh"),
    "온도": _Word("temperature", "°C"),
    "습도": _Word("humidity", "%"),
    "수분": _Word("moisture", "%"),
    "조도": _Word("illuminance", "lx"),
    "기압": _Word("pressure", "hPa"),
    "압력": _Word("pressure", "hPa"),
    "전압": _Word("voltage", "V"),
    "전류": _Word("current", "A"),
    "전력": _Word("power", "W"),
    "주파수": _Word("frequency", "Hz"),
    "산도": _Word("ph", "pH"),
    "소음": _Word("noise", "dB"),
    "풍속": _Word("wind_speed", "m/s"),
    "무게": _Word("weight", "kg"),
    "유량": _Word("flow", "L/min"),
    "거리": _Word("distance", "cm"),
    "수위": _Word("level", "cm"),
}

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_A-Za-z]+")
_PARTICLES = re.compile(r"pm_?(?:2[._]?5|10|1)(?![0-9])", re.IGNORECASE)
_NO_KEY = re.compile(r"[^a-z0-9]+")
# Names without meaning: their parent's name is used.
_SAY_NOTHING = frozenset({"value", "val", "v", "data", "reading", "raw", "state", "status"})
_KEY_LENGTH = 63
# A value beyond these bounds is not in the usual unit of its name.
_HIGHEST_HPA = 2000.0
_LEAST_LIKELY = {"%": (0.0, 100.0)}


def infer_metric(path: Path, value: object) -> InferredMetric:
    """Return the metric that the name of a value at the path suggests. Only a number has a unit."""
    named = [token for token in path if array_index(token) is None] or list(path)
    words = _words(named[-1])
    known_word = next((word for word in map(_known_word, (named[-1], *reversed(named[:-1]))) if word), None)
    unit = _unit(words, known_word, value) if isinstance(value, int | float) and not isinstance(value, bool) else ""
    key = known_word.key if known_word and _known_word(named[-1]) else ""
    return InferredMetric(_with_index(key or _slug(named), path), unit)


def _words(name: str) -> list[str]:
    if name.lower() in _UNITS:  # mV is neither m nor V
        return [name.lower()]
    joined = _PARTICLES.sub(lambda match: "pm" + re.sub(r"[^0-9]", "", match[0]), name)
    parts = [part.lower() for part in _PARTS.findall(joined)]
    # co2, pm25 and their like are one word.
    words: list[str] = []
    for part in parts:
        if part.isdigit() and words and words[-1] + part in _WORDS:
            words[-1] += part
        else:
            words.append(part)
    return words


def _known_word(name: str) -> _Word | None:
    for korean, word in _KOREAN.items():
        if korean in name:
            return word
    words = _words(name)
    for known in words:
        if known in _WORDS:
            word = _WORDS[known]
            return word if word.key else _Word(known, word.unit)
    return None


def _unit(words: list[str], known_word: _Word | None, value: float) -> str:
    named = next((_UNITS[word] for word in reversed(words) if word in _UNITS), "")
    if not named and len(words) > 1 and known_word:
        named = _LETTERS.get(words[-1], "")
    if named:
        return named
    unit = known_word.unit if known_word else ""
    if unit == "hPa" and value > _HIGHEST_HPA:
        return "Pa"
    low, high = _LEAST_LIKELY.get(unit, (value, value))
    return unit if low <= value <= high else ""


def _slug(named: list[str]) -> str:
    """Return a key from the last meaningful names."""
    telling = [token for token in named if token.lower() not in _SAY_NOTHING and token.lower() not in _UNITS] or named
    slug = _NO_KEY.sub("_", "_".join(_words(telling[-1])).lower()).strip("_")
    return slug[:_KEY_LENGTH] or "value"


def _with_index(key: str, path: Path) -> str:
    """Append the number of an array's item, counted from 1."""
    index = next((array_index(token) for token in reversed(path) if array_index(token) is not None), None)
    return key if index is None else f"{key[: _KEY_LENGTH - 4]}_{index + 1}"[:_KEY_LENGTH]
