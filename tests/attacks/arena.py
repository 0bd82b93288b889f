"""One play of an attack: its processes, an attacking tenant and a neighbour, and what is measured of both."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import django.db

from management.embedded.stack import EmbeddedStack
from tenants.models import Tenant
from tests.factories import issue_key
from tests.faults.fleet import Fleet, Sender
from tests.faults.scenario import READY, forget_session
from tests.processes import Process, free_port, wait_until

from .attack import Attack
from .probes import ApiProbe, DeviceProbe, Latencies


@dataclass(slots=True)
class Grounds:
    """What all plays share: servers, two tenants with devices, and a directory for logs.

    `scale` is the size of the attacks, 1 for the long form; `seconds` is how long a probe measures.
    """

    stack: EmbeddedStack
    attacker: Tenant
    neighbour: Tenant
    logs: Path
    scale: float = 1.0
    seconds: float = 4.0
    devices: int = 4
    played: int = 0


class Arena:
    """The platform's processes for one play, with all brakes or, in a control, without the attack's. `close` it."""

    def __init__(self, grounds: Grounds, attack: Attack, *, without_brake: bool) -> None:
        self.stack, self.logs = grounds.stack, grounds.logs
        self.attacker, self.neighbour = grounds.attacker, grounds.neighbour
        self.scale, self.seconds = grounds.scale, grounds.seconds
        self.is_braked = not without_brake
        self._brake = attack.brake if without_brake else ""
        self._grounds, self._name = grounds, attack.name
        self._processes: list[Process] = []
        self._client_ids: set[str] = set()
        fleet = Fleet([grounds.attacker, grounds.neighbour], grounds.devices)
        self.attackers: list[Sender] = fleet.senders_of(grounds.attacker.schema_name)
        self.neighbours: list[Sender] = fleet.senders_of(grounds.neighbour.schema_name)
        django.db.connection.close()

    def scaled(self, count: float) -> int:
        """Return the count in the size of this run, at least 1."""
        return max(1, round(count * self.scale))

    # --- processes --------------------------------------------------------------------------------------------

    def start(self, *program: str, env: Mapping[str, str] | None = None) -> Process:
        """Start `manage.py …` or `uvicorn …`, without the attack's brake in a control."""
        self._grounds.played += 1
        log = self.logs / f"attack-{self._name}-{self._grounds.played}.log"
        if self._brake:
            command = ("-m", "tests.attacks.unbraked", self._brake, *program)
        else:
            command = program if program[0] == "manage.py" else ("-m", *program)
        process = Process(*command, log=log, env=env)
        self._processes.append(process)
        return process

    def listen(self, *options: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a listener, and wait until it is connected."""
        client_id = f"attack-{self._name}-{os.getpid()}-{len(self._processes)}"
        self._client_ids.add(client_id)
        listener = self.start("manage.py", "run_mqtt_listener", "--client-id", client_id, *options, env=env)
        listener.wait_for(READY, 60)
        return listener

    def serve(self, *options: str, env: Mapping[str, str] | None = None) -> tuple[Process, int]:
        """Start a web server as `make run` does; return it and its port, when it answers."""
        port = free_port()
        web = self.start(
            "uvicorn",
            "config.asgi:application",
            "--http",
            "config.http_protocol:BoundedHttpProtocol",
            "--ws",
            "none",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            *options,
            env={"DATABASE_POOL": "1", **(env or {})},
        )
        web.wait_for("running on", 60)
        wait_until(lambda: ApiProbe(port, "/healthz", "").get() == 200, 30, "the web server does not answer")
        return web, port

    def close(self) -> None:
        """End this play's processes and its listeners' sessions, which would queue all later traffic."""
        for process in reversed(self._processes):
            process.stop()
        for client_id in self._client_ids:
            forget_session(client_id)

    # --- honest users -----------------------------------------------------------------------------------------

    def device_probe(self, number: int = 0, interval: float = 0.05) -> DeviceProbe:
        """Return a probe of ingest: one of the neighbour's devices."""
        return DeviceProbe(self.neighbours[number], interval)

    def api_probe(
        self, port: int, path: str = "devices/", interval: float = 0.1, *, tenant: Tenant | None = None
    ) -> ApiProbe:
        """Return a program that reads over the API with a key of its own: by default the neighbour's."""
        tenant = tenant or self.neighbour
        return ApiProbe(port, f"/t/{tenant.slug}/api/v1/{path}", issue_key(tenant), interval)

    def quiet(self, probe: DeviceProbe | ApiProbe, seconds: float = 0.0) -> Latencies:
        """Return the latencies of the probe while nothing else happens."""
        with probe:
            time.sleep(seconds or self.seconds)
        return probe.latencies

    def await_idle(self, process: Process, timeout: float = 120.0) -> None:
        """Wait until the process uses less than a tenth of a processor, so that an attack's rest is not measured."""
        used, at = cpu_seconds(process), time.monotonic()
        deadline = at + timeout
        while time.monotonic() < deadline:
            time.sleep(0.5)
            now, moment = cpu_seconds(process), time.monotonic()
            if now - used < 0.1 * (moment - at):
                return
            used, at = now, moment


def memory_mb(process: Process, *, peak: bool = False) -> float:
    """Return the resident memory of a process in MB, now or at its `peak`; 0 where it has ended."""
    return _status(process, "VmHWM" if peak else "VmRSS") / 1000


def threads(process: Process) -> int:
    """Return how many threads the process has."""
    return int(_status(process, "Threads"))


def open_files(process: Process) -> int:
    """Return how many files and sockets the process has open."""
    with suppress(FileNotFoundError):
        return len(os.listdir(f"/proc/{process.popen.pid}/fd"))
    return 0


def cpu_seconds(process: Process) -> float:
    """Return the processor time of the process in seconds."""
    with suppress(FileNotFoundError):
        fields = Path(f"/proc/{process.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _status(process: Process, name: str) -> float:
    with suppress(FileNotFoundError):
        for line in Path(f"/proc/{process.popen.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return float(line.split()[1])
    return 0.0
