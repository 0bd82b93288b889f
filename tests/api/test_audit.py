"""The audit in the API: before and after of each change, filters, pages, and the file."""

import csv
import io
from typing import Any

import pytest
from django_tenants.utils import schema_context

from devices.models import AuditEntry
from devices.services import audit, audit_search
from tests.factories import issue_key, make_user

from .client import Api, problems


@pytest.fixture
def changed(admin_api: Api) -> str:
    """The UUID of a device that was registered, renamed and deactivated."""
    uuid: str = admin_api.post("devices/", {"name": "first"}).json()["uuid"]
    admin_api.patch(f"devices/{uuid}/", {"name": "second", "timeout_seconds": 90, "active": False})
    return uuid


def rows(api: Api, **query: Any) -> list[dict[str, Any]]:
    answer = api.get("audit/", **query)
    assert answer.status_code == 200, answer.content
    return list(answer.json()["results"])


def test_a_change_has_before_and_after(admin_api: Api, changed: str) -> None:
    found = {row["action"]: row for row in rows(admin_api, object_type="devices.device")}
    assert found["register"]["changes"]["name"] == {"before": None, "after": "first"}
    assert found["change"]["changes"] == {
        "name": {"before": "first", "after": "second"},
        "timeout_seconds": {"before": None, "after": 90},
    }
    assert found["deactivate"]["changes"] == {"active": {"before": True, "after": False}}
    assert found["change"]["user"] == "an-admin"
    assert found["change"]["address"] == "127.0.0.1"
    assert len(found["change"]["request_id"]) == 32


def test_what_was_removed_is_in_its_entry(admin_api: Api) -> None:
    made = admin_api.post("hardware-models/", {"name": "board", "version": "9"}).json()
    admin_api.delete(f"hardware-models/{made['id']}/")
    row = rows(admin_api, action="remove")[0]
    assert row["changes"]["version"] == {"before": "9", "after": None}


def test_a_change_of_the_settings_has_it_too(admin_api: Api) -> None:
    before = admin_api.get("presence-settings/").json()["timeout_seconds"]
    admin_api.patch("presence-settings/", {"timeout_seconds": 91})
    changes = rows(admin_api, object_type="devices.presencesettings")[0]["changes"]
    assert changes == {"timeout_seconds": {"before": before, "after": 91}}


def test_no_secret_is_in_any_entry(admin_api: Api, tenant_a: Any) -> None:
    key = admin_api.post("api-keys/", {"name": "k", "scope": "read"}).json()["key"]
    device = admin_api.post("devices/", {"name": "x"}).json()
    admin_api.post(f"devices/{device['uuid']}/keys/", {})
    text = str(rows(admin_api, limit=100))
    for secret in (key, device["credentials"]["secret"], device["credentials"]["mqtt_password"]):
        assert secret not in text
    assert "digest" not in text


def test_filters(admin_api: Api, changed: str, tenant_a: Any) -> None:
    every = rows(admin_api, limit=100)
    one = next(row for row in every if row["action"] == "change")
    for name in ("user", "address", "request_id", "action", "object_type", "object_id"):
        found = rows(admin_api, limit=100, **{name: one[name]})
        assert found == [row for row in every if row[name] == one[name]], name
    assert rows(admin_api, user="an-unknown-user") == []
    assert rows(admin_api, **{"from": one["at"], "limit": 100}) == [row for row in every if row["at"] >= one["at"]]
    assert rows(admin_api, to=one["at"], limit=100) == [row for row in every if row["at"] < one["at"]]


def test_changes_by_a_key_are_found_by_its_number(admin_api: Api, tenant_a: Any) -> None:
    api = Api(tenant_a.slug, key=issue_key(tenant_a))
    api.post("devices/", {"name": "by key"})
    row = rows(admin_api, action="register")[0]
    assert row["user"].startswith("API key gwj_")
    assert row["user_id"] is None
    assert [one["id"] for one in rows(admin_api, key_id=row["key_id"])] == [row["id"]]


@pytest.mark.parametrize("query", [{"action": "none"}, {"key_id": "x"}, {"address": "x"}, {"unknown": "1"}])
def test_an_invalid_filter_is_refused(admin_api: Api, query: dict[str, str]) -> None:
    answer = admin_api.get("audit/", **query)
    assert answer.status_code == 400
    assert problems(answer)


def test_an_invalid_address_is_named_as_one(admin_api: Api) -> None:
    answer = admin_api.get("audit/", address="x")
    assert problems(answer) == {"address": "'address' must be an IP address, not 'x'."}


def test_pages_have_each_entry_once(admin_api: Api, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        for number in range(25):
            audit.record(None, "import", tenant_a, str(number))
    seen, address = [], "audit/?limit=10&action=import"
    while address:
        page = admin_api.get(address).json()
        seen += [int(row["detail"]) for row in page["results"]]
        address = page["next"]
        if len(seen) == 10:
            with schema_context(tenant_a.schema_name):
                audit.record(None, "import", tenant_a, "99")  # shifts nothing
    assert seen == list(range(24, -1, -1))


def test_a_file_has_the_same_rows(admin_api: Api, changed: str) -> None:
    answer = admin_api.get("audit/export/", object_type="devices.device")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    table = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    listed = rows(admin_api, object_type="devices.device", limit=100)
    assert [row["id"] for row in table] == [str(row["id"]) for row in listed]
    assert table[0]["object"] == listed[0]["object"]
    assert '"before": "first"' in next(row["changes"] for row in table if row["action"] == "change")


def test_a_file_in_the_form_of_a_country(admin_api: Api, changed: str) -> None:
    answer = admin_api.get("audit/export/", separator="semicolon", timezone="Asia/Seoul")
    table = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")), delimiter=";"))
    assert table[0]["at"].endswith("+09:00")
    assert len(table) == len(rows(admin_api, limit=100))
    assert admin_api.get("audit/", separator="semicolon").status_code == 400
    assert admin_api.get("audit/export/", decimal="comma").status_code == 400


def test_a_name_is_no_formula(admin_api: Api, tenant_a: Any) -> None:
    admin_api.post("hardware-models/", {"name": "=HYPERLINK(1)", "version": "1"})
    assert ",=HYPERLINK" not in admin_api.get("audit/export/").content.decode()


def test_too_many_rows_are_refused(admin_api: Api, changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_search, "MOST_EXPORTED", 1)
    answer = admin_api.get("audit/export/")
    assert answer.status_code == 400
    assert "at most 1 entries" in answer.content.decode()


def test_it_is_for_administrators_and_keys_with_the_scope_admin(db: None, tenant_a: Any, tenant_b: Any) -> None:
    assert Api(tenant_a.slug, key=issue_key(tenant_a, "admin")).get("audit/").status_code == 200
    assert Api(tenant_a.slug, key=issue_key(tenant_a, "write")).get("audit/").status_code == 403
    assert Api(tenant_a.slug, key=issue_key(tenant_b, "admin")).get("audit/").status_code == 401
    assert Api(tenant_a.slug, user=make_user("op", tenant_a, "operator")).get("audit/").status_code == 403


def test_what_devices_cause_has_neither_address_nor_request(db: None, admin_api: Api, tenant_a: Any) -> None:
    with schema_context(tenant_a.schema_name):
        audit.record(None, "rolled back", tenant_a)
        entry = AuditEntry.objects.latest("id")
    assert (entry.request_id, entry.address, entry.changes) == ("", "", None)
