"""supervisord as a child process: it runs every server and program and is controlled over a Unix socket."""

import http.client
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from tenants.infrastructure.secret_values import without_secrets

from .errors import ServerFailed, SupervisorGone
from .files import open_private, private_directory, tail, write_file
from .program import Program

logger = logging.getLogger(__name__)

_CHILD = Path(__file__).with_name("supervisord_child.py")
# sun_path holds 107 characters, and supervisord appends its process id while it makes the socket.
_LONGEST_SOCKET = 90
_START_SECONDS = 15.0
# Variables that would override the servers' configuration.
FOREIGN = ("PG", "BAO_", "VAULT_", "SUPERVISOR_", "PYTHON")
STOPPED = frozenset({"STOPPED", "EXITED", "FATAL"})


@dataclass(frozen=True, slots=True)
class ProgramState:
    """A program's state as supervisord reports it: name, process id (0: none), start time, description."""

    name: str
    state: str
    pid: int
    started_at: int
    exit_status: int
    description: str


class Supervisor:
    """One supervisord and its configuration under `directory`. Call `start` in a thread that stays alive."""

    def __init__(self, directory: Path, logs: Path, lock: int) -> None:
        self._directory = private_directory(directory)
        self._programs = private_directory(directory / "programs")
        self._logs = logs
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_directory: Path | None = None
        self._socket = directory / "supervisor.sock"

    def start(self, programs: Iterable[Program]) -> None:
        """Start supervisord with these programs, none of them running yet. Raises ServerFailed."""
        if len(str(self._socket)) > _LONGEST_SOCKET:
            self._socket_directory = Path(tempfile.mkdtemp(prefix="gwanje-"))
            self._socket = self._socket_directory / "supervisor.sock"
        for stale in self._programs.glob("*.conf"):
            stale.unlink()
        self._write(programs)
        write_file(self._directory / "supervisord.conf", self._configuration())
        # supervisord inherits the lock, which is released only when the servers have stopped too.
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_CHILD), str(os.getpid()), "-c", str(self._directory / "supervisord.conf")],
            stdin=subprocess.DEVNULL,
            stdout=open_private(self._logs / "supervisord.out", "wb"),
            stderr=subprocess.STDOUT,
            env={key: value for key, value in without_secrets(os.environ).items() if not key.startswith(FOREIGN)},
            pass_fds=[self._lock],
            start_new_session=True,  # this process handles Ctrl-C in the terminal
        )
        self._wait_for_socket()

    def _wait_for_socket(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                output = tail(self._logs / "supervisord.out") or tail(self._logs / "supervisord.log")
                raise ServerFailed(f"The process supervisor did not start. Its output:\n{output}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except (SupervisorGone, xmlrpc.client.Error):
            return False

    def _configuration(self) -> str:
        user = "user=root" if os.geteuid() == 0 else ""
        return f"""[unix_http_server]
file={self._socket}
chmod=0700

[supervisord]
nodaemon=true
silent=true
{user}
logfile={self._logs / "supervisord.log"}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={self._directory / "supervisord.pid"}
childlogdir={self._logs}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[include]
files = {self._programs}/*.conf
""".replace("%", "%%")

    def _write(self, programs: Iterable[Program]) -> None:
        for program in programs:
            write_file(self._programs / f"{program.name}.conf", program.section())

    def add(self, programs: Sequence[Program]) -> None:
        """Add programs to the running supervisord without starting them."""
        self._write(programs)
        self._call("reloadConfig")
        for program in programs:
            self._call("addProcessGroup", program.name)

    def start_program(self, name: str) -> None:
        """Start the program; do nothing when it runs."""
        self._call("startProcess", name, False, tolerated=Faults.ALREADY_STARTED)

    def stop_programs(self, names: Iterable[str], seconds: float = 40.0) -> None:
        """Stop the programs together and wait; supervisord kills a program that does not stop."""
        waiting = set(names)
        for name in waiting:
            self._call("stopProcess", name, False, tolerated=Faults.NOT_RUNNING)
        _wait(lambda: all(state.state in STOPPED for state in self.states() if state.name in waiting), seconds)

    def states(self) -> list[ProgramState]:
        """Return the state of every program."""
        return [
            ProgramState(row["name"], row["statename"], row["pid"], row["start"], row["exitstatus"], row["description"])
            for row in self._call("getAllProcessInfo")
        ]

    def state(self, name: str) -> ProgramState:
        """Return one program's state. Raises KeyError for an unknown program."""
        for state in self.states():
            if state.name == name:
                return state
        raise KeyError(name)

    @property
    def is_running(self) -> bool:
        """Return whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, seconds: float = 60.0) -> None:
        """Stop supervisord, which stops the running programs in the order of their priorities."""
        if self._process is not None:
            self._ask_to_stop(self._process)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                logger.warning("The process supervisor did not stop within %s s and is killed", seconds)
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._socket_directory is not None:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
            self._socket_directory = None

    def _ask_to_stop(self, process: "subprocess.Popen[bytes]") -> None:
        try:
            self._call("shutdown")  # takes effect at once; a signal takes up to a second
        except (SupervisorGone, xmlrpc.client.Error):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def _call(self, method: str, *arguments: Any, tolerated: int | None = None) -> Any:
        """Call a method of supervisord and return its answer. Raises SupervisorGone, xmlrpc.client.Fault."""
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            try:
                return getattr(proxy.supervisor, method)(*arguments)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != tolerated:
                    raise
                return None
            except (OSError, http.client.HTTPException) as error:
                raise SupervisorGone("The process that runs the servers does not answer.") from error


def ends_with_parent(stopsignal: str) -> list[str]:
    """Return a command prefix by which the kernel sends the signal when supervisord is killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", stopsignal, "--"] if setpriv else []


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; return False when it did not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.03)
    return True
