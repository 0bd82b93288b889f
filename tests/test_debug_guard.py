"""DEBUG only where no other machine can read the debug pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from config.environment import require_loopback

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("hosts", "arguments"),
    [
        (["localhost", "127.0.0.1", "[::1]", ".localhost"], ["manage.py", "runserver"]),
        (["demo.localhost"], ["uvicorn", "config.asgi:application", "--host", "127.0.0.1", "--port", "8000"]),
        (["127.0.0.2"], ["uvicorn", "--host=::1"]),
        ([], ["manage.py", "runserver", "8000"]),
        ([], ["manage.py", "runserver", "127.0.0.1:8000"]),
        ([], ["manage.py", "runserver", "[::1]:8000"]),
        ([], ["gunicorn", "-b", "unix:/run/x.sock"]),
        ([], ["manage.py", "up"]),
    ],
)
def test_the_loopback_is_allowed(hosts: list[str], arguments: list[str]) -> None:
    require_loopback(hosts, arguments)


@pytest.mark.parametrize(
    ("hosts", "arguments", "said"),
    [
        (["*"], [], "ALLOWED_HOSTS=*"),
        (["localhost", "platform.example", ".example"], [], "ALLOWED_HOSTS=platform.example,.example"),
        (["localhost.example"], [], "ALLOWED_HOSTS=localhost.example"),
        (["127.example"], [], "ALLOWED_HOSTS=127.example"),
        ([], ["uvicorn", "--host", "0.0.0.0"], "listens on 0.0.0.0"),  # noqa: S104 (it is refused)
        ([], ["uvicorn", "--host=::"], "listens on ::"),
        ([], ["gunicorn", "--bind", "192.0.2.1:8000"], "listens on 192.0.2.1:8000"),
        ([], ["manage.py", "runserver", "0:8000"], "listens on 0:8000"),
        ([], ["manage.py", "runserver", "[::]:8000"], "listens on [::]:8000"),
    ],
)
def test_other_addresses_are_refused(hosts: list[str], arguments: list[str], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="DEBUG must not be set") as refused:
        require_loopback(hosts, arguments)
    assert said in str(refused.value)


@pytest.mark.parametrize(("debug", "status"), [("1", 1), ("0", 0)])
def test_a_process_does_not_start(debug: str, status: int) -> None:
    environment = {**os.environ, "DEBUG": debug, "ALLOWED_HOSTS": "platform.example"}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert ("ALLOWED_HOSTS=platform.example" in done.stderr) == bool(status)
