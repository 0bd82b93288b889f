"""`python -m tests.upgrade --base REVISION`: a former revision's database, tasks and processes, upgraded under load.

The servers run throughout. The base revision makes the schemas, the demonstration tenant and its devices, runs its own
processes, and queues tasks by its own dotted paths while no worker runs. Devices send all the time. This revision then
migrates the database beside the base's listener, and takes over process by process. At the end every message that a
device sent must be stored once, every queued task must have succeeded, and the totals must balance.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT / "platform"))

import psycopg  # noqa: E402 (platform/ must be a source root before)

from management.embedded.stack import EmbeddedStack  # noqa: E402
from management.simulator.fleet import Fleet, FleetOptions  # noqa: E402
from management.simulator.inventory import load_inventory  # noqa: E402

PROCESSES = ("run_mqtt_listener", "check_device_health", "run_notifier")
# Run by the base revision: tasks of each kind, under the dotted paths that it has.
QUEUE = """
from django_q.tasks import async_task
from django_tenants.utils import schema_context
from devices.services.imports import runs, tables
from tenants.tasks import enqueue
lines = "name,components\\n" + "".join(f"imported {n},dht22\\n" for n in range(150))
with schema_context("t_demo"):
    for task in ("roll_up_tenant", "complete_tenant", "move_tenant", "retain_tenant", "fold_refusals_tenant"):
        enqueue(f"telemetry.services.rounds.{task}")
    kept, done = runs.import_rows(tables.read(lines.encode()), "devices.csv")
    print("import", kept.pk, done)
for task in ("roll_up", "keep_latest", "retain", "resume_replays"):
    async_task(f"telemetry.services.rounds.{task}")
async_task("devices.services.imports.runs.resume_all")
async_task("devices.services.broker_sync.sync_broker")
"""


class UpgradeFailed(Exception):
    """The upgrade lost, doubled or failed something; the message says what."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade", description=__doc__)
    parser.add_argument("--base", required=True, help="the former revision: a commit or a tag")
    parser.add_argument("--rate", type=float, default=100.0, help="messages a second over all devices")
    parser.add_argument("--seconds", type=float, default=40.0, help="of load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gwanje-upgrade-") as directory:
        var = Path(directory)
        var.chmod(0o755)
        base = _check_out(options.base, var / "base")
        try:
            with EmbeddedStack(var, on_progress=_say) as stack:
                figures = play(stack, base, rate=options.rate, seconds=options.seconds)
        finally:
            _git("worktree", "remove", "--force", str(base))
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 0 if figures["met"] else 1


def play(stack: EmbeddedStack, base: Path, *, rate: float, seconds: float) -> dict[str, Any]:
    """Upgrade from the checkout `base` to this one under load; return what was counted."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env = {**inherited, "GWANJE_VAR": str(stack.var), "DJANGO_SETTINGS_MODULE": "config.settings", **_variables(stack)}
    _say("The base revision makes the database")
    _manage(base, env, "migrate_schemas", "--shared")
    _manage(base, env, "quickstart")
    _manage(base, env, "install_schedules")
    _say("Its tasks are queued; no worker runs")
    with _running(base, env, PROCESSES, stack.var):
        said = _manage(base, env, "shell", "-c", QUEUE)
        queued = _count(env, "SELECT count(*) FROM public.django_q_ormq")
        inventory = load_inventory(stack.var / "quickstart.json")
        fleet = Fleet(inventory, inventory.choose(), FleetOptions(rate=rate, duration=seconds))
        load = threading.Thread(target=fleet.run, args=(lambda _summary: None,))
        load.start()
        time.sleep(0.2 * seconds)
        _say("This revision migrates beside the base's listener")
        began = time.monotonic()
        _manage(ROOT, env, "migrate_schemas")
        migrated = time.monotonic() - began
        time.sleep(0.2 * seconds)
    _say("This revision takes over")
    with _running(ROOT, env, PROCESSES, stack.var):
        # The worker meets the base's schedules before it gets its own.
        with _running(ROOT, env, ("qcluster",), stack.var):
            time.sleep(5)
            _manage(ROOT, env, "install_schedules")
            load.join()
            _until_empty(env)
        stored = _await_stored(env, fleet.summary().sent)
    return _figures(env, fleet, queued=queued, stored=stored, migrated=migrated, said=said)


def _figures(
    env: Mapping[str, str], fleet: Fleet, *, queued: int, stored: int, migrated: float, said: str
) -> dict[str, Any]:
    summary = fleet.summary()
    failed = _rows(env, "SELECT func, left(result::text, 300) FROM public.django_q_task WHERE NOT success")
    done = _count(env, "SELECT count(*) FROM public.django_q_task WHERE success")
    imported = _count(env, "SELECT count(*) FROM t_demo.devices_device WHERE name LIKE 'imported %'")
    unbalanced = _count(
        env,
        "SELECT count(*) FROM t_demo.telemetry_ingesttotals"
        " WHERE received <> stored + duplicates + quarantined + rate_limited",
    )
    figures: dict[str, Any] = {
        "sent": summary.sent,
        "acknowledged": summary.acknowledged,
        "waiting_at_devices": summary.waiting,
        "stored": stored,
        "doubled": _count(
            env,
            "SELECT count(*) FROM (SELECT topic, payload FROM t_demo.telemetry_message WHERE topic LIKE 'telemetry/%'"
            " GROUP BY 1, 2 HAVING count(*) > 1) AS d",
        ),
        "quarantined": _count(env, "SELECT count(*) FROM t_demo.telemetry_quarantined"),
        "tasks_queued": queued,
        "tasks_done": done,
        "tasks_failed": [list(map(str, row)) for row in failed],
        "imported_devices": imported,
        "unbalanced_days": unbalanced,
        "migrated_in_seconds": round(migrated, 1),
        "base_said": said.strip(),
    }
    figures["met"] = (
        figures["sent"] == figures["stored"] > 0
        and not failed
        and done >= queued
        and imported == 150
        and not (figures["doubled"] or figures["quarantined"] or unbalanced or figures["waiting_at_devices"])
    )
    return figures


def _variables(stack: EmbeddedStack) -> dict[str, str]:
    lines = (stack.var / "embedded.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


@contextmanager
def _running(checkout: Path, env: Mapping[str, str], commands: Sequence[str], var: Path) -> Iterator[None]:
    """Run management commands of the checkout; each is ended by SIGTERM, by its process id."""
    processes = []
    for command in commands:
        with (var / "log" / f"{command}-{checkout.name}.log").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "manage.py", command], cwd=checkout, env=dict(env), stdout=log, stderr=log
                )
            )
    try:
        time.sleep(3)
        if ended := [c for c, process in zip(commands, processes, strict=True) if process.poll() is not None]:
            raise UpgradeFailed(f"{', '.join(ended)} of {checkout.name} ended at its start; see {var / 'log'}")
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def _manage(checkout: Path, env: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=checkout, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UpgradeFailed(f"manage.py {arguments[0]} of {checkout.name} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def _rows(env: Mapping[str, str], query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(env["DATABASE_URL"], autocommit=True) as connection:
        return connection.execute(query).fetchall()


def _count(env: Mapping[str, str], query: str) -> int:
    return int(_rows(env, query)[0][0])


def _until_empty(env: Mapping[str, str], seconds: float = 90.0) -> None:
    """Wait until no task is queued and no import is under way."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not _count(env, "SELECT count(*) FROM public.django_q_ormq"):
            return
        time.sleep(0.5)
    left = _count(env, "SELECT count(*) FROM public.django_q_ormq")
    raise UpgradeFailed(f"After {seconds:.0f} s {left} tasks are still queued.")


def _await_stored(env: Mapping[str, str], sent: int, seconds: float = 30.0) -> int:
    query = "SELECT count(*) FROM t_demo.telemetry_message WHERE topic LIKE 'telemetry/%'"
    deadline = time.monotonic() + seconds
    while (stored := _count(env, query)) < sent and time.monotonic() < deadline:
        time.sleep(0.3)
    return stored


def _check_out(revision: str, directory: Path) -> Path:
    _git("worktree", "add", "--detach", "--quiet", str(directory), revision)
    return directory


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
