"""Tenants and API keys that a web process keeps for a moment: revocation, suspension, and other tenants."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import ApiKey
from devices.services import api_keys
from tenants.infrastructure import access_cache
from tenants.infrastructure.access_cache import AccessCache
from tenants.models import Tenant
from tenants.services import tenant_lookup
from tests.factories import issue_key

from .client import Api


@pytest.fixture
def later(
    settings: LazySettings, no_access_cache: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Keep rows for a second of a clock that moves by `later(seconds)`."""
    settings.ACCESS_CACHE_SECONDS = 1.0
    now = [1000.0]
    monkeypatch.setattr(access_cache, "clock", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    yield move
    for cache in (api_keys._found_keys, tenant_lookup._found):
        cache.forget(lambda _key, _row: True)


def _queries(api: Api) -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        assert api.get("units/", limit=1).status_code == 200
    return [query["sql"] for query in queries]


def test_the_second_request_reads_neither_tenant_nor_key(api: Api, later: Callable[..., None]) -> None:
    assert any("tenants_tenant" in sql for sql in _queries(api))
    assert not any("tenants_tenant" in sql or "devices_apikey" in sql for sql in _queries(api))
    later(1.1)
    queries = _queries(api)
    assert any("tenants_tenant" in sql for sql in queries)
    assert any("devices_apikey" in sql for sql in queries)


def test_a_key_that_another_process_revoked_is_rejected_after_a_second(
    api: Api, tenant_a: Any, later: Callable[..., None]
) -> None:
    assert api.get("units/").status_code == 200
    with schema_context(tenant_a.schema_name):
        ApiKey.objects.update(revoked_at=timezone.now())
    later(1.1)
    assert api.get("units/").status_code == 401


def test_a_key_that_this_process_revoked_is_rejected_at_once(
    api: Api, tenant_a: Any, later: Callable[..., None], django_capture_on_commit_callbacks: Any
) -> None:
    assert api.get("units/").status_code == 200
    with schema_context(tenant_a.schema_name), django_capture_on_commit_callbacks(execute=True):
        api_keys.revoke_api_key(ApiKey.objects.get())
    assert api.get("units/").status_code == 401


def test_a_kept_key_ends_at_its_end(api: Api, tenant_a: Any, later: Callable[..., None]) -> None:
    with schema_context(tenant_a.schema_name):
        ApiKey.objects.update(expires_at=timezone.now() + timedelta(milliseconds=300))
    assert api.get("units/").status_code == 200
    with schema_context(tenant_a.schema_name):
        (end,) = ApiKey.objects.values_list("expires_at", flat=True)
    assert end is not None
    while timezone.now() <= end:
        pass
    assert api.get("units/").status_code == 401


def test_a_kept_key_is_unknown_in_another_tenant(
    api: Api, tenant_a: Any, tenant_b: Any, later: Callable[..., None]
) -> None:
    key = issue_key(tenant_a)
    assert Api(tenant_a.slug, key=key).get("units/").status_code == 200
    assert Api(tenant_b.slug, key=key).get("units/").status_code == 401
    assert Api(tenant_a.slug, key=key).get("units/").status_code == 200


def test_a_suspended_tenant_is_closed_after_a_second(api: Api, tenant_a: Any, later: Callable[..., None]) -> None:
    assert api.get("units/").status_code == 200
    Tenant.objects.filter(pk=tenant_a.pk).update(state=Tenant.State.SUSPENDED)
    later(1.1)
    assert api.get("units/").status_code == 503


def test_a_new_row_is_found_at_once(later: Callable[..., None]) -> None:
    cache: AccessCache[str, list[int]] = AccessCache()
    assert cache.get("a", lambda: None) is None
    assert cache.get("a", lambda: [1]) == [1]


def test_a_row_that_was_read_before_it_was_forgotten_is_not_kept(later: Callable[..., None]) -> None:
    cache: AccessCache[str, list[int]] = AccessCache()

    def find() -> list[int]:
        cache.forget(lambda _key, _row: True)  # meanwhile
        return [1]

    assert cache.get("a", find) == [1]
    assert len(cache) == 0


def test_a_caller_cannot_change_what_is_kept(later: Callable[..., None]) -> None:
    cache: AccessCache[str, Tenant] = AccessCache()
    found = cache.get("a", lambda: Tenant(slug="a"))
    assert found is not None
    found.slug = "b"
    again = cache.get("a", lambda: None)
    assert again is not None
    assert again.slug == "a"
    again.slug = "c"
    assert cache.get("a", lambda: None).slug == "a"  # type: ignore[union-attr]


def test_a_million_of_keys_do_not_fill_the_memory(later: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_cache, "_MAX_ENTRIES", 10)
    cache: AccessCache[int, list[int]] = AccessCache()
    for number in range(100):
        cache.get(number, lambda: [1])
    assert len(cache) == 10
