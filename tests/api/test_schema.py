"""The OpenAPI document, its page, and the guide that is written by hand."""

import re
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from openapi_spec_validator import OpenAPIV31SpecValidator

from devices.api.serializers.inventory import DeviceSerializer
from tests.processes import ROOT

from .client import Api
from .test_isolation import _pattern_of, endpoints_of
from .test_public import STAFF_ENDPOINTS


@pytest.fixture
def document(db: None, tenant_a: Any) -> dict[str, Any]:
    return Client().get("/t/alpha/api/schema/").json()


@pytest.mark.parametrize("urlconf", ["config.urls", "config.urls_public"])
def test_the_document_is_valid_and_made_without_warnings(urlconf: str, tmp_path: Any) -> None:
    call_command("spectacular", urlconf=urlconf, validate=True, fail_on_warn=True, file=str(tmp_path / "api.yaml"))


def test_the_document_holds_every_endpoint(document: dict[str, Any]) -> None:
    described = {
        (method.upper(), _pattern_of(path.lstrip("/")))
        for path, methods in document["paths"].items()
        for method in methods
    }
    offered = {(method, _pattern_of(route)) for method, route in endpoints_of("config.urls")}
    assert described == {row for row in offered if row[1].startswith("api/v1/")}


def test_the_document_names_the_server_that_it_was_asked_at(document: dict[str, Any], tenant_b: Any) -> None:
    assert document["servers"] == [{"url": "/t/alpha"}]
    assert Client().get("/t/beta-farm/api/schema/").json()["servers"] == [{"url": "/t/beta-farm"}]
    public = Client().get("/api/schema/").json()
    assert public["servers"] == [{"url": "/"}]
    staff = {re.sub(r"<\w+:(\w+)>", r"{\1}", f"/{path}") for _method, path in STAFF_ENDPOINTS}
    assert set(public["paths"]) == staff | {"/api/v1/provisioning/credentials/"}


def test_keys_and_sessions_are_described(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert (schemes["apiKey"]["type"], schemes["apiKey"]["scheme"]) == ("http", "bearer")
    assert (schemes["cookieAuth"]["in"], schemes["cookieAuth"]["name"]) == ("cookie", "sessionid")
    for path, methods in document["paths"].items():
        if path == "/api/v1/devices/{uuid}/messages/":  # the signatures of the messages are the proof
            assert methods["post"]["security"] == [{}]
            continue
        for operation in methods.values():
            assert {"apiKey": []} in operation["security"], path
            assert "Error" in str(operation["responses"]["401"]), path


@pytest.mark.parametrize("address", ["/t/alpha/api/schema/", "/api/schema/"])
def test_the_document_is_valid_openapi_3_1(db: None, tenant_a: Any, address: str) -> None:
    found = Client().get(address).json()
    assert found["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(found).iter_errors()] == []


def test_an_answer_that_is_not_as_the_document_says_fails_a_test(
    api: Api, greenhouse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of `tests.api.contract`, which compares every answer of the tests."""
    assert api.get(f"devices/{greenhouse.uuid}/").status_code == 200
    monkeypatch.setattr(DeviceSerializer, "quick", {**DeviceSerializer.quick, "active": lambda _device: "yes"})
    with pytest.raises(AssertionError, match=r"GET /api/v1/devices/\{uuid\}/ → 200: active"):
        api.get(f"devices/{greenhouse.uuid}/")


def test_bodies_with_unknown_members_are_described_as_refused(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    bodies = {name: schema for name, schema in schemas.items() if name.endswith("Request") and "properties" in schema}
    assert {name for name, schema in bodies.items() if schema.get("additionalProperties") is not False} == set()


def test_what_no_request_may_contain_is_described(document: dict[str, Any]) -> None:
    paths, schemas = document["paths"], document["components"]["schemas"]
    listed = {one["name"]: one["schema"] for one in paths["/api/v1/devices/"]["get"]["parameters"]}
    assert listed["search"] == {"type": "string", "minLength": 1}
    series = {one["name"]: one["schema"] for one in paths["/api/v1/readings/series/"]["get"]["parameters"]}
    assert series["component"]["items"]["minLength"] == 1
    assert "device" in schemas["ComponentRequest"]["properties"]
    assert "device" not in schemas["PatchedComponentRequest"]["properties"], "it cannot be changed"
    assert schemas["MetricMappingRequest"]["properties"]["metrics"]["minItems"] == 1
    keys = [one for one in paths["/api/v1/devices/"]["post"]["parameters"] if one["name"] == "Idempotency-Key"]
    pattern = keys[0]["schema"]["pattern"]
    for text, is_valid in (("a", True), ('"a b"', True), ("a b", False), ("", False), ("ü", False), ("a" * 256, False)):
        assert (re.search(pattern, text) is not None) is is_valid, text


def test_parameters_have_their_bounds_and_types(document: dict[str, Any]) -> None:
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    parameters = [one for operation in operations for one in operation.get("parameters", ())]
    limits = [one["schema"] for one in parameters if one["name"] == "limit"]
    assert len(limits) > 10
    assert {(one["minimum"], one["maximum"]) for one in limits} == {(1, 1000)}
    booleans = [one["schema"] for one in parameters if one["name"] in ("active", "attached", "ongoing")]
    assert booleans == [{"type": "boolean"}] * 3


def test_the_page_loads_nothing_from_other_hosts(db: None, tenant_a: Any) -> None:
    page = Client().get("/t/alpha/api/docs/")
    assert page.status_code == 200
    html = page.content.decode()
    # The content policy allows no inline script: the page's own is a file.
    script = "/t/alpha/api/docs/?script="
    assert f'<script src="{script}">' in html
    assert "/t/alpha/api/schema/" in Client().get(script).content.decode()
    assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", html)
    files = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert len(files) >= 3
    assert [file for file in files if not file.startswith("/static/")] == [script]
    for file in files:
        assert Client().get(file).status_code == 200, file


def test_the_guide_names_only_addresses_that_there_are(document: dict[str, Any]) -> None:
    guide = (ROOT / "docs" / "api-guide.md").read_text().replace("$API/", "/api/v1/")
    public = Client().get("/api/schema/").json()["paths"]
    known = {_pattern_of(path) for path in (*document["paths"], *public)}
    known |= {"/api/schema/", "/api/docs/", "/api/docs/errors/", "/api/v1"}
    named = re.findall(r"(?:/t/demo)?(/api/[A-Za-z0-9/_{}$-]*)", guide)
    assert len(named) > 20
    wrong = {path for path in named if _pattern_of(re.sub(r"\$[A-Z_]+", "{x}", path)) not in known}
    assert not wrong


def test_the_guide_names_every_list(document: dict[str, Any]) -> None:
    guide = (ROOT / "docs" / "api-guide.md").read_text()
    lists = {path for path in document["paths"] if "{" not in path}
    assert {path for path in lists if path not in guide} == set()


def test_the_root_lists_every_address_that_can_be_read_without_naming_an_object(
    api: Api, document: dict[str, Any]
) -> None:
    root = api.get("").json()
    readable = {path for path, methods in document["paths"].items() if "get" in methods and "{" not in path}
    assert {f"/api/v1/{address}/" for address in root} == readable - {"/api/v1/"}
    assert root["quarantine/suppressed"] == "http://testserver/t/alpha/api/v1/quarantine/suppressed/"
