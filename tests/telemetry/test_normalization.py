"""Nested JSON to flat values with units: the messages of real devices, and what no message may do."""

import contextlib
import json
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.domain import paths, units
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import IGNORE, KEEP, ComponentSpec
from devices.services.metadata.unit_catalogue import UNITS
from telemetry.services.pipeline.normalization import normalize, read_timestamp
from telemetry.services.pipeline.results import Measurement, Refusal

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "payloads.json").read_text())
UCUM = {symbol: ucum for symbol, _, _, ucum in UNITS}


def _component(*metrics: MetricSpec, unmapped: str = IGNORE) -> ComponentSpec:
    return ComponentSpec("dht22", "dht22", attached=True, allowed=True, metrics=metrics, unmapped=unmapped)


def _read(message: Any, *metrics: MetricSpec) -> list[Measurement]:
    return normalize(message, _component(*metrics)).measurements


def _spec(metric: dict[str, Any]) -> MetricSpec:
    factor, offset = Fraction(1), Fraction(0)
    if "sent_unit" in metric:
        factor, offset = units.conversion(UCUM[metric["sent_unit"]], UCUM[metric["unit"]])
    return MetricSpec(
        key=metric["key"],
        path=paths.parse(metric["path"]),
        value_type=metric.get("value_type", "number"),
        unit=metric.get("unit", ""),
        factor=factor,
        offset=offset,
        true_value=metric.get("true_value", ""),
        false_value=metric.get("false_value", ""),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_messages_of_real_devices(case: dict[str, Any]) -> None:
    measured = _read(case["payload"], *map(_spec, case["metrics"]))
    assert {m.metric: [m.value, m.unit] for m in measured} == case["readings"]


def test_a_value_that_is_missing_or_null_gives_no_reading() -> None:
    metrics = [MetricSpec(key, paths.parse(path), "number", "°C") for key, path in (("a", "v.a"), ("b", "v.b.c"))]
    assert _read({"v": {"a": None, "b": 3}}, *metrics) == []


@pytest.mark.parametrize(
    ("value_type", "raw", "reason"),
    [
        ("number", "21,5", "wrong_type"),
        ("number", True, "wrong_type"),
        ("number", [1], "wrong_type"),
        ("number", 10**400, "wrong_type"),
        ("number", 81, "out_of_range"),
        ("number", -40.1, "out_of_range"),
        ("boolean", "unavailable", "wrong_type"),
        ("boolean", 2, "wrong_type"),
        ("text", 5, "wrong_type"),
        ("text", "a\x00b", "wrong_type"),
    ],
)
def test_values_that_are_refused(value_type: str, raw: Any, reason: str) -> None:
    low, high = (-40, 80) if value_type == "number" else (None, None)
    metric = MetricSpec("t", ("t",), value_type, "°C", minimum=low, maximum=high)
    with pytest.raises(Refusal) as refusal:
        _read({"t": raw}, metric)
    assert refusal.value.reason == reason
    assert "Metric t at t" in refusal.value.detail


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("value.temp", ("value", "temp")),
        ("/probes/0/t", ("probes", "0", "t")),
        ("/a~1b/c~0d", ("a/b", "c~d")),
        ("/", ("",)),
        ("x", ("x",)),
    ],
)
def test_paths(path: str, expected: tuple[str, ...]) -> None:
    assert paths.parse(path) == expected


@pytest.mark.parametrize("path", ["", ".", "a..b", "a.", "/a~2", "/a~"])
def test_bad_paths(path: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        paths.parse(path)


@pytest.mark.parametrize("token", ["01", "-1", "1e0", "+1", "9999999999", "x"])
def test_an_array_is_indexed_by_plain_numbers_only(token: str) -> None:
    assert paths.find([10, 20], (token,)) is paths.MISSING


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "0", ""]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    JSON_VALUES, st.sampled_from(["a", "a.b", "/0", "/a/0/b", "b.a.0"]), st.sampled_from(["number", "boolean", "text"])
)
def test_normalization_gives_values_or_refuses_and_nothing_else(document: Any, path: str, value_type: str) -> None:
    metric = MetricSpec("m", paths.parse(path), value_type, "", factor=1.8, offset=32.0)
    with contextlib.suppress(Refusal):
        assert len(_read(document, metric)) <= 1


_LEAVES = (
    st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.text(st.characters(exclude_characters="\0"))
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)
_TYPES = {float: "number", bool: "boolean", str: "text"}


def _leaves(value: Any, path: paths.Path = ()) -> dict[paths.Path, Any]:
    if isinstance(value, dict | list):
        below = value.items() if isinstance(value, dict) else enumerate(value)
        return {p: leaf for token, inner in below for p, leaf in _leaves(inner, (*path, str(token))).items()}
    return {path: value}


@given(st.dictionaries(st.text(max_size=9), _TREES, max_size=5))
def test_what_a_metric_is_for_is_read_back_as_it_was(document: dict[str, Any]) -> None:
    leaves = _leaves(document)
    metrics = [
        MetricSpec(f"m{n}", paths.parse(paths.format_path(path)), _TYPES[type(leaf)], "")
        for n, (path, leaf) in enumerate(leaves.items())
    ]
    values = normalize(document, _component(*metrics, unmapped=KEEP))
    found = {value.metric: repr(value.value) for value in values.measurements}
    assert found == {metric.key: repr(leaves[metric.path]) for metric in metrics}
    assert (values.unmapped, values.cut) == ([], False), "nothing is left over"


@given(_TREES)
def test_what_no_metric_is_for_has_a_name_of_its_own(tree: Any) -> None:
    values = normalize({"v": tree}, _component(unmapped=KEEP))
    names = [value.metric for value in values.unmapped]
    assert len(names) == len(set(names))
    if not values.cut:
        kept = {paths.series_name(path): leaf for path, leaf in _leaves({"v": tree}).items()}
        assert {value.metric: value.value for value in values.unmapped} == kept


def test_units_that_do_not_convert() -> None:
    with pytest.raises(units.IncompatibleUnits):
        units.conversion("Cel", "hPa")


@pytest.mark.parametrize(("symbol", "ucum"), UCUM.items())
def test_every_unit_of_the_catalogue_is_ucum(symbol: str, ucum: str) -> None:
    units.parse(ucum)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-22T09:30:00+00:00", datetime(2026, 11, 22, 9, 30, tzinfo=UTC)),
        ("2026-11-22T09:30:00Z", datetime(2026, 11, 22, 9, 30, tzinfo=UTC)),
        ("2026-11-22T18:30:00.123456+09:00", datetime(2026, 11, 22, 9, 30, 0, 123456, tzinfo=UTC)),
        (1795339800, datetime(2026, 11, 22, 9, 30, tzinfo=UTC)),
        (1795339800.5, datetime(2026, 11, 22, 9, 30, 0, 500000, tzinfo=UTC)),
        (1795339800500, datetime(2026, 11, 22, 9, 30, 0, 500000, tzinfo=UTC)),
    ],
)
def test_timestamps(value: Any, expected: datetime) -> None:
    assert read_timestamp(value) == expected


@pytest.mark.parametrize(
    "value", [None, "", "yesterday", "2026-11-22T09:30:00", True, [], {}, 1e300, "0000-01-01T00:00Z"]
)
def test_bad_timestamps(value: Any) -> None:
    with pytest.raises(Refusal) as refusal:
        read_timestamp(value)
    assert refusal.value.reason == "malformed"
