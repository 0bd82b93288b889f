"""Every process verifies PostgreSQL's certificate as DATABASE_URL says, on all of its connections.

The embedded PostgreSQL is built without TLS, so a proxy in front of it speaks TLS.
"""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.certificates import Certificates, Connections, make_certificates, postgresql_over_tls
from tests.processes import Process, free_port, wait_until

COMMANDS = {
    "listener": ("manage.py", "run_mqtt_listener", "--client-id", "tls-listener"),
    "checker": ("manage.py", "check_device_health"),
    "notifier": ("manage.py", "run_notifier"),
    "alarms": ("manage.py", "run_alarms"),
    "worker": ("manage.py", "qcluster"),
    "web": ("-m", "uvicorn", "config.asgi:application", "--host", "127.0.0.1"),
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def proxy(certificates: Certificates) -> Iterator[Connections]:
    address = urlsplit(os.environ["DATABASE_URL"])
    with postgresql_over_tls(address.hostname or "127.0.0.1", address.port or 5432, certificates) as connections:
        yield connections


def url_through(proxy: Connections, authority: Path) -> str:
    """DATABASE_URL with the proxy's port, and every check of the certificate."""
    address = urlsplit(os.environ["DATABASE_URL"])
    login = address.netloc.rpartition("@")[0]
    return f"postgres://{login}@127.0.0.1:{proxy.port}{address.path}?sslmode=verify-full&sslrootcert={authority}"


@pytest.fixture
def start(live_db: None, proxy: Connections, tmp_path: Path) -> Iterator[Callable[[str, Path], tuple[Process, int]]]:
    """Start a process that reaches PostgreSQL through the proxy, with an authority; and the port of its web server."""
    started = []

    def run(name: str, authority: Path) -> tuple[Process, int]:
        port, command = free_port(), COMMANDS[name]
        if name == "web":
            command = (*command, "--port", str(port))
        env = {
            "DATABASE_URL": url_through(proxy, authority),
            "DATABASE_POOL": "1" if name == "web" else "0",
            "METRICS_TOKEN": "",
        }
        started.append(Process(*command, log=tmp_path / f"{name}.log", env=env))
        return started[-1], port

    yield run
    for process in started:
        process.stop()


def status_of(port: int, path: str) -> int:
    """The status of a GET; 0 while nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=15) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_every_process_connects_over_tls_and_never_without(
    start: Callable[[str, Path], tuple[Process, int]], proxy: Connections, certificates: Certificates
) -> None:
    ports = {name: start(name, certificates.authority)[1] for name in COMMANDS}
    # The web server's own connections: requests', /readyz', and the metrics collector's.
    wait_until(lambda: status_of(ports["web"], "/readyz") == 200, 60, "the web server is not ready")
    status_of(ports["web"], "/metrics")
    wait_until(lambda: proxy.encrypted > len(COMMANDS), 60, lambda: f"{proxy}")
    assert proxy.plain == 0
    assert proxy.refused == []


@pytest.mark.parametrize("name", COMMANDS)
def test_no_process_connects_where_the_authority_is_another(
    start: Callable[[str, Path], tuple[Process, int]], proxy: Connections, certificates: Certificates, name: str
) -> None:
    process, port = start(name, certificates.wrong_authority)
    if name == "web":
        wait_until(lambda: status_of(port, "/readyz") == 503, 180, process.output)
        status_of(port, "/metrics")
    wait_until(lambda: proxy.refused or not process.is_running, 180, lambda: f"{proxy} {process.output()}")
    time.sleep(0.2)
    assert proxy.refused
    assert (proxy.encrypted, proxy.plain) == (0, 0)
    assert name == "web" or "certificate verify failed" in process.output()


def test_connections_outside_django_have_the_parameters_of_its_url(settings: object) -> None:
    from django.db import connection

    from tenants.infrastructure.database import conninfo

    before = dict(connection.settings_dict["OPTIONS"])
    connection.settings_dict["OPTIONS"] |= {"sslmode": "verify-full", "sslcert": "/a.pem", "options": "-c jit=off"}
    try:
        parts = psycopg.conninfo.conninfo_to_dict(conninfo(connect_timeout=2))
    finally:
        connection.settings_dict["OPTIONS"] = before
    assert (parts["sslmode"], parts["sslcert"], parts["connect_timeout"]) == ("verify-full", "/a.pem", "2")
    assert "options" not in parts
