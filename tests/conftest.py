"""Fixtures over the real servers of `tests.servers`.

The servers are the run's own, so the database is used as it is: tests with `db` run in a transaction that is
rolled back; tests with `live_db` commit, in tenants and with devices of their own.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.conf import LazySettings, settings
from django.core.management import call_command
from django.utils import translation
from django_tenants.utils import schema_context

from management.embedded.stack import EmbeddedStack
from tenants.infrastructure import throttling
from tenants.infrastructure.database import leave_schema
from tenants.infrastructure.password_hashing import BoundedArgon2Hasher, BoundedPBKDF2Hasher
from tests import servers

from . import factories
from .database_template import restore_database
from .factories import Registered
from .processes import ROOT, Process

# How long an example takes, and how long it takes to generate one, depends on the machine.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# These take longest: they begin first, so that no worker is left alone with one.
_LONGEST = (
    "api/test_isolation.py",
    "api/test_arbitrary_requests.py",
    "attacks/test_request_attacks.py",
    "attacks/test_message_attacks.py",
    "attacks/test_broker_attacks.py",
    "telemetry/test_fault_matrix.py",
    "management/test_import_legacy_errors.py",
    "management/test_up.py",
    "management/test_import_legacy.py",
    "telemetry/test_presence_end_to_end.py",
    "management/test_bench_revisions.py",
    "management/test_embedded_lifecycle.py",
    "management/test_simulator.py",
    "devices/test_import_workers.py",
    "management/test_bench_queries.py",
    "pages/test_imports.py",
    "pages/test_quarantine.py",
)


def pytest_configure() -> None:
    """Compare every answer of the API with its document."""
    settings.MIDDLEWARE.insert(0, "tests.api.contract.check_answers")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that commit, and order all: workers take files in this order.

    Tests of the API and of the pages count what is in the tenants `alpha` and `beta-farm`, so they come before those
    that commit; within a file too.
    """
    committing = {item.path for item in items if _commits(item)}
    for item in items:
        if _commits(item):
            item.add_marker("live")
    ranks = {item.path: _rank(str(item.path.relative_to(ROOT / "tests")), item.path in committing) for item in items}
    items.sort(key=lambda item: (ranks[item.path], _commits(item)))


def _commits(item: pytest.Item) -> bool:
    return "live_db" in getattr(item, "fixturenames", ())


def _rank(path: str, commits: bool) -> tuple[bool, bool, bool, int, str]:
    counts = path.startswith(("api/", "pages/"))
    # Pages that commit leave devices behind, which tests of the API in the same worker would count.
    commits_pages = commits and path.startswith("pages/")
    return not counts, commits, commits_pages, _LONGEST.index(path) if path in _LONGEST else len(_LONGEST), path


@pytest.fixture(scope="session")
def stack() -> EmbeddedStack:
    """The running servers."""
    return servers.stack()


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Hash passwords at the lowest cost: the true one is for attackers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoundedArgon2Hasher, "time_cost", 1)
        patch.setattr(BoundedArgon2Hasher, "memory_cost", 8)
        patch.setattr(BoundedPBKDF2Hasher, "iterations", 1000)
        yield


@pytest.fixture(autouse=True)
def no_access_cache(settings: LazySettings) -> None:
    """Read tenants and API keys at each request: tests change rows without the services, and roll them back."""
    settings.ACCESS_CACHE_SECONDS = 0


@pytest.fixture(scope="session")
def django_db_setup(quick_passwords: None, django_db_blocker: Any) -> None:
    """The run's own database, migrated, with two tenants that stay for all tests."""
    with django_db_blocker.unblock():
        restore_database(_migrate)


def _migrate() -> None:
    from management.quickstart.hardware import install_hardware
    from tenants.models import User
    from tenants.services.lifecycle import create_tenant

    call_command("migrate_schemas", shared=True, verbosity=0)
    for slug in ("alpha", "beta-farm"):
        owner = User.objects.create_user(username=f"owner-{slug}", password="correct horse battery")
        tenant = create_tenant(slug=slug, name=slug.title(), owner=owner)
        with schema_context(tenant.schema_name):
            install_hardware()


def _tenant(slug: str, blocker: Any) -> Any:
    from tenants.models import Tenant

    with blocker.unblock():
        return Tenant.objects.get(slug=slug)


@pytest.fixture(scope="session")
def tenant_a(django_db_setup: None, django_db_blocker: Any) -> Any:
    """Tenant `alpha`, with the demonstration hardware and the user owner-alpha."""
    return _tenant("alpha", django_db_blocker)


@pytest.fixture(scope="session")
def tenant_b(django_db_setup: None, django_db_blocker: Any) -> Any:
    """Tenant `beta-farm`, likewise."""
    return _tenant("beta-farm", django_db_blocker)


@pytest.fixture(scope="session")
def enter() -> Callable[[Any], AbstractContextManager[Any]]:
    """`with enter(tenant):` the tenant's schema."""
    return lambda tenant: schema_context(tenant.schema_name)


@pytest.fixture(autouse=True)
def outside_of_tenants() -> None:
    """Begin every test as a process begins: outside of tenants and in English, whatever the test before it left."""
    leave_schema()
    translation.activate(settings.LANGUAGE_CODE)


@pytest.fixture
def one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count all requests of a test in one window of time, however long it takes."""
    moment = time.time()
    monkeypatch.setattr(throttling, "clock", lambda: moment)


@pytest.fixture
def live_db(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The database without a transaction around the test, as processes of their own see it."""
    from django.db import connection

    with django_db_blocker.unblock():
        yield
        connection.close()


@pytest.fixture
def register(live_db: None, tenant_a: Any) -> Callable[..., Registered]:
    """Register a device for real (PostgreSQL, Vault, broker): `register(tenant=…, components={"dht22": "dht22"})`."""

    def make(tenant: Any = None, components: dict[str, str] | None = None, **fields: Any) -> Registered:
        return factories.register_device(tenant or tenant_a, components, **fields)

    return make


@pytest.fixture
def count_queries() -> Callable[[Callable[[], Any]], int]:
    """Return the number of queries of a request, without those that set the search path."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def count(call: Callable[[], Any]) -> int:
        with CaptureQueriesContext(connection) as captured:
            answer = call()
        assert answer.status_code == 200, answer.content
        return sum(not query["sql"].startswith("SET search_path") for query in captured)

    return count


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start processes: `start("manage.py", "run_mqtt_listener")`."""
    running: list[Process] = []

    def make(*command: str, env: dict[str, str] | None = None) -> Process:
        running.append(Process(*command, log=tmp_path / f"process-{len(running)}.log", env=env))
        return running[-1]

    yield make
    for process in running:
        process.stop()
