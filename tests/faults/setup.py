"""The setup of the long form: tenants, devices, and a PostgreSQL that keeps the times of its commits."""

import signal
import time
from collections.abc import Callable

import psycopg
from django.core.management import call_command
from django.db import connection

from management.embedded.stack import EmbeddedStack
from tenants.services.lifecycle import create_tenant

from .fleet import Fleet
from .scenario import Setup

# States of programs that the supervisor starts by itself.
_COMES_UP = frozenset({"STARTING", "RUNNING", "BACKOFF"})


def make_setup(
    stack: EmbeddedStack, *, rate: float, seconds: float, tenants: int, devices: int, say: Callable[[str], None]
) -> Setup:
    """Create `tenants` with `devices` each, on empty servers."""
    began = time.monotonic()
    _keep_commit_times(stack)
    call_command("migrate_schemas", shared=True, verbosity=0)
    made = [create_tenant(slug=f"tenant-{number:02}", name=f"Tenant {number}") for number in range(tenants)]
    fleet = Fleet(made, devices)
    connection.close()
    say(f"{len(fleet.senders)} devices of {tenants} tenants ({time.monotonic() - began:.0f} s)")
    return Setup(stack, fleet, rate, seconds, stack.var / "log")


def _keep_commit_times(stack: EmbeddedStack) -> None:
    """Let PostgreSQL keep the time of each commit: a row is visible from then on."""
    superuser(stack, "ALTER SYSTEM SET track_commit_timestamp = on")
    connection.close()
    stack.restart("postgres")


def restore(stack: EmbeddedStack) -> None:
    """Bring every server back, whatever a row left. Raises ServerFailed."""
    for name, state in stack.program_states().items():
        if state.pid:
            stack.signal(name, signal.SIGCONT)
        elif state.state not in _COMES_UP:
            stack.start_server(name)
    for name in stack.program_states():
        stack.wait_ready(name)


def superuser(stack: EmbeddedStack, statement: str) -> None:
    """Run the statement as PostgreSQL's superuser."""
    server = stack.server("postgres")
    password = server.site.secrets.get("postgres_superuser")
    settings = connection.settings_dict
    with psycopg.connect(
        host=settings["HOST"],
        port=settings["PORT"],
        user="postgres",
        password=password,
        dbname="postgres",
        autocommit=True,
    ) as session:
        session.execute(statement)
