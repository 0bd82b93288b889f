"""Paths that select: an object of a list by a member, and all members of an object or list."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.domain import paths
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import KEEP, REFUSE_VALUE, ComponentSpec
from telemetry.services.pipeline import form
from telemetry.services.pipeline.normalization import MAX_SELECTED, NormalizedValues, normalize
from telemetry.services.pipeline.results import Refusal


def _normalize(message: Any, *texts: str, **settings: Any) -> NormalizedValues:
    metrics = tuple(
        MetricSpec(f"m{number}", paths.parse(text), "number", "°C", maximum=80.0) for number, text in enumerate(texts)
    )
    component = ComponentSpec("x", "x", True, True, metrics, KEEP, **settings)
    source = json.dumps(message).encode()
    return normalize(form.parse_object(source), component, source)


def _values(message: Any, *texts: str) -> dict[str, Any]:
    found = _normalize(message, *texts)
    return {value.metric: value.value for value in (*found.measurements, *found.unmapped)}


SDS011 = {
    "sensordatavalues": [
        {"value_type": "SDS_P1", "value": "11.50"}, {"value_type": "SDS_P2", "value": "4.25"},
        {"value_type": "BME280.temperature", "value": "21.5"}, {"value_type": 7, "value": 3},
        {"value_type": True, "value": 4}, 5, None, [],
    ]
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sensordatavalues[value_type=SDS_P1].value", 11.5),
        ("sensordatavalues[value_type=SDS_P2].value", 4.25),
        ("sensordatavalues.[value_type=SDS_P2].value", 4.25),
        ("sensordatavalues[value_type=BME280.temperature].value", 21.5),
        ("sensordatavalues[value_type=7].value", 3.0),
        ("sensordatavalues[value_type=true].value", 4.0),
    ],
)
def test_an_object_is_selected_by_a_member(path: str, expected: float) -> None:
    assert _values(SDS011, path) == {"m0": expected}
    reversed_list = {"sensordatavalues": SDS011["sensordatavalues"][::-1]}
    assert _values(reversed_list, path) == {"m0": expected}, "wherever it stands"
    assert _values({"sensordatavalues": []}, path) == {}
    assert _values({"sensordatavalues": {"value_type": "SDS_P1", "value": 1}}, path) == {}
    assert _values({"x": 1}, path) == {"x": 1.0}


TAGS = {"tags": {"AA:BB": {"temperature": 21.5, "rssi": -70}, "CC.DD": {"temperature": "22.5"}, "EE": {"rssi": 1}}}


def test_a_wildcard_names_its_values_by_their_members() -> None:
    assert _values(TAGS, "tags.*.temperature") == {"m0.AA:BB": 21.5, "/m0/CC.DD": 22.5}
    assert _values(TAGS, "tags.*.temperature", "tags.*.rssi") == {
        "m0.AA:BB": 21.5, "/m0/CC.DD": 22.5, "m1.AA:BB": -70.0, "m1.EE": 1.0,
    }  # fmt: skip
    assert _values({"list": [{"t": 1}, {"t": 2}, 3]}, "list.*.t") == {"m0.0": 1.0, "m0.1": 2.0}
    assert _values({"a": {"x": {"y": {"b": 1}}}}, "a.*.*.b") == {"m0.x.y": 1.0}
    assert _values({"a": {"x": 1, "y": None}}, "a.*") == {"m0.x": 1.0}


def test_series_of_a_wildcard_are_bounded_as_those_of_unmapped_values() -> None:
    found = _normalize({"tags": {str(number): {"t": 1} for number in range(MAX_SELECTED + 1)}}, "tags.*.t")
    assert (found.measurements, len(found.unmapped), found.cut) == ([], MAX_SELECTED, True)
    assert {(value.unit, value.value_type) for value in found.unmapped} == {("°C", "number")}


def test_selected_values_are_validated_as_others() -> None:
    with pytest.raises(Refusal, match="out_of_range"):
        _normalize({"tags": {"a": {"t": 81}, "b": {"t": 1}}}, "tags.*.t")
    found = _normalize({"tags": {"a": {"t": 81}, "b": {"t": 1}}}, "tags.*.t", invalid_values=REFUSE_VALUE)
    assert [value.metric for value in found.unmapped] == ["m0.b"]
    assert [value.metric for value in found.refused] == ["m0"]
    with pytest.raises(Refusal, match="wrong_type"):
        _normalize({"tags": {"a": {"t": -18446744073709551617}}}, "tags.*.t")


def test_json_pointers_and_other_names_do_not_select() -> None:
    assert _values({"a": {"*": {"t": 1}, "b": {"t": 2}}}, "/a/*/t") == {"m0": 1.0, "a.b.t": 2.0}
    assert _values({"a[x=1]": 2}, "/a[x=1]") == {"m0": 2.0}
    assert _values({"a": {"b[": 2, "c]": 3}}, "a.b[", "a.c]") == {"m0": 2.0, "m1": 3.0}


@pytest.mark.parametrize("text", ["a[n=v].x", "a.*.b", "a[n=v.w].x", "a.*", "a[n=].x", "a.b[c=d]"])
def test_a_path_that_selects_is_read_back(text: str) -> None:
    path = paths.parse(text)
    assert paths.is_selecting(path)
    again = paths.parse(paths.format_path(path))
    assert again == path
    assert [type(part) for part in again] == [type(part) for part in path]


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(-40, 80), max_size=20))
def test_every_member_has_a_series_of_its_own(members: dict[str, int]) -> None:
    found = _normalize({"tags": {name: {"t": value} for name, value in members.items()}}, "tags.*.t")
    assert sorted(value.value for value in found.unmapped) == sorted(map(float, members.values()))
    assert len({value.metric for value in found.unmapped}) == len(members)
