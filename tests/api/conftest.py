"""Fixtures of the API's tests."""

import datetime
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from devices.api import access
from telemetry.api.views import http_ingest as view
from telemetry.services.ingest import http_ingest
from tenants.infrastructure.throttling import SecretThrottle, SharedSecretThrottle
from tests.factories import issue_key, make_device, make_user

from .client import Api


@pytest.fixture(autouse=True)
def no_limit(settings: Any, one_window: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of a minute are more than a tenant may ask in one; what limits has tests of its own."""
    settings.API_REQUESTS_PER_MINUTE = 0
    monkeypatch.setattr(access, "key_throttle", SecretThrottle(0))


@pytest.fixture
def api(db: None, tenant_a: Any) -> Api:
    """Tenant A's API with a key that may write."""
    return Api(tenant_a.slug, key=issue_key(tenant_a))


@pytest.fixture
def admin_api(db: None, tenant_a: Any) -> Api:
    """Tenant A's API as one of its administrators."""
    return Api(tenant_a.slug, user=make_user("an-admin", tenant_a, "admin"))


@pytest.fixture
def expired() -> datetime.datetime:
    return timezone.now() - datetime.timedelta(seconds=1)


@pytest.fixture
def greenhouse(api: Api, tenant_a: Any) -> Any:
    """A device of tenant A with a dht22 and a relay."""
    return make_device(tenant_a, "greenhouse", dht22="dht22", relay="relay")


@pytest.fixture(autouse=True)
def own_ingest_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[http_ingest.HttpIngest]:
    """A thread for messages over HTTP that ends with the test, and no address that is blocked."""
    monkeypatch.setattr(view, "failure_throttle", SharedSecretThrottle(f"test-{uuid4()}", 60))
    made = http_ingest.HttpIngest()
    monkeypatch.setattr(http_ingest, "http_ingest", made)
    yield made
    made.close()
