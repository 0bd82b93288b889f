"""A tenant with readings, a status change and a quarantined message, and a web server for programs that use it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.request import urlopen

import pytest

from tests.factories import Registered, issue_key, make_tenant, register_device, remove_tenant
from tests.payloads import topic, v1
from tests.processes import ROOT, Process, free_port, wait_until

VALUES = (20.5, 22.0, 21.5)
UV = Path(sys.executable).with_name("uv")


def run(*command: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Return the output of the command. Raises AssertionError with all of it when it fails."""
    ended = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@dataclass
class Site:
    """A tenant's address at a running web server, a key, and a device that has sent `VALUES`."""

    url: str
    key: str
    device: Registered

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a program that uses the tenant."""
        return {"GWANJE_URL": self.url, "GWANJE_KEY": self.key}


@pytest.fixture(scope="module")
def site(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    port, folder = free_port(), tmp_path_factory.mktemp("clients")
    with django_db_blocker.unblock():
        tenant = make_tenant(f"clients-{token_hex(3)}")
        device = register_device(tenant)
        _send(device)
        key = issue_key(tenant)
        command = ("-m", "uvicorn", "config.asgi:application", "--port", str(port), "--log-level", "warning")
        web = Process(*command, log=folder / "web.log", env={"DATABASE_POOL": "1"})
        worker = Process("manage.py", "qcluster", log=folder / "worker.log")
        try:
            wait_until(lambda: _answers(f"http://127.0.0.1:{port}/healthz"), 180, web.log.read_text)
            yield Site(f"http://127.0.0.1:{port}/t/{tenant.slug}", key, device)
        finally:
            worker.stop()
            web.stop()
            remove_tenant(tenant)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The beginning of a command with the Python client, as a wheel in an environment of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    run("make", "-o", ".venv/test.stamp", "python-client", f"CLIENTS={folder}")
    (wheel,) = folder.glob("*.whl")
    return (str(UV), "run", "--quiet", "--no-project", "--isolated", "--with", str(wheel))


def _send(device: Registered) -> None:
    """Store the values, and have one message refused."""
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    pipeline = build_pipeline()
    now = datetime.now(UTC)
    messages = [
        (topic(device), v1(device, {"temp": value}, ago=60 * (len(VALUES) - number)))
        for number, value in enumerate(VALUES)
    ]
    messages.append((topic(device, "thermocouple"), v1(device, {"temp": 1})))
    try:
        result = pipeline.process([Incoming(name, body, now) for name, body in messages])
        pipeline.tick(last=True)
    finally:
        pipeline.writer.close()
    assert (result.stored, result.quarantined) == (len(VALUES), 1)


def _answers(address: str) -> bool:
    try:
        with urlopen(address) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
