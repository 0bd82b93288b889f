"""The small parts of the embedded servers."""

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from management.embedded import dynsec, mosquitto_package, ports, postgres
from management.embedded.errors import EmbeddedError, ServerMissing
from management.embedded.files import Secrets, tail, write_file
from management.embedded.locks import Locks
from management.embedded.mosquitto import MosquittoServer
from management.embedded.program import Program
from management.embedded.stack import EmbeddedStack

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account to run PostgreSQL under")


def test_a_file_is_replaced_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o644)
    write_file(file, "new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_secrets_are_made_once(tmp_path: Path) -> None:
    first = Secrets(tmp_path / "secrets.json").get("one")
    again = Secrets(tmp_path / "secrets.json")
    assert again.get("one") == first
    assert again.get("two") != first
    assert len(first) == 43


@pytest.mark.parametrize(
    ("offset", "expected"), [(0, "line 3\nline 4"), (21, "line 4"), (28, ""), (99, "line 3\nline 4")]
)
def test_the_tail_of_a_log_begins_at_the_offset(tmp_path: Path, offset: int, expected: str) -> None:
    log = tmp_path / "log"
    log.write_text("line 1\nline 2\nline 3\nline 4\n")
    assert tail(log, offset=offset, lines=2) == expected
    assert tail(tmp_path / "none") == ""


def test_a_program_without_a_faithful_form_is_refused(tmp_path: Path) -> None:
    for value in ('a "quoted" word', "two\nlines", "a ; comment", "a # comment"):
        with pytest.raises(ValueError, match="cannot hold"):
            Program("p", ["true"], tmp_path / "log", env={"V": value}).section()


def test_a_port_is_chosen_once_and_below_the_ephemeral_range(tmp_path: Path) -> None:
    book = ports.PortBook(tmp_path / "ports.json")
    port = book.kept("valkey", "Valkey")
    assert 20_000 <= port < 32_000
    assert ports.PortBook(tmp_path / "ports.json").kept("valkey", "Valkey") == port
    assert book.kept("postgres", "PostgreSQL") != port


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(EmbeddedError, match=r"no address 192\.0\.2\.1"):
        ports.is_free(1883, "192.0.2.1")


def test_locks_are_free_again_after_release(tmp_path: Path) -> None:
    messages: list[str] = []
    for _ in range(2):
        locks = Locks(tmp_path)
        locks.take(messages.append)
        locks.release()
    assert messages == []


def test_devices_accounts_outlive_a_start(tmp_path: Path) -> None:
    file = tmp_path / "dynamic-security.json"
    dynsec.write_configuration(file, [dynsec.account("gwanje-admin", "old", "admin")])
    kept = json.loads(file.read_text())
    kept["clients"].append({"username": "device", "clientid": "device", "roles": [{"rolename": "device"}]})
    kept["roles"].append({"rolename": "another", "acls": []})
    kept["defaultACLAccess"]["subscribe"] = True
    file.write_text(json.dumps(kept))

    dynsec.write_configuration(file, [dynsec.account("gwanje-admin", "new", "admin")])
    after = json.loads(file.read_text())
    assert [row["username"] for row in after["clients"]] == ["gwanje-admin", "device"]
    assert [row["rolename"] for row in after["roles"]] == ["admin", "platform", "bridge", "device", "another"]
    assert set(after["defaultACLAccess"].values()) == {False}


def test_the_broker_can_be_used_without_installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a user who is not root: apt downloads, dpkg unpacks, and that broker serves."""
    mosquitto_package.unpack(tmp_path / "mosquitto" / "dist", tmp_path / "apt.log")
    monkeypatch.setattr(mosquitto_package, "find_installed", lambda: None)
    with EmbeddedStack(tmp_path, use={"mosquitto"}) as stack:
        server = stack.server("mosquitto")
        assert isinstance(server, MosquittoServer)
        program = Path(f"/proc/{stack.pid('mosquitto')}/exe").resolve()
        assert program == server.package.program == tmp_path / "mosquitto/dist/usr/sbin/mosquitto"
        assert server.package.plugin.is_relative_to(tmp_path)


def test_a_broker_that_is_nowhere_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosquitto_package, "find_installed", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerMissing, match="apt-get install mosquitto"):
        mosquitto_package.obtain(tmp_path / "dist", tmp_path / "apt.log", lambda _: None)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="gwanje-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@needs_root
def test_postgres_runs_as_nobody_without_user_namespaces(open_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_has_user_namespaces", lambda: False)
    for _ in range(2):
        with EmbeddedStack(open_directory, use={"postgres"}, fsync=False) as stack:
            owner = Path(f"/proc/{stack.pid('postgres')}").stat().st_uid
            assert owner == postgres.nobody(open_directory).owner[0] != 0  # type: ignore[index]


@needs_root
def test_a_directory_that_nobody_may_enter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_has_user_namespaces", lambda: False)
    with pytest.raises(EmbeddedError, match=rf"'nobody' cannot enter {tmp_path}"):
        EmbeddedStack(tmp_path, use={"postgres"}).start()
