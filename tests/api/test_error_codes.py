"""The codes of errors: each is documented, each is used, and one cause has one answer on every path."""

import ast
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django_tenants.utils import tenant_context
from rest_framework import exceptions, serializers

from devices.models import Component, ComponentType, HardwareModel, Metric, Unit
from tenants.api.errors import api_exception, document_of
from tenants.infrastructure.error_codes import MEANINGS, ErrorCode, error_code
from tests.documents import read, table
from tests.processes import ROOT

from .client import Api, problem_of, problems


def test_the_documented_codes_are_the_codes_that_there_are() -> None:
    documented = {code: int(row[0]) for code, row in table(read("docs/errors.md"), "code | status | cause").items()}
    assert documented == {code.value: code.status for code in ErrorCode}
    assert MEANINGS.keys() == set(ErrorCode)


def test_every_code_is_one_that_the_product_can_answer() -> None:
    assert set(codes_in_sources()) | codes_of_libraries() == set(ErrorCode)


def codes_in_sources() -> Iterator[ErrorCode]:
    """The codes that the sources name, outside of the table itself."""
    for app in ("tenants", "devices", "telemetry", "alarms", "platform"):
        for path in (ROOT / app).rglob("*.py"):
            if path.name == "error_codes.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ErrorCode":
                    yield ErrorCode[node.attr]
                elif isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                    yield error_code(str(node.value.value))


def codes_of_libraries() -> set[ErrorCode]:
    """The codes of REST framework's exceptions and of the fields that the serializers use."""
    raised = {getattr(kind, "default_code", "") for kind in vars(exceptions).values() if isinstance(kind, type)}
    fields = (serializers.CharField, serializers.IntegerField, serializers.ChoiceField, serializers.ListField)
    related = (serializers.SlugRelatedField, serializers.PrimaryKeyRelatedField)
    kinds = [kind for field in (*fields, *related) for kind in field.__mro__]
    messages = {code for kind in kinds for code in getattr(kind, "default_error_messages", {})}
    return {error_code(code) for code in raised | messages if code}


@pytest.mark.parametrize("address", ["/api/docs/errors/", "/t/alpha/api/docs/errors/"])
def test_the_type_of_each_problem_is_on_a_page(db: None, tenant_a: Any, address: str) -> None:
    page = Client().get(address).content.decode()
    assert all(f'id="{code}"' in page for code in ErrorCode)


def test_details_are_translated_and_codes_are_not(api: Api) -> None:
    english = problem_of(api.post("units/", {"symbol": "x"}))
    korean = problem_of(
        api._client.post(f"{api.root}units/", {}, "application/json", headers={"Accept-Language": "ko"})
    )
    assert (english["code"], korean["code"]) == ("invalid", "invalid")
    assert "필수" in korean["detail"]
    assert "required" in english["detail"]


EXISTING: list[tuple[str, dict[str, Any], Any]] = [
    ("units/", {"symbol": "°C", "name": "again", "quantity": "temperature", "ucum": "Cel"}, Unit),
    ("component-types/", {"key": "dht22", "name": "again"}, ComponentType),
    ("metrics/", {"component_type": "dht22", "key": "temperature", "path": "x"}, Metric),
    ("hardware-models/", {"name": "board", "version": "1"}, HardwareModel),
]


@pytest.mark.parametrize(("path", "body", "model"), EXISTING, ids=[row[0] for row in EXISTING])
def test_what_exists_is_answered_with_409_also_after_a_race(
    api: Api, tenant_a: Any, path: str, body: dict[str, Any], model: Any
) -> None:
    """A race passes the check and meets the constraint: here the same row is inserted without the check."""
    if model is HardwareModel:
        assert api.post(path, body).status_code == 201
    checked = api.post(path, body)
    assert checked.status_code == 409
    assert problem_of(checked)["code"] == "exists"
    with tenant_context(tenant_a):
        dht22 = ComponentType.objects.get(key="dht22")
        values = body | ({"component_type": dht22} if model is Metric else {})
        with pytest.raises(IntegrityError) as raised, transaction.atomic():
            model(**values).save()
    converted = api_exception(raised.value)
    assert converted is not None
    assert document_of(converted, "POST") == checked.json()


def test_a_component_key_is_once_on_a_device_also_after_a_race(api: Api, tenant_a: Any, greenhouse: Any) -> None:
    checked = api.post("components/", {"device": str(greenhouse.uuid), "key": "dht22", "component_type": "pump"})
    assert problem_of(checked)["code"] == "exists"
    with tenant_context(tenant_a):
        pump = ComponentType.objects.get(key="pump")
        with pytest.raises(IntegrityError) as raised, transaction.atomic():
            Component(device=greenhouse, key="dht22", component_type=pump).save()
    converted = api_exception(raised.value)
    assert converted is not None
    assert document_of(converted, "POST") == checked.json()


def test_an_error_beside_one_that_exists_is_400(api: Api) -> None:
    answer = api.post("units/", {"symbol": "°C", "name": "x" * 1000})
    assert problem_of(answer)["status"] == 400


def test_a_pointer_leads_to_the_member(api: Api) -> None:
    body = {"name": "x", "components": [{"key": "a", "component_type": "pump"}, {"key": "b", "a/b~c": 1}]}
    pointers = {error["pointer"]: error["code"] for error in problem_of(api.post("devices/", body))["errors"]}
    assert pointers == {"#/components/1/a~1b~0c": "unknown_member"}


@pytest.mark.parametrize(
    ("path", "name", "code"),
    [
        ("devices/?device=", "device", "unknown_parameter"),
        ("devices/?status=", "status", "blank"),
        ("devices/?status=odd", "status", "invalid_choice"),
        ("totals/?from=2026-11-22&to=2026-11-22", "from", "invalid_range"),
        ("devices/?active=yes", "active", "invalid_choice"),
        ("components/?device=7", "device", "invalid_format"),
        ("totals/?from=yesterday", "from", "invalid_format"),
        ("devices/?limit=0", "limit", "out_of_range"),
        ("devices/?limit=1&limit=2", "limit", "repeated"),
        ("messages/?device=7", "device", "invalid_format"),
        ("messages/", "device", "required"),
    ],
)
def test_a_parameter_is_named_with_its_code(api: Api, path: str, name: str, code: str) -> None:
    (error,) = problem_of(api.get(path))["errors"]
    assert (error["parameter"], error["code"]) == (name, code)
    assert repr(name) in error["detail"]


def test_an_unknown_parameter_of_a_write_is_a_parameter(api: Api) -> None:
    (error,) = problem_of(api.send("post", "units/?colour=red", {}))["errors"]
    assert error["parameter"] == "colour"


def test_a_method_names_those_that_are_allowed(api: Api) -> None:
    answer = api.send("put", "devices/")
    assert problems(answer) == {None: "PUT is not allowed here. Allowed: GET, HEAD, POST, OPTIONS."}
    assert problem_of(answer)["code"] == "method_not_allowed"
