"""`manage.py up` as a person runs it: a process of its own, on a directory and ports of its own."""

import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from management.embedded.supervisor import ProgramState
from management.up import programs, setup
from management.up import run as run_module
from management.up.watch import Watch
from tenants.infrastructure.secret_values import NEEDED_SECRETS
from tests.processes import free_port

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """A running `manage.py up` and what it has shown."""

    stream: Any = None

    def __init__(self, var: Path, *arguments: str, **variables: str) -> None:
        self.var, self.output = var, Path(tempfile.mkstemp(dir=var.parent, suffix=".out")[1])
        self.http_port, self.mqtt_port = free_port(), free_port()
        env = {name: value for name, value in os.environ.items() if name not in programs.SERVER_VARIABLES}
        env |= {"GWANJE_VAR": str(var), "HTTP_PORT": str(self.http_port), "MQTT_PORT": str(self.mqtt_port)}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), "up", *arguments],
            env={**env, "COLUMNS": "200", **variables},
            stdout=self.output.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)

    def get(self, path: str, **headers: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def pid(self, name: str) -> int:
        """The process id of a server or process, from the supervisor's log."""
        log = (self.var / "log" / "supervisord.log").read_text()
        return int(re.findall(rf"spawned: '{name}' with pid (\d+)", log)[-1])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(300)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = Run(tmp_path_factory.mktemp("up") / "var")
    try:
        run.wait_for("Ctrl-C stops everything")
        yield run
    finally:
        run.process.kill()
        run.process.wait()


def test_a_long_start_states_what_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_SAY_SECONDS", 0.0)
    shown = io.StringIO()
    up = run_module.Up(tmp_path, Console(file=shown, width=200), http_port=1, mqtt_port=2, simulator=False)
    (tmp_path / "supervisord.log").touch()
    up._watching = Watch(tmp_path / "supervisord.log")
    monkeypatch.setattr(up._stack, "program_states", lambda: {"web": ProgramState("web", "RUNNING", 1, 0, 0, "")})
    answers = iter([False, False, True])
    assert up._wait("web", lambda: next(answers)) is True
    assert shown.getvalue().count("Waiting for the process web since 0 s. See") == 2
    monkeypatch.setattr(up._stack, "program_states", lambda: {"web": ProgramState("web", "FATAL", 0, 0, 0, "")})
    assert up._wait("web", lambda: False) is False


def test_it_shows_where_to_look(up: Run) -> None:
    base = f"http://localhost:{up.http_port}"
    quickstart = up.var / "quickstart.json"
    pages = (f"{base}/admin/", f"{base}/t/demo/admin/", f"{base}/t/demo/api/docs/")
    for line in (*pages, str(quickstart), f"{up.var / 'log'}/"):
        up.wait_for(line, 60)
    assert stat.S_IMODE(quickstart.stat().st_mode) == 0o600
    assert up.get("/healthz") == {"status": "ok"}


def test_a_simulated_devices_reading_arrives(up: Run) -> None:
    tenant = json.loads((up.var / "quickstart.json").read_text())["tenants"][0]
    deadline, results = time.monotonic() + 120, list[dict[str, Any]]()
    while not results:
        assert time.monotonic() < deadline
        time.sleep(0.2)
        for device in up.get("/t/demo/api/v1/devices/", Authorization=f"Bearer {tenant['api_key']}")["results"]:
            path = f"/t/demo/api/v1/devices/{device['uuid']}/latest/"
            results += up.get(path, Authorization=f"Bearer {tenant['api_key']}")["results"]
    assert {"component", "metric", "value", "unit", "time"} <= set(results[0])


def test_a_simulated_devices_changes_are_streamed(up: Run) -> None:
    """And the stream, left open, does not keep anything from ending later."""
    tenant = json.loads((up.var / "quickstart.json").read_text())["tenants"][0]
    request = urllib.request.Request(
        f"http://127.0.0.1:{up.http_port}/t/demo/api/v1/events/?last_event_id=0",
        headers={"Authorization": f"Bearer {tenant['api_key']}"},
    )
    up.stream = urllib.request.urlopen(request, timeout=120)
    while not (line := up.stream.readline().decode()).startswith("data: "):
        assert line
    assert json.loads(line.removeprefix("data: "))["to"] == "ONLINE"


def test_a_second_run_is_refused_in_one_sentence(up: Run) -> None:
    second = Run(up.var)
    assert second.process.wait(300) == 1
    assert "already running" in second.said
    assert "Traceback" not in second.said


def test_a_taken_port_is_refused_in_one_sentence(up: Run, tmp_path: Path) -> None:
    other = Run(tmp_path / "var", HTTP_PORT=str(up.http_port))
    assert other.process.wait(300) == 1
    assert other.said.endswith(
        f"Port {up.http_port} is in use by another program (web server). "
        f"Stop it, or choose another port: make run HTTP_PORT={up.http_port + 1}\n"
    )


def descendants(pid: int) -> list[int]:
    """Return the ids of the running processes below a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def test_no_process_and_no_log_shows_a_secret(up: Run) -> None:
    secrets = set(json.loads((up.var / "secrets.json").read_text()).values()) - {""}
    assert len(secrets) >= 7
    processes = descendants(up.process.pid)
    assert len(processes) > 10
    shown = {}
    for process in processes:
        for kind in ("environ", "cmdline"):
            with suppress(OSError):
                text = Path(f"/proc/{process}/{kind}").read_text(errors="replace")
                shown[f"{kind} of {process}: {text[:60]}"] = any(secret in text for secret in secrets)
    for file in [*(up.var / "log").iterdir(), *(up.var / "run" / "programs").iterdir()]:
        text = file.read_text(errors="replace")
        shown[str(file)] = any(secret in text for secret in secrets)
    assert len(shown) > 30
    # The operator's own file has them: they are searched for as they are written.
    assert sum(secret in (up.var / "embedded.env").read_text() for secret in secrets) >= 6
    assert [where for where, is_shown in shown.items() if is_shown] == []


def test_each_process_gets_the_secrets_that_it_needs(up: Run) -> None:
    files = {file.stem: file for file in (up.var / "run" / "env").iterdir()}
    assert files.keys() == {"setup", *NEEDED_SECRETS}
    given = {name: {line.partition("=")[0] for line in file.read_text().splitlines()} for name, file in files.items()}
    assert "MQTT_BRIDGE_URL" in given["setup"]
    assert {name for name, names in given.items() if "MQTT_ADMIN_URL" in names} == {"setup", "web", "worker"}
    assert {name for name, names in given.items() if "MQTT_BRIDGE_URL" in names} == {"setup"}
    assert given["checker"] == {"SECRET_KEY", "DATABASE_URL", "REDIS_URL"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files.values()} == {0o600}


def test_a_process_that_ends_is_reported_and_started_again(up: Run) -> None:
    before = up.pid("checker")
    os.kill(before, signal.SIGKILL)
    up.wait_for("checker has ended (terminated by SIGKILL) and is restarted")
    deadline = time.monotonic() + 120
    while up.pid("checker") == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_ctrl_c_stops_everything_and_it_starts_again_on_the_same_data(up: Run) -> None:
    pids = [
        up.pid(name) for name in ("web", "listener", "checker", "notifier", "alarms", "worker", "postgres", "mosquitto")
    ]
    assert up.stop() == 0
    assert "Everything is stopped." in up.said
    assert "Traceback" not in up.said
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    known = json.loads((up.var / "quickstart.json").read_text())["tenants"]
    again = Run(up.var, "--no-simulator")
    again.wait_for("Ctrl-C stops everything")
    assert "simulator" not in again.said
    assert json.loads((up.var / "quickstart.json").read_text())["tenants"][0]["devices"] == known[0]["devices"]
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(300) == 0


def test_a_failing_step_shows_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "STEPS", [("Failing", ("no_such_command",))])
    messages: list[str] = []
    env = {**os.environ, "SECRET_KEY": "x", "DATABASE_URL": "postgres://127.0.0.1:1/x", "REDIS_URL": "redis://x"}
    with pytest.raises(setup.SetupFailed, match=r"`manage.py no_such_command` failed(.|\n)*Unknown command"):
        setup.prepare(env, tmp_path, messages.append)
    assert messages == ["Failing"]


def test_servers_that_are_configured_are_not_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in programs.SERVER_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert programs.servers_to_embed() == {"postgres", "valkey", "openbao", "mosquitto"}
    monkeypatch.setenv("DATABASE_URL", "postgres://elsewhere/gwanje")
    monkeypatch.setenv("VAULT_ADDR", "")
    assert programs.servers_to_embed() == {"valkey", "openbao", "mosquitto"}


def test_processes_get_the_embedded_servers_variables_and_what_a_person_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_HOST", "broker.example")
    monkeypatch.setenv("VAULT_MOUNT", "of-another-platform")
    monkeypatch.setenv("DATABASE_URL", "postgres://elsewhere/gwanje")
    embedded = {"MQTT_HOST": "127.0.0.1", "VAULT_MOUNT": "gwanje", "SECRET_KEY": "made"}
    env = programs.environment(embedded, Path("/var/x"), 8001)
    assert env["MQTT_HOST"] == "broker.example"
    assert env["VAULT_MOUNT"] == "gwanje"
    assert env["DATABASE_URL"] == "postgres://elsewhere/gwanje"
    assert env["HTTP_PORT"] == "8001"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("WARN exited: web (exit status 1; not expected)", "web has ended (exit status 1) and is restarted"),
        ("WARN exited: web (terminated by SIGKILL; not expected)", "web has ended (terminated by SIGKILL) and is"),
        ("INFO exited: worker (exit status 0; expected)", "worker has ended (exit status 0) and is restarted"),
        ("INFO gave up: web entered FATAL state, too many start retries too quickly", "web keeps ending and"),
        ("INFO stopped: web (exit status 0)", None),
        ("INFO spawned: 'web' with pid 7", None),
    ],
)
def test_the_watch_reads_what_the_supervisor_writes(tmp_path: Path, line: str, expected: str | None) -> None:
    log = tmp_path / "supervisord.log"
    log.write_text("2026-01-01 00:00:00,000 WARN exited: old (exit status 1; not expected)\n")
    watch = Watch(log)
    with log.open("a") as file:
        file.write(f"2026-01-01 00:00:00,000 {line}")
        file.flush()
        assert list(watch.endings()) == []  # not a whole line yet
        file.write("\n")
    endings = [str(ending) for ending in watch.endings()]
    assert len(endings) == (expected is not None)
    assert all(ending.startswith(expected or "") for ending in endings)
    assert list(watch.endings()) == []
    log.write_text("")
    assert list(watch.endings()) == []
