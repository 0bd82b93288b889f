"""The addresses that take files, as the limits of bodies know them."""

import io
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from rest_framework.parsers import FileUploadParser, FormParser, MultiPartParser

from tests.api.client import Api


@pytest.fixture
def asgi(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("VAULT_ROLE", "provisioner")  # the module sets it where it is not set
    from config import asgi

    return asgi


def post(api: Api, fields: dict[str, Any]) -> Any:
    return api._client.post(f"{api.root}devices/import/", fields)


def patterns(resolver: URLResolver, prefix: str = "/") -> Iterator[tuple[str, Any]]:
    for entry in resolver.url_patterns:
        if isinstance(entry, URLResolver):
            yield from patterns(entry, prefix + str(entry.pattern))
        elif isinstance(entry, URLPattern):
            yield prefix + str(entry.pattern), entry.callback


def test_every_endpoint_that_takes_files_is_an_upload_path(asgi: ModuleType) -> None:
    taking = {
        path
        for urls in ("config.urls", "config.urls_public")
        for path, view in patterns(get_resolver(urls))
        for parser in getattr(getattr(view, "cls", None), "parser_classes", ())
        if issubclass(parser, MultiPartParser | FormParser | FileUploadParser)
    }
    assert taking
    assert [path for path in taking if not asgi._is_upload(path)] == []


def test_pages_that_take_files_are_upload_paths(asgi: ModuleType) -> None:
    pages = [
        reverse("admin:devices_deviceimport_add", urlconf="config.urls"),
        reverse("admin:tenants_preregistereddevice_import_table", urlconf="config.urls_public"),
    ]
    assert [page for page in pages if not asgi._is_upload(f"/t/demo{page}")] == []
    assert not asgi._is_upload("/t/demo/api/v1/devices/")
    assert not asgi._is_upload("/t/demo/api/v1/devices/import/x")


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ((b"authorization", b"Bearer x"), True),
        ((b"cookie", b"a=b; sessionid=x"), True),
        ((b"cookie", b"csrftoken=x"), False),
        ((b"x-api-key", b"x"), False),
    ],
)
def test_credentials_are_a_key_or_a_session(asgi: ModuleType, header: tuple[bytes, bytes], shown: bool) -> None:
    assert asgi._has_credentials({"headers": [header]}) is shown


def test_addresses_are_those_that_trusted_proxies_report(asgi: ModuleType, settings: Any) -> None:
    from tenants.infrastructure.client_address import parse_networks

    scope = {"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", b"203.0.113.9")]}
    assert asgi._address_of(scope) == "10.0.0.1"
    settings.TRUSTED_PROXIES = parse_networks(["10.0.0.0/8"])
    assert asgi._address_of(scope) == "203.0.113.9"


def test_a_form_with_many_files_or_fields_is_refused(api: Api) -> None:
    files = {f"file{n}": io.BytesIO(b"name\nx\n") for n in range(6)}
    assert post(api, files).status_code == 400
    fields = {f"field{n}": "x" for n in range(1100)}
    assert post(api, fields).status_code == 400


def test_a_file_is_not_parsed_before_the_permission(api: Api, tenant_a: Any, monkeypatch: Any) -> None:
    parsed = []
    parse = MultiPartParser.parse

    def watched(self: MultiPartParser, *arguments: Any, **options: Any) -> Any:
        parsed.append(1)
        return parse(self, *arguments, **options)

    monkeypatch.setattr(MultiPartParser, "parse", watched)
    unknown = Api(tenant_a.slug, key="gwj_unknown")
    assert post(unknown, {"file": io.BytesIO(b"name\nx\n")}).status_code == 401
    assert parsed == []
    assert post(api, {"file": io.BytesIO(b"name\nx\n")}).status_code == 200
    assert parsed == [1]
