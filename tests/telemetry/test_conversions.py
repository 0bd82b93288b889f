"""Conversions of numbers: the stored value is the one nearest to the exact result, and no number is changed."""

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.domain import units
from devices.domain.conversion import Conversion, conversion_of, rational
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import IGNORE, KEEP, ComponentSpec
from devices.services.metadata.unit_catalogue import UNITS
from telemetry.services.pipeline import form
from telemetry.services.pipeline.normalization import NormalizedValues, normalize
from telemetry.services.pipeline.results import Refusal


def _normalized(payload: str, *metrics: MetricSpec, unmapped: str = IGNORE) -> NormalizedValues:
    """Return the values of a message as the listener reads it from its JSON text."""
    component = ComponentSpec("x", "x", attached=True, allowed=True, metrics=metrics, unmapped=unmapped)
    return normalize(form.parse_object(payload.encode()), component, payload.encode())


def _stored(text: str, **settings: Any) -> Any:
    [measured] = _normalized(f'{{"v": {text}}}', MetricSpec("m", ("v",), "number", "", **settings)).measurements
    return measured.value


def _converted(text: str, sent: str, kept: str) -> float:
    factor, offset = units.conversion(sent, kept)
    stored = _stored(text, factor=factor, offset=offset)
    named = ((sent, str(factor), str(offset)),)
    message = f'{{"v": {text}, "u": "{sent}"}}'
    [by_name] = _normalized(
        message, MetricSpec("m", ("v",), "number", "", unit_path=("u",), conversions=named)
    ).measurements
    assert by_name.value == stored, "the same by the unit that the message names"
    assert isinstance(stored, float)
    return stored


@pytest.mark.parametrize(
    ("text", "sent", "kept", "expected"),
    [
        ("32", "[degF]", "Cel", 0.0),
        ("32.0", "[degF]", "Cel", 0.0),
        ("3.2e1", "[degF]", "Cel", 0.0),
        ("-40", "[degF]", "Cel", -40.0),
        ("14.0", "[degF]", "Cel", -10.0),
        ("98.6", "[degF]", "Cel", 37.0),
        ("212", "[degF]", "Cel", 100.0),
        ("273.15", "K", "Cel", 0.0),
        ("255.372222222222", "K", "[degF]", -0.0000000000004),
        ("0.1", "bar", "hPa", 100.0),
        ("1013.25", "hPa", "kPa", 101.325),
        ("0.1", "kW.h", "J", 360000.0),
        ("3.3", "V", "mV", 3300.0),
        ("1.1", "[mi_i]/h", "km/h", 1.7702784),
        ("0.07", "%", "[ppm]", 700.0),
        ("1", "m3/h", "L/min", 50 / 3),
    ],
)
def test_conversions_are_exact(text: str, sent: str, kept: str, expected: float) -> None:
    exact = Fraction(text) * units.conversion(sent, kept)[0] + units.conversion(sent, kept)[1]
    assert _converted(text, sent, kept) == float(exact)
    assert float(exact) == pytest.approx(expected, rel=1e-4)


def _pairs() -> list[tuple[str, str]]:
    codes = sorted({ucum for *_, ucum in UNITS})
    named = [(code, code) for code in codes]
    return [(sent, kept) for kept in codes for sent in units.conversions(kept, named) if sent in codes]


PAIRS = _pairs()
_DECIMALS = st.builds("{}e{}".format, st.integers(-(10**15) + 1, 10**15 - 1), st.integers(-30, 15)) | st.decimals(
    -10_000, 10_000, places=4, allow_nan=False
).map(str)


def test_the_pairs_are_all_units_of_a_quantity() -> None:
    assert len(PAIRS) > 2 * len(UNITS)
    assert {("[degF]", "Cel"), ("[psi]", "Pa"), ("mm[Hg]", "hPa"), ("J", "kW.h"), ("g/m3", "ug/m3")} <= set(PAIRS)


@pytest.mark.parametrize(("sent", "kept"), PAIRS)
def test_whole_numbers_are_exact_in_every_conversion(sent: str, kept: str) -> None:
    factor, offset = units.conversion(sent, kept)
    for number in (0, 1, -1, 32, 100, 2**53, 2**63 + 1):
        assert conversion_of(factor, offset) is None or _converted(str(number), sent, kept) == float(
            number * factor + offset
        )


@given(_DECIMALS, st.sampled_from(PAIRS))
def test_every_decimal_is_converted_exactly(text: str, pair: tuple[str, str]) -> None:
    factor, offset = units.conversion(*pair)
    if conversion_of(factor, offset) is None:
        return
    assert _converted(text, *pair) == float(Fraction(text) * factor + offset)


@given(st.floats(-1e200, 1e200), st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_a_float_of_many_digits_is_converted_as_the_float(sent: float, factor: Fraction, offset: Fraction) -> None:
    written = Fraction(f"{sent:.15g}")
    exact = written if float(written) == sent else Fraction(sent)
    assert Conversion(factor, offset).apply(sent) == float(exact * factor + offset)


@given(st.sampled_from(PAIRS), st.integers(-1000, 1000))
def test_a_conversion_and_its_inverse_end_where_they_began(pair: tuple[str, str], number: int) -> None:
    there, back = units.conversion(*pair), units.conversion(*reversed(pair))
    assert (number * there[0] + there[1]) * back[0] + back[1] == number


@pytest.mark.parametrize(
    ("stored", "expected"),
    [("5/9", "5/9"), ("0.1", "1/10"), (5 / 9, "5/9"), (-160 / 9, "-160/9"), (0.1, "1/10"), (273.15, "5463/20"),
     (6894.757293168361, "6894757293168361/1000000000000"), (1.0, "1"), (3, "3")],
)  # fmt: skip
def test_factors_are_read_as_they_were_meant(stored: float | str, expected: str) -> None:
    assert rational(stored) == Fraction(expected)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("32", None, 0.0), ("32", 0.0, None), ("32.0", 0.0, 0.0), ("-40", -40.0, None), ("98.6", None, 37.0)],
)
def test_the_range_includes_its_bounds_after_a_conversion(text: str, low: float | None, high: float | None) -> None:
    factor, offset = units.conversion("[degF]", "Cel")
    value = _stored(text, factor=factor, offset=offset, minimum=low, maximum=high)
    assert low is None or value >= low
    assert high is None or value <= high


@pytest.mark.parametrize("text", ["32.0001", "33", "32.0000001"])
def test_a_value_just_outside_the_range_is_refused(text: str) -> None:
    factor, offset = units.conversion("[degF]", "Cel")
    with pytest.raises(Refusal, match="out_of_range"):
        _stored(text, factor=factor, offset=offset, maximum=0.0)


@pytest.mark.parametrize(
    "text",
    ["9007199254740993", "-9007199254740993", "18446744073709551615", "18446744073709551617", "9223372036854775809",
     "100000000000000000000000000000000000000001", "1" * 300],
)  # fmt: skip
def test_a_whole_number_that_no_float_equals_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="wrong_type") as refusal:
        _stored(text)
    assert "a whole number up to 9007199254740992" in refusal.value.detail
    assert text[:70] in refusal.value.detail
    kept = _normalized(f'{{"v": {text}, "w": 1}}', unmapped=KEEP)
    assert ([value.metric for value in kept.unmapped], kept.cut) == (["w"], True), "left out, not changed"


@pytest.mark.parametrize(
    "text",
    ["9007199254740992", "9007199254740994", "18446744073709551616", "100000000000000000000", "1e20", "1e300",
     "-1.5e19", "-9223372036854775808", "7e-06", "-0.0"],
)  # fmt: skip
def test_numbers_that_a_float_equals_are_stored(text: str) -> None:
    assert _stored(text) == float(text)
    assert _stored(text, minimum=-1e301, maximum=1e301) == float(text)
    kept = _normalized(f'{{"v": {text}}}', unmapped=KEEP)
    assert [value.value for value in kept.unmapped] == [float(text)]


@given(st.integers(-(10**40), 10**40), st.integers(-(10**40), 10**40))
def test_whole_numbers_are_equal_or_refused(one: int, other: int) -> None:
    metrics = [MetricSpec(key, (key,), "number", "") for key in "ab"]
    payload = json.dumps({"a": one, "b": other})
    try:
        values = [measured.value for measured in _normalized(payload, *metrics).measurements]
    except Refusal:
        assert float(one) != one or float(other) != other
    else:
        assert values == [one, other]


def test_whole_numbers_convert_exactly_before_they_are_rounded() -> None:
    assert _converted("9007199254740993", "J", "W.h") == float(Fraction(9007199254740993, 3600))
    assert _converted("18446744073709551617", "mV", "V") == float(Fraction(18446744073709551617, 1000))


def test_a_result_that_fits_no_float_is_refused() -> None:
    with pytest.raises(Refusal, match="fits 64 bits"):
        _stored("1e308", factor=1000)
    with pytest.raises(Refusal, match="fits 64 bits"):
        _stored("1" + "0" * 300, factor=10**30)
