"""Pytest plugin: real servers for the whole run, on free ports, in a directory of their own.

Loaded with `-p tests.servers`, before Django reads its settings. The servers end with the run, and by
themselves when the run is killed. The controller of several workers (`-n`) starts none: each worker has its own.
"""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from management.embedded.stack import EmbeddedStack

from .processes import free_port

ROOT = Path(__file__).resolve().parents[1]
_ADDRESSES = ("DATABASE_URL", "REDIS_URL", "MQTT_URL", "MQTT_ADMIN_URL", "MQTT_BRIDGE_URL", "VAULT_ADDR")
# The settings must be complete to be read; nothing listens on port 1.
_NO_SERVERS = {
    "SECRET_KEY": "controller",
    "DATABASE_URL": "postgres://controller@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
}

_running: list[EmbeddedStack] = []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Give this process its servers, before pytest-django loads the settings."""
    _keep_bytecode()
    for name in _ADDRESSES:
        os.environ.pop(name, None)  # a developer's own servers are not for tests
    if _is_controller(early_config):
        # A worker overwrites these with the addresses of its servers.
        os.environ.update(_NO_SERVERS)
    else:
        _start()
    return (yield)


# pytest-xdist is loaded later, and the hook of the plugin that is loaded last would be called first.
@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return two workers a processor, since tests wait for half of their time; at most one for each file to run."""
    workers = 2 * (os.cpu_count() or 1)
    files = {argument.partition("::")[0] for argument in config.args}
    return min(workers, len(files)) if all(name.endswith(".py") for name in files) else workers


def stack() -> EmbeddedStack:
    """Return the servers of this process."""
    return _running[0]


def _is_controller(config: pytest.Config) -> bool:
    options = config.known_args_namespace
    return bool(getattr(options, "numprocesses", None)) and "PYTEST_XDIST_WORKER" not in os.environ


def _start() -> None:
    var = Path(tempfile.mkdtemp(prefix="gwanje-test-"))
    # PostgreSQL as root runs as another user inside the directory.
    var.chmod(0o755)
    os.environ["GWANJE_VAR"] = str(var)
    servers = EmbeddedStack(var, mqtt_port=free_port(), fsync=False)
    _running.append(servers)
    atexit.register(_stop, var)
    os.environ.update(servers.start())


def _stop(var: Path) -> None:
    stack().stop()
    shutil.rmtree(var, ignore_errors=True)


def _keep_bytecode() -> None:
    """Compile each module once, also for the processes that tests start: most of their start is the compiler's time."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(ROOT / "var" / "test-bytecode"))
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]
