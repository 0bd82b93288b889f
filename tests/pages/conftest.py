"""The pages, asked in two ways: by Django's test client in a transaction, and by a browser at a real web server."""

import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from django.db import connection
from django.test import Client
from django.test.client import ClientHandler
from django_tenants.utils import schema_context

from tenants.infrastructure.schema_context import leave_schema
from tests.api.conftest import make_device, person
from tests.conftest import Process, wait_until

PASSWORD = "correct horse battery"
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
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


@pytest.fixture
def pages(db: None, tenant_a: Any) -> Pages:
    """Tenant A's admin, as one of its administrators."""
    return Pages(ADMIN, person("an-admin", tenant_a, "admin"))


@pytest.fixture
def device(db: None, tenant_a: Any) -> Any:
    """A device of tenant A, as rows only."""
    return make_device(tenant_a, "greenhouse", dht22="dht22", relay="relay")


def device_page(device: Any, below: str = "change") -> str:
    """The address of a device's page, or of one below it."""
    return f"devices/device/{device.pk}/{below}/"


@pytest.fixture(autouse=True)
def _leave_tenants() -> Iterator[None]:
    yield
    leave_schema()


@pytest.fixture
def count_queries() -> Callable[[Callable[[], Any]], int]:
    """How many queries a call makes, without those that set the search path."""
    from django.test.utils import CaptureQueriesContext

    def count(call: Callable[[], Any]) -> int:
        with CaptureQueriesContext(connection) as captured:
            answer = call()
        assert answer.status_code == 200, answer.content
        return sum(not query["sql"].startswith("SET search_path") for query in captured)

    return count


def formset(prefix: str, *rows: dict[str, Any], initial: int = 0) -> dict[str, Any]:
    """What a browser sends for an inline formset."""
    data: dict[str, Any] = {f"{prefix}-TOTAL_FORMS": len(rows), f"{prefix}-INITIAL_FORMS": initial}
    return data | {f"{prefix}-{number}-{name}": value for number, row in enumerate(rows) for name, value in row.items()}


def device_form(**values: Any) -> dict[str, Any]:
    """What a browser sends for a device's form, without components and maintenance windows unless they are given."""
    return {"name": "a device"} | formset("components") | formset("maintenance_windows") | values


@pytest.fixture(scope="session")
def live_site(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real web server on the run's servers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("web") / "web.log"
    command = ("-m", "uvicorn", "config.asgi:application", "--port", str(port), "--log-level", "warning")
    process = Process(*command, log=log, env={"DATABASE_POOL": "1"})
    address = f"http://localhost:{port}"
    wait_until(lambda: _answers(address), 20, log.read_text)
    yield address
    process.stop()


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/") as answer:
            return bool(answer.status == 200)
    except URLError:
        return False


@pytest.fixture(scope="session")
def _browser_thread() -> Iterator[tuple[ThreadPoolExecutor, Any]]:
    """A browser in a thread of its own: Playwright's event loop would forbid the ORM in the tests' thread."""
    if _CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with ThreadPoolExecutor(1) as thread:
        playwright = thread.submit(lambda: sync_playwright().start()).result()
        browser = thread.submit(
            lambda: playwright.chromium.launch(executable_path=_CHROMIUM, args=_CHROMIUM_FLAGS)
        ).result()
        yield thread, browser
        thread.submit(browser.close).result()
        thread.submit(playwright.stop).result()


Visit = Callable[[Any], Any]


@pytest.fixture
def visit(live_site: str, _browser_thread: tuple[ThreadPoolExecutor, Any]) -> Callable[..., Any]:
    """`visit(script, width=390)` runs `script(page)` in a fresh browser profile and returns what it returns.

    Fails when the pages asked another host for anything, or when a script of theirs failed.
    """
    thread, browser = _browser_thread

    def run(script: Visit, width: int) -> Any:
        context = browser.new_context(base_url=live_site, viewport={"width": width, "height": 900})
        context.set_default_timeout(10_000)
        page, faults = context.new_page(), []
        page.on("request", lambda r: None if r.url.startswith((live_site, "data:", "blob:")) else faults.append(r.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        try:
            result = script(page)
        finally:
            context.close()
        assert not faults
        return result

    return lambda script, width=1440: thread.submit(run, script, width).result()


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


@pytest.fixture
def download(tmp_path: Path) -> Callable[[Any, Callable[[], None]], Path]:
    """`download(page, click)`: the file that the click gives."""

    def save(page: Any, click: Callable[[], None]) -> Path:
        with page.expect_download() as waiting:
            click()
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path

    return save
