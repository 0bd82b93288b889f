"""Numbers, switches and sentinels as devices write them in texts, and what a metric's settings make of them."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.domain import text_values, units
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import IGNORE, ComponentSpec
from telemetry.services.pipeline.normalization import normalize
from telemetry.services.pipeline.results import Refusal

CELSIUS = tuple((name, *pair) for name, pair in units.conversions("Cel", [("°C", "Cel"), ("°F", "[degF]")]).items())


def _values(raw: Any, value_type: str = "number", unit: str = "", **settings: Any) -> list[Any]:
    """Return the values that a message with the value gives: one, or none."""
    metric = MetricSpec("m", ("v",), value_type, unit, **settings)
    component = ComponentSpec("x", "x", attached=True, allowed=True, metrics=(metric,), unmapped=IGNORE)
    return [measured.value for measured in normalize({"v": raw}, component).measurements]


def _refused(raw: Any, value_type: str = "number", unit: str = "", **settings: Any) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        _values(raw, value_type, unit, **settings)
    return refusal.value


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("27.0", 27.0), (" 27.0\n", 27.0), ("-5", -5.0), ("+5", 5.0), ("\u22125.5", -5.5), (".5", 0.5), ("5.", 5.0),
     ("1e3", 1000.0), ("2.15E+01", 21.5), ("007", 7.0), ("9007199254740992", 9007199254740992.0), (27, 27.0)],
)  # fmt: skip
def test_numbers_as_text_need_no_setting(raw: Any, expected: float) -> None:
    assert _values(raw) == [expected]
    assert _values(raw, minimum=-1e300, maximum=1e300) == [expected]


@pytest.mark.parametrize(
    "raw",
    ["", "warm", "27,0", "1,234.5", "1.2.3", "12:30", "2026-11-30", "1_000", "1/2", "٥", "12 34",
     "1e999", "9007199254740993", "5" * 65, "NaN", "Infinity", "N/A"],
)  # fmt: skip
def test_texts_that_are_not_numbers_are_refused(raw: str) -> None:
    assert _refused(raw).reason == "wrong_type"


@pytest.mark.parametrize(
    ("raw", "expected"), [("27,0", 27.0), ("-0,5", -0.5), ("27", 27.0), ("21,5 °C", 21.5), (27.5, 27.5)]
)
def test_a_decimal_comma(raw: Any, expected: float) -> None:
    assert _values(raw, unit="°C", number_format="comma") == [expected]


def test_a_number_of_another_notation_has_an_unknown_unit() -> None:
    assert _refused("0x10").reason == _refused("1e99999").reason == "unit_mismatch"


@pytest.mark.parametrize("raw", ["1.234", "1.234,5", "1,2,3"])
def test_a_separator_of_thousands_is_not_taken_for_a_decimal_sign(raw: str) -> None:
    assert _refused(raw, number_format="comma").reason == "wrong_type"


@pytest.mark.parametrize("raw", ["27.0", "27", "21.5 °C"])
def test_a_metric_can_refuse_numbers_that_are_texts(raw: str) -> None:
    assert _refused(raw, unit="°C", number_format="json").reason == "wrong_type"


@pytest.mark.parametrize(
    ("raw", "unit", "expected"),
    [("21.5 °C", "°C", 21.5), ("21.5°C", "°C", 21.5), ("45 %", "%", 45.0), ("3.3V", "V", 3.3), ("5e3 W", "W", 5000.0)],
)
def test_the_stored_unit_may_follow_the_number(raw: str, unit: str, expected: float) -> None:
    assert _values(raw, unit=unit) == [expected]


def test_another_unit_needs_the_path_of_the_unit() -> None:
    refusal = _refused("70.7 °F", unit="°C")
    assert refusal.reason == "unit_mismatch"
    assert "the unit '°F' in the value's text is not converted to °C, because the metric's unit_path" in refusal.detail
    assert refusal.detail.endswith(" Set unit_path to v.")
    in_text: dict[str, Any] = {"unit": "°C", "unit_path": ("v",), "conversions": CELSIUS}
    assert _values("70.7 °F", **in_text) == [21.5]
    assert _values("32F", **in_text) == [0.0]
    assert _values("294.65 K", **in_text) == [21.5]
    assert _values("21.5 °C", **in_text) == [21.5]
    assert _values("21.5", **in_text) == [21.5]
    assert _values(21.5, **in_text) == [21.5]
    assert _refused("21.5 hPa", **in_text).reason == "unit_mismatch"


def test_a_sent_unit_applies_to_numbers_without_one() -> None:
    factor, offset = units.conversion("[degF]", "Cel")
    assert _values("32.0", unit="°C", factor=factor, offset=offset) == [0.0]
    assert _refused("32.0 °C", unit="°C", factor=factor, offset=offset).reason == "unit_mismatch"
    assert _values("0.0", unit="°C", factor=factor, offset=offset) == [float(Fraction(-160, 9))]


def test_numbers_as_text_are_within_the_range() -> None:
    assert _refused("81", maximum=80.0).reason == "out_of_range"
    assert _values("80.0", maximum=80.0) == [80.0]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("ON", True), ("off", False), ("On", True), ("true", True), ("False", False), ("1", True), ("0", False),
     ("open", True), ("CLOSED", False), ("yes", True), ("No", False), (" on ", True), ("켜짐", True), ("닫힘", False),
     (True, True), (0, False), (1.0, True)],
)  # fmt: skip
def test_usual_words_need_no_setting(raw: Any, expected: bool) -> None:
    assert _values(raw, "boolean") == [expected]


@pytest.mark.parametrize("raw", ["", "unavailable", "maybe", "2", 2, -1, 0.5, [], {}])
def test_other_words_are_refused(raw: Any) -> None:
    refusal = _refused(raw, "boolean")
    assert refusal.reason == "wrong_type"
    assert "true or false, or a word such as on, off" in refusal.detail


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("running", True), ("Heat", True), ("HEAT", True), ("idle", False), ("2", True), (2, True), (3, False), (1, True),
     (0, False), (True, True)],
)  # fmt: skip
def test_several_words(raw: Any, expected: bool) -> None:
    assert _values(raw, "boolean", true_value="running, heat, 2", false_value="idle,off,3") == [expected]


def test_words_of_a_setting_replace_the_usual_ones() -> None:
    inverted = {"true_value": "closed", "false_value": "open"}
    assert _values("Closed", "boolean", **inverted) == [True]
    assert _values("open", "boolean", **inverted) == [False]
    assert "expected closed or open, got the string 'on'" in _refused("on", "boolean", **inverted).detail
    assert _values(1, "boolean", true_value="0", false_value="1") == [False], "numbers are words too"


def test_capitals_count_where_they_distinguish() -> None:
    words = {"true_value": "a,X", "false_value": "A,y"}
    assert _values("a", "boolean", **words) == [True]
    assert _values("A", "boolean", **words) == [False]
    assert _values("x", "boolean", **words) == [True]


def test_a_word_may_contain_a_comma() -> None:
    assert _values("on, now", "boolean", true_value="on, now", false_value="off") == [True]


SENTINELS = "-127, 85, 65535, N/A, nan"


@pytest.mark.parametrize("raw", [-127, -127.0, "-127", "-127.00", 85, 65535, "N/A", " n/a ", "NaN", "85.0"])
def test_sentinels_give_no_value(raw: Any) -> None:
    assert _values(raw, sentinels=SENTINELS, minimum=-55.0, maximum=125.0) == []
    refusal = _refused(raw, sentinels=SENTINELS, sentinel_treatment="refuse")
    assert refusal.reason == "out_of_range"
    assert "one of the metric's sentinels" in refusal.detail


@pytest.mark.parametrize(("raw", "expected"), [(85.5, 85.5), ("-12.7", -12.7), (0, 0.0)])
def test_other_numbers_are_values(raw: Any, expected: float) -> None:
    assert _values(raw, sentinels=SENTINELS) == [expected]


def test_sentinels_are_compared_as_sent() -> None:
    factor, offset = units.conversion("[degF]", "Cel")
    assert _values(-127, sentinels="-127", factor=factor, offset=offset) == []
    assert _values(-196.6, sentinels="-127", factor=factor, offset=offset) == [-127.0]


def test_sentinels_of_switches_and_texts() -> None:
    assert _values("unavailable", "boolean", sentinels="unavailable,unknown") == []
    assert _values(True, "boolean", sentinels="1") == [True], "true is not the number 1"
    assert _values("--", "text", sentinels="--") == []
    assert _refused(["-127"], sentinels=SENTINELS).reason == "wrong_type"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(204, "204"), (20.5, "20.5"), (True, "true"), (False, "false"), (-0.0, "-0.0"), ("0Y", "0Y"),
     (9007199254740993, "9007199254740993"), (1e-7, "1e-07")],
)  # fmt: skip
def test_text_metrics_take_numbers_where_they_are_told_to(raw: Any, expected: str) -> None:
    assert _values(raw, "text", numbers_as_text=True) == [expected]
    if not isinstance(raw, str):
        assert _refused(raw, "text").reason == "wrong_type"


def test_whole_numbers_beyond_64_bits_are_texts_with_all_their_digits() -> None:
    import orjson

    source = b'{"v": 18446744073709551617}'
    metric = MetricSpec("m", ("v",), "text", "", numbers_as_text=True)
    component = ComponentSpec("x", "x", attached=True, allowed=True, metrics=(metric,))
    assert normalize(orjson.loads(source), component, source).measurements[0].value == "18446744073709551617"


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**8), max_value=10**8))
def test_a_written_number_is_the_number(number: Any) -> None:
    assert _values(f"{number:f}") == [float(number)]
    assert _values(f"{number:f}".replace(".", ","), number_format="comma") == [float(number)]
    assert _values(f"{number:f} °C", unit="°C") == [float(number)]


@given(st.text(max_size=80), st.sampled_from(["point", "comma", "json"]), st.sampled_from(["number", "boolean"]))
def test_every_text_is_a_value_or_refused(text: str, number_format: str, value_type: str) -> None:
    try:
        reasons, values = [], _values(text, value_type, number_format=number_format)
    except Refusal as refusal:
        reasons, values = [refusal.reason], []
    assert len(values) + len(reasons) == 1
    assert set(reasons) <= {"wrong_type", "unit_mismatch"}


@given(st.lists(st.text(max_size=6), max_size=4), st.lists(st.text(max_size=6), max_size=4))
def test_words_listed_once_mean_what_their_list_says(true: list[str], false: list[str]) -> None:
    words = text_values.boolean_words(",".join(true), ",".join(false))
    listed = text_values.split_words(",".join(true)), text_values.split_words(",".join(false))
    for word in set(listed[0]) - set(listed[1]):
        assert not any(listed) or words[word] is True


def test_a_unit_needs_a_metric_with_a_unit() -> None:
    refusal = _refused("70.7 x")
    assert refusal.reason == "unit_mismatch"
    assert "the value's text has the unit 'x', and the metric has none. " in refusal.detail


def test_a_text_beyond_all_floats_is_described_in_words() -> None:
    refusal = _refused("1e400")
    assert refusal.reason == "wrong_type"
    assert "expected a finite number, got a number beyond the range of 64-bit floats. " in refusal.detail
