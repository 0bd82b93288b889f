"""Names and spellings of units: of people and devices, UCUM codes that UCUM spells otherwise, and corrections. Pure."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

# Names of units in messages besides the symbol and the UCUM code, by UCUM code.
ALIASES: dict[str, tuple[str, ...]] = {
    "Cel": ("°C", "C", "c", "degC", "deg C", "Celsius", "celsius", "CELSIUS", "섭씨"),
    "[degF]": ("°F", "F", "f", "degF", "deg F", "Fahrenheit", "fahrenheit", "FAHRENHEIT", "화씨"),
    "K": ("Kelvin", "kelvin"),
    "%": ("percent", "pct", "%RH", "%rh", "RH%", "퍼센트"),
    "[ppm]": ("ppm", "PPM"),
    "[ppb]": ("ppb", "PPB"),
    "Pa": ("pascal", "PA", "pa"),
    "hPa": (),
    "kPa": (),
    "MPa": (),
    "cbar": (),
    "mbar": ("mb", "MBAR", "millibar"),
    "mm[Hg]": ("mmHg", "mmhg", "MMHG"),
    "[in_i'Hg]": ("inHg", "inhg", "inHG", "in Hg"),
    "[psi]": ("psi", "PSI"),
    "V": ("volt", "volts", "v"),
    "mV": ("mv",),
    "uV": (),
    "kV": (),
    "A": ("ampere", "amp", "amps", "a"),
    "mA": ("ma",),
    "uA": (),
    "A.h": ("Ah", "AH", "ah"),
    "mA.h": ("mAh", "mAH"),
    "W": ("watt", "watts", "w"),
    "kW": (),
    "MW": (),
    "J": ("joule", "joules"),
    "kJ": (),
    "MJ": (),
    "GJ": (),
    "W.h": ("Wh",),
    "kW.h": ("kWh", "KWh", "Kwh"),
    "MW.h": ("MWh",),
    "V.A": ("VA", "va"),
    "kV.A": ("kVA", "KVA"),
    "Ohm": ("Ω", "ohm", "ohms", "OHM"),
    "kOhm": ("kΩ",),
    "MOhm": ("MΩ",),
    "Hz": ("hertz",),
    "kHz": (),
    "MHz": (),
    "GHz": (),
    "lx": ("lux", "Lux", "LUX"),
    "W/m2": (),
    "MJ/m2": (),
    "W.h/m2": ("Wh/m2",),
    "um": ("micron",),
    "mm": (),
    "cm": (),
    "m": (),
    "km": (),
    "[in_i]": ("in", "inch", "inches"),
    "[ft_i]": ("ft", "feet"),
    "[yd_i]": ("yd",),
    "[mi_i]": ("mi", "mile", "miles"),
    "ng/m3": (),
    "ug/m3": ("ug/cbm",),
    "mg/m3": ("mg/cbm",),
    "g/m3": (),
    "kg/m3": (),
    "ug/L": ("ug/l",),
    "mg/L": ("mg/l",),
    "g/L": ("g/l",),
    "mmol/L": ("mmol/l",),
    "dS/m": (),
    "mS/m": (),
    "S/m": (),
    "mS/cm": (),
    "uS/cm": (),
    "ug": (),
    "mg": (),
    "g": ("gram", "grams"),
    "kg": ("kilogram", "kilograms"),
    "t": ("tonne", "tonnes"),
    "[lb_av]": ("lb", "lbs"),
    "[oz_av]": ("oz",),
    "umol/m2/s": ("umol/m2s", "umol/s/m2"),
    "L": ("l", "liter", "litre"),
    "mL": ("ml",),
    "m3": ("cbm",),
    "cm3": ("cc", "ccm"),
    "[gal_us]": ("gal", "gallon", "gallons"),
    "mL/min": ("ml/min",),
    "L/min": ("lpm", "LPM", "l/min"),
    "L/h": ("l/h", "lph"),
    "L/s": ("l/s",),
    "[gal_us]/min": ("gpm", "GPM"),
    "[cft_i]/min": ("cfm", "CFM"),
    "m3/h": ("m3/hr", "cbm/h"),
    "mm/h": ("mm/hr",),
    "[in_i]/h": ("in/h", "in/hr"),
    "cm/s": (),
    "[ft_i]/s": ("ft/s", "fps"),
    "m/s2": (),
    "deg/s": ("°/s", "dps"),
    "rad": ("radian", "radians"),
    "uT": (),
    "mT": (),
    "G": ("gauss",),
    "Bq/m3": (),
    "uSv/h": (),
    "{count}/min": ("cpm", "CPM"),
    "m/s": ("mps",),
    "km/h": ("kmh", "kph", "kmph", "km/hr"),
    "[mi_i]/h": ("mph", "MPH"),
    "[kn_i]": ("kn", "kt", "knots"),
    "deg": ("°", "degree", "degrees"),
    "{rev}/min": ("rpm", "RPM", "1/min"),
    "[pH]": ("pH", "ph", "PH"),
    "dB[mW]": ("dBm", "DBM", "dbm"),
    "dB[SPL]": ("dBA", "dB(A)", "dBSPL"),
    "[NTU]": ("NTU",),
    "us": (),
    "ms": (),
    "s": ("sec", "secs", "seconds"),
    "min": ("mins", "minutes", "MIN"),
    "h": ("hr", "hrs", "hours"),
    "d": ("day", "days"),
}

# Levels in decibels: the quantity, and the reference in decibels above its unit. UCUM has no dB[mW].
LEVELS: dict[str, tuple[str, int]] = {
    "dB[W]": ("power", 0), "dB[kW]": ("power", 30), "dB[mW]": ("power", -30),
    "dB[V]": ("voltage", 0), "dB[mV]": ("voltage", -60), "dB[uV]": ("voltage", -120),
    "dB[SPL]": ("sound", 0), "dB": ("ratio", 0),
}  # fmt: skip

# UCUM atoms that the library takes for another unit, as UCUM defines them.
_CORRECTIONS = {
    "[in_i'Hg]": "(m[Hg].[in_i]/m)", "[in_i'H2O]": "(m[H2O].[in_i]/m)", "[cft_i]": "([ft_i].[ft_i].[ft_i])",
    "[cyd_i]": "([yd_i].[yd_i].[yd_i])", "[Cal]": "kcal_th", "[Btu]": "[Btu_th]",
}  # fmt: skip
_GAUSS = re.compile(r"(?<![A-Za-z\[_])([numkM]?)G(?![A-Za-z0-9\[])")
_ANGLES = {"'": "(deg/60)", "''": "(deg/3600)"}
# Atoms that are refused, because the library takes them for another unit, and no sensor reports in them.
_REFUSED = re.compile(r"(?<![A-Za-z\[])[a-zA-Z]?(?:Mx|Oe|Gb|g%)(?![a-zA-Z])|\[didot\]|\[cicero\]|\[rd_br\]|\[LPF\]")
_ANNOTATION = re.compile(r"\{[!-z|~]{1,48}\}")
# Characters that mean the same, before and after compatibility composition.
_SIGNS = str.maketrans(
    {"º": "°", "˚": "°", "∘": "°", "℃": "°C", "℉": "°F", "·": ".", "⋅": ".", "•": ".", "∙": ".", "×": "."}
)
_COMPOSED = str.maketrans(
    {"μ": "u", "Ω": "Ω", "^": None, " ": None, "\N{NO-BREAK SPACE}": None, "\N{FRACTION SLASH}": "/"}
)
# A capital or small one of these at the beginning changes the meaning: mW and MW.
_PREFIXES = frozenset("mMpP")


def is_annotation(code: str) -> bool:
    """Return whether the code is an annotation alone, such as {pulse}: it counts something, and is the unit 1."""
    return _ANNOTATION.fullmatch(code) is not None


def code_of(text: str) -> str:
    """Return the UCUM code of a usual spelling (dBm, μg/m³, kWh); any other text as it is."""
    if is_annotation(text) or "10^" in text or "^(" in text:
        return text
    code = spelled(text)
    return _codes().get(code, code)


def corrected(code: str) -> str:
    """Return the code with the atoms replaced that the library takes for another unit. Raises ValueError."""
    if _REFUSED.search(code):
        raise ValueError(code)
    if code in _ANGLES:
        return _ANGLES[code]
    for atom, meant in _CORRECTIONS.items():
        code = code.replace(atom, meant)
    return _GAUSS.sub(r"(10*-4.\1T)", code)


def usual_code(name: str) -> str:
    """Return the UCUM code that a message means by a usual name: Cel by C, of which UCUM makes a coulomb."""
    names = _usual_codes()
    return names.get(name) or names.get(spelled(name)) or code_of(name)


def spelled(name: str) -> str:
    """Return the name in the one spelling of all that differ in signs only: μg/m³, µg/m^3 and ug/m3."""
    return unicodedata.normalize("NFKC", name.translate(_SIGNS)).translate(_COMPOSED)


def usual_names() -> list[tuple[str, str]]:
    """Return (name, UCUM code) of the usual names of units."""
    return [(name, ucum) for ucum, names in ALIASES.items() for name in (ucum, *names)]


def with_spellings(named: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return name → UCUM code, with the names' other spellings and capitals where they are not ambiguous."""
    names: dict[str, str] = {}
    for name, ucum in named:
        if name.strip():
            names.setdefault(name.strip(), ucum)
    names |= _unambiguous(((spelled(name), ucum) for name, ucum in names.items()), names)
    return names | _unambiguous((pair for name, ucum in names.items() for pair in _capitals(name, ucum)), names)


def _unambiguous(pairs: Iterable[tuple[str, str]], names: dict[str, str]) -> dict[str, str]:
    """Return the pairs whose name is new, and means one unit."""
    found: dict[str, set[str]] = {}
    for name, ucum in pairs:
        if name and name not in names:
            found.setdefault(name, set()).add(code_of(ucum))
    return {name: codes.pop() for name, codes in found.items() if len(codes) == 1}


def _capitals(name: str, ucum: str) -> Iterable[tuple[str, str]]:
    if len(name) > 1 and name.isascii() and name[0] not in _PREFIXES and "[" not in name and "{" not in name:
        yield name.upper(), ucum
        yield name.lower(), ucum


@cache
def _usual_codes() -> dict[str, str]:
    return with_spellings(usual_names())


@cache
def _codes() -> dict[str, str]:
    """Return spelling → UCUM code of the usual names that are not UCUM codes themselves."""
    listed: dict[str, str] = {spelled(ucum): ucum for ucum in ALIASES}
    for ucum, names in ALIASES.items():
        for name in names:
            listed.setdefault(spelled(name), ucum)
    return {name: ucum for name, ucum in listed.items() if name not in _UCUM_CODES}


# Usual names that are UCUM codes of another unit: coulomb, farad, petaampere, year, femtotonne, picohenry, phot.
_UCUM_CODES = frozenset({"C", "F", "PA", "a", "ft", "kt", "pH", "ph", "PH"})
