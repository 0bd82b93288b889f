"""The hooks of all apps with their providers: what lower apps call of higher ones."""

from typing import Any

import pytest
from django.urls import reverse

from devices.hooks import DevicePage
from tenants.infrastructure.hooks import HOOKS, Hook, NavigationGroup
from tests.documents import read, table

# Hook → the app of each provider, in order.
PROVIDERS = {
    "new_tenant": ["devices", "telemetry"],
    "tenant_changed": ["devices"],
    "tenant_state_changed": ["devices"],
    "metric_collectors": ["tenants", "devices", "telemetry"],
    "device_release": ["devices"],
    "uuid_confirmation": ["devices"],
    "uuid_release": ["devices"],
    "unrouted_replay": ["telemetry"],
    "console_panels": ["telemetry", "devices"],
    "console_navigation": ["tenants", "auth", "tenants", "django_q"],
    "session_ended": ["devices"],
    "newest_readings": ["telemetry"],
    "dashboard_panels": ["devices", "devices", "telemetry", "telemetry", "telemetry", "devices", "telemetry"],
    "panels_above_device": ["devices", "devices", "alarms", "devices", "devices", "telemetry", "telemetry"],
    "panels_below_device": ["devices", "devices", "telemetry", "telemetry", "devices"],
    "device_pages": ["devices", "telemetry"],
    "metric_mapping_page": ["telemetry"],
    "tenant_navigation": ["devices", "devices", "alarms", "telemetry", "devices"],
    "quota_check": ["tenants"],
    "counted_models": ["tenants", *["devices"] * 7],
}


@pytest.fixture(autouse=True)
def _admin_sites() -> None:
    reverse("admin:index")  # imports the URLs, and with them both admin sites


def _app(provider: Any) -> str:
    if isinstance(provider, NavigationGroup):
        return provider.models[-1][0]._meta.app_label
    function = provider.view if isinstance(provider, DevicePage) else provider
    return str(function.__module__).partition(".")[0]


def test_every_hook_has_its_providers_in_order() -> None:
    assert {name: [_app(provider) for provider in hook] for name, hook in HOOKS.items()} == PROVIDERS


def test_the_architecture_lists_every_hook() -> None:
    listed = table(read("docs/architecture.md"), "hook | a provider")
    assert {name: cells[0] for name, cells in listed.items()} == {name: hook.purpose for name, hook in HOOKS.items()}


def test_providers_are_ordered_and_a_hook_without_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenants.infrastructure.hooks.HOOKS", {})
    hook: Hook[str] = Hook("greeting", "returns a word")
    with pytest.raises(LookupError, match="greeting"):
        hook.first()
    for word, order in (("third", 20), ("first", 10), ("second", 10)):
        assert hook.register(word, order=order) == word
    assert list(hook) == ["first", "second", "third"]
    assert hook.first() == "first"
