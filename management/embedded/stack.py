"""The stack of embedded servers: prepare, start, check, configure, watch and stop them."""

import logging
import os
import signal as signals
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from . import ports
from .errors import EmbeddedError, ServerFailed, SupervisorGone
from .files import Secrets, make_private, private_directory, tail, write_file
from .locks import Locks
from .mosquitto import MosquittoServer
from .openbao import OpenBaoServer
from .ports import PortBook
from .postgres import PostgresServer
from .program import Program
from .server import Server, Site
from .supervisor import ProgramState, Supervisor
from .valkey import ValkeyServer

logger = logging.getLogger(__name__)

ALL: frozenset[str] = frozenset({"postgres", "valkey", "openbao", "mosquitto"})
_READY_SECONDS = 60.0
_FAILURES = 2
_REACHES_CHILDREN = (signals.SIGSTOP, signals.SIGCONT)


class EmbeddedStack:
    """Real servers for development, tests and small installations; all their data is under `var`.

    Call `start` in a thread that lives as long as the servers must run: the kernel stops them when it ends.
    Without `mqtt_port` a free port is chosen once and kept; `http_port` is only checked to be free. With
    `fsync=False` PostgreSQL does not survive a crash of the machine, and is faster: for tests.
    """

    def __init__(
        self,
        var: Path,
        *,
        http_port: int | None = None,
        mqtt_port: int | None = None,
        use: Iterable[str] = ALL,
        fsync: bool = True,
        on_progress: Callable[[str], None] = logger.info,
    ) -> None:
        unknown = set(use) - ALL
        if unknown:
            raise ValueError(f"no such embedded server: {', '.join(sorted(unknown))}")
        self.var = var.resolve()
        self._use, self._fsync, self._progress = frozenset(use), fsync, on_progress
        self._http_port, self._mqtt_port = http_port, mqtt_port
        self._servers: dict[str, Server] = {}
        self._offsets: dict[str, int] = {}
        self._supervisor: Supervisor | None = None
        self._locks: Locks | None = None

    # --- All servers ----------------------------------------------------------------------------------------

    def start(self) -> dict[str, str]:
        """Start every server and return the variables under which the platform finds them.

        Also written to `var/embedded.env`. Raises EmbeddedError; nothing is left running then.
        """
        try:
            return self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> dict[str, str]:
        private_directory(self.var)
        # An existing one may have to be entered by PostgreSQL's account, but nothing in it is listed for others.
        self.var.chmod(self.var.stat().st_mode & ~0o066)
        make_private(self.var / "log")
        run = private_directory(self.var / "run")
        self._locks = Locks(run)
        lock = self._locks.take(self._progress)
        if self._http_port is not None:
            ports.require(self._http_port, "web server", "HTTP_PORT")
        site = self._site()
        self._servers = {server.name: server for server in self._make(site) if server.name in self._use}
        self._in_parallel(lambda server: server.prepare())
        self._supervisor = Supervisor(run, site.logs, lock)
        self._supervisor.start(server.program() for server in self._servers.values())
        self._in_parallel(self._bring_up)
        return self._publish(site)

    def _site(self) -> Site:
        book, secrets = PortBook(self.var / "ports.json"), Secrets(self.var / "secrets.json")
        return Site(self.var, book, secrets, self._fsync, self._progress)

    def _make(self, site: Site) -> list[Server]:
        return [PostgresServer(site), ValkeyServer(site), OpenBaoServer(site), MosquittoServer(site, self._mqtt_port)]

    def _in_parallel(self, work: Callable[[Server], None]) -> None:
        """Do the work for every server in parallel. Raises the first error when all have ended."""
        pool = ThreadPoolExecutor(max(1, len(self._servers)))
        try:
            for future in [pool.submit(work, server) for server in self._servers.values()]:
                future.result()
        except BaseException:
            self._stop_supervisor()  # ends every wait for a server
            raise
        finally:
            pool.shutdown()

    def _bring_up(self, server: Server) -> None:
        began = time.monotonic()
        self._start_supervised(server.name)
        self._await(server, _READY_SECONDS, failures=_FAILURES)
        server.configure()
        self._progress(f"{server.label} is ready ({time.monotonic() - began:.1f} s)")

    def _publish(self, site: Site) -> dict[str, str]:
        env: dict[str, str] = {"SECRET_KEY": site.secrets.get("secret_key")}
        for server in self._servers.values():
            env |= server.environment()
        write_file(self.var / "embedded.env", "".join(f"{key}={value}\n" for key, value in env.items()))
        return env

    def stop(self) -> None:
        """Stop the added programs, then the servers, then the supervisor; safe to repeat."""
        self._stop_supervisor()
        if self._locks is not None:
            self._locks.release()
            self._locks = None

    def _stop_supervisor(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        try:
            if supervisor.is_running:
                running = {state.name for state in supervisor.states()}
                supervisor.stop_programs(running - set(self._servers))
                supervisor.stop_programs(running & set(self._servers))
        except (SupervisorGone, xmlrpc.client.Error):
            logger.warning("The process supervisor does not answer; it must stop all programs itself")
        supervisor.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- One server ---------------------------------------------------------------------------------------

    def server(self, name: str) -> Server:
        """Return the server of that name, one of `use`."""
        return self._servers[name]

    def pid(self, name: str) -> int:
        """Return the process id of the server or program; 0 while it is not running."""
        return self._running.state(name).pid

    def start_server(self, name: str, timeout: float = _READY_SECONDS) -> None:
        """Start a stopped server and wait until it serves. Raises ServerFailed."""
        self._start_supervised(name)
        self.wait_ready(name, timeout)

    def stop_server(self, name: str) -> None:
        """Stop the server cleanly; it stays stopped."""
        self._running.stop_programs([name])

    def restart(self, name: str, timeout: float = _READY_SECONDS) -> None:
        """Stop the server cleanly, start it, and wait until it serves. Raises ServerFailed."""
        self.stop_server(name)
        self.start_server(name, timeout)

    def kill(self, name: str) -> None:
        """Kill the server or program (SIGKILL); the supervisor restarts it."""
        pid = self._live_pid(name)
        os.kill(pid, signals.SIGKILL)
        # Until the process has ended, it could still answer a check.
        while Path(f"/proc/{pid}").exists() and self.pid(name) == pid:
            time.sleep(0.01)

    def signal(self, name: str, number: int) -> None:
        """Send the server or program a signal; SIGSTOP and SIGCONT reach PostgreSQL's backends too."""
        pid = self._live_pid(name)
        server = self._servers.get(name)
        reached = server.pids_to_signal(pid) if server and number in _REACHES_CHILDREN else [pid]
        for one in reached:
            os.kill(one, number)

    def wait_ready(self, name: str, timeout: float = _READY_SECONDS) -> None:
        """Wait until the server itself answers over its protocol. Raises ServerFailed."""
        self._await(self._servers[name], timeout)

    def _live_pid(self, name: str) -> int:
        pid = self.pid(name)
        if not pid:
            raise ServerFailed(f"{name} is not running.")
        return pid

    # --- Programs beside the servers ----------------------------------------------------------------------

    def add_programs(self, programs: Sequence[Program]) -> None:
        """Add programs to the same supervisor; `start_program` starts each, `stop` stops all."""
        self._running.add(programs)

    def start_program(self, name: str) -> None:
        """Start an added program. Raises ServerFailed when it cannot be started."""
        self._start_supervised(name)

    @property
    def is_running(self) -> bool:
        """Return whether the supervisor of the servers and programs runs."""
        return self._supervisor is not None and self._supervisor.is_running

    def stop_programs(self, names: Iterable[str]) -> None:
        """Stop programs together, each by its own signal."""
        self._running.stop_programs(names)

    def program_states(self) -> dict[str, ProgramState]:
        """Return the state of every server and program by name."""
        return {state.name: state for state in self._running.states()}

    # --- Internal -------------------------------------------------------------------------------------------

    @property
    def _running(self) -> Supervisor:
        if self._supervisor is None or not self._supervisor.is_running:
            raise EmbeddedError("The embedded servers are not running.")
        return self._supervisor

    def _start_supervised(self, name: str) -> None:
        log = self.var / "log" / f"{name}.log"
        self._offsets[name] = log.stat().st_size if log.exists() else 0
        try:
            self._running.start_program(name)
        except xmlrpc.client.Fault as fault:
            raise ServerFailed(f"{name} could not be started: {fault.faultString}") from fault

    def _await(self, server: Server, timeout: float, failures: int | None = None) -> None:
        """Wait until the server serves; `failures`: how often it can end by itself before that counts as a failure."""
        deadline, ended, before = time.monotonic() + timeout, 0, ""
        while not server.is_ready():
            state = self._running.state(server.name).state
            ended += state != before and state in ("BACKOFF", "EXITED", "FATAL")
            before = state
            if state == "FATAL" or (failures is not None and ended >= failures):
                raise self._failure(server, "It ends right after its start.")
            if time.monotonic() > deadline:
                raise self._failure(server, f"It does not answer after {timeout:.0f} s.")
            time.sleep(0.05)

    def _failure(self, server: Server, what: str) -> ServerFailed:
        output = tail(server.log, offset=self._offsets.get(server.name, 0))
        return ServerFailed(f"{server.label} did not become ready. {what} The end of {server.log}:\n{output}")
