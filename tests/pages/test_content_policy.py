"""Every page in a browser: its Content-Security-Policy blocks nothing of it, and blocks injected parts."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin import AdminSite
from django.urls import NoReverseMatch, reverse
from django_tenants.utils import schema_context

from config import urls, urls_public
from devices.admin import tenant_admin
from devices.models import Device
from tenants.admin import console
from tenants.models import User

from .client import ADMIN, PASSWORD, device_page, sign_in


def lists_and_forms(site: AdminSite, urlconf: Any) -> list[str]:
    """The addresses of every list and form of the site, below its root."""
    paths: list[str] = []
    for model in site._registry:
        for page in ("changelist", "add"):
            try:
                path = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", urlconf=urlconf)
            except NoReverseMatch:
                continue
            paths.append(path.partition("/admin/")[2])  # an earlier test may have left a tenant's prefix
    return paths


def walk(page: Any, paths: list[str]) -> dict[str, int]:
    """Open each page, and the first object of each list; return the status of each address."""
    statuses: dict[str, int] = {}
    for path in paths:
        answer = page.goto(path)
        statuses[path] = answer.status
        page.wait_for_load_state()
        page.wait_for_timeout(30)  # scripts that run after the load event
        link = page.query_selector("#result_list a[href*='/change/']")
        if link is not None:
            target = link.get_attribute("href")
            statuses[target] = page.goto(target).status
            page.wait_for_timeout(30)
    return statuses


@pytest.fixture
def staff(live_db: None) -> str:
    name = f"staff-{uuid4().hex[:8]}"
    User.objects.create_superuser(username=name, password=PASSWORD)
    return name


def test_the_policy_blocks_nothing_of_the_console(staff: str, visit: Callable[..., Any]) -> None:
    paths = ["/", "/absent/", "/t/absent/", "/api/docs/", "/admin/", "/account/", "/account/password/"]
    paths += [f"/admin/{path}" for path in lists_and_forms(console, urls_public)]

    def script(page: Any) -> dict[str, int]:
        sign_in(page, "/admin/login/", staff)
        return walk(page, paths)

    statuses = visit(script)
    assert {path for path, status in statuses.items() if status >= 500} == set()
    assert statuses["/admin/tenants/user/"] == 200
    assert len(statuses) > len(paths)


def test_the_policy_blocks_nothing_of_a_tenants_admin(
    live_db: None, visit: Callable[..., Any], register: Callable[..., Any], tenant_a: Any
) -> None:
    device = register(components={"dht22": "dht22"}).device
    with schema_context(tenant_a.schema_name):
        below = [device_page(Device.objects.get(pk=device.pk), page) for page in ("change", "messages", "history")]
    paths = ["", *below, *lists_and_forms(tenant_admin, urls)]

    def script(page: Any) -> dict[str, int]:
        sign_in(page, ADMIN, "owner-alpha")
        return walk(page, [f"{ADMIN}{path}" for path in paths] + ["/t/alpha/api/docs/", "/t/alpha/account/"])

    statuses = visit(script)
    assert {path for path, status in statuses.items() if status >= 500} == set()
    assert len(statuses) > len(paths)


_INJECTION = """() => {
    window.blocked = [];
    document.addEventListener("securitypolicyviolation", (event) => window.blocked.push(event.effectiveDirective));
    const inline = document.createElement("script");
    inline.textContent = "window.ran = true";
    document.body.append(inline);
    const button = document.createElement("button");
    button.setAttribute("onclick", "window.ran = true");
    document.body.append(button);
    button.click();
    const style = document.createElement("style");
    style.textContent = "body { color: red }";
    document.head.append(style);
    const foreign = document.createElement("img");
    foreign.src = "https://example.org/pixel.png";
    document.body.append(foreign);
}"""


@pytest.mark.parametrize("path", ["/", "/admin/login/", "/api/docs/"])
def test_the_policy_blocks_injected_parts(live_db: None, visit: Callable[..., Any], path: str) -> None:
    seen: dict[str, Any] = {}

    def script(page: Any) -> None:
        page.goto(path)
        page.evaluate(_INJECTION)
        page.wait_for_function("window.blocked.length >= 4")
        seen.update(ran=page.evaluate("window.ran === true"), blocked=page.evaluate("window.blocked"))

    with pytest.raises(AssertionError, match="Content Security Policy"):
        visit(script)  # the fixture reports what the browser blocked: so does it on every page of these tests
    assert seen["ran"] is False
    assert {"script-src-elem", "script-src-attr", "style-src-elem", "img-src"} <= set(seen["blocked"])
