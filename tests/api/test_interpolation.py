"""Rate, delta and integral of series, and intervals filled by lines, as the API's clients request them."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django_tenants.utils import schema_context

from tests.factories import add_readings, add_series

from .client import HOUR, T0, Api, problems

DAY = timedelta(days=1)
RANGE = {"from": "2026-11-22T09:00:00Z", "to": "2026-11-22T12:00:00Z"}


@pytest.fixture
def ask(api: Api, greenhouse: Any) -> Callable[..., Any]:
    """The results of the only series of an answer."""
    asked = {"device": str(greenhouse.uuid), "component": "dht22", "metric": "energy", **RANGE}

    def results(**query: Any) -> Any:
        answer = api.get("readings/aggregates/", **(asked | query))
        assert answer.status_code == 200, answer.content
        (series,) = answer.json()["series"]
        return series["results"]

    return results


@pytest.fixture
def energy(tenant_a: Any, greenhouse: Any) -> int:
    """10 kWh an hour from 09:30, with a reset at 11:00."""
    series = add_series(tenant_a, greenhouse, "dht22", "energy", "kWh")
    add_readings(
        tenant_a, series,
        *((T0 + n * HOUR / 2, value) for n, value in enumerate([100.0, 105.0, 110.0, 2.0, 7.0])),
    )  # fmt: skip
    return series


def test_a_counter_by_intervals(ask: Callable[..., Any], energy: int) -> None:
    rows = ask(interval="1h", aggregate=["delta", "rate", "integral"])
    assert [row["starts_at"][11:16] for row in rows] == ["09:00", "10:00", "11:00"]
    assert [row["delta"] for row in rows] == pytest.approx([5, 7, 5])
    assert [row["rate"] for row in rows] == pytest.approx([5 / 1800, 7 / 3600, 5 / 1800])
    assert [row["integral"] for row in rows] == pytest.approx([102.5 * 1800, (107.5 + 56) * 1800, 4.5 * 1800])
    assert rows[0].keys() == {"starts_at", "delta", "rate", "integral"}


def test_an_interval_without_readings_has_its_part_of_the_line(
    ask: Callable[..., Any], tenant_a: Any, greenhouse: Any
) -> None:
    series = add_series(tenant_a, greenhouse, "dht22", "energy", "kWh")
    add_readings(tenant_a, series, (T0 - HOUR, 0.0), (T0 + 2 * HOUR, 30.0), (T0 + 5 * HOUR, 60.0))
    rows = ask(interval="1h", aggregate=["count", "delta", "min"])
    assert [(row["count"], row["delta"], row["min"]) for row in rows] == [
        (0, 10.0, None), (0, 10.0, None), (1, 10.0, 30.0),
    ]  # fmt: skip
    assert ask(interval="1h", aggregate=["count"])[0]["starts_at"][11:16] == "11:00"
    rows = ask(interval="1h", aggregate=["delta"], max_gap_seconds=3 * 3600)
    assert [row["delta"] for row in rows] == pytest.approx([10, 10, 10])
    assert ask(interval="1h", aggregate=["delta"], max_gap_seconds=3 * 3600 - 1) == [
        {"starts_at": "2026-11-22T11:00:00+00:00", "delta": None}
    ]


def test_a_line_has_the_requested_unit(ask: Callable[..., Any], energy: int, api: Api, greenhouse: Any) -> None:
    kilo, joule = (ask(interval="1h", aggregate=["delta", "rate", "integral"], unit=unit) for unit in ("kWh", "J"))
    for before, after in zip(kilo, joule, strict=True):
        for name in ("delta", "rate", "integral"):
            assert after[name] == pytest.approx(before[name] * 3_600_000)


def test_a_level_in_another_unit_keeps_its_zero(ask: Callable[..., Any], tenant_a: Any, greenhouse: Any) -> None:
    """An increase of 10 °C is 18 °F, and the integral of 0 °C is that of 32 °F."""
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "energy", "°C"), (T0, 0.0), (T0 + HOUR, 10.0))
    (row,) = ask(interval="1d", aggregate=["delta", "integral"], unit="°F")
    assert row["delta"] == pytest.approx(18)
    assert row["integral"] == pytest.approx(3600 * (32 + 9))


def test_booleans_have_an_integral_and_texts_have_no_line(api: Api, tenant_a: Any, greenhouse: Any) -> None:
    on = add_series(tenant_a, greenhouse, "relay", "on", "", "boolean")
    add_readings(tenant_a, on, (T0, False), (T0 + HOUR, True), (T0 + 2 * HOUR, False))
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "relay", "mode", "", "text"), (T0, "auto"))
    query = {"device": str(greenhouse.uuid), "interval": "1d", **RANGE, "aggregate": ["rate", "delta", "integral"]}
    mode, state = api.get("readings/aggregates/", **query).json()["series"]
    start = {"starts_at": "2026-11-22T00:00:00+00:00"}
    assert mode["results"] == [start]
    assert state["results"] == [start | {"rate": None, "delta": None, "integral": 3600.0}]


def test_dropped_readings_are_warned_of(ask: Callable[..., Any], api: Api, energy: int, tenant_a: Any) -> None:
    from telemetry.models import RollupState

    with schema_context(tenant_a.schema_name):
        RollupState.objects.update(readings_from=T0)
    query = {"component": "dht22", "metric": "energy", "interval": "1h", **RANGE}
    query["device"] = api.get("devices/", search="greenhouse").json()["results"][0]["uuid"]
    warnings = [
        [one["code"] for one in api.get("readings/aggregates/", **query, aggregate=names).json()["warnings"]]
        for names in (["count"], ["rate"])
    ]
    assert warnings == [[], ["retention"]]


@pytest.mark.parametrize("interval", ["1h", "6h", "1d", "1mo"])
def test_intervals_are_filled_on_the_line_between_their_neighbours(
    ask: Callable[..., Any], tenant_a: Any, greenhouse: Any, interval: str
) -> None:
    """By the instants of the intervals' beginnings: the night in which Berlin sets its clocks is in the range."""
    chance, zone = random.Random(interval), ZoneInfo("Europe/Berlin")
    begin, count = datetime(2026, 9, 20, tzinfo=UTC), 60
    rows = sorted(
        {begin + timedelta(seconds=chance.randrange(70 * 86400)): chance.uniform(-9, 9) for _ in range(count)}.items()
    )
    if interval == "1mo":
        rows = [row for row in rows if row[0].astimezone(zone).month != 10]
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "energy", "°C"), *rows)
    query = {"from": begin.isoformat(), "to": (begin + 70 * DAY).isoformat(), "timezone": zone.key}
    found = ask(interval=interval, fill="linear", **query)

    starts = [datetime.fromisoformat(row["starts_at"]) for row in found]
    own: dict[int, list[float]] = {
        number: [value for _, value in group]
        for number, group in groupby(rows, lambda row: max(n for n, at in enumerate(starts) if at <= row[0]))
    }
    assert [row["count"] for row in found] == [len(own.get(number, [])) for number in range(len(found))]
    assert 0 in [row["count"] for row in found]
    for number, row in enumerate(found):
        names = ("min", "max", "avg", "last")
        before = max((n for n in own if n <= number), default=None)
        after = min((n for n in own if n >= number), default=None)
        if before is None or after is None:
            assert [row[name] for name in (*names, "sum")] == [None] * 5
            continue
        levels = [(min(v), max(v), sum(v) / len(v), v[-1]) for v in (own[before], own[after])]
        share = 0.0 if before == after else (starts[number] - starts[before]) / (starts[after] - starts[before])
        wanted = [earlier + (later - earlier) * share for earlier, later in zip(*levels, strict=True)]
        assert [row[name] for name in names] == pytest.approx(wanted, abs=1e-9)
        assert (row["sum"] is None) == (before != after)


def test_a_long_gap_is_not_filled(ask: Callable[..., Any], tenant_a: Any, greenhouse: Any) -> None:
    add_readings(
        tenant_a, add_series(tenant_a, greenhouse, "dht22", "energy", "°C"), (T0 - HOUR / 2, 1.0), (T0 + 2 * HOUR, 5.0)
    )
    rows = ask(interval="1h", fill="linear", aggregate="avg")
    assert [row["avg"] for row in rows] == [1.0, 3.0, 5.0]
    rows = ask(interval="1h", fill="linear", aggregate="avg", max_gap_seconds=3600)
    assert [row["avg"] for row in rows] == [1.0, None, 5.0]


def test_a_wrong_gap_is_refused(api: Api, greenhouse: Any) -> None:
    for gap in ("0", "x", str(10**12)):
        answer = api.get(
            "readings/aggregates/", device=str(greenhouse.uuid), interval="1h", max_gap_seconds=gap, **RANGE
        )
        assert answer.status_code == 400
        assert "must be a whole number from 1 to 316224000" in problems(answer)["max_gap_seconds"]
