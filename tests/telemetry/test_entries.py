"""Messages with several readings at their own times: a list of entries equals the same readings sent one by one."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.domain.entry_lists import SENML, EntryList
from devices.domain.metric_spec import MetricSpec
from devices.domain.specs import KEEP, REFUSE_VALUE, ComponentSpec
from telemetry.services.pipeline import contract, entries
from telemetry.services.pipeline.results import Refusal
from telemetry.services.pipeline.times import read_time
from tests.documents import fenced, read

NOW = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
CLOCK = contract.ClockTolerance(timedelta(minutes=5), timedelta(minutes=5), datetime(2024, 1, 1, tzinfo=UTC))
TEMP = MetricSpec("temp", ("values", "t"), "number", "°C", minimum=-40.0, maximum=80.0)
LIST = EntryList(path=("readings",), time_path=("ts",))
Found = set[tuple[str, Any, datetime]]


def _normalize(message: Any, layout: EntryList = LIST, *metrics: MetricSpec, policy: str = KEEP) -> entries.TimedValues:
    component = ComponentSpec("x", "x", True, True, metrics or (TEMP,), policy, entries=layout)
    return entries.normalize(message, component, json.dumps(message).encode(), NOW, CLOCK)


def _found(message: Any, layout: EntryList = LIST, *metrics: MetricSpec) -> Found:
    found = _normalize(message, layout, *metrics)
    values = [*found.values.measurements, *found.values.unmapped]
    times = [value.time if found.is_timed else found.time for value in values]  # type: ignore[attr-defined]
    return {(value.metric, value.value, time) for value, time in zip(values, times, strict=True)}


def _refusal(message: Any, layout: EntryList = LIST, *metrics: MetricSpec) -> str:
    with pytest.raises(Refusal) as refusal:
        _normalize(message, layout, *metrics)
    return f"{refusal.value.reason}: {refusal.value.detail}"


def _at(**ago: float) -> datetime:
    return NOW - timedelta(**ago)


ENTRIES: list[dict[str, Any]] = [{"ts": _at(minutes=ago).isoformat(), "values": {"t": 20 + ago}} for ago in (3, 2, 1)]
EXPECTED = {("temp", 20.0 + ago, _at(minutes=ago)) for ago in (3, 2, 1)}


@pytest.mark.parametrize(
    ("listed", "layout"),
    [
        (ENTRIES, LIST),
        ("\n".join(map(json.dumps, ENTRIES)), LIST),
        ("\r\n".join(map(json.dumps, ENTRIES)) + "\r\n\n", LIST),
        ([{**one, "ts": int(datetime.fromisoformat(one["ts"]).timestamp())} for one in ENTRIES], LIST),
        ([{**one, "ts": str(int(datetime.fromisoformat(one["ts"]).timestamp() * 1000))} for one in ENTRIES], LIST),
        ([{"meta": {"at": one["ts"]}, "values": one["values"]} for one in ENTRIES],
         EntryList(("readings",), time_path=("meta", "at"))),
    ],
)  # fmt: skip
def test_lists_of_entries(listed: Any, layout: EntryList) -> None:
    message = {"timestamp": NOW.isoformat(), "readings": listed}
    assert _found(message, layout) == EXPECTED
    assert _normalize(message, layout).time == NOW
    del message["timestamp"]
    assert _found(message, layout) == EXPECTED
    assert _normalize(message, layout).time == _at(minutes=1), "the newest of the entries"


def test_the_example_of_the_device_guide() -> None:
    guide = read("docs/device-guide.md").split("### Several readings in one message")[1].split("\n### ")[0]
    [example] = fenced(guide, "json")
    layout = EntryList(("readings",), time_path=("at",))
    temperature = MetricSpec("temperature", ("temp",), "number", "°C", number_format="comma", sentinels="-127")
    found = _found(json.loads(example), layout, temperature, MetricSpec("door_open", ("door",), "boolean", ""))
    assert found == {
        ("temperature", 21.4, _at(minutes=10)),
        ("door_open", False, _at(minutes=10)),
        ("door_open", True, _at(minutes=5)),
    }


def test_a_list_deeper_in_the_message_and_values_beside_it() -> None:
    layout = EntryList(("data", "log"), time_path=("ts",))
    message = {"timestamp": NOW.isoformat(), "data": {"log": ENTRIES, "rssi": -60}, "battery": 3.3, "values": {"t": 25}}
    beside = {("data.rssi", -60.0, NOW), ("battery", 3.3, NOW), ("temp", 25.0, NOW)}
    assert _found(message, layout) == EXPECTED | beside


def test_one_object_and_no_list() -> None:
    assert _found({"readings": ENTRIES[0]}) == {("temp", 23.0, _at(minutes=3))}
    plain = {"timestamp": NOW.isoformat(), "values": {"t": 21}}
    assert _found(plain) == {("temp", 21.0, NOW)}
    assert not _normalize(plain).is_timed
    assert _found({"timestamp": NOW.isoformat(), "readings": []}) == set()
    assert "must have a timestamp" in _refusal({"readings": []})
    assert "must have a timestamp" in _refusal({"values": {"t": 21}})


def test_entries_without_a_time_of_their_own_have_that_of_the_message() -> None:
    message = {"timestamp": NOW.isoformat(), "readings": [{"values": {"t": 1}}, {"values": {"t": 2}, "h": 3}]}
    assert _found(message, EntryList(("readings",))) == {("temp", 1.0, NOW), ("temp", 2.0, NOW), ("h", 3.0, NOW)}


SENML_PACK = [
    {"bn": "urn:dev:ow:10e2073a01080063:", "bt": NOW.timestamp() - 60, "bu": "Cel", "n": "temp", "v": 23.5},
    {"n": "hum", "u": "%RH", "v": 40},
    {"n": "temp", "t": 10, "v": 24},
    {"n": "door", "vb": True, "t": 20},
    {"n": "label", "vs": "가", "t": 20},
]


def test_a_senml_pack() -> None:
    layout = EntryList(("senml",), SENML)
    metric = MetricSpec("t", ("temp", "v"), "number", "°C", unit_path=("temp", "u"), conversions=(("Cel", 1, 0),))
    assert _found({"timestamp": NOW.isoformat(), "senml": SENML_PACK}, layout, metric) == {
        ("t", 23.5, _at(seconds=60)), ("hum.v", 40.0, _at(seconds=60)), ("hum.u", "%RH", _at(seconds=60)),
        ("t", 24.0, _at(seconds=50)), ("door.v", True, _at(seconds=40)), ("door.u", "Cel", _at(seconds=40)),
        ("label.v", "가", _at(seconds=40)), ("label.u", "Cel", _at(seconds=40)),
    }  # fmt: skip
    relative = [{"n": "temp", "t": -5, "v": 1}, {"n": "temp", "v": 2}, {"bv": 10, "n": "temp", "t": -2, "v": 3}]
    assert _found({"timestamp": NOW.isoformat(), "senml": relative}, layout, metric) == {
        ("t", 1.0, _at(seconds=5)), ("t", 2.0, NOW), ("t", 13.0, _at(seconds=2)),
    }  # fmt: skip
    assert "a relative time needs the message's timestamp" in _refusal({"senml": relative}, layout, metric)


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([{"v": 1}], "Entry 1: a SenML record must have a name, n or bn."),
        ([{"n": "a", "v": 1, "t": "now"}], "Entry 1: t must be a number, not the string 'now'."),
        ([{"bn": "x", "v": 1}, {"bn": "y", "v": 1}], "Entry 2: a SenML pack must have one base name"),
        ([{"n": "a", "v": 1, "t": 1e300}], "cannot be read"),
        ([5], "Entry 1 of senml must be an object, not the number 5."),
    ],
)
def test_senml_that_is_invalid(records: Any, text: str) -> None:
    assert text in _refusal({"timestamp": NOW.isoformat(), "senml": records}, EntryList(("senml",), SENML))


@pytest.mark.parametrize(
    ("listed", "text"),
    [
        (5, "malformed: readings must be an array of objects, or JSON lines in a string, not the number 5."),
        ([1], "malformed: Entry 1 of readings must be an object, not the number 1."),
        ([*ENTRIES, []], "malformed: Entry 4 of readings must be an object, not an empty array."),
        ('{"ts": 1}\n{', "malformed: Line 2 of readings must be JSON"),
        ([{"values": {"t": 1}}], "malformed: Entry 1: it must have a time at ts."),
        ([*ENTRIES, {"ts": None, "values": {}}], "malformed: Entry 4: it must have a time at ts."),
        ([{"ts": "noon"}], "malformed: Entry 1: The time the string 'noon' cannot be read"),
        ([{"ts": "2026-11-30T09:00:00"}], "it has no offset, and the component type no time zone"),
        ([{"ts": []}], "malformed: Entry 1: The time must be ISO 8601 or a Unix time, not an empty array."),
        ([{"ts": _at(minutes=-6).isoformat()}], "future_timestamp: "),
        ([{"ts": "2000-01-01T00:00:00Z"}], "past_timestamp: "),
        ([*ENTRIES, {"ts": _at(minutes=9).isoformat(), "values": {"t": 81}}], "out_of_range: Entry 4: Metric temp"),
        ([{"ts": 1e300}], "malformed: Entry 1: The time the number 1e+300 cannot be read"),
        ([{"ts": 0}] * 1001, "malformed: readings must have at most 1000 entries, not 1001."),
        ("{}\n" * 5000, "malformed: readings must have at most 1000 entries, not 1001."),
    ],
)
def test_a_message_is_refused_whole_by_its_entry(listed: Any, text: str) -> None:
    assert text in _refusal({"readings": listed})


def test_a_thousand_entries() -> None:
    listed = [{"ts": _at(seconds=number).isoformat(), "values": {"t": number % 80}} for number in range(1000)]
    assert len(_found({"readings": listed})) == 1000


@pytest.mark.parametrize(
    ("value", "time_format", "zone", "expected"),
    [
        ("2026-11-30T18:00:00", "auto", "Asia/Seoul", NOW),
        ("2026-11-30 18:00:00", "iso", "Asia/Seoul", NOW),
        ("2026-11-30T09:00:00Z", "iso", "Asia/Seoul", NOW),
        ("2026-11-30T04:00:00", "auto", "America/New_York", NOW),
        ("20261130T090000Z", "auto", "", NOW),
        (1796029200, "auto", "", NOW),
        (1796029200.5, "s", "", NOW + timedelta(seconds=0.5)),
        ("1796029200", "auto", "", NOW),
        (1796029200000, "auto", "", NOW),
        (1796029200000, "ms", "", NOW),
        (1796029200000001, "auto", "", NOW + timedelta(microseconds=1)),
        (1796029200000000, "us", "", NOW),
        (1796029200000001999, "auto", "", NOW + timedelta(microseconds=1)),
        ("1796029200000000000", "ns", "", NOW),
        (1796029200, "ms", "", datetime(1970, 1, 21, 18, 53, 49, 200000, tzinfo=UTC)),
        (0, "s", "", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_forms_of_times(value: Any, time_format: str, zone: str, expected: datetime) -> None:
    assert read_time(value, time_format, zone) == expected


@pytest.mark.parametrize(
    ("value", "time_format"),
    [(1796029200, "iso"), ("2026-11-30T09:00:00Z", "s"), (True, "s"), (None, "auto"), ({}, "auto"), ("", "auto"),
     (10**30, "s"), ("9" * 60, "auto"), ("2026-13-01T00:00:00Z", "iso")],
)  # fmt: skip
def test_times_that_are_refused(value: Any, time_format: str) -> None:
    with pytest.raises(Refusal, match="malformed: The time"):
        read_time(value, time_format, "")


def test_the_time_of_a_message_at_another_path() -> None:
    layout = EntryList(time_path=("Time",), zone="Asia/Seoul")
    message = {"Time": "2026-11-30T18:00:00", "values": {"t": 21}, "x": 1}
    assert _found(message, layout) == {("temp", 21.0, NOW), ("x", 1.0, NOW)}
    late = _normalize(message | {"Time": "2026-11-30T17:00:00"}, layout)
    assert (late.time, late.is_late) == (_at(hours=1), True)
    assert "must have a time at Time, or a timestamp" in _refusal({"values": {"t": 1}}, layout)
    assert _normalize(message | {"timestamp": _at(minutes=1).isoformat()}, layout).time == _at(minutes=1)
    assert "future_timestamp" in _refusal(message | {"Time": "2026-11-30T19:00:00"}, layout)


_READINGS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(-40, 80), st.booleans()), min_size=1, max_size=30
)  # seconds ago, temperature, whether there is an unmapped value


@given(_READINGS, st.randoms())
def test_a_list_equals_its_entries_sent_one_by_one(readings: list[tuple[int, int, bool]], random: Any) -> None:
    listed = [
        {"ts": _at(seconds=ago).isoformat(), "values": {"t": value}, **({"rssi": value} if more else {})}
        for ago, value, more in readings
    ]
    listed += random.sample(listed, random.randint(0, len(listed)))
    singles = set().union(*(_found({"readings": [entry]}) for entry in listed))
    assert _found({"readings": listed}) == singles
    random.shuffle(listed)
    found = _normalize({"readings": listed})
    assert _found({"readings": listed}) == singles, "in every order"
    assert len(found.values.measurements) + len(found.values.unmapped) == len(singles), "each reading once"


def test_types_that_refuse_single_values_store_the_others() -> None:
    listed = [*ENTRIES, {"ts": _at(minutes=9).isoformat(), "values": {"t": 81}, "rssi": 1}]
    listed += [{"ts": _at(minutes=10 + number).isoformat(), "values": {"t": -41}} for number in range(4)]
    component = ComponentSpec("x", "x", True, True, (TEMP,), KEEP, REFUSE_VALUE, LIST)
    found = entries.normalize({"readings": listed}, component, b"", NOW, CLOCK).values
    assert [(value.metric, value.value) for value in found.measurements] == [("temp", 23), ("temp", 22), ("temp", 21)]
    assert [value.metric for value in found.unmapped] == ["rssi"]
    [refused] = found.refused
    assert (refused.metric, refused.reason) == ("temp", "out_of_range")
    assert refused.detail.count("Entry ") == 3
    assert refused.detail.endswith("And 2 more.")
    with pytest.raises(Refusal, match="out_of_range: Entry 1: Metric temp"):
        entries.normalize({"readings": listed[4:]}, component, b"", NOW, CLOCK)
