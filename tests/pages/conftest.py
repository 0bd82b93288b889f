"""The pages, asked in two ways: by Django's test client in a transaction, and by a browser at a real web server."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tenants.infrastructure.database import leave_schema
from tests.factories import make_device, make_user
from tests.processes import Process, free_port, wait_until

from .client import ADMIN, Pages

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


@pytest.fixture
def pages(db: None, tenant_a: Any) -> Pages:
    """Tenant A's admin, as one of its administrators."""
    return Pages(ADMIN, make_user("an-admin", tenant_a, "admin"))


@pytest.fixture
def device(db: None, tenant_a: Any) -> Any:
    """A device of tenant A, as rows only."""
    return make_device(tenant_a, "greenhouse", dht22="dht22", relay="relay")


@pytest.fixture(autouse=True)
def _leave_tenants() -> Iterator[None]:
    yield
    leave_schema()


@pytest.fixture(scope="session")
def live_site(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real web server on the run's servers."""
    port = free_port()
    log = tmp_path_factory.mktemp("web") / "web.log"
    command = ("-m", "uvicorn", "config.asgi:application", "--port", str(port), "--log-level", "warning")
    process = Process(*command, log=log, env={"DATABASE_POOL": "1"})
    address = f"http://localhost:{port}"
    wait_until(lambda: _answers(address), 180, log.read_text)
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
_BLOCKED = "Content Security Policy"


@pytest.fixture
def visit(live_site: str, _browser_thread: tuple[ThreadPoolExecutor, Any]) -> Callable[..., Any]:
    """`visit(script, width=390)` runs `script(page)` in a fresh browser profile and returns what it returns.

    Fails when the pages requested anything from another host, when one of their scripts failed, or when the browser
    blocked a part of them by the Content-Security-Policy.
    """
    thread, browser = _browser_thread

    def run(script: Visit, width: int) -> Any:
        context = browser.new_context(base_url=live_site, viewport={"width": width, "height": 900})
        context.set_default_timeout(60_000)  # ends what hangs; a busy machine takes seconds
        page, faults = context.new_page(), []
        page.on("request", lambda r: None if r.url.startswith((live_site, "data:", "blob:")) else faults.append(r.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(f"{page.url}: {line.text}") if _BLOCKED in line.text else None)
        try:
            result = script(page)
        finally:
            context.close()
        assert not faults
        return result

    return lambda script, width=1440: thread.submit(run, script, width).result()


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
