"""The readings and aggregates of many series: devices by UUID, place, tag and hardware model."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django_tenants.utils import schema_context

from devices.models import Device, HardwareModel, Place
from tests.factories import add_readings, add_series, make_device

from .client import T0, Api, problems

MINUTE = timedelta(minutes=1)
RANGE = {"from": "2026-11-22T09:00:00Z", "to": "2026-11-22T12:00:00Z"}


@pytest.fixture
def fleet(tenant_a: Any, api: Api) -> dict[str, Any]:
    """Devices at places, with tags and models; each has a temperature, and the last one another component."""
    devices = {name: make_device(tenant_a, name, dht22="dht22") for name in ("a", "b", "c", "d")}
    with schema_context(tenant_a.schema_name):
        farm = Place.objects.create(key="farm", name="farm")
        house = Place.objects.create(key="house", name="house", parent=farm)
        other = Place.objects.create(key="other", name="other")
        model = HardwareModel.objects.create(name="board", version="8")
        for name, fields in {
            "a": {"place": farm, "tags": ["rented"]},
            "b": {"place": house, "tags": ["north", "rented"], "hardware_model": model},
            "c": {"place": other, "tags": ["north"], "hardware_model": model},
        }.items():
            Device.objects.filter(pk=devices[name].pk).update(**fields)
    for number, device in enumerate(devices.values()):
        series = add_series(tenant_a, device, "dht22", "temperature", "°C")
        add_readings(tenant_a, series, *((T0 + n * MINUTE, float(number)) for n in range(3)))
    add_readings(tenant_a, add_series(tenant_a, devices["d"], "relay", "on", "", "boolean"), (T0, True))
    return devices | {"model": model}


def names_of(api: Api, fleet: dict[str, Any], path: str, **query: Any) -> list[str]:
    answer = api.get(path, **query)
    assert answer.status_code == 200, answer.content
    rows = answer.json()["series" if "aggregates" in path or "chart" in path else "results"]
    by_uuid = {str(device.uuid): name for name, device in fleet.items() if name != "model"}
    return sorted({by_uuid[row["device"]] for row in rows})


@pytest.mark.parametrize("path", ["readings/series/", "readings/aggregates/", "readings/chart/", "latest/"])
def test_devices_are_selected_by_place_tag_and_model(api: Api, fleet: dict[str, Any], path: str) -> None:
    fixed = {**(RANGE if path != "latest/" else {}), **({"interval": "1h"} if "aggregates" in path else {})}
    uuid = {name: str(fleet[name].uuid) for name in "abcd"}
    for query, expected in (
        ({"place": "farm"}, "ab"),
        ({"place": ["house", "other"]}, "bc"),
        ({"tag": "rented"}, "ab"),
        ({"tag": ["rented", "north"]}, "b"),
        ({"hardware_model": fleet["model"].pk}, "bc"),
        ({"hardware_model": fleet["model"].pk, "place": "farm"}, "b"),
        ({"device": [uuid["d"], uuid["a"], uuid["c"]]}, "acd"),
        ({"device": [uuid["d"], uuid["a"]], "tag": "rented"}, "a"),
        ({"device": uuid["d"], "tag": "rented"}, ""),
    ):
        assert names_of(api, fleet, path, **fixed, **query) == list(expected), query


def test_all_devices_of_the_tenant(api: Api, fleet: dict[str, Any]) -> None:
    answer = api.get("readings/series/", **RANGE).json()
    assert len(answer["results"]) == 13
    assert (answer["next"], answer["complete"], answer["warnings"]) == (None, True, [])
    assert answer["results"][0] == {
        "device": str(fleet["a"].uuid), "component": "dht22", "metric": "temperature", "value": 0.0, "unit": "°C",
        "time": "2026-11-22T09:30:00Z",
    }  # fmt: skip
    assert answer["results"][-1]["value"] is True
    assert answer["results"][-1]["unit"] is None
    assert names_of(api, fleet, "readings/series/", component_type="dht22") == list("abcd")
    relay = api.get("readings/series/", component=["relay"], metric=["on", "temperature"]).json()
    assert [row["metric"] for row in relay["results"]] == ["on"]


def test_the_newest_values_of_several_metrics(api: Api, fleet: dict[str, Any]) -> None:
    rows = api.get("latest/", metric=["temperature", "on"], component=["dht22", "relay"]).json()["results"]
    assert [row["metric"] for row in rows] == ["temperature"] * 4 + ["on"]
    assert api.get("latest/", metric=["temperature", "on"], tag="north").status_code == 404
    rows = api.get("latest/", metric=["temperature", "on"], device=str(fleet["d"].uuid)).json()["results"]
    assert [row["metric"] for row in rows] == ["temperature", "on"]
    rows = api.get("latest/", component_type="dht22", device=str(fleet["d"].uuid)).json()["results"]
    assert [row["metric"] for row in rows] == ["temperature"]
    for query in ({"metric": ["temperature", "x"]}, {"place": "nowhere"}, {"component_type": "x"}):
        assert api.get("latest/", **query).status_code == 404


@pytest.mark.parametrize("limit", [1, 2, 5, 13])
def test_pages(api: Api, fleet: dict[str, Any], limit: int) -> None:
    whole = api.get("readings/series/", **RANGE).json()["results"]
    address: str | None = f"readings/series/?limit={limit}&from={RANGE['from']}&to={RANGE['to']}"
    found = []
    while address:
        page = api.get(address).json()
        assert page["complete"] is (page["next"] is None)
        assert [warning["code"] for warning in page["warnings"]] == (["more"] if page["next"] else [])
        found += page["results"]
        address = page["next"]
    assert found == whole


def test_a_cursor_is_of_one_selection(api: Api, fleet: dict[str, Any]) -> None:
    following = api.get("readings/series/", limit=1, tag="rented").json()["next"]
    cursor = following.split("cursor=")[1].split("&")[0]
    assert api.get(f"readings/series/?tag=rented&cursor={cursor}").status_code == 200
    for query in ("", "tag=north&", "tag=rented&metric=temperature&"):
        answer = api.get(f"readings/series/?{query}cursor={cursor}")
        assert answer.status_code == 400
        assert "does not belong to this list" in problems(answer)["cursor"]


@pytest.mark.parametrize(
    ("query", "status", "name", "text"),
    [
        ({"place": "nowhere"}, 404, None, "There is no place with the key 'nowhere'"),
        ({"hardware_model": 10**9}, 404, None, "There is no hardware model with the id 1000000000"),
        ({"component_type": "x"}, 404, None, "There is no component type with the key 'x'"),
        ({"device": str(uuid4())}, 404, None, "There is no device with the UUID"),
        ({"metric": "x"}, 404, None, "There is no metric 'x'"),
        ({"component": "x"}, 404, None, "No device has a component 'x'"),
        ({"component": "x", "tag": "rented"}, 404, None, "a, b has no component 'x'. It has: dht22."),
        ({"tag": "Upper"}, 400, "tag", "not a valid tag"),
        ({"hardware_model": "x"}, 400, "hardware_model", "'x'"),
        ({"place": ""}, 400, "place", "must not be empty"),
        ({"limit": 1001}, 400, "limit", "from 1 to 1000"),
        ({"from": "2026-11-22T09:00:00Z", "to": "2026-11-22T09:00:00Z"}, 400, "from", "earlier than 'to'"),
        ({"site": "farm"}, 400, "site", "not a known parameter"),
    ],
)
def test_a_wrong_selection_says_what_to_mend(
    api: Api, fleet: dict[str, Any], query: dict[str, Any], status: int, name: str | None, text: str
) -> None:
    answer = api.get("readings/series/", **query)
    assert answer.status_code == status, answer.content
    assert text in problems(answer)[name]


@pytest.mark.parametrize("path", ["readings/aggregates/", "readings/chart/", "readings/export/"])
def test_a_selection_is_required_where_an_answer_has_all_series(api: Api, path: str) -> None:
    query = {"from": RANGE["from"], **({"interval": "1h"} if "aggregates" in path else {})}
    answer = api.get(path, **query)
    assert answer.status_code == 400
    assert problems(answer) == {"device": "'device' is required, or 'place', 'tag' or 'hardware_model'."}


def test_the_queries_of_a_page_do_not_grow_with_the_devices(
    api: Api, fleet: dict[str, Any], tenant_a: Any, count_queries: Any
) -> None:
    def ask() -> Any:
        return api.get("readings/series/", metric="temperature", **RANGE)

    ask()
    few = count_queries(ask)
    for number in range(12):
        device = make_device(tenant_a, f"more {number}", dht22="dht22")
        add_readings(tenant_a, add_series(tenant_a, device, "dht22", "temperature", "°C"), (T0, 1.0))
    assert len(ask().json()["results"]) == 24
    # Groups of metrics grow by a factor: 4, then 16 in place of the empty rest.
    assert count_queries(ask) <= few + 2
