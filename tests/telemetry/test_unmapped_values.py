"""Values without a metric, and units that the message names: kept under a name, or refused."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.domain import paths, units
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import IGNORE, KEEP, QUARANTINE, ComponentSpec
from devices.services.metadata.unit_catalogue import UNITS
from telemetry.services.pipeline import unmapped_values
from telemetry.services.pipeline.normalization import NormalizedValues, normalize
from telemetry.services.pipeline.results import Refusal

TEMP = MetricSpec("temperature", ("value", "temp"), "number", "°C")
SIGNED = {"timestamp": 1, "cpu_serial": "x", "hmac": "y", "boot": 1, "seq": 2, "device_uuid": "u", "component": "c"}


def _normalize(message: dict[str, Any], *metrics: MetricSpec, policy: str = KEEP) -> NormalizedValues:
    return normalize(message, ComponentSpec("c", "dht22", True, True, metrics, policy))


def _kept(message: dict[str, Any], *metrics: MetricSpec) -> dict[str, Any]:
    return {value.metric: value.value for value in _normalize(message, *metrics).unmapped}


def test_what_no_metric_is_for_is_kept_under_its_path() -> None:
    values = _normalize(
        {**SIGNED, "value": {"temp": 21.5, "raw": 7, "ok": True}, "fw": {"name": "a"}, "probes": [{"t": 1}, 2, None]},
        TEMP,
    )
    assert [tuple(value) for value in values.measurements] == [("temperature", 21.5, "°C", "number")]
    assert [tuple(value) for value in values.unmapped] == [
        ("value.raw", 7.0, "", "number"),
        ("value.ok", True, "", "boolean"),
        ("fw.name", "a", "", "text"),
        ("probes.0.t", 1.0, "", "number"),
        ("probes.1", 2.0, "", "number"),
    ]
    assert not values.cut


def test_a_message_of_metrics_alone_keeps_nothing_else() -> None:
    assert _normalize({**SIGNED, "value": {"temp": 1}}, TEMP).unmapped == []


@pytest.mark.parametrize("member", sorted(paths.PROTOCOL_MEMBERS | paths.CLAIMS))
def test_what_the_protocol_reads_is_no_value(member: str) -> None:
    assert _kept({member: 1, "x": 2}) == {"x": 2.0}
    assert _kept({"value": {member: 1}}) == {f"value.{member}": 1.0}, "its names are its own at the top alone"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"value": 5}, {"value": 5.0}),
        ({"value": [5]}, {"value.0": 5.0}),
        ({"value": None}, {}),
        ({"value": {}}, {}),
        ({"value": {"temp": None, "x": None}}, {}),
    ],
)
def test_another_shape_than_expected_is_kept_too(message: dict[str, Any], expected: dict[str, Any]) -> None:
    assert _kept(message, TEMP) == expected


def test_what_a_metric_is_for_is_its_own_with_all_below() -> None:
    whole = MetricSpec("list", ("probes", "0"), "number", "")
    unit = MetricSpec("t", ("t",), "number", "°C", unit_path=("units", "t"))
    assert _kept({"probes": [1, 2], "t": 3, "units": {"t": None, "h": "%"}}, whole, unit) == {
        "probes.1": 2.0,
        "units.h": "%",
    }


def test_ignored_values_are_not_looked_at() -> None:
    assert _normalize({"x": 1}, policy=IGNORE) == NormalizedValues([])


def test_a_type_that_takes_metrics_alone_refuses_the_message() -> None:
    assert _normalize({**SIGNED, "value": {"temp": 1, "x": None}}, TEMP, policy=QUARANTINE).unmapped == []
    with pytest.raises(Refusal) as refusal:
        _normalize({"value": {"temp": 1, "b": 2}, "a": 1}, TEMP, policy=QUARANTINE)
    assert refusal.value.reason == "wrong_type"
    assert "'value.b', 'a'" in refusal.value.detail
    assert "Add metrics" in refusal.value.detail


def test_a_long_array_of_metrics_is_no_unregistered_value() -> None:
    metrics = [MetricSpec(f"p{i}", ("p", str(i)), "number", "") for i in range(3 * unmapped_values.MAX_ITEMS)]
    values = _normalize({"p": list(range(len(metrics)))}, *metrics, policy=QUARANTINE)
    assert [value.value for value in values.measurements] == [float(i) for i in range(len(metrics))]


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ({f"k{i}": i for i in range(1000)}, unmapped_values.MAX_VALUES),
        ({"k": list(range(1000))}, unmapped_values.MAX_ITEMS),
        ({"k": "x" * (unmapped_values.MAX_LETTERS + 1)}, 0),
        ({"k": "a\x00b"}, 0),
        ({"k": 10**400}, 0),
        ({"k": float("inf")}, 0),
        ({"k": {"k": {"k": {"k": {"k": {"k": {"k": {"k": {"k": 1}}}}}}}}}, 0),
    ],
    ids=["values", "items", "letters", "NUL", "a huge number", "infinity", "depth"],
)
def test_what_is_kept_of_one_message_is_bounded_and_says_so(message: dict[str, Any], kept: int) -> None:
    values = _normalize(message)
    assert (len(values.unmapped), values.cut) == (kept, True)


def test_names_of_series() -> None:
    assert paths.series_name(("value", "temp")) == "value.temp"
    assert paths.series_name(("temp",), frozenset({"temp"})) == "/temp", "a metric has this name"
    assert paths.series_name(("a.b", "c/d")) == "/a.b/c~1d"
    long, longer = paths.series_name(("x" * 70,)), paths.series_name(("x" * 71,))
    assert len(long) == len(longer) == 63
    assert long != longer
    assert "\x00" not in paths.series_name(("a\x00b",))
    assert paths.series_name(("a\x00b",)) != paths.series_name(("a\x01b",))


@given(st.lists(st.text(max_size=80), min_size=1, max_size=4).map(tuple))
def test_a_written_path_is_read_back(path: tuple[str, ...]) -> None:
    assert paths.parse(paths.format_path(path)) == path
    name = paths.series_name(path)
    assert 0 < len(name) <= 63
    assert name.isprintable()


NAMED = MetricSpec(
    "temperature",
    ("AM2301", "Temperature"),
    "number",
    "°C",
    minimum=-40.0,
    maximum=80.0,
    unit_path=("TempUnit",),
    conversions=tuple(
        (name, *pair) for name, pair in units.conversions("Cel", [("°C", "Cel"), ("°F", "[degF]")]).items()
    ),
)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"TempUnit": "C"}, 68.0),
        ({"TempUnit": "F"}, 20.0),
        ({"TempUnit": "°F"}, 20.0),
        ({"TempUnit": " F "}, 20.0),
        ({"TempUnit": "화씨"}, 20.0),
        ({"TempUnit": None}, 68.0),
        ({}, 68.0),
    ],
)
def test_a_unit_that_the_message_names(members: dict[str, Any], expected: float) -> None:
    values = _normalize({"AM2301": {"Temperature": 68}, **members}, NAMED)
    assert [tuple(value) for value in values.measurements] == [("temperature", expected, "°C", "number")]
    assert values.unmapped == [], "the unit's name is not kept as a value"


@pytest.mark.parametrize("named", ["hPa", "X", "", "f\x00", 5, ["C"], {"C": 1}, True])
def test_a_unit_that_does_not_convert_is_a_mismatch(named: Any) -> None:
    with pytest.raises(Refusal) as refusal:
        _normalize({"AM2301": {"Temperature": 20}, "TempUnit": named}, NAMED)
    assert refusal.value.reason == "unit_mismatch"
    assert "at TempUnit cannot be converted to °C" in refusal.value.detail


def test_the_range_is_in_the_unit_kept() -> None:
    assert _normalize({"AM2301": {"Temperature": 100}, "TempUnit": "F"}, NAMED).measurements
    with pytest.raises(Refusal) as refusal:
        _normalize({"AM2301": {"Temperature": 100}, "TempUnit": "C"}, NAMED)
    assert refusal.value.reason == "out_of_range"


def test_names_of_units_of_the_catalogue_mean_themselves() -> None:
    catalogue = {symbol: ucum for symbol, _, _, ucum in UNITS}
    for kept in ("Cel", "hPa", "W", "[ppm]", "mS/cm"):
        found = units.conversions(kept, catalogue.items())
        for symbol, ucum in catalogue.items():
            if symbol in found:
                assert found[symbol] == units.conversion(ucum, kept), (symbol, kept)
    assert "hPa" not in units.conversions("Cel", catalogue.items())
    assert units.conversions("W", catalogue.items())["mW" if "mW" in catalogue else "kW"][0] in (0.001, 1000.0)
    assert units.conversions("Cel", [("C", "K")])["C"] == (1, Fraction("-273.15")), "the tenant's own names first"
