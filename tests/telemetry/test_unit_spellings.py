"""Units as people and devices spell them, and UCUM codes compared with UCUM's own definitions."""

import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import ucumvert
from hypothesis import given
from hypothesis import strategies as st

from devices.domain import unit_spellings, units
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import IGNORE, ComponentSpec
from devices.services.metadata.unit_catalogue import UNITS
from telemetry.services.pipeline.normalization import normalize
from telemetry.services.pipeline.results import Refusal

CATALOGUE = [(symbol, ucum) for symbol, _, _, ucum in UNITS]
ESSENCE = Path(ucumvert.__file__).parent / "vendor" / "ucum-essence.xml"
# Units whose definition of the library differs in the fifth digit or less, or that have a dimension of their own.
TOLERATED = {"mol", "Bq", "bit", "Bd", "[in_br]", "[ch_br]", "cal_[15]", "m[Hg]", "'", "''"}


def _named(raw: float, unit: object, kept: str) -> float:
    """Return the stored value of a number whose unit the message names, in the UCUM code `kept`."""
    conversions = tuple((name, *pair) for name, pair in units.conversions(kept, CATALOGUE).items())
    metric = MetricSpec("m", ("v",), "number", kept, unit_path=("u",), conversions=conversions)
    component = ComponentSpec("x", "x", attached=True, allowed=True, metrics=(metric,), unmapped=IGNORE)
    [measured] = normalize({"v": raw, "u": unit}, component).measurements
    assert isinstance(measured.value, float)
    return measured.value


@pytest.mark.parametrize(
    ("raw", "unit", "kept", "expected"),
    [
        (12, "mg/m3", "ug/m3", 12000.0), (12, "mg/m³", "ug/m3", 12000.0), (12, "ug/m3", "ug/m3", 12.0),
        (12, "μg/m³", "ug/m3", 12.0), (12, "µg/m³", "ug/m3", 12.0), (12, "ug/m³", "ug/m3", 12.0),
        (12, "ug/m^3", "ug/m3", 12.0), (12, "µg / m3", "ug/m3", 12.0), (2, "KWH", "kW.h", 2.0),
        (2, "kwh", "W.h", 2000.0), (2, "KWh", "kW.h", 2.0), (2, "wh", "W.h", 2.0), (2, "kW·h", "kW.h", 2.0),
        (21, "ºC", "Cel", 21.0), (21, "˚C", "Cel", 21.0), (21, "℃", "Cel", 21.0), (21, "° C", "Cel", 21.0),
        (32, "ºF", "Cel", 0.0), (294.15, "kelvin", "Cel", 21.0), (1013, "HPA", "hPa", 1013.0),
        (1013, "mBar", "hPa", None), (1013, "MBAR", "hPa", 1013.0), (5, "kΩ", "Ohm", 5000.0), (5, "m²", "ug/m3", None),
        (3, "MV", "V", None), (3, "mv", "V", 0.003), (3, "MW", "W", 3000000.0), (3, "mw", "W", None),
        (3, "m/s^2", "m/s2", 3.0), (3, "m/s²", "m/s2", 3.0), (-70, "dbm", "dB[mW]", -70.0),
        (-70, "dBm", "dB[W]", -100.0),
        (60, "RPM", "Hz", 1.0), (1, "°", "[ppm]", None), (1, "deg", "%", None), (100, "cfm", "m3/h", 169.9010796),
        (1, "ML", "L", None),
    ],
)  # fmt: skip
def test_units_that_messages_name(raw: float, unit: str, kept: str, expected: float | None) -> None:
    if expected is None:
        with pytest.raises(Refusal, match="unit_mismatch"):
            _named(raw, unit, kept)
    else:
        assert _named(raw, unit, kept) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("unit", ["", " ", "x" * 10_000, "°" * 10_000, "\x00", 5, [], True])
def test_other_names_are_a_mismatch(unit: object) -> None:
    with pytest.raises(Refusal, match="unit_mismatch"):
        _named(1, unit, "Cel")


@pytest.mark.parametrize(
    "code",
    ["{pulse}", "{UVI}", "{IAQ}", "{count}", "{pulse}/min", "{rev}/min", "dBm", "dB[mW]", "V.A", "VA", "Ah", "rpm",
     "mph", "inHg", "NTU", "kWh", "µg/m³", "μg/m³", "ug/m^3", "ºC", "m³/h", "W/m²", "10^3", "60.s"],
)  # fmt: skip
def test_codes_that_a_unit_may_have(code: str) -> None:
    units.parse(code)
    assert units.conversion(code, code) == (1, 0)


@pytest.mark.parametrize("code", ["", "{", "{}", "{" + "x" * 60 + "}", "parsec!", "Mx", "g%", "x" * 101, "m\x00"])
def test_codes_that_a_unit_must_not_have(code: str) -> None:
    with pytest.raises(units.UnknownUnit, match="is not a UCUM code"):
        units.parse(code)


@pytest.mark.parametrize(
    ("sent", "kept", "factor"),
    [
        ("[in_i'Hg]", "Pa", "3386.388640341"), ("[in_i'H2O]", "Pa", "249.0889083"),
        ("[cft_i]/min", "L/s", "0.4719474432"),
        ("G", "uT", "100"), ("mG", "uT", "0.1"), ("'", "deg", "1/60"), ("''", "deg", "1/3600"), ("60.s", "min", "1"),
        ("100.g", "kg", "0.1"), ("10*3.m", "km", "1"), ("[Btu]", "J", "23722880951/22500000"), ("V.A", "W", "1"),
        ("g.m/s2", "mN", "1"), ("W.s", "J", "1"),
    ],
)  # fmt: skip
def test_factors_of_units(sent: str, kept: str, factor: str) -> None:
    found, offset = units.conversion(sent, kept)
    assert found == Fraction(factor) or float(found) == pytest.approx(float(Fraction(factor)), rel=1e-7)
    assert offset == 0


@pytest.mark.parametrize(
    ("sent", "kept", "offset"), [("dBm", "dB[W]", -30), ("dB[kW]", "dBm", 60), ("dB[mV]", "dB[uV]", 60)]
)
def test_levels_differ_by_their_reference(sent: str, kept: str, offset: int) -> None:
    assert units.conversion(sent, kept) == (1, offset)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("deg", "[ppm]"), ("deg", "%"), ("rad", "1"), ("sr", "%"), ("lm", "cd"), ("rad/s", "Hz"), ("{pulse}", "{UVI}"),
     ("{pulse}", "%"), ("dBm", "dB"), ("dBm", "mW"), ("dB", "%"), ("dBm", "dB[V]"), ("bit", "1"), ("[pH]", "1"),
     ("Cel", "hPa"), ("{pulse}", "Cel")],
)  # fmt: skip
def test_units_of_different_quantities_do_not_convert(sent: str, kept: str) -> None:
    for pair in ((sent, kept), (kept, sent)):
        with pytest.raises(units.IncompatibleUnits):
            units.conversion(*pair)


def _definitions() -> list[Any]:
    space = {"u": "http://unitsofmeasure.org/ucum-essence"}
    rows = []
    for unit in ET.parse(ESSENCE).getroot().findall("u:unit", space):  # noqa: S314 (a file of an installed package)
        value = unit.find("u:value", space)
        if value is not None and unit.get("isSpecial") != "yes":
            rows.append((unit.get("Code"), value.get("value"), value.get("Unit")))
    return rows


@pytest.mark.parametrize(("code", "value", "unit"), _definitions())
def test_a_code_is_what_ucum_defines_or_is_refused(code: str, value: str, unit: str) -> None:
    if code in TOLERATED:
        return
    try:
        scale, sent = units._parsed(code)
        quantity = scale * units._registry().Quantity(Fraction(1), sent)
    except units.UnknownUnit:
        return
    ratio = (quantity / units._registry().from_ucum(unit_spellings.corrected(unit))).to_root_units()
    assert not ratio.units._units
    assert float(ratio.magnitude) == pytest.approx(float(value), rel=1e-6)


def test_usual_names_of_a_code_mean_it_in_every_spelling() -> None:
    names = unit_spellings.with_spellings(unit_spellings.usual_names())
    for ucum, listed in unit_spellings.ALIASES.items():
        for name in (ucum, *listed):
            assert names[name] == ucum
            assert unit_spellings.usual_code(name) == ucum


def test_capitals_never_change_a_prefix() -> None:
    names = unit_spellings.with_spellings([*CATALOGUE, *unit_spellings.usual_names()])
    for one, other in (
        ("mW", "MW"),
        ("mV", "MV"),
        ("mA", "MA"),
        ("ms", "MS"),
        ("mm", "MM"),
        ("Pa", "pA"),
        ("mHz", "MHz"),
    ):
        codes = {names.get(one), names.get(other)} - {None}
        assert len(codes) == sum(name in names for name in (one, other))


@given(st.text(max_size=20))
def test_a_spelling_is_its_own_spelling(name: str) -> None:
    once = unit_spellings.spelled(name)
    assert unit_spellings.spelled(once) == once or not once.isprintable() or not once.isascii()
    unit_spellings.code_of(name)
    unit_spellings.usual_code(name)
