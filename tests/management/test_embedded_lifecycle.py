"""Starting, stopping, and what goes wrong then."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from management.embedded.errors import EmbeddedError, PortTaken, ServerFailed
from management.embedded.stack import ALL, EmbeddedStack

ROOT = Path(__file__).resolve().parents[2]

OWNER = """
import sys, time
from pathlib import Path
from management.embedded.stack import EmbeddedStack
stack = EmbeddedStack(Path(sys.argv[1]), fsync=False)
stack.start()
supervisor = (Path(sys.argv[1]) / "run" / "supervisord.pid").read_text().strip()
print(supervisor, *[state.pid for state in stack.program_states().values()], flush=True)
time.sleep(600)
"""


def start_owner(var: Path) -> tuple["subprocess.Popen[str]", list[int]]:
    """A process of its own that runs the servers; the process ids of its supervisor and of the servers."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(var)], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert owner.stdout is not None
    return owner, [int(pid) for pid in owner.stdout.readline().split()]


def wait_until_gone(pids: list[int], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a dead process that its parent has not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_second_start_finds_the_same_data_and_takes_no_time(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path, fsync=False) as stack:
        first = (tmp_path / "embedded.env").read_text()
        url = stack.server("postgres").environment()["DATABASE_URL"]
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept (answer int)")
    began = time.monotonic()
    with EmbeddedStack(tmp_path, fsync=False) as stack:
        assert time.monotonic() - began < 60
        assert (tmp_path / "embedded.env").read_text() == first
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT * FROM kept").fetchall() == []
    log = (tmp_path / "log" / "postgres.log").read_text()
    assert "was not properly shut down" not in log
    assert not list((tmp_path / "run").glob("*.sock"))


def test_only_the_servers_asked_for_are_started(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path, use=frozenset({"valkey"})) as stack:
        assert set(stack.program_states()) == {"valkey"}
        env = (tmp_path / "embedded.env").read_text()
    assert [line.split("=")[0] for line in env.splitlines()] == ["SECRET_KEY", "REDIS_URL"]


def test_an_unknown_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="oracle"):
        EmbeddedStack(tmp_path, use={"oracle"})


def test_a_deep_directory_does_not_break_the_sockets(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with EmbeddedStack(deep, use={"postgres", "valkey"}, fsync=False) as stack:
        assert set(stack.program_states()) == {"postgres", "valkey"}


def test_a_requested_port_that_is_taken_is_named_with_its_variable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            EmbeddedStack(tmp_path, mqtt_port=port, use={"mosquitto"}).start()
        assert str(caught.value) == (
            f"Port {port} is in use by another program (MQTT broker). "
            f"Stop it, or choose another port: make run MQTT_PORT={port + 1}"
        )
        with pytest.raises(PortTaken, match=f"make run HTTP_PORT={port + 1}"):
            EmbeddedStack(tmp_path, http_port=port, use={"valkey"}).start()
    with EmbeddedStack(tmp_path, mqtt_port=port, use={"mosquitto"}):
        assert f"MQTT_PORT={port}\n" in (tmp_path / "embedded.env").read_text()


def test_a_kept_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path, use={"valkey"}) as stack:
        port = int(stack.server("valkey").environment()["REDIS_URL"].rsplit(":", 1)[1].split("/")[0])
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PortTaken, match=rf"Port {port} .*\(Valkey\)"):
        EmbeddedStack(tmp_path, use={"valkey"}).start()


def test_a_server_that_does_not_come_up_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path, use={"postgres"}, fsync=False):
        pass
    with (tmp_path / "postgres/data/postgresql.auto.conf").open("a") as file:
        file.write("shared_buffers = 'a lot'\n")
    with pytest.raises(ServerFailed, match=r"^PostgreSQL did not become ready\.(.|\n)*a lot"):
        EmbeddedStack(tmp_path, use={"postgres"}, fsync=False).start()
    assert not (tmp_path / "run/supervisord.pid").exists()
    (tmp_path / "postgres/data/postgresql.auto.conf").write_text("")
    with EmbeddedStack(tmp_path, use={"postgres"}, fsync=False) as stack:
        assert stack.server("postgres").is_ready()


def test_nothing_can_be_asked_of_a_stopped_stack(tmp_path: Path) -> None:
    stack = EmbeddedStack(tmp_path, use={"valkey"})
    with pytest.raises(EmbeddedError, match="not running"):
        stack.program_states()
    stack.stop()


def test_everything_ends_with_a_killed_owner_and_starts_again(tmp_path: Path) -> None:
    owner, pids = start_owner(tmp_path)
    assert len(pids) == 1 + len(ALL)
    owner.kill()
    owner.wait()
    # At once: this waits for the old servers, and does not take their ports for another program's.
    with EmbeddedStack(tmp_path, fsync=False) as stack:
        assert not [pid for pid in pids if is_alive(pid)]
        assert set(stack.program_states()) == ALL
    assert "was not properly shut down" not in (tmp_path / "log/postgres.log").read_text()


def test_the_servers_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    owner, pids = start_owner(tmp_path)
    os.kill(pids[0], signal.SIGKILL)
    wait_until_gone(pids)
    owner.kill()
    owner.wait()
    assert "was not properly shut down" not in (tmp_path / "log/postgres.log").read_text()


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_while_it_starts_leaves_nothing_running(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell that runs the tests in the background ignores SIGINT, which is inherited.
        preexec_fn=_heed_ctrl_c,
    )
    pidfile = tmp_path / "run" / "supervisord.pid"
    while not pidfile.exists() or not pidfile.read_text():
        time.sleep(0.02)
    supervisor = int(pidfile.read_text())
    for _ in range(6):
        # Python loses a KeyboardInterrupt that falls into a finalizer: a user presses the keys again.
        owner.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            owner.wait(30)
            break
    assert owner.returncode not in (None, 0)
    wait_until_gone([supervisor])
