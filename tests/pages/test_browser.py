"""The pages in a real browser, at a real web server: what people do, and that it fits a phone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django_tenants.utils import schema_context

from devices.models import Component
from tenants.models import Tenant, User

from .client import ADMIN, PASSWORD, device_page, overflow, sign_in


def test_staff_makes_suspends_and_resumes_a_tenant(live_db: None, visit: Callable[..., Any]) -> None:
    name = f"staff-{uuid4().hex[:8]}"
    User.objects.create_superuser(username=name, password=PASSWORD)
    slug = f"made-{uuid4().hex[:8]}"

    def script(page: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        sign_in(page, "/", name)
        page.click("text=Staff console")
        page.goto("/admin/tenants/tenant/add/")
        page.fill("#id_name", "Made by hand")
        page.fill("#id_slug", slug)
        page.fill("#id_owner", name)
        page.click("button:has-text('Create')")
        page.wait_for_url("**/change/")
        seen["made"] = page.inner_text("#main")
        page.click("a:has-text('Suspend')")
        page.fill("#id_reason", "for the test")
        page.click("button:has-text('Suspend')")
        page.wait_for_url("**/change/")
        seen["suspended"] = page.inner_text("#main")
        seen["closed"] = page.request.get(f"/t/{slug}/admin/").status
        page.click("a:has-text('Resume')")
        page.click("button:has-text('Resume')")
        page.wait_for_url("**/change/")
        seen["open"] = page.goto(f"/t/{slug}/").status
        seen["inside"] = page.title()
        return seen

    seen = visit(script)
    assert "is ready" in seen["made"]
    assert "for the test" in seen["suspended"]
    assert seen["closed"] == 503
    assert seen["open"] == 200
    assert "Made by hand" in seen["inside"]


def test_the_console_fits_a_phone(live_db: None, visit: Callable[..., Any], tenant_a: Tenant) -> None:
    name = f"staff-{uuid4().hex[:8]}"
    User.objects.create_superuser(username=name, password=PASSWORD)
    paths = ["/", "/admin/", "/admin/tenants/tenant/", f"/admin/tenants/tenant/{tenant_a.pk}/change/", "/t/absent/"]

    def script(page: Any) -> dict[str, int]:
        sign_in(page, "/admin/login/", name)
        widths = {}
        for path in paths:
            page.goto(path)
            widths[path] = overflow(page)
        return widths

    assert visit(script, width=390) == dict.fromkeys(paths, 0)


@pytest.fixture
def owner(live_db: None, tenant_a: Tenant) -> str:
    return "owner-alpha"


def test_a_device_is_registered_speaks_and_is_seen(
    owner: str, visit: Callable[..., Any], download: Any, start: Callable[..., Any], tenant_a: Tenant
) -> None:
    """The whole of the job: a person registers a device, the device runs with its file, the person sees its value."""
    from management.device_client.gwanje_device import device_from_config

    name = f"roof {uuid4().hex[:8]}"

    def register(page: Any) -> tuple[str, Path]:
        sign_in(page, ADMIN, owner)
        page.goto(ADMIN + "devices/device/add/")
        page.fill("#id_name", name)
        page.select_option("#id_components-0-component_type", label="dht22")
        page.click("[data-add-row]")
        page.select_option("#id_components-3-component_type", label="dht22")
        page.click("button:has-text('Register')")
        path = download(page, lambda: page.click("text=Download"))
        page.reload()  # shown once: to load the page again is to leave it
        assert name in page.title()
        assert page.locator("#config").count() == 0
        return page.url, path

    url, path = visit(register)
    config = json.loads(path.read_text())
    assert config["components"] == ["dht22", "dht22-2"]
    start("manage.py", "run_mqtt_listener").wait_for("Connected to the broker")
    device, _ = device_from_config(path)
    with device:
        device.send("dht22-2", {"value": {"temp": 23.25, "humidity": 51}})
        assert device.flush(10)

    def look(page: Any) -> str:
        sign_in(page, url, owner)
        for _ in range(50):  # until the listener has stored it
            if page.locator(".gw-chart").count() == 2:
                break
            page.wait_for_timeout(100)
            page.goto(url)
        page.locator(".gw-chart canvas").last.wait_for()
        return page.inner_text("#last-values")

    shown = visit(look).split()
    assert shown[shown.index("23.25") - 1 : shown.index("23.25") + 2] == ["temperature", "23.25", "°C"]
    with schema_context(tenant_a.schema_name):
        assert Component.objects.filter(device__name=name).count() == 2


def test_the_pages_fit_a_phone(owner: str, visit: Callable[..., Any], register: Callable[..., Any]) -> None:
    device = register(components={"dht22": "dht22", "relay": "relay"}).device
    paths = ["", "devices/device/", device_page(device), device_page(device, "messages"), "devices/device/add/"]
    paths += ["telemetry/quarantined/", "devices/apikey/"]

    def script(page: Any) -> dict[str, int]:
        sign_in(page, ADMIN, owner)
        widths = {}
        for path in paths:
            page.goto(ADMIN + path)
            widths[path] = overflow(page)
        return widths

    assert visit(script, width=390) == dict.fromkeys(paths, 0)
