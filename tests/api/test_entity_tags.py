"""ETag, If-None-Match and If-Match of objects that people edit."""

import re
from typing import Any

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import DeviceStatus
from tenants.api.entity_tags import entity_tag, is_unchanged, is_unedited

from .client import Api
from .test_isolation import ROWS, Row, World, made_world, world  # noqa: F401 (the fixtures)

_TAG = re.compile(r'"[0-9a-f]{24}-[0-9a-f]{24}"')


def call(api: Api, method: str, path: str, body: Any = None, **headers: str) -> Any:
    address = path if path.startswith("/") else api.root + path
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return getattr(api._client, method)(
        address, "" if body is None else body, content_type="application/json", headers=names
    )


def code_of(answer: Any) -> str:
    document = answer.json()
    return document["code"] if "code" in document else document["errors"][0]["code"]


def test_a_tag_has_a_part_for_what_is_edited() -> None:
    one, other = entity_tag({"name": "a", "state": 1}, ["name"]), entity_tag({"name": "a", "state": 2}, ["name"])
    assert _TAG.fullmatch(one)
    assert one != other
    assert is_unedited(one, other)
    assert not is_unchanged(one, other)
    assert not is_unedited(entity_tag({"name": "b", "state": 1}, ["name"]), one)


@pytest.mark.parametrize(
    ("given", "unchanged", "unedited"),
    [
        ('"a-b"', True, True),
        ('W/"a-b"', True, False),
        ('"x", "a-b"', True, True),
        ("*", True, True),
        ('"a-c"', False, True),
        ('"b-b"', False, False),
        ("", False, False),
        ("a-b", False, False),
        ('"', False, False),
    ],
)
def test_comparison(given: str, unchanged: bool, unedited: bool) -> None:
    assert is_unchanged(given, '"a-b"') is unchanged
    assert is_unedited(given, '"a-b"') is unedited


def test_an_object_is_read_again_only_when_it_has_changed(api: Api, greenhouse: Any) -> None:
    path = f"devices/{greenhouse.uuid}/"
    first = api.get(path)
    assert _TAG.fullmatch(first["ETag"])
    again = call(api, "get", path, If_None_Match=first["ETag"])
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", first["ETag"])
    assert again["Cache-Control"] == "no-store"
    changed = api.patch(path, {"name": "renamed"})
    assert changed["ETag"] not in ("", first["ETag"])
    assert changed["ETag"] == api.get(path)["ETag"]
    assert call(api, "get", path, If_None_Match=first["ETag"]).status_code == 200


def test_a_stale_change_is_refused_and_changes_nothing(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    path = f"devices/{greenhouse.uuid}/"
    seen = api.get(path)["ETag"]
    assert call(api, "patch", path, {"name": "first"}, If_Match=seen).status_code == 200
    late = call(api, "patch", path, {"name": "second"}, If_Match=seen)
    assert (late.status_code, code_of(late)) == (412, "precondition_failed")
    assert call(api, "delete", path, If_Match=seen).status_code == 412
    assert api.get(path).json()["name"] == "first"
    assert call(api, "delete", path, If_Match=api.get(path)["ETag"]).status_code == 204


def test_what_a_device_reports_makes_no_edit_stale(api: Api, greenhouse: Any, tenant_a: Any) -> None:
    path = f"devices/{greenhouse.uuid}/"
    seen = api.get(path)["ETag"]
    with schema_context(tenant_a.schema_name):
        DeviceStatus.objects.filter(device=greenhouse).update(status="ONLINE", since=timezone.now())
    assert call(api, "get", path, If_None_Match=seen).status_code == 200
    assert call(api, "patch", path, {"name": "renamed"}, If_Match=seen).status_code == 200


def test_an_answer_with_some_members_has_no_tag(api: Api, greenhouse: Any) -> None:
    assert "ETag" not in api.get(f"devices/{greenhouse.uuid}/", fields="name")


def test_lists_have_none_and_ignore_the_headers(api: Api) -> None:
    answer = call(api, "get", "devices/", If_None_Match="*")
    assert answer.status_code == 200
    assert "ETag" not in answer


_DETAILS = [row for row in ROWS if row[0] in ("PATCH", "DELETE") and row[1] != "api/v1/devices/{empty_device}/"]


@pytest.mark.parametrize("row", _DETAILS, ids=lambda row: f"{row[0]} {row[1]}")
def test_every_object_that_is_edited_has_one(row: Row, world: World) -> None:  # noqa: F811
    method, path, _who, status, body = row
    caller = world.ask["administrator"].__self__  # type: ignore[attr-defined]
    address = f"/t/alpha/{path.format(**world.ours)}"
    tag = caller.get(address)["ETag"]
    assert call(caller, "get", address, If_None_Match=tag).status_code == 304
    stale = call(caller, method.lower(), address, body, If_Match='"0-0"')
    assert (stale.status_code, code_of(stale)) == (412, "precondition_failed")
    assert call(caller, method.lower(), address, body, If_Match=tag).status_code == status


def test_an_object_of_another_tenant_is_not_found_whatever_its_tag(world: World) -> None:  # noqa: F811
    caller = world.ask["administrator"].__self__  # type: ignore[attr-defined]
    uuid = world.theirs["device"]
    answer = call(caller, "patch", f"/t/alpha/api/v1/devices/{uuid}/", {"name": "x"}, If_Match="*")
    assert answer.status_code == 404
