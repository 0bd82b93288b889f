"""Fixtures over the real servers of `tests.servers`.

The servers are the run's own, so the database is used as it is: tests with `db` run in a transaction that is
rolled back; tests with `live_db` write for real, with tenants and devices of their own.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django_tenants.utils import schema_context

from management.embedded.stack import EmbeddedStack
from tenants.infrastructure.schema_context import leave_schema
from tests import servers

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Among several workers, keep together what shares a database that is not rolled back.

    Tests of pages and of the API begin with tenants that hold nothing; tests that write for real fill them.
    """
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        is_live = "live_db" in getattr(item, "fixturenames", ())
        group = "pages" if folder in ("api", "pages") else "live" if is_live else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def stack() -> EmbeddedStack:
    """The running servers."""
    return servers.STACK


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: Any) -> None:
    """Migrate the run's own database, and make two tenants that stay for all tests."""
    from management.quickstart.hardware import install_hardware
    from tenants.models import User
    from tenants.services.lifecycle import create_tenant

    with django_db_blocker.unblock():
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
    """Every test begins where a process does, in whichever tenant the one before it has ended."""
    leave_schema()


@pytest.fixture
def live_db(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The database without a transaction around the test, as processes of their own see it."""
    from django.db import connection

    with django_db_blocker.unblock():
        yield
        connection.close()


@dataclass
class Registered:
    """A device and what it speaks with."""

    tenant: Any
    device: Any
    secret: str
    kid: str
    mqtt_password: str

    @property
    def uuid(self) -> str:
        return str(self.device.uuid)


@pytest.fixture
def register(live_db: None, tenant_a: Any) -> Callable[..., Registered]:
    """Register a device for real (PostgreSQL, Vault, broker): `register(tenant=…, components={"dht22": "dht22"})`."""
    from devices.models import ComponentType, HardwareModel
    from devices.services.provisioning.registration import register_device

    def make(tenant: Any = None, components: dict[str, str] | None = None, **kwargs: Any) -> Registered:
        tenant = tenant or tenant_a
        with schema_context(tenant.schema_name):
            types = {t.key: t for t in ComponentType.objects.all()}
            wanted = {"dht22": "dht22"} if components is None else components
            kwargs.setdefault("name", f"device {secrets.token_hex(4)}")
            kwargs.setdefault("cpu_serial", secrets.token_hex(8))
            kwargs.setdefault("hardware_model", HardwareModel.objects.first())
            device, issued = register_device(components={k: types[t] for k, t in wanted.items()}, **kwargs)
        return Registered(tenant, device, issued.secret, str(issued.key_version), issued.mqtt_password)

    return make


class Process:
    """One of the platform's own processes, on the run's servers; ended by its pid."""

    def __init__(self, *command: str, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        self._file = log.open("ab")
        self.popen = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}", **(env or {})},
            stdout=self._file,
            stderr=subprocess.STDOUT,
        )

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def stop(self, timeout: float = 10) -> int:
        """SIGTERM, and SIGKILL when it does not listen; the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self._file.close()
        return self.popen.wait()

    def wait_for(self, text: str, timeout: float = 15) -> None:
        """Until the text is in the log."""
        wait_until(lambda: text in self.log.read_text(errors="replace"), timeout, lambda: self.log.read_text()[-2000:])


def wait_until(condition: Callable[[], Any], timeout: float = 10, explain: Callable[[], str] = lambda: "") -> Any:
    """The condition's first true value; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s: {explain()}")
        time.sleep(0.03)
    return value


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
