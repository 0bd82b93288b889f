"""Aggregates, charts, exports and the fleet's newest values, as the API's clients request them."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError
from django.utils import timezone
from django_tenants.utils import schema_context

from telemetry.services.export import readings
from tests.api.client import HOUR, T0, Api, problems
from tests.factories import add_quarantined, add_readings, add_series, issue_key, make_device

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
RANGE = {"from": "2026-11-22T09:00:00Z", "to": "2026-11-22T12:00:00Z"}


@pytest.fixture
def temperature(tenant_a: Any, greenhouse: Any) -> int:
    series = add_series(tenant_a, greenhouse, "dht22", "temperature", "°C")
    # 09:30 … 11:00
    add_readings(tenant_a, series, *((T0 + n * HOUR / 2, float(n)) for n in range(4) if n != 2))
    return series


@pytest.fixture
def ask(api: Api, greenhouse: Any) -> Callable[..., Any]:
    """`ask("aggregates", interval="1h")`: the answer about the greenhouse."""
    asked = {"device": str(greenhouse.uuid), **RANGE}
    return lambda path, **query: api.get(
        f"readings/{path}/", **{name: value for name, value in (asked | query).items() if value is not None}
    )


def test_aggregates_of_all_kinds(ask: Callable[..., Any], temperature: int, greenhouse: Any) -> None:
    answer = ask("aggregates", interval="1h", timezone="Asia/Seoul")
    assert answer.status_code == 200
    assert answer.json() == {
        "from": "2026-11-22T09:00:00Z", "to": "2026-11-22T12:00:00Z", "interval": "1h", "timezone": "Asia/Seoul",
        "series": [{
            "device": str(greenhouse.uuid), "component": "dht22", "metric": "temperature", "unit": "°C",
            "value_type": "number", "other_units": [],
            "results": [
                {"starts_at": "2026-11-22T18:00:00+09:00",
                 "count": 1, "min": 0.0, "max": 0.0, "avg": 0.0, "sum": 0.0, "last": 0.0},
                {"starts_at": "2026-11-22T19:00:00+09:00",
                 "count": 1, "min": 1.0, "max": 1.0, "avg": 1.0, "sum": 1.0, "last": 1.0},
                {"starts_at": "2026-11-22T20:00:00+09:00",
                 "count": 1, "min": 3.0, "max": 3.0, "avg": 3.0, "sum": 3.0, "last": 3.0},
            ],
        }],
        "complete": True, "warnings": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("none", [[1, 0.0], [1, 1.0], [1, 3.0]]),
        ("null", [[0, None], [1, 0.0], [1, 1.0], [0, None], [1, 3.0], [0, None]]),
        ("previous", [[0, None], [1, 0.0], [1, 1.0], [0, 1.0], [1, 3.0], [0, 3.0]]),
    ],
)
def test_gaps_are_filled_on_request(
    ask: Callable[..., Any], temperature: int, fill: str, expected: list[list[float | None]]
) -> None:
    answer = ask("aggregates", interval="30m", fill=fill, aggregate=["count", "last"]).json()
    assert [[row["count"], row["last"]] for row in answer["series"][0]["results"]] == expected
    assert answer["series"][0]["results"][0].keys() == {"starts_at", "count", "last"}


def test_a_unit_that_was_changed_is_an_entry_of_its_own(
    ask: Callable[..., Any], temperature: int, tenant_a: Any, greenhouse: Any
) -> None:
    changed = add_series(tenant_a, greenhouse, "dht22", "temperature", "°F")
    returned = ask("aggregates", interval="1h").json()["series"]
    assert [(one["unit"], one["other_units"]) for one in returned] == [("°C", [])], "nothing in °F yet"
    add_readings(tenant_a, changed, (T0 + 2 * HOUR, 68.0))
    returned = ask("aggregates", interval="1h").json()["series"]
    assert [(one["unit"], one["other_units"]) for one in returned] == [("°C", ["°F"]), ("°F", ["°C"])]
    returned = ask("chart").json()["series"]
    assert [(one["unit"], one["other_units"], len(one["points"])) for one in returned] == [
        ("°C", ["°F"], 3), ("°F", ["°C"], 1),
    ]  # fmt: skip


def test_booleans_and_texts_have_what_they_can_have(ask: Callable[..., Any], tenant_a: Any, greenhouse: Any) -> None:
    on = add_series(tenant_a, greenhouse, "relay", "on", "", "boolean")
    said = add_series(tenant_a, greenhouse, "relay", "said", "", "text")
    add_readings(tenant_a, on, *((T0 + n * MINUTE, n == 3) for n in range(4)))
    add_readings(tenant_a, said, (T0, "a"), (T0 + MINUTE, "b"))
    of_on, of_said = (one["results"] for one in ask("aggregates", interval="1h").json()["series"])
    start = {"starts_at": "2026-11-22T09:00:00+00:00"}
    assert of_on == [start | {"count": 4, "min": False, "max": True, "avg": 0.25, "sum": 1.0, "last": True}]
    assert of_said == [start | {"count": 2, "last": "b"}]
    (line,) = ask("chart").json()["series"]
    assert [point["value"] for point in line["points"]] == [0.0, 0.0, 0.0, 1.0]


def test_several_devices_and_metrics(ask: Callable[..., Any], api: Api, temperature: int, tenant_a: Any) -> None:
    other = make_device(tenant_a, "other", dht22="dht22")
    add_readings(tenant_a, add_series(tenant_a, other, "dht22", "humidity", "%"), (T0, 50.0))
    device = api.get("devices/", search="greenhouse").json()["results"][0]["uuid"]
    returned = ask(
        "aggregates", interval="1d", device=[str(other.uuid), device], metric=["humidity", "temperature"]
    ).json()
    assert [(one["device"], one["metric"]) for one in returned["series"]] == [
        (str(other.uuid), "humidity"), (device, "temperature"),
    ]  # fmt: skip
    returned = ask("aggregates", interval="1d", device=[str(other.uuid), device], metric="humidity").json()
    assert [one["metric"] for one in returned["series"]] == ["humidity"]


@pytest.mark.parametrize("path", ["readings/aggregates/", "readings/chart/", "readings/export/", "readings/"])
def test_an_answer_says_what_may_be_missing(
    api: Api, temperature: int, greenhouse: Any, tenant_a: Any, path: str
) -> None:
    from telemetry.models import RollupState

    query = {"device": str(greenhouse.uuid), "component": "dht22", "metric": "temperature", **RANGE}
    query |= {"interval": "15m"} if "aggregates" in path else {"format": "ndjson"} if "export" in path else {}

    def missing(**changed: str) -> list[str]:
        answer = api.get(path, **(query | changed))
        assert answer.status_code == 200
        if "export" in path:
            document = json.loads(answer.getvalue().splitlines()[-1])
            codes = answer.get("Gwanje-Warnings", "").split(", ")
            assert [code for code in codes if code] == [lack["code"] for lack in document["warnings"]]
        else:
            document = answer.json()
        assert document["complete"] is (not document["warnings"])
        assert all(lack["detail"] for lack in document["warnings"])
        return [lack["code"] for lack in document["warnings"]]

    assert missing() == []
    assert missing(to=(timezone.now() + HOUR).isoformat()) == ["running"]
    add_quarantined(tenant_a, T0, "bad_signature", device=greenhouse)
    add_quarantined(tenant_a, T0 - DAY, "key_unavailable", device=greenhouse)
    add_quarantined(tenant_a, T0, "key_unavailable", device=make_device(tenant_a))
    assert missing() == []
    add_quarantined(tenant_a, T0, "key_unavailable", device=greenhouse)
    assert missing() == ["deferred"]
    with schema_context(tenant_a.schema_name):
        RollupState.objects.update(readings_from=T0)
    # Of hours whose readings are gone, the least and the greatest stand in a chart.
    assert missing() == (["deferred"] if "chart" in path else ["retention", "deferred"])
    if path == "readings/":
        assert missing(limit="1") == ["retention", "deferred", "more"]
    if "aggregates" in path:
        assert missing(interval="1h") == ["deferred"], "the rollups are still kept"


@pytest.mark.parametrize(
    ("path", "query", "attr", "text"),
    [
        ("aggregates", {"interval": "7m"}, "interval", "'7m' is not a valid interval; minutes and hours must divide"),
        ("aggregates", {"interval": "hour"}, "interval", "valid interval; use 1m, 15m, 1h, 1d, 1w or 1mo."),
        ("aggregates", {"interval": None}, "interval", "required"),
        ("aggregates", {"interval": "1h", "timezone": "KST"}, "timezone", "use a name such as Asia/Seoul"),
        ("aggregates", {"interval": "1h", "fill": "zero"}, "fill", "must be one of none, null, previous"),
        ("aggregates", {"interval": "1h", "aggregate": "median"}, "aggregate", "must be one of count, min, "),
        ("aggregates", {"interval": "1h", "from": None}, "from", "required"),
        ("aggregates", {"interval": "1h", "from": ""}, "from", "must not be empty"),
        (
            "aggregates", {"interval": "1m", "from": "2025-11-22T09:00:00Z"}, "interval",
            "more than 25000 intervals of 1m, the most for 1 series. Use a longer interval (30m)",
        ),
        ("aggregates", {"interval": "1h", "from": "2036-01-01T00:00:00Z", "to": None}, "from", "in the future"),
        ("chart", {"max_points": "2"}, "max_points", "'max_points' must be a whole number from 3 to 5000, not '2'"),
        ("chart", {"max_points": "5001"}, "max_points", "must be a whole number from 3 to 5000, not '5001'"),
        ("chart", {"device": None}, "device", "required"),
        ("chart", {"device": "x"}, "device", "must be a UUID, not 'x'"),
        ("chart", {"device": [str(uuid4())] * 51}, "device", "must have at most 50 entries"),
        ("export", {"format": "xlsx"}, "format", "must be one of csv, ndjson"),
        ("export", {"interval": "1h"}, "interval", "'interval' is not a known parameter"),
    ],
)  # fmt: skip
def test_a_question_that_is_wrong_says_what_to_mend(
    ask: Callable[..., Any], temperature: int, path: str, query: dict[str, Any], attr: str, text: str
) -> None:
    answer = ask(path, **query)
    assert answer.status_code == 400
    assert text in problems(answer)[attr]


def test_too_many_series_are_refused(ask: Callable[..., Any], tenant_a: Any, greenhouse: Any) -> None:
    for number in range(6):
        add_series(tenant_a, greenhouse, "dht22", f"m{number}", "°C")
    answer = ask("chart", max_points=5000)
    assert answer.status_code == 400
    assert "The request selects 6 series; at most 5 are allowed." in problems(answer)["device"]


@pytest.mark.parametrize("path", ["aggregates", "chart", "export"])
def test_what_is_not_there_is_named_with_what_is(
    ask: Callable[..., Any], api: Api, tenant_a: Any, temperature: int, path: str
) -> None:
    query = {"interval": "1h"} if path == "aggregates" else {}
    for changed, text in (
        ({"device": str(uuid4())}, "There is no device with the UUID"),
        ({"component": ["dht22", "dht11"]}, "greenhouse has no component 'dht11'. It has: dht22, relay."),
        ({"metric": "pressure", "component": "dht22"}, "dht22 has no metric 'pressure'. It has: humidity, temperature"),
    ):
        answer = ask(path, **query, **changed)
        assert answer.status_code == 404
        assert text in problems(answer)[None]
    never = ask(path, **query, component="relay")
    assert never.status_code == 200


def test_a_question_that_takes_too_long_says_so(
    ask: Callable[..., Any], temperature: int, settings: Any, tenant_a: Any
) -> None:
    settings.QUERY_SECONDS = 0.001
    add_readings(tenant_a, temperature, *((T0 + n * timedelta(seconds=1), 9.0) for n in range(1, 5000)))
    answer = ask("aggregates", interval="1h")
    assert answer.status_code == 400
    assert "too many readings to process in time. Use a shorter range" in problems(answer)["from"]


def test_questions_make_the_same_queries_however_much_there_is(
    ask: Callable[..., Any], temperature: int, tenant_a: Any, greenhouse: Any,
    count_queries: Callable[[Callable[[], Any]], int], api: Api,
) -> None:  # fmt: skip
    def counted() -> list[int]:
        return [
            count_queries(lambda: ask("aggregates", interval="1h")),
            count_queries(lambda: ask("chart")),
            count_queries(lambda: api.get("latest/")),
        ]

    ask("chart")  # notes when the key was last used
    few = counted()
    for number in range(5):
        device = make_device(tenant_a, f"one more {number}", dht22="dht22")
        more = add_series(tenant_a, device, "dht22", "temperature", "°C")
        add_readings(tenant_a, more, *((T0 + MINUTE * n, float(n)) for n in range(10)))
    add_readings(tenant_a, temperature, *((T0 + MINUTE * n, 50.0 + n) for n in range(40)))
    assert counted() == few


# --- export -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tenant_a: Any, greenhouse: Any, temperature: int) -> None:
    said = add_series(tenant_a, greenhouse, "relay", "said", "", "text")
    on = add_series(tenant_a, greenhouse, "relay", "on", "", "boolean")
    texts = ("=HYPERLINK(1)", "-1", 'a "quoted", text', "two\nlines", "@x", "ordinary")
    add_readings(tenant_a, said, *((T0 + n * MINUTE, text) for n, text in enumerate(texts)))
    add_readings(tenant_a, on, (T0, True), (T0 + MINUTE, False))
    add_readings(tenant_a, temperature, (T0 + MINUTE, -5.25))


def test_csv(ask: Callable[..., Any], mixed: None, greenhouse: Any) -> None:
    answer = ask("export")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"] == 'attachment; filename="readings-20261122T120000Z.csv"'
    assert answer["Cache-Control"] == "no-store"
    rows = list(csv.reader(io.StringIO(answer.getvalue().decode("utf-8-sig"), newline="")))
    assert rows[0] == ["time", "device", "component", "metric", "value", "unit"]
    assert rows[1] == ["2026-11-22T09:30:00Z", str(greenhouse.uuid), "dht22", "temperature", "0.0", "°C"]
    assert [(row[3], row[4]) for row in rows[1:]] == [
        *(("temperature", value) for value in ("0.0", "-5.25", "1.0", "3.0")),
        ("on", "true"), ("on", "false"),
        *(("said", text) for text in ("'=HYPERLINK(1)", "'-1", 'a "quoted", text', "two\nlines", "'@x", "ordinary")),
    ]  # fmt: skip


def test_csv_in_the_form_of_a_country(ask: Callable[..., Any], mixed: None, greenhouse: Any, settings: Any) -> None:
    form = {"separator": "semicolon", "decimal": "comma", "timezone": "Asia/Seoul"}
    content = ask("export", **form).getvalue()
    assert content.startswith(b"\xef\xbb\xbf"), "without it Excel shows 째C for °C"
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=";"))
    assert rows[0] == ["time", "device", "component", "metric", "value", "unit"]
    assert rows[1] == ["2026-11-22T18:30:00+09:00", str(greenhouse.uuid), "dht22", "temperature", "0,0", "°C"]
    assert [row[4] for row in rows[1:3]] == ["0,0", "-5,25"]
    assert {len(row) for row in rows} == {6}
    assert 'a "quoted", text' in [row[4] for row in rows], "a text keeps its own commas and points"
    tabs = ask("export", separator="tab").getvalue().decode("utf-8-sig")
    assert tabs.splitlines()[1].split("\t")[4] == "0.0"
    settings.CSV_BYTE_ORDER_MARK = False
    assert ask("export").getvalue().startswith(b"time,device,")


def test_ndjson_in_a_time_zone(ask: Callable[..., Any], mixed: None) -> None:
    lines = ask("export", format="ndjson", component="relay", timezone="America/New_York").getvalue().splitlines()
    assert json.loads(lines[0])["time"] == "2026-11-22T04:30:00-05:00"


@pytest.mark.parametrize(
    ("form", "member", "words"),
    [
        ({"separator": "|"}, "separator", "must be one of comma, semicolon, tab, not '|'"),
        ({"decimal": ","}, "decimal", "must be one of comma, point, not ','"),
        ({"timezone": "KST"}, "timezone", "'KST' is not a valid time zone"),
        ({"decimal": "comma"}, "separator", "add separator=semicolon"),
        ({"decimal": "comma", "separator": "comma"}, "separator", "add separator=semicolon"),
        ({"format": "ndjson", "decimal": "comma"}, "decimal", "applies to CSV only"),
        ({"format": "ndjson", "separator": "tab"}, "separator", "applies to CSV only"),
    ],
)
def test_a_form_that_cannot_be(
    ask: Callable[..., Any], greenhouse: Any, form: dict[str, str], member: str, words: str
) -> None:
    answer = ask("export", **form)
    assert answer.status_code == 400
    assert words in problems(answer)[member]


def test_ndjson(ask: Callable[..., Any], mixed: None, greenhouse: Any) -> None:
    answer = ask("export", format="ndjson", component="relay", to="2026-11-22T09:32:00Z")
    assert answer["Content-Type"] == "application/x-ndjson"
    head = {"device": str(greenhouse.uuid), "component": "relay"}
    assert [json.loads(line) for line in answer.getvalue().decode().splitlines()] == [
        {"time": "2026-11-22T09:30:00Z", **head, "metric": "on", "value": True, "unit": None},
        {"time": "2026-11-22T09:31:00Z", **head, "metric": "on", "value": False, "unit": None},
        {"time": "2026-11-22T09:30:00Z", **head, "metric": "said", "value": "=HYPERLINK(1)", "unit": None},
        {"time": "2026-11-22T09:31:00Z", **head, "metric": "said", "value": "-1", "unit": None},
        {"complete": True, "readings": 4, "warnings": []},
    ]


@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5, 7, 1000])
def test_an_export_in_pieces_is_the_same(
    ask: Callable[..., Any], mixed: None, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    whole = ask("export").getvalue()
    monkeypatch.setattr(readings, "READINGS_PER_CHUNK", piece)
    assert ask("export").getvalue() == whole


def test_between_two_pieces_the_tenant_is_left(
    ask: Callable[..., Any], mixed: None, monkeypatch: pytest.MonkeyPatch, tenant_b: Any
) -> None:
    """The same thread answers others meanwhile."""
    from tenants.infrastructure.database import current_schema

    monkeypatch.setattr(readings, "READINGS_PER_CHUNK", 2)
    whole = ask("export").getvalue()
    pieces = []
    content = iter(ask("export").streaming_content)
    with schema_context(tenant_b.schema_name):
        for piece in content:
            pieces.append(piece)
            assert current_schema() == tenant_b.schema_name
    assert b"".join(pieces) == whole


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_an_export_that_cannot_be_finished_is_broken_off(
    ask: Callable[..., Any], mixed: None, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(readings, "READINGS_PER_CHUNK", 2)
    content = iter(ask("export", format=form).streaming_content)
    got = [next(content), next(content)]
    # The statement fails as it does when the server has gone.
    monkeypatch.setattr(readings, "readings", _gone)
    with pytest.raises(readings.ExportAborted):
        got.extend(content)
    lines = b"".join(got).decode().splitlines()
    if form == "ndjson":
        assert json.loads(lines[-1]) == {
            "complete": False,
            "readings": 2,
            "detail": "The database connection was lost.",
        }
    else:
        assert len(lines) == 3


def _gone(*_: Any, **__: Any) -> Any:
    raise OperationalError("server closed the connection unexpectedly")


# --- the fleet's newest values ----------------------------------------------------------------------------------


@pytest.fixture
def fleet(tenant_a: Any, tenant_b: Any) -> list[Any]:
    devices = [make_device(tenant_a, f"device {number}", dht22="dht22") for number in range(4)]
    for number, device in enumerate(devices):
        for metric, unit in (("temperature", "°C"), ("humidity", "%")):
            series = add_series(tenant_a, device, "dht22", metric, unit)
            add_readings(tenant_a, series, (T0, float(number)), (T0 - HOUR, 99.0))
    fahrenheit = add_series(tenant_a, devices[0], "dht22", "temperature", "°F")
    add_readings(tenant_a, fahrenheit, (T0 + HOUR, 68.0))
    add_series(tenant_a, devices[1], "dht22", "never", "")
    add_readings(tenant_a, add_series(tenant_a, devices[2], "relay", "on", "", "boolean"), (T0, True))
    other = make_device(tenant_b, "foreign", dht22="dht22")
    add_readings(tenant_b, add_series(tenant_b, other, "dht22", "temperature", "°C"), (T0 + DAY, 1.0))
    return devices


def test_the_newest_of_all(api: Api, fleet: list[Any]) -> None:
    answer = api.get("latest/").json()
    assert answer["next"] is None
    assert (answer["complete"], answer["warnings"]) == (True, [])
    assert answer["results"][:3] == [
        {"device": str(fleet[0].uuid), "component": "dht22", "metric": "humidity", "value": 0.0, "unit": "%",
         "time": "2026-11-22T09:30:00Z"},
        {"device": str(fleet[0].uuid), "component": "dht22", "metric": "temperature", "value": 68.0, "unit": "°F",
         "time": "2026-11-22T10:30:00Z"},
        {"device": str(fleet[1].uuid), "component": "dht22", "metric": "humidity", "value": 1.0, "unit": "%",
         "time": "2026-11-22T09:30:00Z"},
    ]  # fmt: skip
    assert len(answer["results"]) == 9
    assert [row["value"] for row in answer["results"] if row["component"] == "relay"] == [True]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 9, 10])
def test_the_newest_of_all_page_by_page(api: Api, fleet: list[Any], limit: int) -> None:
    whole = api.get("latest/").json()["results"]
    address, got = f"latest/?limit={limit}", []
    while address:
        page = api.get(address).json()
        assert len(page["results"]) <= limit
        assert page["complete"] is (page["next"] is None)
        got += page["results"]
        address = page["next"]
    assert got == whole


def test_the_newest_of_some(api: Api, fleet: list[Any], tenant_a: Any) -> None:
    from devices.models import Device, HardwareModel

    def devices(**query: Any) -> list[str]:
        return [row["device"] for row in api.get("latest/", **query).json()["results"]]

    assert devices(device=[str(fleet[3].uuid), str(fleet[1].uuid)], metric="humidity") == [
        str(fleet[1].uuid), str(fleet[3].uuid),
    ]  # fmt: skip
    assert devices(component="relay") == [str(fleet[2].uuid)]
    with schema_context(tenant_a.schema_name):
        model = HardwareModel.objects.create(name="board", version="7")
        Device.objects.filter(pk=fleet[2].pk).update(hardware_model=model)
    assert set(devices(hardware_model=model.pk)) == {str(fleet[2].uuid)}
    assert devices(hardware_model=10**9) == []
    assert api.get("latest/", device=str(uuid4())).status_code == 404


def test_a_cursor_of_another_question_or_tenant_does_not_help(api: Api, fleet: list[Any], tenant_b: Any) -> None:
    following = api.get("latest/", limit=1).json()["next"]
    cursor = following.split("cursor=")[1].split("&")[0]
    assert api.get(f"latest/?limit=5&cursor={cursor}").status_code == 200
    for query in (f"metric=humidity&cursor={cursor}", "cursor=made-up"):
        answer = api.get(f"latest/?{query}")
        assert answer.status_code == 400
        assert "does not belong to this list" in problems(answer)["cursor"]
    theirs = Api(tenant_b.slug, key=issue_key(tenant_b))
    assert theirs.get(f"latest/?limit=5&cursor={cursor}").status_code == 400


def test_days_of_an_answer_are_those_of_the_zone(ask: Callable[..., Any], tenant_a: Any, greenhouse: Any) -> None:
    """The night in which Berlin sets its clocks back: 25 hours, and the hour from two to three is there twice."""
    series = add_series(tenant_a, greenhouse, "dht22", "humidity", "%")
    begin = datetime(2026, 10, 24, 22, tzinfo=UTC)
    add_readings(tenant_a, series, *((begin + n * HOUR, float(n)) for n in range(26)))
    query = {"from": begin.isoformat(), "to": (begin + 26 * HOUR).isoformat(), "timezone": "Europe/Berlin"}
    days = ask("aggregates", interval="1d", **query).json()["series"][0]["results"]
    assert [(day["starts_at"], day["count"]) for day in days] == [
        ("2026-10-25T00:00:00+02:00", 25), ("2026-10-26T00:00:00+01:00", 1),
    ]  # fmt: skip
    hours = ask("aggregates", interval="1h", **query).json()["series"][0]["results"]
    assert [hour["starts_at"][11:] for hour in hours[2:5]] == ["02:00:00+02:00", "02:00:00+01:00", "03:00:00+01:00"]
