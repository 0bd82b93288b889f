"""The parameter `fields`: the members of devices and components that an answer has."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from .client import Api, problems


def test_an_answer_has_the_selected_members(api: Api, greenhouse: Any) -> None:
    whole = api.get(f"devices/{greenhouse.uuid}/").json()
    assert api.get(f"devices/{greenhouse.uuid}/", fields="status,name").json() == {
        "name": whole["name"],
        "status": whole["status"],
    }
    page = api.get("devices/", fields="uuid", limit=5).json()
    assert page.keys() == {"count", "next", "previous", "results"}
    assert {"uuid": str(greenhouse.uuid)} in page["results"]
    assert all(part.keys() == {"key"} for part in api.get("components/", fields="key").json()["results"])


def test_what_is_left_out_is_not_read(api: Api, greenhouse: Any) -> None:
    def queries(**query: Any) -> int:
        with CaptureQueriesContext(connection) as found:
            assert api.get("devices/", **query).status_code == 200
        return sum("search_path" not in query["sql"] for query in found)

    queries()
    assert queries(fields="uuid,name,status") < queries() - 3


@pytest.mark.parametrize("fields", ["uuid,", "colour", "uuid,colour", "UUID", "uuid name"])
def test_members_that_cannot_be_selected(api: Api, greenhouse: Any, fields: str) -> None:
    for path in ("devices/", f"devices/{greenhouse.uuid}/"):
        answer = api.get(path, fields=fields)
        assert answer.status_code == 400
        assert "is not a member that can be selected. Members: uuid, name" in problems(answer)["fields"]


def test_other_objects_have_no_selection(api: Api) -> None:
    assert "fields" in problems(api.get("units/", fields="symbol"))
    assert "fields" in problems(api.send("post", "devices/?fields=uuid", {"name": "a device"}))
