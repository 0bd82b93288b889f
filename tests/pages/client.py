"""A test client of the pages, what a browser sends for their forms, and what a script does on them."""

from typing import Any

from django.test import Client
from django.test.client import ClientHandler
from django_tenants.utils import schema_context

PASSWORD = "correct horse battery"
# One for all clients: each loads the middleware, which lists all static files.
_HANDLER = ClientHandler(enforce_csrf_checks=False)


class Pages:
    """A test client below an address, for example `/t/alpha/admin/`."""

    def __init__(self, root: str, user: Any = None) -> None:
        self.root = root
        self.client = Client()
        self.client.handler = _HANDLER
        if user is not None:
            with schema_context("public"):
                self.client.force_login(user)

    def get(self, path: str = "") -> Any:
        return self.client.get(self.root + path)

    def post(self, path: str, data: dict[str, Any] | None = None, *, follow: bool = False) -> Any:
        return self.client.post(self.root + path, data or {}, follow=follow)


ADMIN = "/t/alpha/admin/"


def device_page(device: Any, below: str = "change") -> str:
    """The address of a device's page, or of one below it."""
    return f"devices/device/{device.pk}/{below}/"


def formset(prefix: str, *rows: dict[str, Any], initial: int = 0) -> dict[str, Any]:
    """What a browser sends for an inline formset."""
    data: dict[str, Any] = {f"{prefix}-TOTAL_FORMS": len(rows), f"{prefix}-INITIAL_FORMS": initial}
    return data | {f"{prefix}-{number}-{name}": value for number, row in enumerate(rows) for name, value in row.items()}


def device_form(**values: Any) -> dict[str, Any]:
    """What a browser sends for a device's form, without components and maintenance windows unless they are given."""
    return {"name": "a device"} | formset("components") | formset("maintenance_windows") | values


def sign_in(page: Any, path: str, username: str) -> None:
    """Fill in the sign-in form at the path, and wait for the page behind it."""
    page.goto(path)
    page.fill("input[name=username]", username)
    page.fill("input[name=password]", PASSWORD)
    page.click("form:has(input[name=password]) button[type=submit]")
    page.wait_for_load_state()


def overflow(page: Any) -> int:
    """By how many pixels the page is wider than its window."""
    page.wait_for_load_state()
    page.wait_for_timeout(100)  # the charts are drawn on the frame after
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
