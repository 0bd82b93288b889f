"""Aggregates across devices are those of a plain computation over all readings of a group."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from devices.models import Component, ComponentType, Device, HardwareModel, Place
from telemetry.models import RollupState, Series
from telemetry.services.rollups import aggregation, packing
from tenants.models import Tenant
from tests.api.client import Api, problem_of, problems
from tests.factories import issue_key
from tests.telemetry.rollup_tenant import RollupTenant, Row, make_rollup_tenant, remove_rollup_tenant

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# In these days Berlin sets its clocks back (25 October), and a month ends.
BEGIN = datetime(2026, 10, 18, tzinfo=UTC)
END = BEGIN + 20 * DAY
MODELS = ("board 1", "board 2", None)
PLACES = ("farm", "house", "zone", None)
TAGS: list[list[str]] = [[], ["north"], ["north", "rented"], ["rented"]]
UNITS = ("°C", "°F")


@pytest.fixture(scope="module")
def made(django_db_setup: None, django_db_blocker: Any) -> Iterator[RollupTenant]:
    with django_db_blocker.unblock():
        made = make_rollup_tenant("grouped", devices=9)
        with schema_context(made.schema):
            _equip(made, random.Random(8))
        yield made
        remove_rollup_tenant(made)
        connection.close()


def _equip(made: RollupTenant, chance: random.Random) -> None:
    """Give the devices places, tags, models, component types and a second unit."""
    farm = Place.objects.create(key="farm", name="farm")
    house = Place.objects.create(key="house", name="house", parent=farm)
    places = {
        "farm": farm, "house": house, None: None,
        "zone": Place.objects.create(key="zone", name="zone", parent=house),
    }  # fmt: skip
    models = {name: name and HardwareModel.objects.create(name=name, version="1") for name in MODELS}
    kind = ComponentType.objects.get(key="dht22")
    for number, device in enumerate(Device.objects.order_by("pk")):
        fields = {
            "place": places[PLACES[number % 4]],
            "tags": TAGS[number % 4],
            "hardware_model": models[MODELS[number % 3]],
        }
        Device.objects.filter(pk=device.pk).update(**fields)
        if number % 3:
            Component.objects.create(device=device, key="dht22", component_type=kind)
        Series.objects.filter(device=device, metric="temperature").update(unit="°C")
        if number % 2:
            made.devices[device.pk].append(
                Series.objects.create(
                    device=device, component="dht22", metric="temperature", unit="°F", value_type="number"
                ).pk
            )
        Series.objects.create(device=device, component="door", metric="open", value_type="boolean")


@pytest.fixture
def api(live_db: None, made: RollupTenant, settings: Any) -> Api:
    settings.API_REQUESTS_PER_MINUTE = 0
    tenant = Tenant.objects.get(schema_name=made.schema)
    return Api(tenant.slug, key=issue_key(tenant))


@pytest.fixture
def rows(live_db: None, made: RollupTenant) -> Iterator[list[Row]]:
    """Readings with a gap; rolled up and packed in part, late in part."""
    chance = random.Random(9)
    with schema_context(made.schema):
        made.clear()
        span = int((END - BEGIN).total_seconds())
        times = [BEGIN + timedelta(seconds=chance.randrange(span)) for _ in range(2500)]
        times += [aggregation.hour_of(time) for time in times[::20]]
        found = [
            (chance.choice(made.series), time, chance.randrange(-400, 400) / 4)
            for time in times
            if not BEGIN + 3 * DAY <= time < BEGIN + 5 * DAY
        ]
        made.store(*found)
        aggregation.roll_up(now=END - 4 * DAY)
        packing.pack(now=END - 6 * DAY)
        late = [(chance.choice(made.series), BEGIN + timedelta(seconds=chance.randrange(2 * 86400)), 500.0)]
        made.store(*late)
    yield sorted({*found, *late})
    with schema_context(made.schema):
        made.clear()


@pytest.fixture
def keys(made: RollupTenant) -> dict[int, dict[str, list[Any]]]:
    """Series → the members by which it can be grouped, read without the code that is tested."""
    found: dict[int, dict[str, list[Any]]] = {}
    with schema_context(made.schema):
        for one in Series.objects.select_related("device__place", "device__hardware_model"):
            part = Component.objects.filter(device=one.device, key=one.component).first()
            place = one.device.place
            found[one.pk] = {
                "device": [str(one.device.uuid)],
                "place": [place and place.key],
                "below": place.path.split("/") if place else [],
                "tag": list(one.device.tags) or [None],
                "hardware_model": [one.device.hardware_model_id],
                "component": [one.component],
                "component_type": [part and part.component_type.key],
                "metric": [one.metric],
                "unit": [one.unit],
            }
    return found


def in_celsius(value: float, unit: str) -> Fraction:
    return (Fraction(value) - 32) * 5 / 9 if unit == "°F" else Fraction(value)


def beginning(time: datetime, interval: str | None, zone: ZoneInfo, start: datetime) -> datetime:
    """The beginning of the interval in which a time is, by the wall clock."""
    local = time.astimezone(zone)
    if interval is None:
        return start.astimezone(zone)
    if interval == "1h":
        return (time.replace(minute=0, second=0, microsecond=0)).astimezone(zone)
    if interval == "6h":
        return datetime(local.year, local.month, local.day, local.hour // 6 * 6, tzinfo=zone)
    return datetime(local.year, local.month, local.day if interval == "1d" else 1, tzinfo=zone)


def percentile(ordered: list[Fraction], percent: float) -> Fraction:
    """Between the two nearest readings, by the share of the way."""
    place = Fraction(percent) / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def expected(
    rows: list[Row], keys: Any, by: list[str], interval: str | None, zone: ZoneInfo, start: datetime, stop: datetime,
    selects: Callable[[dict[str, list[Any]]], bool] = lambda _key: True,
) -> dict[Any, dict[str, list[Fraction]]]:  # fmt: skip
    """Group → beginning of the interval → the values in °C, ascending."""
    found: dict[Any, dict[str, list[Fraction]]] = {}
    for series, time, value in rows:
        key = keys[series]
        if key["metric"] != ["temperature"] or not start <= time < stop or not selects(key):
            continue
        at = beginning(time, interval, zone, start).isoformat()
        for group in product(*(key[name] for name in by)):
            found.setdefault(group, {}).setdefault(at, []).append(in_celsius(value, key["unit"][0]))
    return {group: {at: sorted(values) for at, values in own.items()} for group, own in found.items()}


def check(answer: Any, wanted: dict[Any, dict[str, list[Fraction]]], by: list[str], percents: list[float]) -> None:
    assert answer.status_code == 200, answer.content
    document = answer.json()
    assert document["sources"]["percentiles"] == ["readings"]
    found = {tuple(group["group"][name] for name in by): group for group in document["groups"]}
    assert len(found) == len(document["groups"])
    filled = {key: group["results"] for key, group in found.items() if group["results"]}
    assert filled.keys() == wanted.keys()
    for key, results in filled.items():
        assert found[key]["unit"] == "°C"
        assert [row["starts_at"] for row in results] == sorted(wanted[key], key=datetime.fromisoformat)
        for row in results:
            values = wanted[key][row["starts_at"]]
            assert row["count"] == len(values)
            about = {
                "min": values[0], "max": values[-1], "sum": sum(values), "avg": sum(values) / len(values),
            }  # fmt: skip
            for name, value in about.items():
                assert row[name] == pytest.approx(float(value), rel=1e-9, abs=1e-9), (key, row)
            assert [one["percent"] for one in row["percentiles"]] == percents
            for one in row["percentiles"]:
                value = percentile(values, one["percent"])
                assert one["value"] == pytest.approx(float(value), rel=1e-9, abs=1e-9), (key, row)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Seoul"])
@pytest.mark.parametrize("interval", [None, "1h", "6h", "1d", "1mo"])
def test_groups_are_those_of_the_readings(
    api: Api, rows: list[Row], keys: Any, interval: str | None, zone: str
) -> None:
    chance = random.Random(f"{interval} {zone}")
    members = ["device", "place", "tag", "hardware_model", "component", "component_type"]
    for by in ([], [chance.choice(members)], chance.sample(members, 2), chance.sample(members, 3)):
        start = BEGIN + timedelta(seconds=chance.randrange(3 * 86400))
        stop = END - timedelta(seconds=chance.randrange(3 * 86400))
        if interval == "1h":
            stop = start + 2 * DAY
        percents = sorted(chance.sample([0.0, 5.0, 37.5, 50.0, 95.0, 99.9, 100.0], 3))
        query = {
            "metric": "temperature", "from": start.isoformat(), "to": stop.isoformat(), "timezone": zone,
            "unit": "°C", "group_by": by, "percentile": percents, "interval": interval,
        }  # fmt: skip
        answer = api.get(
            "readings/group-aggregates/", **{name: value for name, value in query.items() if value not in (None, [])}
        )
        wanted = expected(rows, keys, by, interval, ZoneInfo(zone), start, stop)
        check(answer, wanted, by, percents)


@pytest.mark.parametrize("by", ["place", "tag", "hardware_model"])
@pytest.mark.parametrize("interval", ["6h", "1d", "1mo"])
def test_counters_of_a_group_add_up(api: Api, rows: list[Row], keys: Any, interval: str, by: str) -> None:
    """The sums of what the same endpoint for single series returns, which is compared with its own computation."""
    span = {"from": (BEGIN + HOUR / 3).isoformat(), "to": (END - DAY).isoformat(), "unit": "°C"}
    query: dict[str, Any] = {"metric": "temperature", "interval": interval, "timezone": "Europe/Berlin", **span}
    query |= {"aggregate": ["delta", "rate", "integral", "count"], "max_gap_seconds": 86400}
    devices = sorted({key["device"][0] for key in keys.values()})
    series = api.get("readings/aggregates/", device=devices, **query).json()["series"]
    wanted: dict[Any, dict[str, dict[str, float]]] = {}
    by_device = {key["device"][0]: key for key in keys.values()}
    for one in series:
        for group in by_device[one["device"]][by]:
            for row in one["results"]:
                sums = wanted.setdefault(group, {}).setdefault(row["starts_at"], {})
                for name in query["aggregate"]:
                    sums[name] = sums.get(name, 0) + (row[name] or 0)
    answer = api.get("readings/group-aggregates/", group_by=by, **query).json()
    assert answer["sources"]["interpolated"] == ["readings"]
    found = {
        group["group"][by]: {
            row["starts_at"]: {name: row[name] or 0 for name in query["aggregate"]} for row in group["results"]
        }
        for group in answer["groups"]
    }
    assert found.keys() == wanted.keys()
    for group, rows_of_group in wanted.items():
        assert found[group].keys() == rows_of_group.keys()
        for at, sums in rows_of_group.items():
            assert found[group][at] == pytest.approx(sums, rel=1e-7, abs=1e-6)


def test_a_selection_and_places_with_what_is_below_them(api: Api, rows: list[Row], keys: Any) -> None:
    query: dict[str, Any] = {
        "metric": "temperature", "from": BEGIN.isoformat(), "to": END.isoformat(), "unit": "°C", "interval": "1d",
        "percentile": 50, "group_by": "place",
    }  # fmt: skip
    answer = api.get("readings/group-aggregates/", place=["farm", "zone"], **query)
    for key in keys.values():
        key["requested"] = [name for name in ("farm", "zone") if name in key["below"]]
    wanted = expected(rows, keys, ["requested"], "1d", ZoneInfo("UTC"), BEGIN, END)
    assert {group for (group,) in wanted} == {"farm", "zone"}
    check(answer, wanted, ["place"], [50.0])
    assert {group["group"]["place"]: group["device_count"] for group in answer.json()["groups"]} == {
        "farm": 7,
        "zone": 2,
    }

    answer = api.get("readings/group-aggregates/", tag="rented", component_type="dht22", **query)
    wanted = expected(
        rows, keys, ["place"], "1d", ZoneInfo("UTC"), BEGIN, END,
        lambda key: "rented" in key["tag"] and key["component_type"] == ["dht22"],
    )  # fmt: skip
    check(answer, wanted, ["place"], [50.0])


def test_the_sources_are_named(api: Api, rows: list[Row], made: RollupTenant) -> None:
    query = {"metric": "temperature", "unit": "°C", "from": BEGIN.isoformat()}

    def sources(**more: Any) -> Any:
        return api.get("readings/group-aggregates/", **query, **more).json()["sources"]

    first = {"to": (BEGIN + 2 * DAY).isoformat(), "timezone": "UTC"}
    assert sources(**first, interval="15m") == {"aggregates": ["readings"], "percentiles": [], "interpolated": []}
    assert sources(**first, interval="1h") == {"aggregates": ["hours"], "percentiles": [], "interpolated": []}
    assert set(sources(to=END.isoformat(), interval="1mo")["aggregates"]) >= {"days", "hours"}
    with schema_context(made.schema):
        RollupState.objects.update(readings_from=BEGIN + DAY)
    answer = api.get("readings/group-aggregates/", **query, **first, interval="1h").json()
    assert answer["complete"] is True
    answer = api.get("readings/group-aggregates/", **query, **first, interval="1h", percentile=50).json()
    assert [one["code"] for one in answer["warnings"]] == ["retention"]


def test_units_that_differ_are_refused_or_converted(api: Api, rows: list[Row], keys: Any) -> None:
    query = {"metric": "temperature", "from": BEGIN.isoformat(), "to": END.isoformat()}
    answer = api.get("readings/group-aggregates/", **query)
    assert "several units in one group: °C, °F. Convert them by 'unit'." in problems(answer)["unit"]
    assert problem_of(answer)["errors"][0]["code"] == "incompatible_units"
    answer = api.get("readings/group-aggregates/", unit="psi", **query)
    assert "'temperature' was measured in °C, which cannot be converted to psi" in problems(answer)["unit"]
    celsius = [key["device"][0] for key in keys.values() if key["metric"] == ["temperature"]]
    alone = [uuid for uuid in celsius if celsius.count(uuid) == 1]
    (group,) = api.get("readings/group-aggregates/", device=alone, **query).json()["groups"]
    assert (group["unit"], group["device_count"]) == ("°C", len(alone))


def test_empty_groups_and_intervals(api: Api, rows: list[Row], keys: Any) -> None:
    start, stop = BEGIN + 3 * DAY, BEGIN + 6 * DAY  # in a gap
    query = {"metric": "temperature", "from": start.isoformat(), "to": stop.isoformat(), "interval": "1d"}
    answer = api.get("readings/group-aggregates/", **query, unit="°F", fill="null", percentile=50).json()
    (group,) = answer["groups"]
    assert [row["count"] for row in group["results"]][:2] == [0, 0]
    nothing = {"min": None, "max": None, "avg": None, "sum": None, "percentiles": [{"percent": 50.0, "value": None}]}
    assert group["results"][0] == {"starts_at": "2026-10-21T00:00:00+00:00", "count": 0} | nothing
    query["to"] = (start + DAY).isoformat()
    (group,) = api.get("readings/group-aggregates/", **query, unit="°F", aggregate="max").json()["groups"]
    assert (group["results"], group["unit"], group["device_count"]) == ([], "°F", 9)
    answer = api.get("readings/group-aggregates/", place="farm", tag="none-has-it", **query).json()
    assert answer["groups"] == []


def test_booleans_have_shares(api: Api, rows: list[Row], made: RollupTenant) -> None:
    with schema_context(made.schema):
        doors = list(Series.objects.filter(metric="open").order_by("pk").values_list("pk", flat=True))
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO telemetry_reading (series_id, time, value) VALUES (%s, %s, %s)",
                [(one, END + HOUR, float(number == 0)) for number, one in enumerate(doors[:4])],
            )
    query = {"from": END.isoformat(), "to": (END + DAY).isoformat(), "percentile": 50}
    (group,) = api.get("readings/group-aggregates/", metric="open", **query).json()["groups"]
    (row,) = group["results"]
    assert (group["value_type"], group["unit"], row["count"], row["avg"], row["sum"]) == ("boolean", None, 4, 0.25, 1.0)
    assert (row["min"], row["max"], row["percentiles"]) == (False, True, [{"percent": 50.0, "value": None}])


@pytest.mark.parametrize(
    ("query", "status", "name", "text"),
    [
        ({"metric": None}, 400, "metric", "required"),
        ({"metric": "pressure-x"}, 404, None, "There is no metric 'pressure-x'"),
        ({"metric": "temperature", "group_by": "site"}, 400, "group_by", "must be one of device, place, tag"),
        ({"metric": "temperature", "percentile": "101"}, 400, "percentile", "from 0 to 100, not 101.0"),
        ({"metric": "temperature", "percentile": "nan"}, 400, "percentile", "must be a number, not 'nan'"),
        ({"metric": "temperature", "percentile": "x"}, 400, "percentile", "number"),
        ({"metric": "temperature", "percentile": ["1"] * 11}, 400, "percentile", "at most 10 entries"),
        ({"metric": "temperature", "aggregate": "last"}, 400, "aggregate", "must be one of count, min, max, avg, sum"),
        ({"metric": "temperature", "interval": "7m"}, 400, "interval", "not a valid interval"),
        ({"metric": "temperature", "fill": "previous"}, 400, "fill", "must be one of none, null"),
        ({"metric": "temperature", "from": None}, 400, "from", "required"),
        ({"metric": "temperature", "place": "nowhere"}, 404, None, "There is no place with the key 'nowhere'"),
        (
            {"metric": "temperature", "group_by": "device", "interval": "1m"}, 400, "interval",
            "more than 2777 intervals of 1m, the most for 9 groups. Use a longer interval (15m)",
        ),
    ],
)  # fmt: skip
def test_a_wrong_question_says_what_to_mend(
    api: Api, query: dict[str, Any], status: int, name: str | None, text: str
) -> None:
    asked = {"from": BEGIN.isoformat(), "to": END.isoformat()} | query
    answer = api.get("readings/group-aggregates/", **{key: value for key, value in asked.items() if value is not None})
    assert answer.status_code == status, answer.content
    assert text in problems(answer)[name]


def test_too_many_series_and_groups_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from telemetry.api import series_groups

    query = {"metric": "temperature", "from": BEGIN.isoformat(), "group_by": "device"}
    monkeypatch.setattr(series_groups, "MAX_GROUPS", 8)
    assert (
        "selects 9 groups; at most 8 are allowed"
        in problems(api.get("readings/group-aggregates/", **query))["group_by"]
    )
    monkeypatch.setattr(series_groups, "MAX_SERIES", 5)
    assert "selects 13 series; at most 5" in problems(api.get("readings/group-aggregates/", **query))["device"]
