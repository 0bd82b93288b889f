"""Messages as received, the quarantine, and the day's totals."""

import base64
import datetime
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from django_tenants.utils import schema_context

from telemetry.models import IngestTotals, Quarantined, Reason
from tests.factories import add_message, add_quarantined, make_device

from .client import T0, Api, problems

MINUTE = datetime.timedelta(minutes=1)


def pages(api: Api, path: str, between: Callable[[], Any] = lambda: None, **query: Any) -> list[dict[str, Any]]:
    """The results of all pages; `between` runs once, after the first."""
    page = api.get(path, **query).json()
    rows = page["results"]
    between()
    while page["next"]:
        page = api.get(page["next"]).json()
        rows += page["results"]
    return rows


def test_a_message_comes_back_as_it_was_sent(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    payload = '{"timestamp": "2026-11-22T09:30:00+00:00", "value": {"temp": 21.50}, "note": "°"}'
    add_message(tenant_a, greenhouse, T0, payload.encode())
    (message,) = api.get("messages/", device=greenhouse.uuid).json()["results"]
    assert message == {
        "device": str(greenhouse.uuid),
        "time": "2026-11-22T09:30:00Z",
        "received_at": "2026-11-22T09:30:00Z",
        "topic": f"telemetry/alpha/{greenhouse.uuid}/dht22",
        "payload": payload,
        "payload_encoding": "utf-8",
        "signature": 1,
        "key_version": 1,
        "late": False,
    }


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_messages_newest_first_over_pages_with_ties(api: Api, greenhouse: Any, tenant_a: Any, limit: int) -> None:
    other = make_device(tenant_a)
    add_message(tenant_a, other, T0)
    for number in range(3):
        for mark in range(2):
            mark_of = UUID(int=number * 10 + mark)
            add_message(tenant_a, greenhouse, T0 + MINUTE * number, f"{number}.{mark}".encode(), mark_of)
    rows = pages(api, "messages/", device=greenhouse.uuid, limit=limit)
    assert [row["payload"] for row in rows] == ["2.1", "2.0", "1.1", "1.0", "0.1", "0.0"]
    within: dict[str, Any] = {"from": "2026-11-22T09:31:00Z", "to": "2026-11-22T09:32:00Z"}
    rows = pages(api, "messages/", device=greenhouse.uuid, limit=limit, **within)
    assert [row["payload"] for row in rows] == ["1.1", "1.0"]


def test_messages_are_those_of_one_device(api: Api, greenhouse: Any) -> None:
    assert problems(api.get("messages/"))["device"] == "'device' is required."
    assert api.get("messages/", device=uuid4()).status_code == 404


def test_what_was_refused_is_shown_with_its_reason(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    row = add_quarantined(
        tenant_a,
        T0,
        reason="out_of_range",
        detail="temperature 999 is above 80 °C",
        topic="telemetry/alpha/x/dht22",
        payload=b'{"value": 999}',
        device=greenhouse,
        count=3,
    )
    assert api.get("quarantine/").json() == {
        "results": [
            {
                "id": row.pk,
                "reason": "out_of_range",
                "detail": "temperature 999 is above 80 °C",
                "topic": "telemetry/alpha/x/dht22",
                "device": str(greenhouse.uuid),
                "metric": "",
                "received_at": "2026-11-22T09:30:00Z",
                "first_received_at": "2026-11-22T09:30:00Z",
                "count": 3,
                "payload": '{"value": 999}',
                "payload_encoding": "utf-8",
                "payload_size": 14,
            }
        ],
        "next": None,
    }


def test_what_is_no_text_comes_as_base64(api: Api, tenant_a: Any) -> None:
    add_quarantined(tenant_a, T0, payload=b"\xff\x00\xfe")
    (row,) = api.get("quarantine/").json()["results"]
    assert (base64.b64decode(row["payload"]), row["payload_encoding"]) == (b"\xff\x00\xfe", "base64")
    assert row["device"] is None


def test_of_a_huge_message_the_beginning_is_shown(api: Api, tenant_a: Any) -> None:
    add_quarantined(tenant_a, T0, payload=b"x" + "°".encode() * 512 * 1024)  # 64 KiB end within a character
    (row,) = api.get("quarantine/").json()["results"]
    assert (row["payload_size"], row["payload_encoding"]) == (1024 * 1024 + 1, "utf-8")
    assert row["payload"] == "x" + "°" * (32 * 1024 - 1)


def test_the_quarantine_is_narrowed(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    add_quarantined(tenant_a, T0, reason="malformed", detail="old")
    add_quarantined(tenant_a, T0 + MINUTE, reason="malformed", detail="of the device", device=greenhouse)
    add_quarantined(tenant_a, T0 + MINUTE * 2, reason="replayed", detail="new")

    def details(**query: Any) -> list[str]:
        return [row["detail"] for row in pages(api, "quarantine/", **query)]

    assert details() == ["new", "of the device", "old"]
    assert details(reason="malformed") == ["of the device", "old"]
    assert details(device=greenhouse.uuid) == ["of the device"]
    assert details(device=greenhouse.uuid, reason="replayed") == []
    assert details(**{"from": "2026-11-22T09:31:00Z", "to": "2026-11-22T09:32:00Z"}) == ["of the device"]
    assert details(limit=1, reason="malformed") == ["of the device", "old"]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_quarantine_over_pages_with_ties_and_newcomers(api: Api, tenant_a: Any, limit: int) -> None:
    for number in range(6):
        add_quarantined(tenant_a, T0 + MINUTE * (number // 2), detail=str(number))
    rows = pages(
        api, "quarantine/", between=lambda: add_quarantined(tenant_a, T0 + MINUTE * 9, detail="newcomer"), limit=limit
    )
    assert [row["detail"] for row in rows] == ["5", "4", "3", "2", "1", "0"]


def test_every_reason_may_be_asked_for_and_no_other(api: Api) -> None:
    for reason in Reason.values:
        assert api.get("quarantine/", reason=reason).status_code == 200
    assert "must be one of malformed, " in problems(api.get("quarantine/", reason="bad"))["reason"]
    assert "Known parameters: cursor, device, from" in problems(api.get("quarantine/", resaon="malformed"))["resaon"]
    assert api.get("quarantine/", device=uuid4()).status_code == 404


def test_a_replay_with_an_unknown_member_replays_nothing(api: Api, tenant_a: Any) -> None:
    add_quarantined(tenant_a, T0)
    refused = problems(api.post("quarantine/replays/", {"reasons": ["malformed"]}))
    assert "'reasons' is not a known member. Known members: device, from, ids" in str(refused["reasons"])
    assert api.get("quarantine/replays/").json()["count"] == 0
    assert len(api.get("quarantine/").json()["results"]) == 1


def test_the_quarantine_makes_the_same_queries_however_long_it_is(
    api: Api, greenhouse: Any, tenant_a: Any, count_queries: Callable[[Callable[[], Any]], int]
) -> None:
    for _ in range(3):
        add_quarantined(tenant_a, T0, device=greenhouse)
    api.get("quarantine/")  # notes when the key was last used
    few = count_queries(lambda: api.get("quarantine/"))
    for _ in range(27):
        add_quarantined(tenant_a, T0, device=greenhouse)
    assert count_queries(lambda: api.get("quarantine/")) == few == 3  # the tenant, the key, the rows
    with schema_context(tenant_a.schema_name):
        assert Quarantined.objects.count() == 30


def test_what_became_of_each_day(api: Api, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        for day in (20, 21, 22):
            IngestTotals.objects.create(
                day=datetime.date(2026, 11, day),
                received=10,
                stored=6,
                duplicates=2,
                quarantined=1,
                rate_limited=1,
                values_received=13,
                values_stored=12,
                values_quarantined=1,
            )
    page = api.get("totals/").json()
    assert [row["day"] for row in page["results"]] == ["2026-11-22", "2026-11-21", "2026-11-20"]
    assert page["results"][0] == {
        "day": "2026-11-22", "received": 10, "stored": 6, "duplicates": 2, "quarantined": 1, "rate_limited": 1,
        "values_received": 13, "values_stored": 12, "values_quarantined": 1, "truncated": 0,
    }  # fmt: skip
    within = {"from": "2026-11-21", "to": "2026-11-22"}
    assert [row["day"] for row in api.get("totals/", **within).json()["results"]] == ["2026-11-21"]
    assert (
        "must be a day such as 2026-11-22, not 'monday'" in problems(api.get("totals/", **{"from": "monday"}))["from"]
    )
