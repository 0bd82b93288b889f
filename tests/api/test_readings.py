"""Latest values and ranges of readings."""

import datetime
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.core import signing
from django.db import connection
from django_tenants.utils import schema_context

from telemetry.models import Series
from telemetry.services.queries import readings
from tests.factories import add_readings, add_series, issue_key, make_device

from .client import T0, Api, problems

MINUTE = datetime.timedelta(minutes=1)


def values(answer: Any) -> list[Any]:
    assert answer.status_code == 200, answer.content
    return [row["value"] for row in answer.json()["results"]]


@pytest.fixture
def temperature(greenhouse: Any, tenant_a: Any) -> int:
    """The series of the greenhouse's temperature in °C."""
    return add_series(tenant_a, greenhouse, "dht22", "temperature", "°C")


@pytest.fixture
def ask(api: Api, greenhouse: Any) -> Callable[..., Any]:
    """The readings of the greenhouse's temperature."""
    named = {"device": greenhouse.uuid, "component": "dht22", "metric": "temperature"}
    return lambda **query: api.get("readings/", **(named | query))


def test_the_latest_value_of_each_metric_with_its_unit(
    api: Api, greenhouse: Any, temperature: int, tenant_a: Any
) -> None:
    add_readings(tenant_a, temperature, (T0, 20.5), (T0 + MINUTE, 21.5), (T0 - MINUTE, 99))
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "relay", "state", "", "boolean"), (T0, True))
    add_readings(
        tenant_a, add_series(tenant_a, greenhouse, "relay", "mode", "", "text"), (T0, "auto"), (T0 + MINUTE, "manual")
    )
    add_series(tenant_a, greenhouse, "dht22", "humidity", "%")  # nothing measured yet

    answer = api.get(f"devices/{greenhouse.uuid}/latest/")

    assert answer.json() == {
        "results": [
            {
                "component": "dht22",
                "metric": "temperature",
                "value": 21.5,
                "unit": "°C",
                "time": "2026-11-22T09:31:00Z",
            },
            {"component": "relay", "metric": "mode", "value": "manual", "unit": None, "time": "2026-11-22T09:31:00Z"},
            {"component": "relay", "metric": "state", "value": True, "unit": None, "time": "2026-11-22T09:30:00Z"},
        ]
    }


def test_after_a_change_of_the_unit_the_newest_value_counts(
    api: Api, greenhouse: Any, temperature: int, tenant_a: Any
) -> None:
    add_readings(tenant_a, temperature, (T0, 20))
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "dht22", "temperature", "°F"), (T0 + MINUTE, 68))
    (latest,) = api.get(f"devices/{greenhouse.uuid}/latest/").json()["results"]
    assert (latest["value"], latest["unit"]) == (68, "°F")


def test_a_page_of_readings_is_read_from_the_index_alone(
    greenhouse: Any, temperature: int, tenant_a: Any, db: None
) -> None:
    add_readings(tenant_a, temperature, *((T0 + MINUTE * n, n) for n in range(2000)))
    with schema_context(tenant_a.schema_name), connection.cursor() as cursor:
        cursor.execute("ANALYZE telemetry_reading")
        series = Series.objects.get(pk=temperature)
        after = readings.ReadingPosition(T0 + MINUTE, temperature, 1.0)
        sql = readings._series_sql(series, T0, T0 + MINUTE * 50, after)
        cursor.execute(
            "EXPLAIN " + sql,
            {"start": T0, "stop": T0 + MINUTE * 50, "limit": 10, "after_time": after.time, "after_key": after.key},
        )
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Index Only Scan using telemetry_reading" in plan
    assert "Sort Key: telemetry_reading" not in plan, "only what is unpacked is sorted"


def test_readings_of_a_range_oldest_first(ask: Callable[..., Any], temperature: int, tenant_a: Any) -> None:
    add_readings(tenant_a, temperature, *((T0 + MINUTE * n, n) for n in (3, 1, 2, 0)))
    assert ask(to="2026-11-22T10:00:00Z").json() == {
        "results": [
            {"time": f"2026-11-22T09:3{n}:00Z", "value": float(n), "unit": "°C"} for n in range(4)
        ],
        "next": None,
        "complete": True,
        "warnings": [],
    }  # fmt: skip
    ranged = {"from": "2026-11-22T09:31:00Z", "to": "2026-11-22T18:33:00+09:00"}
    assert values(ask(**ranged)) == [1, 2]  # from inclusive, to exclusive
    assert values(ask(**{"from": "2026-11-22T09:31:00.000001Z"})) == [2, 3]


def test_values_come_as_what_they_are(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    add_readings(
        tenant_a, add_series(tenant_a, greenhouse, "relay", "state", "", "boolean"), (T0, True), (T0 + MINUTE, False)
    )
    add_readings(tenant_a, add_series(tenant_a, greenhouse, "relay", "mode", "", "text"), (T0, "auto"), (T0, "Auto"))
    state = api.get("readings/", device=greenhouse.uuid, component="relay", metric="state")
    assert [value is expected for value, expected in zip(values(state), (True, False), strict=True)] == [True, True]
    mode = api.get("readings/", device=greenhouse.uuid, component="relay", metric="mode")
    assert sorted(values(mode)) == ["Auto", "auto"]


def test_each_reading_keeps_the_unit_it_was_measured_in(
    ask: Callable[..., Any], greenhouse: Any, temperature: int, tenant_a: Any
) -> None:
    add_readings(tenant_a, temperature, (T0, 20), (T0 + MINUTE, 21))
    fahrenheit = add_series(tenant_a, greenhouse, "dht22", "temperature", "°F")
    add_readings(tenant_a, fahrenheit, (T0 + MINUTE, 69.8), (T0 + MINUTE * 2, 70))
    got = [(row["value"], row["unit"]) for row in ask().json()["results"]]
    assert got == [(20, "°C"), (21, "°C"), (69.8, "°F"), (70, "°F")]


def follow(
    ask: Callable[..., Any], api: Api, between: Callable[[int], None] = lambda _: None, **query: Any
) -> list[Any]:
    """All pages' results; `between` runs after each page."""
    answer, rows, pages = ask(**query), [], 0
    while True:
        assert answer.status_code == 200, answer.content
        page = answer.json()
        rows += [(row["time"], row["value"], row["unit"]) for row in page["results"]]
        pages += 1
        if page["next"] is None:
            return rows
        between(pages)
        answer = api.get(page["next"])


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 7])
def test_pages_neither_repeat_nor_leave_out_where_values_share_an_instant(
    api: Api, ask: Callable[..., Any], greenhouse: Any, temperature: int, tenant_a: Any, limit: int
) -> None:
    """Ties over the pages' boundaries: two values of an instant, in two units, and texts."""
    add_readings(tenant_a, temperature, (T0, 1), (T0, 2), (T0, -3), (T0 + MINUTE, 1), (T0 + MINUTE, 1.5))
    fahrenheit = add_series(tenant_a, greenhouse, "dht22", "temperature", "°F")
    add_readings(tenant_a, fahrenheit, (T0, 2), (T0, 3), (T0 + MINUTE, 1))
    text = add_series(tenant_a, greenhouse, "dht22", "temperature", "", "text")
    add_readings(tenant_a, text, (T0, "err"), (T0, "off"), (T0 + MINUTE, "err"))

    rows = follow(ask, api, limit=limit)

    assert len(rows) == len(set(rows)) == 11
    assert rows == follow(ask, api, limit=1000)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert [row[1:] for row in rows[:5]] == [(-3, "°C"), (1, "°C"), (2, "°C"), (2, "°F"), (3, "°F")]


def test_readings_that_arrive_between_two_pages_shift_nothing(
    api: Api, ask: Callable[..., Any], temperature: int, tenant_a: Any
) -> None:
    add_readings(tenant_a, temperature, *((T0 + MINUTE * n, n) for n in range(6)))

    def arrive(page: int) -> None:
        if page == 1:  # the first page ended with 1: one before it, one at its instant, one after it
            add_readings(tenant_a, temperature, (T0 - MINUTE, -1), (T0 + MINUTE, 1.25), (T0 + MINUTE * 4, 4.5))

    got = [row[1] for row in follow(ask, api, between=arrive, limit=2)]
    assert got == [0, 1, 1.25, 2, 3, 4, 4.5, 5]


def test_the_next_address_carries_the_question_and_the_tenant(
    ask: Callable[..., Any], temperature: int, tenant_a: Any
) -> None:
    add_readings(tenant_a, temperature, (T0, 1), (T0 + MINUTE, 2))
    following = ask(limit=1, **{"from": T0.isoformat()}).json()["next"]
    assert following.startswith("http://testserver/t/alpha/api/v1/readings/?")
    assert "limit=1" in following
    assert "metric=temperature" in following


def test_a_cursor_of_another_tenant_or_list_does_not_help(
    api: Api, ask: Callable[..., Any], temperature: int, tenant_a: Any, tenant_b: Any
) -> None:
    add_readings(tenant_a, temperature, (T0, 1), (T0 + MINUTE, 2))
    other = make_device(tenant_b, dht22="dht22")
    series = add_series(tenant_b, other, "dht22", "temperature", "°C")
    add_readings(tenant_b, series, (T0, 100), (T0 + MINUTE, 200))
    theirs = Api(tenant_b.slug, key=issue_key(tenant_b))
    page = theirs.get("readings/", device=other.uuid, component="dht22", metric="temperature", limit=1).json()
    cursor = page["next"].split("cursor=")[1].split("&")[0]

    foreign = ask(cursor=cursor)
    assert foreign.status_code == 400
    assert "does not belong to this list" in problems(foreign)["cursor"]
    assert api.get(page["next"].replace("/t/beta-farm/", "/t/alpha/")).status_code == 404  # the device is not here
    own = ask(limit=1).json()["next"].split("cursor=")[1].split("&")[0]
    changed = len(own) // 2  # the last character of base64 has bits that say nothing
    assert ask(cursor=own[:changed] + ("B" if own[changed] == "A" else "A") + own[changed + 1 :]).status_code == 400
    forged = signing.Signer(sep=".").sign_object(["2026-01-01T00:00:00+00:00", 1, 0.0])
    assert ask(cursor=forged).status_code == 400


@pytest.mark.parametrize(
    ("query", "attr", "text"),
    [
        ({"from": "2026-11-22T09:30:00"}, "from", "has no offset"),
        ({"to": "2026-11-22"}, "to", "has no offset"),
        ({"from": "yesterday"}, "from", "not a valid ISO 8601 time"),
        ({"from": ""}, "from", "must not be empty"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "from", "not a valid ISO 8601 time"),
        ({"from": "2026-11-22T09:30:00Z", "to": "2026-11-22T09:30:00Z"}, "from", "must be earlier than 'to'"),
        ({"limit": "0"}, "limit", "'limit' must be a whole number from 1 to 1000, not '0'"),
        ({"limit": "1001"}, "limit", "'limit' must be a whole number from 1 to 1000, not '1001'"),
        ({"limit": "x"}, "limit", "'limit' must be a whole number from 1 to 1000, not 'x'"),
        ({"device": "x"}, "device", "must be a UUID, not 'x'"),
        ({"component": ""}, "component", "must not be empty"),
        ({"metric": "a\x00"}, "metric", "Null"),
        ({"cursor": "made-up"}, "cursor", "does not belong to this list"),
        (
            {"since": "2026-11-22T09:30:00Z"},
            "since",
            "Known parameters: component, cursor, device, from, limit, metric, to, unit.",
        ),
        ({"page": "2"}, "page", "'page' is not a known parameter"),
    ],
)
def test_a_question_that_is_wrong_says_what_to_mend(
    ask: Callable[..., Any], query: dict[str, str], attr: str, text: str
) -> None:
    answer = ask(**query)
    assert answer.status_code == 400
    assert text in problems(answer)[attr]


def test_the_parameters_that_are_needed(api: Api) -> None:
    answer = api.get("readings/")
    assert answer.status_code == 400
    assert problems(answer) == {name: f"'{name}' is required." for name in ("device", "component", "metric")}


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"device": str(uuid4())}, "There is no device with the UUID"),
        ({"component": "dht11"}, "greenhouse has no component 'dht11'. It has: dht22, relay."),
        ({"metric": "pressure"}, "dht22 has no metric 'pressure'. It has: humidity, temperature."),
    ],
)
def test_what_is_not_there_is_named_with_what_is(ask: Callable[..., Any], query: dict[str, str], text: str) -> None:
    answer = ask(**query)
    assert answer.status_code == 404
    assert text in problems(answer)[None]


def test_a_metric_that_was_never_measured_has_no_readings(ask: Callable[..., Any]) -> None:
    answer = ask().json()
    assert (answer["results"], answer["next"]) == ([], None)


def test_a_component_that_was_removed_keeps_its_readings(
    api: Api, ask: Callable[..., Any], temperature: int, tenant_a: Any
) -> None:
    add_readings(tenant_a, temperature, (T0, 1))
    component = api.get("components/", component_type="dht22").json()["results"][0]["id"]
    assert api.delete(f"components/{component}/").status_code == 204
    assert values(ask()) == [1]
    assert "It has: dht22, relay" in problems(ask(component="x"))[None]


def test_a_plus_that_a_url_made_a_space_is_understood(
    api: Api, greenhouse: Any, temperature: int, tenant_a: Any
) -> None:
    add_readings(tenant_a, temperature, (T0, 1), (T0 + MINUTE, 2))
    address = f"readings/?device={greenhouse.uuid}&component=dht22&metric=temperature&from=2026-11-22T09:31:00+00:00"
    assert values(api.get(address)) == [2]


def test_readings_make_the_same_queries_however_many_there_are(
    ask: Callable[..., Any], temperature: int, tenant_a: Any, count_queries: Callable[[Callable[[], Any]], int]
) -> None:
    add_readings(tenant_a, temperature, *((T0 + MINUTE * n, n) for n in range(3)))
    ask()  # notes when the key was last used
    few = count_queries(ask)
    add_readings(tenant_a, temperature, *((T0 + MINUTE * n, n) for n in range(3, 30)))
    assert (
        count_queries(ask) == few == 7
    )  # the tenant, the key, the device, its series, the readings, what may be missing
