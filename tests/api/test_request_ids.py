"""`X-Request-ID`: on every answer, in the log lines of the request, and in its audit entries."""

import http.client
import io
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django_tenants.utils import schema_context

from config.wsgi import application as wsgi
from devices.models import ApiKey, AuditEntry
from tenants.infrastructure.request_context import RequestIdFilter, current
from tests.devices.event_stream_client import Web
from tests.factories import issue_key
from tests.raw_http import RawRequest

from .client import Api

_GENERATED = re.compile(r"[0-9a-f]{32}")


def sent(api: Api, path: str, request_id: str) -> Any:
    return api._client.get(api.root + path, headers={"X-Request-ID": request_id})


@pytest.mark.parametrize("given", ["order-17", "0af7651916cd43dd8448eb211c80319c", "a", "b.c_d:e-" + "9" * 56])
def test_a_well_formed_id_is_kept(api: Api, given: str) -> None:
    assert sent(api, "units/", given)["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", " ", "-x", "a b", "a" * 65, "x\n y", "é", "a;b", '"a"'])
def test_another_id_is_replaced(api: Api, given: str) -> None:
    first, second = (sent(api, "units/", given)["X-Request-ID"] for _ in range(2))
    assert _GENERATED.fullmatch(first)
    assert first != second


@pytest.mark.parametrize("path", ["/t/absent/api/v1/", "/healthz", "/t/alpha/api/v1/nothing/", "/t/alpha/admin/", "/"])
def test_answers_of_every_layer_of_django_have_one(db: None, tenant_a: Any, path: str) -> None:
    assert Client().get(path, headers={"X-Request-ID": "mine"})["X-Request-ID"] == "mine"


def test_an_audit_entry_names_the_request_its_address_and_its_key(db: None, tenant_a: Any) -> None:
    text = issue_key(tenant_a)
    api = Api(tenant_a.slug, key=text)
    made = api._client.post(
        f"{api.root}devices/",
        {"name": "x"},
        "application/json",
        headers={"X-Request-ID": "r-1"},
        REMOTE_ADDR="10.1.2.3",
    )
    assert made.status_code == 201
    with schema_context(tenant_a.schema_name):
        entry = AuditEntry.objects.get(action="register", object_type="devices.device", object_label__startswith="x")
        assert (entry.request_id, entry.address) == ("r-1", "10.1.2.3")
        assert entry.key_id == ApiKey.objects.get(prefix=text[:14]).pk


def test_outside_of_requests_there_is_none(api: Api) -> None:
    api.get("units/")
    record = logging.makeLogRecord({})
    assert RequestIdFilter().filter(record)
    assert record.__dict__["request_id"] == "-"
    assert current.get() == ("", "")


def test_the_wsgi_entry_point_sets_it_on_every_answer(db: None) -> None:
    heads: list[Any] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/healthz", "wsgi.input": io.BytesIO(), "HTTP_X_REQUEST_ID": "a b"}
    environ |= {"SERVER_NAME": "localhost", "SERVER_PORT": "80"}
    wsgi(environ, lambda status, headers, *_: heads.append(dict(headers)))
    assert _GENERATED.fullmatch(heads[0]["X-Request-ID"])


def test_the_server_logs_it_and_refuses_with_it(live_db: None, tenant_a: Any, tmp_path: Path) -> None:
    web = Web(tmp_path / "web.log")
    try:
        asked = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
        asked.request("GET", "/t/alpha/api/v1/units/", headers={"X-Request-ID": "from-outside", "Host": "localhost"})
        assert asked.getresponse().getheader("X-Request-ID") == "from-outside"
        with RawRequest(web.port) as raw:
            raw.head(
                "/t/alpha/api/v1/devices/", "Content-Length: 999999", "X-Request-ID: too-large", "Connection: close"
            )
            status, rest = raw.response()
        assert status == 413
        assert "x-request-id: too-large" in rest.lower()
        web.process.wait_for("[too-large] 127.0.0.1")
        line = next(
            line for line in web.process.output().splitlines() if "/units/" in line and "uvicorn.access" in line
        )
        assert "[from-outside]" in line
    finally:
        web.process.stop()
