"""Places, tags, external ids and attributes of devices: written, read, selected by."""

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django_tenants.utils import schema_context

from devices import change_feeds
from devices.models import AuditEntry, Device, Place
from tests.factories import make_device
from tests.processes import run_at_once

from .client import Api, problem_of, problems


@pytest.fixture(autouse=True)
def no_broker(settings: Any) -> None:
    settings.MQTT_ADMIN_URL = ""


@pytest.fixture
def farm(api: Api) -> Api:
    """Two houses on a farm, one with a zone, and a house elsewhere whose key begins with the same letters."""
    for key, parent in (("farm", None), ("house-1", "farm"), ("zone", "house-1"), ("house-2", "farm"), ("farm2", None)):
        answer = api.post("places/", {"key": key, "name": key.title(), "parent": parent, "kind": "house"})
        assert answer.status_code == 201, answer.content
    return api


def paths(api: Api) -> dict[str, str]:
    return {place["key"]: place["path"] for place in api.get("places/").json()["results"]}


def names(api: Api, query: str) -> list[str]:
    answer = api.get(f"devices/?{query}")
    assert answer.status_code == 200, answer.content
    return [device["name"] for device in answer.json()["results"]]


def test_a_place_has_the_path_of_its_tree(farm: Api) -> None:
    assert paths(farm) == {
        "farm": "farm", "house-1": "farm/house-1", "zone": "farm/house-1/zone", "house-2": "farm/house-2",
        "farm2": "farm2",
    }  # fmt: skip
    assert [place["key"] for place in farm.get("places/?parent=farm").json()["results"]] == ["house-1", "house-2"]


def test_moving_and_renaming_a_place_moves_everything_below_it(farm: Api) -> None:
    assert farm.patch("places/house-1/", {"parent": "farm2"}).json()["path"] == "farm2/house-1"
    assert farm.patch("places/farm2/", {"key": "north"}).json()["path"] == "north"
    assert paths(farm) == {
        "farm": "farm", "house-2": "farm/house-2", "north": "north", "house-1": "north/house-1",
        "zone": "north/house-1/zone",
    }  # fmt: skip
    assert farm.patch("places/house-1/", {"parent": None}).json()["path"] == "house-1"
    assert paths(farm)["zone"] == "house-1/zone"


@pytest.mark.parametrize(
    ("path", "body", "attr", "text"),
    [
        ("places/farm/", {"parent": "zone"}, "parent", "cannot be below itself"),
        ("places/farm/", {"parent": "farm"}, "parent", "cannot be below itself"),
        ("places/farm/", {"parent": "nowhere"}, "parent", "There is no place nowhere. Create it at places/ first."),
        ("places/farm/", {"key": "a/b"}, "key", "letters"),
        ("places/farm/", {"path": "x"}, "path", "cannot be changed"),
        ("places/farm/", {"key": "zone"}, "key", "There is already a place with the same key"),
    ],
)
def test_an_invalid_place_is_refused_by_member(farm: Api, path: str, body: Any, attr: str, text: str) -> None:
    answer = farm.patch(path, body)
    assert answer.status_code == (409 if text.startswith("There is already") else 400)
    assert text in problems(answer)[attr]


def test_places_are_at_most_eight_levels_deep(farm: Api) -> None:
    above = "zone"
    for level in range(4, 9):
        answer = farm.post("places/", {"key": f"level-{level}", "name": "x", "parent": above})
        assert answer.status_code == 201, answer.content
        above = f"level-{level}"
    answer = farm.post("places/", {"key": "level-9", "name": "x", "parent": above})
    assert "8 levels" in problems(answer)["parent"]
    # A subtree of eight levels stays where it is.
    assert "8 levels" in problems(farm.patch("places/farm/", {"parent": "farm2"}))["parent"]


def test_a_place_in_use_is_not_removed(farm: Api, tenant_a: Any) -> None:
    assert farm.delete("places/house-1/").status_code == 409
    device = make_device(tenant_a, "in the zone")
    assert farm.patch(f"devices/{device.uuid}/", {"place": "zone"}).json()["place"] == "zone"
    refused = farm.delete("places/zone/")
    assert (refused.status_code, "in the zone" in problems(refused)[None]) == (409, True)
    farm.patch(f"devices/{device.uuid}/", {"place": None})
    assert farm.delete("places/zone/").status_code == 204
    with schema_context(tenant_a.schema_name):
        rows = AuditEntry.objects.filter(object_type="devices.place").values_list("action", "object_label", "detail")
        assert ("remove", "Zone", "") in rows


def test_two_moves_at_once_make_no_circle(live_db: None, tenant_a: Any) -> None:
    keys = ("circle-1", "circle-2")
    with schema_context(tenant_a.schema_name):
        one, two = (Place.objects.create(key=key, name=key) for key in keys)

    def move(place: Place, below: Place) -> bool:
        with schema_context(tenant_a.schema_name):
            place.parent_id = below.pk
            try:
                place.save(update_fields=["parent", "path"])
            except ValidationError:
                return False
            return True

    try:
        assert sorted(run_at_once([lambda: move(one, two), lambda: move(two, one)])) == [False, True]
        with schema_context(tenant_a.schema_name):
            found = sorted(Place.objects.filter(key__in=keys).values_list("path", flat=True))
        assert found in (["circle-1", "circle-1/circle-2"], ["circle-2", "circle-2/circle-1"])
    finally:
        with schema_context(tenant_a.schema_name):
            Place.objects.filter(key__in=keys).update(parent=None)
            Place.objects.filter(key__in=keys).delete()


def test_a_device_is_registered_and_changed_with_all_of_it(farm: Api, tenant_a: Any) -> None:
    given = {
        "name": "north",
        "place": "zone",
        "tags": ["rented", "north", "rented", "하우스"],
        "external_id": "ERP-1",
        "attributes": {"crop": "tomato", "area_m2": 120, "heated": True, "slope": 0.5},
    }
    device = farm.post("devices/", given).json()
    shown = {name: device[name] for name in given}
    assert shown == given | {"tags": ["north", "rented", "하우스"]}
    answer = farm.patch(f"devices/{device['uuid']}/", {"tags": [], "attributes": {}, "external_id": None})
    assert (answer.json()["tags"], answer.json()["attributes"], answer.json()["external_id"]) == ([], {}, None)
    with schema_context(tenant_a.schema_name):
        assert AuditEntry.objects.filter(action="change").first().detail == "attributes, external_id, tags"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "attr", "text"),
    [
        ({"place": "nowhere"}, "place", "There is no place nowhere"),
        ({"tags": ["Upper"]}, "tags", "'Upper' is not a valid tag; use at most 63 lower-case letters"),
        ({"tags": ["two words"]}, "tags", "'two words' is not a valid tag"),
        ({"tags": ["x" * 64]}, "tags", "at most 63"),
        ({"tags": [f"t{n}" for n in range(33)]}, "tags", "at most 32 tags, not 33"),
        ({"tags": "north"}, "tags", "list"),
        ({"attributes": {"a b": 1}}, "attributes", "'a b' is not a valid name of an attribute"),
        ({"attributes": {"a": None}}, "attributes", "The attribute a must be a text of 1 to 256"),
        ({"attributes": {"a": [1]}}, "attributes", "not [1]"),
        ({"attributes": {"a": 2**53}}, "attributes", "not 9007199254740992"),
        ({"attributes": {"a": "x" * 257}}, "attributes", "256"),
        ({"attributes": {f"a{n}": n for n in range(33)}}, "attributes", "at most 32 attributes, not 33"),
        ({"attributes": []}, "attributes", "object"),
        ({"external_id": ""}, "external_id", "must not be empty"),
        ({"place": ""}, "place", "'place' must not be empty"),
        ({"place": "nul\x00"}, "place", "There is no place nul"),
        ({"hardware_model": ""}, "hardware_model", "'hardware_model' must not be empty"),
        ({"external_id": "x" * 121}, "external_id", "120"),
    ],
)
def test_an_invalid_value_is_refused_by_member(api: Api, greenhouse: Any, body: Any, attr: str, text: str) -> None:
    for answer in (api.patch(f"devices/{greenhouse.uuid}/", body), api.post("devices/", {"name": "x"} | body)):
        assert answer.status_code == 400
        refused = problems(answer)
        assert text in next(detail for name, detail in refused.items() if str(name).split(".")[0] == attr)


def test_a_filter_by_an_unknown_object_has_a_code_of_its_own(api: Api) -> None:
    for query in ("place=nowhere", "hardware_model=999999"):
        (error,) = problem_of(api.get(f"devices/?{query}"))["errors"]
        assert (error["parameter"], error["code"]) == (query.partition("=")[0], "does_not_exist")


def test_an_external_id_belongs_to_one_device_of_the_tenant(api: Api, tenant_a: Any, tenant_b: Any) -> None:
    with schema_context(tenant_b.schema_name):
        Device.objects.create(name="of another tenant", external_id="E-1")
    assert api.post("devices/", {"name": "a", "external_id": "E-1"}).status_code == 201
    again = problems(api.post("devices/", {"name": "b", "external_id": "E-1"}))
    assert "There is already a device" in again["external_id"]
    assert api.post("devices/", {"name": "c"}).json()["external_id"] is None
    assert api.post("devices/", {"name": "d"}).json()["external_id"] is None
    assert names(api, "external_id=E-1") == ["a"]


def test_devices_are_selected_by_place_tag_and_attribute(farm: Api, tenant_a: Any) -> None:
    for name, fields in {
        "a": {"place": "zone", "tags": ["rented", "wet"], "attributes": {"crop": "tomato", "row": 1, "heated": True}},
        "b": {"place": "house-1", "tags": ["rented"], "attributes": {"crop": "1", "row": 1.5}},
        "c": {"place": "farm2", "attributes": {"row": "1", "heated": "true"}},
    }.items():
        uuid = make_device(tenant_a, name).uuid
        assert farm.patch(f"devices/{uuid}/", fields).status_code == 200
    assert names(farm, "place=farm") == ["a", "b"]
    assert names(farm, "place=zone") == ["a"]
    assert names(farm, "tag=rented") == ["a", "b"]
    assert names(farm, "tag=rented&tag=wet") == ["a"]
    assert names(farm, "attribute.crop=tomato") == ["a"]
    assert names(farm, "attribute.row=1") == ["a", "c"]
    assert names(farm, "attribute.row=1.50") == ["b"]
    assert names(farm, "attribute.heated=true") == ["a", "c"]
    assert names(farm, "attribute.row=1&attribute.heated=true&place=farm") == ["a"]
    assert names(farm, "attribute.nothing=1") == []


@pytest.mark.parametrize(
    ("query", "attr", "text"),
    [
        ("place=nowhere", "place", "There is no place with this key. places/ lists the places."),
        ("tag=Upper", "tag", "'Upper' is not a valid tag"),
        ("attribute.=1", "attribute.", "not a valid name"),
        ("attribute.a%20b=1", "attribute.a b", "not a valid name"),
        ("attribute.a=1&attribute.a=2", "attribute.a", "only once"),
        ("attributes.a=1", "attributes.a", "not a known parameter"),
    ],
)
def test_an_invalid_filter_is_refused(api: Api, query: str, attr: str, text: str) -> None:
    answer = api.get(f"devices/?{query}")
    assert answer.status_code == 400
    assert text in problems(answer)[attr]


def test_specifications_are_not_read_again_for_what_they_do_not_contain(
    api: Api, greenhouse: Any, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    published: list[str] = []
    monkeypatch.setattr(change_feeds, "publish_spec_change", published.append)
    with django_capture_on_commit_callbacks(execute=True):
        api.patch(f"devices/{greenhouse.uuid}/", {"tags": ["wet"], "attributes": {"a": 1}, "external_id": "E"})
    assert published == []
    with django_capture_on_commit_callbacks(execute=True):
        api.patch(f"devices/{greenhouse.uuid}/", {"tags": ["dry"], "cpu_serial": "123"})
    assert len(published) == 1


def test_a_table_carries_place_tags_external_id_and_attributes(farm: Api, tenant_a: Any) -> None:
    row = {"name": "n", "external_id": "E-1", "place": "zone", "tags": "wet; rented", "attributes": '{"row": 1}'}
    answer = farm.post("devices/import/", {"rows": [row, {"name": "m", "external_id": "E-2"}]})
    assert answer.status_code == 200, answer.content
    device = farm.get("devices/?external_id=E-1").json()["results"][0]
    assert (device["place"], device["tags"], device["attributes"]) == ("zone", ["rented", "wet"], {"row": 1})

    # By its external id, although the name is another one.
    changed = farm.post("devices/import/", {"rows": [{"name": "renamed", "external_id": "E-1", "tags": "dry"}]}).json()
    assert changed["results"][0]["changes"] == ["name", "tags"]
    table = farm.get("devices/export/").content.decode("utf-8-sig").splitlines()
    assert table[0].split(",") == [
        *("uuid", "name", "external_id", "hardware_model", "place", "cpu_serial", "timeout_seconds", "active", "tags"),
        *("attributes", "components"),
    ]
    assert any('renamed,E-1,,zone,,,yes,dry,"{""row"": 1}",' in line for line in table)


@pytest.mark.parametrize(
    ("rows", "column", "text"),
    [
        ([{"name": "x", "place": "nowhere"}], "place", "Existing places: farm, house-1"),
        ([{"name": "x", "tags": "Upper"}], "tags", "not a valid tag"),
        ([{"name": "x", "attributes": "row=1"}], "attributes", "JSON object"),
        ([{"name": "x", "attributes": '{"row": null}'}], "attributes", "The attribute row must be"),
        ([{"name": "x", "external_id": "x" * 121}], "external_id", "120"),
        ([{"name": "x", "external_id": "E"}, {"name": "y", "external_id": "E"}], "external_id", "Row 1 describes"),
    ],
)
def test_an_invalid_cell_is_an_error_of_its_column(farm: Api, rows: Any, column: str, text: str) -> None:
    document = farm.post("devices/import/", {"rows": rows, "dry_run": True}).json()
    errors = {error["column"]: error["detail"] for error in document["results"][-1]["errors"]}
    assert text in errors[column]


def test_a_row_cannot_take_the_external_id_of_another_device(api: Api, tenant_a: Any) -> None:
    one, two = make_device(tenant_a, "one"), make_device(tenant_a, "two")
    api.patch(f"devices/{one.uuid}/", {"external_id": "E"})
    rows = [{"uuid": str(two.uuid), "name": "two", "external_id": "E"}]
    document = api.post("devices/import/", {"rows": rows, "dry_run": True}).json()
    assert document["results"][0]["errors"][0]["column"] == "external_id"
