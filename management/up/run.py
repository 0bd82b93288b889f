"""The run of `manage.py up`: servers, set-up, processes, monitoring, shutdown."""

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from redis import Redis
from rich.console import Console
from rich.table import Table

from config.environment import write_secrets
from management.embedded.errors import ServerFailed, SupervisorGone
from management.embedded.files import tail
from management.embedded.stack import EmbeddedStack
from tenants.infrastructure.secret_values import without_secrets

from .programs import environment, programs, servers_to_embed
from .setup import prepare
from .watch import Watch

_WAIT_SECONDS = 600.0
_SAY_SECONDS = 20.0
_LOOK_SECONDS = 0.5
_QUIET_SECONDS = 60.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Up:
    """The whole platform under `var`, with its progress on a console."""

    def __init__(self, var: Path, console: Console, *, http_port: int, mqtt_port: int, simulator: bool) -> None:
        self._var, self._console, self._http_port, self._simulator = var, console, http_port, simulator
        self._logs = var / "log"
        self._shown: dict[str, float] = {}
        self._stack = EmbeddedStack(
            var, http_port=http_port, mqtt_port=mqtt_port, use=servers_to_embed(), on_progress=self._say
        )

    def run(self) -> None:
        """Run until SIGINT, SIGTERM or SIGHUP. Raises EmbeddedError or SetupFailed, with everything stopped."""
        for number in _STOP_SIGNALS:
            signal.signal(number, _interrupt)
        began, self._began = time.monotonic(), time.time()
        try:
            self._start()
            self._say(f"Up after {time.monotonic() - began:.0f} s. Ctrl-C stops everything.")
            self._show_where_to_look()
            self._watch()
        except KeyboardInterrupt:
            self._say("Stopping everything…")
        finally:
            self._stop()

    def _start(self) -> None:
        self._say("Starting the servers")
        embedded = self._stack.start()
        env = environment(embedded, self._var, self._http_port)
        prepare({**without_secrets(env), **write_secrets("setup", env)}, self._logs, self._say)
        processes = programs(env, self._logs, self._http_port, simulator=self._simulator)
        self._say(f"Starting {', '.join(process.name for process in processes)}")
        self._stack.add_programs(processes)
        self._watching = Watch(self._logs / "supervisord.log")
        for process in processes:
            if process.name == "simulator":
                # The broker queues nothing for a listener that has never connected.
                self._wait_for_listener(env["REDIS_URL"])
            self._stack.start_program(process.name)
        self._wait_for_web()

    def _wait_for_listener(self, redis_url: str) -> None:
        """Wait until a listener has recorded that it listens, or for the time that the web server has."""
        with Redis.from_url(redis_url) as redis:
            self._wait("listener", lambda: float(redis.hget("device_listening", "last") or 0) >= self._began)

    def _wait_for_web(self) -> None:
        if not self._wait("web", lambda: _answers(f"http://127.0.0.1:{self._http_port}/healthz")):
            log = self._logs / "web.log"
            raise ServerFailed(
                f"The web server did not become ready within {time.time() - self._began:.0f} s."
                f" The end of {log}:\n{tail(log) or '(it is empty)'}"
            )

    def _wait(self, program: str, is_ready: Callable[[], bool]) -> bool:
        """Return whether it becomes ready before its supervisor gives up; say at intervals what is waited for."""
        began = reported_at = time.monotonic()
        while not is_ready():
            now = time.monotonic()
            if now - began > _WAIT_SECONDS or self._stack.program_states()[program].state == "FATAL":
                return False
            if now - reported_at >= _SAY_SECONDS:
                reported_at = now
                log = self._logs / f"{program}.log"
                self._say(f"Waiting for the process {program} since {now - began:.0f} s. See {log}")
            self._report_endings()
            time.sleep(0.1)
        return True

    def _watch(self) -> None:
        while self._stack.is_running:
            self._report_endings()
            time.sleep(_LOOK_SECONDS)
        raise SupervisorGone(f"The supervisor has ended. See {self._logs / 'supervisord.log'}.")

    def _report_endings(self) -> None:
        for ending in self._watching.endings():
            self._say(f"{ending}. See {self._logs / ending.name}.log", style="yellow")
            now = time.monotonic()
            # A process that keeps ending prints the same each time.
            if now - self._shown.get(ending.name, -_QUIET_SECONDS) >= _QUIET_SECONDS:
                self._shown[ending.name] = now
                output = tail(self._logs / f"{ending.name}.log")
                self._console.print(output, style="dim", markup=False, highlight=False, soft_wrap=True)

    def _stop(self) -> None:
        """Stop the processes first, then the servers; ignore further signals."""
        _ignore_signals()
        was_running = self._stack.is_running
        self._stack.stop()
        if was_running:
            self._say("Everything is stopped.")

    def _say(self, text: str, style: str = "") -> None:
        clock = time.strftime("%H:%M:%S")
        self._console.print(f"{clock}  {text}", style=style, markup=False, highlight=False, soft_wrap=True)

    def _show_where_to_look(self) -> None:
        base = f"http://localhost:{self._http_port}"
        quickstart = self._var / "quickstart.json"
        table = Table.grid(padding=(0, 2))
        table.add_row("Staff's console", f"{base}/admin/")
        for tenant in json.loads(quickstart.read_text())["tenants"]:
            table.add_row(f"Tenant {tenant['slug']}", f"{tenant['url']}admin/")
            table.add_row("", f"{tenant['url']}api/docs/")
        table.add_row("Names and passwords", str(quickstart))
        table.add_row("Logs", f"{self._logs}/")
        self._console.print(table)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Stop on the first signal; a second one must not interrupt the shutdown."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _answers(url: str) -> bool:
    """Return whether the address answers 200, without a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
