"""The embedded servers while they run: what each allows, and that each survives being killed."""

import http.client
import json
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hvac
import psycopg
import pytest
import redis
from hvac.exceptions import Forbidden
from redis.backoff import NoBackoff
from redis.retry import Retry

from management.embedded.errors import AlreadyRunning
from management.embedded.program import Program
from management.embedded.server import BASE_DIR
from management.embedded.stack import EmbeddedStack
from tests.processes import wait_until

SERVERS = ("postgres", "valkey", "openbao", "mosquitto")


class Running:
    """A started stack and the variables it returned."""

    def __init__(self, var: Path) -> None:
        self.var = var
        self.stack = EmbeddedStack(var, fsync=False)
        self.env = self.stack.start()

    def database(self, **changes: Any) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.env["DATABASE_URL"], autocommit=True, connect_timeout=5, **changes)

    def cache(self) -> "redis.Redis":
        return redis.Redis.from_url(self.env["REDIS_URL"])

    def vault(self, role: str) -> hvac.Client:
        """A client that has logged in as the role, as the platform does."""
        login = json.loads((Path(self.env["VAULT_APPROLE_DIR"]) / f"{role}.json").read_text())
        client = hvac.Client(url=self.env["VAULT_ADDR"], token="")
        client.auth.approle.login(**login)
        return client


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    run = Running(tmp_path_factory.mktemp("var"))
    yield run
    run.stack.stop()


def test_the_environment_is_written_for_its_owner_only(running: Running) -> None:
    file = running.var / "embedded.env"
    written = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert written == running.env
    assert set(written) == {
        "DATABASE_URL", "REDIS_URL", "MQTT_URL", "MQTT_ADMIN_URL", "MQTT_BRIDGE_URL", "MQTT_HOST", "MQTT_PORT",
        "VAULT_ADDR", "VAULT_MOUNT", "VAULT_APPROLE_DIR", "SECRET_KEY",
    }  # fmt: skip
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_secret_may_be_read_by_others(running: Running) -> None:
    secrets = json.loads((running.var / "secrets.json").read_text()).values()
    for path in running.var.rglob("*"):
        hidden = any(parent.stat().st_mode & 0o077 == 0 for parent in path.parents if running.var in parent.parents)
        if path.is_file() and not hidden and path.stat().st_mode & 0o077:
            text = path.read_text(errors="replace")
            assert not [secret for secret in secrets if secret in text], path


def test_the_database_role_owns_its_database_and_is_no_superuser(running: Running) -> None:
    with running.database() as connection:
        row = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, pg_get_userbyid(datdba), pg_encoding_to_char(encoding),"
            " datcollate, current_setting('server_version_num')::int / 10000, current_setting('max_connections')"
            " FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"
        ).fetchone()
    assert row == (False, True, False, "gwanje", "UTF8", "C.UTF-8", 18, "200")


def test_the_database_asks_for_its_password(running: Running) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        running.database(password="wrong")


def test_the_cache_asks_for_its_password_and_keeps_a_file(running: Running) -> None:
    port = redis.connection.parse_url(running.env["REDIS_URL"])["port"]
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=port, retry=Retry(NoBackoff(), 0)).ping()
    config = running.cache().config_get("append*")
    assert (config["appendonly"], config["appendfsync"]) == ("yes", "everysec")


def test_the_provisioner_writes_rotates_and_removes_a_secret(running: Running) -> None:
    kv = running.vault("provisioner").secrets.kv.v2
    path = "tenants/demo/devices/one"
    for version in (1, 2):
        written = kv.create_or_update_secret(path, {"secret": str(version)}, cas=version - 1, mount_point="gwanje")
        assert written["data"]["version"] == version
    assert kv.read_secret_version(raise_on_deleted_version=True, path=path, mount_point="gwanje")["data"]["data"] == {
        "secret": "2"
    }
    kv.destroy_secret_versions(path, [1], mount_point="gwanje")
    assert kv.list_secrets("tenants/demo/devices", mount_point="gwanje")["data"]["keys"] == ["one"]
    kv.delete_metadata_and_all_versions(path, mount_point="gwanje")
    with pytest.raises(hvac.exceptions.InvalidPath):
        kv.read_secret_version(raise_on_deleted_version=True, path=path, mount_point="gwanje")


LISTENER_MAY_NOT = {
    "write": lambda kv: kv.create_or_update_secret("tenants/a/devices/b", {"x": "y"}, mount_point="gwanje"),
    "list": lambda kv: kv.list_secrets("tenants/a/devices", mount_point="gwanje"),
    "read metadata": lambda kv: kv.read_secret_metadata("tenants/a/devices/b", mount_point="gwanje"),
    "destroy": lambda kv: kv.destroy_secret_versions("tenants/a/devices/b", [1], mount_point="gwanje"),
    "read elsewhere": lambda kv: kv.read_secret_version(
        raise_on_deleted_version=True, path="tenants/a/other/b", mount_point="gwanje"
    ),
    "read deeper": lambda kv: kv.read_secret_version(
        raise_on_deleted_version=True, path="tenants/a/devices/b/c", mount_point="gwanje"
    ),
    "read another mount": lambda kv: kv.read_secret_version(
        raise_on_deleted_version=True, path="tenants/a/devices/b", mount_point="secret"
    ),
}


@pytest.mark.parametrize("attempt", LISTENER_MAY_NOT)
def test_the_listener_may_only_read_a_devices_secret(running: Running, attempt: str) -> None:
    kept = running.vault("provisioner").secrets.kv.v2
    kept.create_or_update_secret("tenants/a/devices/b", {"secret": "s"}, mount_point="gwanje")
    kv = running.vault("listener").secrets.kv.v2
    assert kv.read_secret_version(raise_on_deleted_version=True, path="tenants/a/devices/b", mount_point="gwanje")[
        "data"
    ]["data"] == {"secret": "s"}
    with pytest.raises(Forbidden):
        LISTENER_MAY_NOT[attempt](kv)


PROVISIONER_MAY_NOT = {
    "read elsewhere": lambda client: client.read("gwanje/data/tenants/a/other/b"),
    "read deeper": lambda client: client.read("gwanje/data/tenants/a/devices/b/c"),
    "list tenants": lambda client: client.list("gwanje/metadata/tenants"),
    "write elsewhere": lambda client: client.write_data("gwanje/data/other", data={"data": {}}),
    "change its policy": lambda client: client.sys.create_or_update_policy("provisioner", 'path "*" {}'),
    "make a login": lambda client: client.auth.approle.generate_secret_id("listener"),
    "make a token": lambda client: client.auth.token.create(),
    "mount": lambda client: client.sys.enable_secrets_engine("kv", path="mine"),
    "configure the store": lambda client: client.secrets.kv.v2.configure(max_versions=1, mount_point="gwanje"),
    "wrap what it likes": lambda client: client.write_data("sys/wrapping/wrap", data={"secret": "mine"}),
}


@pytest.mark.parametrize("attempt", PROVISIONER_MAY_NOT)
def test_the_provisioner_may_do_nothing_but_keep_devices_secrets(running: Running, attempt: str) -> None:
    with pytest.raises(Forbidden):
        PROVISIONER_MAY_NOT[attempt](running.vault("provisioner"))


def test_the_web_may_keep_a_devices_secrets(running: Running) -> None:
    kv = running.vault("web").secrets.kv.v2
    for version in (1, 2):
        kv.create_or_update_secret("tenants/a/devices/w", {"secret": f"s{version}"}, mount_point="gwanje")
    kept = kv.read_secret_version(raise_on_deleted_version=True, path="tenants/a/devices/w", mount_point="gwanje")
    assert kept["data"]["data"] == {"secret": "s2"}
    wrapped = running.vault("web").read("gwanje/data/tenants/a/devices/w", wrap_ttl="60s")
    assert wrapped["wrap_info"]["token"]


WEB_MAY_NOT = PROVISIONER_MAY_NOT | {
    "remove the newest": lambda client: client.delete("gwanje/data/tenants/a/devices/w"),
    "remove": lambda client: client.delete("gwanje/metadata/tenants/a/devices/w"),
    "destroy": lambda client: client.write_data("gwanje/destroy/tenants/a/devices/w", data={"versions": [1]}),
    "list devices": lambda client: client.list("gwanje/metadata/tenants/a/devices"),
    "read what is known of it": lambda client: client.read("gwanje/metadata/tenants/a/devices/w"),
    "keep fewer versions": lambda client: client.write_data(
        "gwanje/metadata/tenants/a/devices/w", data={"max_versions": 1}
    ),
}


@pytest.mark.parametrize("attempt", WEB_MAY_NOT)
def test_the_web_may_remove_and_list_nothing(running: Running, attempt: str) -> None:
    kept = running.vault("provisioner").secrets.kv.v2
    kept.create_or_update_secret("tenants/a/devices/w", {"secret": "s"}, mount_point="gwanje")
    with pytest.raises(Forbidden):
        WEB_MAY_NOT[attempt](running.vault("web"))


@pytest.mark.parametrize("role", ["listener", "web", "provisioner"])
@pytest.mark.parametrize(
    "path",
    [
        "tenants/a/devices/../../b/devices/c",
        "tenants/a/devices/..%2f..%2fb%2fdevices%2fc",
        "tenants/a/devices/%2e%2e/%2e%2e/b",
        "tenants/a/devices//c",
        "tenants/a/devices/",
        "tenants/../../sys/policies/acl/listener",
        "../../sys/policies/acl/listener",
    ],
)
def test_a_path_that_climbs_leads_nowhere(running: Running, role: str, path: str) -> None:
    """Sent as it stands: clients would tidy it up."""
    client, address = running.vault(role), urlsplit(running.env["VAULT_ADDR"])
    running.vault("provisioner").secrets.kv.v2.create_or_update_secret(
        "tenants/b/devices/c", {"secret": "canary of b"}, mount_point="gwanje"
    )
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
    connection.request("GET", f"/v1/gwanje/data/{path}", headers={"X-Vault-Token": client.token})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status >= 300, body
    assert b"canary" not in body
    assert b"capabilities" not in body


@pytest.mark.parametrize("role", ["listener", "web", "provisioner"])
def test_a_login_renews_itself_and_rules_nothing(running: Running, role: str) -> None:
    client = running.vault(role)
    token = client.auth.token.lookup_self()["data"]
    assert token["policies"] == [role]
    assert token["period"] == 3600
    assert client.auth.token.renew_self()["auth"]["lease_duration"] == 3600
    for forbidden in (client.sys.list_policies, client.sys.list_auth_methods, client.sys.seal):
        with pytest.raises(Forbidden):
            forbidden()


def test_the_audit_log_holds_no_secret(running: Running) -> None:
    kv = running.vault("provisioner").secrets.kv.v2
    kv.create_or_update_secret("tenants/a/devices/audited", {"secret": "canary-of-the-audit"}, mount_point="gwanje")
    text = (running.var / "log" / "openbao-audit.log").read_text()
    assert "gwanje/data/tenants/a/devices/audited" in text
    assert "canary-of-the-audit" not in text


@pytest.mark.parametrize("name", SERVERS)
def test_a_killed_server_comes_back_by_itself(running: Running, name: str) -> None:
    before = running.stack.pid(name)
    running.stack.kill(name)
    running.stack.wait_ready(name, 30)
    assert running.stack.pid(name) not in (0, before)


def test_what_was_stored_survives_kill_9(running: Running) -> None:
    with running.database() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    running.vault("provisioner").secrets.kv.v2.create_or_update_secret(
        "tenants/a/devices/kept", {"secret": "kept"}, mount_point="gwanje"
    )
    logged_in = running.vault("listener")
    for name in ("postgres", "openbao"):
        running.stack.kill(name)
        running.stack.wait_ready(name, 30)
    with running.database() as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    # Unsealed by itself, and the token of before still serves.
    read = logged_in.secrets.kv.v2.read_secret_version(
        raise_on_deleted_version=True, path="tenants/a/devices/kept", mount_point="gwanje"
    )
    assert read["data"]["data"] == {"secret": "kept"}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_stops_and_starts_on_request(running: Running, name: str) -> None:
    running.stack.stop_server(name)
    assert not running.stack.server(name).is_ready()
    assert running.stack.program_states()[name].state == "STOPPED"
    running.stack.start_server(name)
    assert running.stack.server(name).is_ready()


def test_postgres_stops_cleanly_while_clients_are_connected(running: Running) -> None:
    with running.database() as connection:
        connection.execute("SELECT 1")
        began = time.monotonic()
        running.stack.restart("postgres")
        assert time.monotonic() - began < 60
    log = (running.var / "log" / "postgres.log").read_text()
    # A check that came too early may be refused, and is then the last line.
    before, _, after = log.rpartition("database system is shut down")
    assert "received fast shutdown request" in before
    assert "database system is ready to accept connections" in after
    assert "was not properly shut down" not in after


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_a_frozen_server_is_not_ready(running: Running, name: str) -> None:
    running.stack.signal(name, signal.SIGSTOP)
    try:
        assert not running.stack.server(name).is_ready()
    finally:
        running.stack.signal(name, signal.SIGCONT)
    running.stack.wait_ready(name, 10)


def test_freezing_postgres_freezes_its_open_connections(running: Running) -> None:
    with running.database() as connection:
        backend = connection.info.backend_pid
        running.stack.signal("postgres", signal.SIGSTOP)
        try:
            wait_until(lambda: " T " in Path(f"/proc/{backend}/stat").read_text(), 60)
        finally:
            running.stack.signal("postgres", signal.SIGCONT)
        assert connection.execute("SELECT 1").fetchone() == (1,)


ECHO = """
import os, pathlib, signal, sys, time
def stop(number, frame):
    print("stopped by", signal.Signals(number).name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
print(os.environ["GREETING"], pathlib.Path.cwd(), flush=True)
time.sleep(600)
"""


def test_programs_run_beside_the_servers(running: Running, tmp_path: Path) -> None:
    log = tmp_path / "echo.log"
    greeting = "50 % of 'it', and more: $HOME"
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    program = Program(
        "echo", [sys.executable, str(script)], log, env={"GREETING": greeting}, directory=tmp_path, stopsignal="INT"
    )
    running.stack.add_programs([program])
    assert running.stack.program_states()["echo"].state == "STOPPED"
    running.stack.start_program("echo")
    wait_until(lambda: log.exists() and log.read_text() == f"{greeting} {tmp_path}\n", 60)

    running.stack.kill("echo")
    wait_until(lambda: log.read_text().count(greeting) == 2, 60)
    running.stack.stop_programs(["echo"])
    assert log.read_text().endswith("stopped by SIGINT\n")
    assert running.stack.program_states()["echo"].state == "STOPPED"


def test_a_second_stack_on_the_same_directory_is_refused(running: Running) -> None:
    with pytest.raises(AlreadyRunning, match="already running"):
        EmbeddedStack(running.var).start()
    assert all(running.stack.server(name).is_ready() for name in SERVERS)
    os.kill(running.stack.pid("valkey"), 0)


def test_the_documentation_names_every_variable(running: Running) -> None:
    text = (BASE_DIR / "docs" / "embedded.md").read_text().partition("## Variables")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([A-Z][A-Z_]+)`", text)) == set(running.env)
