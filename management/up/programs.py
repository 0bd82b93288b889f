"""The platform's own processes as supervised programs."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from config.environment import write_secrets
from management.embedded.errors import ServerFailed
from management.embedded.program import Program
from management.embedded.server import BASE_DIR
from management.embedded.supervisor import FOREIGN
from tenants.infrastructure.secret_values import without_secrets

# The variables of external servers, and the embedded server that each replaces.
SERVER_VARIABLES = {
    "DATABASE_URL": "postgres",
    "REDIS_URL": "valkey",
    "VAULT_ADDR": "openbao",
    "MQTT_URL": "mosquitto",
}
# Variables of the user that override those of the embedded servers.
_KEPT = ("SECRET_KEY", "MQTT_HOST")
_WEB = (
    "-m uvicorn config.asgi:application --http config.http_protocol:BoundedHttpProtocol --ws none"
    " --no-proxy-headers --no-server-header --host 127.0.0.1"
    # Event streams do not end by themselves.
    " --timeout-graceful-shutdown 3"
)
# On a busy machine a process takes longer to start than the 5 s after which uvicorn replaces it.
_WORKERS = "--workers {count} --timeout-worker-healthcheck 60"
_WEB_PROCESSES = "2"
_MOST_WEB_PROCESSES = 64


def servers_to_embed() -> frozenset[str]:
    """Return the embedded servers to start: those whose variable is not set."""
    return frozenset(server for variable, server in SERVER_VARIABLES.items() if not os.environ.get(variable))


def environment(embedded: Mapping[str, str], var: Path, http_port: int) -> dict[str, str]:
    """Return the environment of the platform's processes: this process' variables, overridden by the embedded ones."""
    kept = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        **embedded,
        **kept,
        "GWANJE_VAR": str(var),
        "HTTP_PORT": str(http_port),
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONPATH": f"{BASE_DIR / 'platform'}:{BASE_DIR}",
        "PYTHONUNBUFFERED": "1",
    }


def manage(*arguments: str) -> list[str]:
    """Return the command line of a management command."""
    return [sys.executable, str(BASE_DIR / "manage.py"), *arguments]


def programs(env: Mapping[str, str], logs: Path, http_port: int, *, simulator: bool) -> list[Program]:
    """Return the processes of the platform in the order of their start."""
    commands = {
        "web": [sys.executable, *_WEB.split(), "--port", str(http_port), *_web_processes(env)],
        "listener": manage("run_mqtt_listener"),
        "checker": manage("check_device_health"),
        "notifier": manage("run_notifier"),
        "alarms": manage("run_alarms"),
        "worker": manage("qcluster"),
    }
    if simulator:
        commands["simulator"] = manage("simulate_devices")
    own = {
        name: value
        for name, value in without_secrets(env).items()
        if os.environ.get(name) != value or name.startswith(FOREIGN)
    }
    return [
        Program(
            name,
            command,
            logs / f"{name}.log",
            # Only the web server may use a connection pool: a pool does not survive the worker's fork.
            env={**own, **write_secrets(name, env), "DATABASE_POOL": "1" if name == "web" else "0"},
            directory=BASE_DIR,
            stopwaitsecs=15,
            priority=100,
            group=True,
        )
        for name, command in commands.items()
    ]


def _web_processes(env: Mapping[str, str]) -> list[str]:
    """Return the options for `WEB_PROCESSES` web processes. Raises ServerFailed."""
    text = env.get("WEB_PROCESSES") or _WEB_PROCESSES
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_WEB_PROCESSES):
        raise ServerFailed(f"WEB_PROCESSES must be a whole number from 1 to {_MOST_WEB_PROCESSES}, not {text!r}.")
    return _WORKERS.format(count=text).split() if int(text) > 1 else []
