"""Requests that would have another effect than the client means are refused, on every endpoint."""

from typing import Any

import pytest

from .client import Api, problem_of, problems


@pytest.mark.parametrize("name", ["component", "metric"])
def test_latest_values_of_a_name_that_does_not_exist_are_refused(api: Api, greenhouse: Any, name: str) -> None:
    for query in ({name: "nothing"}, {name: "nothing", "device": str(greenhouse.uuid)}):
        answer = api.get("latest/", **query)
        assert answer.status_code == 404
        assert "'nothing'" in problems(answer)[None]
    assert api.get("latest/", component="dht22", metric="temperature").status_code == 200


def test_years_1_and_9999_are_times(api: Api, greenhouse: Any) -> None:
    span = {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"}
    device = str(greenhouse.uuid)
    series = {"device": device, **span}
    named = {**series, "component": "dht22", "metric": "temperature"}
    for path, query in (
        ("readings/", named),
        ("readings/aggregates/", {**series, "interval": "1mo", "timezone": "Pacific/Kiritimati"}),
        ("readings/aggregates/", {**series, "interval": "1w", "timezone": "Etc/GMT+12"}),
        ("readings/chart/", series),
        ("messages/", series),
        ("quarantine/", span),
        ("totals/", {"from": "0001-01-01", "to": "9999-12-31"}),
        (f"devices/{device}/history/", span),
        (f"devices/{device}/timeline/", {"to": "9999-12-31T23:59:59Z"}),
        (f"devices/{device}/timeline/", {"to": "0001-01-01T00:00:00+14:00"}),
        (f"devices/{device}/availability/", {"month": "2999-12", "timezone": "Asia/Seoul"}),
    ):
        answer = api.get(path, **query)
        assert answer.status_code in (200, 400), (path, answer.content)
    for end in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00"):
        body = {"device": device, "starts_at": "2026-01-01T00:00:00Z", "ends_at": end}
        assert api.post("maintenance-windows/", body).status_code == 400


def test_a_time_with_a_nul_behind_it_is_none(api: Api, greenhouse: Any) -> None:
    span = {"from": "2026-11-29T00:00:00Z\x00", "device": str(greenhouse.uuid)}
    named = {**span, "component": "dht22", "metric": "temperature"}
    for path, query in (
        ("readings/", named),
        ("readings/series/", span),
        ("readings/chart/", span),
        ("readings/aggregates/", {**span, "interval": "1h"}),
        ("readings/export/", span),
        (f"devices/{greenhouse.uuid}/history/", {"from": span["from"]}),
        ("totals/", {"from": "2026-11-29\x00"}),
    ):
        answer = api.get(path, **query)
        assert answer.status_code == 400, path
        assert "from" in problems(answer), path


EARLIEST, LATEST = "0001-01-03T00:00:00Z", "9999-12-29T00:00:00Z"


@pytest.mark.parametrize(
    ("member", "moment"),
    [
        ("starts_at", "0001-01-01T00:00:00Z"),
        ("starts_at", "0001-01-01T00:00:00+14:00"),
        ("ends_at", "9999-12-31T23:59:59Z"),
        ("ends_at", "9999-12-31T23:59:59-12:00"),
    ],
)
def test_a_stored_time_is_refused_where_it_would_be_moved(api: Api, greenhouse: Any, member: str, moment: str) -> None:
    window = {"device": str(greenhouse.uuid), "starts_at": EARLIEST, "ends_at": LATEST}
    refused = api.post("maintenance-windows/", {**window, member: moment})
    assert (refused.status_code, problem_of(refused)["errors"][0]["code"]) == (400, "out_of_range")
    assert problems(refused) == {member: f"'{member}' must be a time from {EARLIEST} to {LATEST}."}
    stored = api.post("maintenance-windows/", window).json()
    assert (stored["starts_at"], stored["ends_at"]) == (EARLIEST, LATEST)


@pytest.mark.parametrize(
    ("path", "is_valid"),
    [
        ("values[name=P1.value", False),
        ("values[name=P1]x.value", False),
        ("values[=P1].value", False),
        ("values[name=P1].value", True),
        ("values[0].value", True),
        ("/values[name=P1/value", True),
    ],
)
def test_a_selection_that_is_not_complete_is_refused(api: Api, path: str, is_valid: bool) -> None:
    kind = api.post("component-types/", {"key": "sds011", "name": "SDS011"}).json()["id"]
    answer = api.post("metrics/", {"component_type": "sds011", "key": "pm10", "path": path, "value_type": "number"})
    assert answer.status_code == (201 if is_valid else 400), answer.content
    if not is_valid:
        assert "a selection must have the form [member=value]" in problems(answer)["path"]
    as_list = api.patch(f"component-types/{kind}/", {"list_path": path})
    assert as_list.status_code == (200 if is_valid else 400), as_list.content


@pytest.mark.parametrize("path", ["devices/{device}/release/", "devices/{device}/reset-credentials/"])
def test_a_body_where_none_is_expected_is_refused(api: Api, greenhouse: Any, path: str) -> None:
    (error,) = problem_of(api.post(path.format(device=greenhouse.uuid), {"resaon": "moved"}))["errors"]
    assert (error["pointer"], error["code"]) == ("#/resaon", "unknown_member")


def test_a_mistyped_member_replays_nothing(api: Api) -> None:
    (error,) = problem_of(api.post("quarantine/replays/", {"resaon": "malformed"}))["errors"]
    assert (error["pointer"], error["code"]) == ("#/resaon", "unknown_member")


def test_options_lists_the_methods_and_nothing_else(api: Api, greenhouse: Any) -> None:
    answer = api.send("options", "devices/")
    assert (answer.status_code, answer.content) == (204, b"")
    assert set(answer["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
    of_one = api.send("options", f"devices/{greenhouse.uuid}/")
    assert set(of_one["Allow"].split(", ")) == {"GET", "HEAD", "PATCH", "DELETE", "OPTIONS"}
    assert Api("alpha").send("options", "devices/").status_code == 401
    for path in ("alarm-rules/preview/", "claims/", "latest/", f"devices/{greenhouse.uuid}/messages/"):
        methods = api.send("options", path)["Allow"].split(", ")
        assert sorted(methods) == sorted(set(methods)), path
    refused = api.get("alarm-rules/preview/")
    assert (refused.status_code, refused["Allow"]) == (405, "POST, OPTIONS")


def test_head_has_the_headers_of_get_and_no_body(api: Api, greenhouse: Any) -> None:
    for path in ("devices/", f"devices/{greenhouse.uuid}/", "limits/", "latest/"):
        got, head = api.get(path), api.send("head", path)
        assert (head.status_code, head.content) == (200, b"")
        volatile = {"X-Request-ID", "RateLimit", "ETag"}
        assert {**head.headers, **dict.fromkeys(volatile)} == {**got.headers, **dict.fromkeys(volatile)}


@pytest.mark.parametrize(
    ("change", "member", "text"),
    [
        ({"description": 0}, "description", "'description' must be a text, not 0."),
        ({"key": 5}, "key", "'key' must be a text, not 5."),
        ({"expected_interval": "60"}, "expected_interval", "'expected_interval' must be a whole number, not '60'."),
        ({"expected_interval": True}, "expected_interval", "'expected_interval' must be a whole number, not true."),
    ],
)
def test_a_value_of_another_type_is_not_converted(api: Api, change: dict[str, Any], member: str, text: str) -> None:
    answer = api.post("component-types/", {"key": "k", "name": "n"} | change)
    assert answer.status_code == 400
    assert problems(answer) == {member: text}
    assert {error["code"] for error in problem_of(answer)["errors"]} == {"invalid_type"}


def test_an_object_is_no_list(api: Api) -> None:
    answer = api.post("hardware-models/", {"name": "n", "version": "1", "allowed_component_types": {}})
    assert answer.status_code == 400
    assert problems(answer) == {"allowed_component_types": "'allowed_component_types' must be a list, not {}."}


NO_ID = [b"1e999", b"-1e999", b"1.5", b"1e300", b"1" * 400]


@pytest.mark.parametrize("number", NO_ID)
def test_a_number_that_is_no_id_is_refused(api: Api, greenhouse: Any, number: bytes) -> None:
    for method, path, member in (
        ("patch", f"devices/{greenhouse.uuid}/", b"hardware_model"),
        ("post", "devices/", b"hardware_model"),
        ("patch", f"devices/{greenhouse.uuid}/", b"place"),
        ("post", "key-rotations/", b"hardware_model"),
        ("post", "places/", b"parent"),
    ):
        answer = api.send(method, path, b'{"name": "n", "' + member + b'": ' + number + b"}")
        assert answer.status_code == 400, (path, answer.content)
        assert member.decode() in problems(answer)


def test_booleans_ids_and_entries_of_lists_are_not_converted_either(api: Api, greenhouse: Any) -> None:
    model = api.get("hardware-models/").json()["results"][0]["id"]
    for change in ({"active": "true"}, {"active": 1}, {"hardware_model": str(model)}, {"tags": ["a", 1]}, {"name": 7}):
        answer = api.patch(f"devices/{greenhouse.uuid}/", change)
        assert answer.status_code == 400, change
        assert {str(name).split(".")[0] for name in problems(answer)} == set(change)
    assert api.patch(f"devices/{greenhouse.uuid}/", {"active": True, "hardware_model": model}).status_code == 200
