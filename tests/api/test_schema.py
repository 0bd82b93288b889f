"""The OpenAPI document, its page, and the guide that is written by hand."""

import re
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from tests.processes import ROOT

from .client import Api
from .test_isolation import ROWS, _pattern_of, endpoints_of


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
    assert list(public["paths"]) == ["/api/v1/provisioning/credentials/", "/api/v1/tenants/"]


def test_keys_and_sessions_are_described(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert (schemes["apiKey"]["type"], schemes["apiKey"]["scheme"]) == ("http", "bearer")
    assert (schemes["cookieAuth"]["in"], schemes["cookieAuth"]["name"]) == ("cookie", "sessionid")
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert {"apiKey": []} in operation["security"], path
            assert "Error" in str(operation["responses"]["401"]), path


def test_answers_are_as_the_document_says(document: dict[str, Any], admin_api: Api) -> None:
    """The members of each list's answer, against the document's own schema."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    for method, path, _, _, _ in ROWS:
        if method != "GET" or "{" in path or not path.startswith("api/v1/"):
            continue
        content = document["paths"][f"/{path}"]["get"]["responses"]["200"]["content"]
        if "application/json" not in content:  # a file
            continue
        schema = content["application/json"]["schema"]
        answer = admin_api.get(f"/t/alpha/{path}").json()
        Draft202012Validator(_plain({**schema, "components": document["components"]})).validate(answer)


def _plain(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` in JSON Schema's words."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {name: _plain(value) for name, value in schema.items() if name != "nullable"}
    return {"anyOf": [converted, {"type": "null"}]} if schema.get("nullable") is True else converted


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
