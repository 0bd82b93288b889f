"""Rows 8 to 12 and 28: faults of PostgreSQL. And the control: commits that are not on disk."""

import os
import random
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from django.db import connection, models
from django_tenants.utils import schema_context

from management.embedded.postgres import binary
from telemetry.models import Message
from tenants.infrastructure.database import conninfo
from tests.lossy_proxy import LossyProxy
from tests.processes import free_port, wait_until

from .rows import Skipped, row
from .scenario import Scenario

_WEB_SECONDS = 5.0
_WAL_MIB = 224


@row("8", "PostgreSQL killed (`kill -9`) three times")
def killed(scenario: Scenario) -> None:
    scenario.listen()
    play_kills(scenario)
    scenario.settle()


def play_kills(scenario: Scenario, kills: int = 3) -> None:
    """Kill every process of the server, at load."""
    recoveries = []
    with scenario.load():
        for _ in range(kills):
            scenario.spend(0.8 / kills)
            began = time.time()
            scenario.stack.kill("postgres")
            scenario.stack.wait_ready("postgres")
            recoveries.append(scenario.await_progress(began))
        scenario.spend(0.2)
    scenario.measure(f"storing again after {max(recoveries):.1f} s at most")


@row("9", "PostgreSQL stopped for half of the time (SIGSTOP), and continued")
def frozen(scenario: Scenario) -> None:
    scenario.listen()
    with _web(scenario) as ask, scenario.load():
        scenario.spend(0.2)
        scenario.require(ask() == "200", f"the web server says {ask()} before the fault")
        scenario.stack.signal("postgres", signal.SIGSTOP)
        try:
            began = time.monotonic()
            answer = ask()
            took = time.monotonic() - began
            time.sleep(max(0.0, 0.5 * scenario.seconds - took))
        finally:
            scenario.stack.signal("postgres", signal.SIGCONT)
        scenario.spend(0.3)
    result = scenario.settle()
    scenario.measure(f"/readyz says {answer} within {took:.1f} s; longest lag {result.lag(1):.1f} s")
    scenario.require(
        answer == "503" and took < _WEB_SECONDS, f"/readyz says {answer} after {took:.1f} s, not 503 within 5 s"
    )


@contextmanager
def _web(scenario: Scenario) -> Iterator[Callable[[], str]]:
    """Run a web server; yield a function that returns its status at /readyz, or the name of an error."""
    port = free_port()
    web = scenario.start("-m", "uvicorn", "config.asgi:application", "--port", str(port), env={"DATABASE_POOL": "1"})

    def ask() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=4 * _WEB_SECONDS) as answer:
                return str(answer.status)
        except urllib.error.HTTPError as error:
            return str(error.code)
        except OSError as error:
            return type(error).__name__

    wait_until(lambda: ask() == "200", 30, "the web server does not come up")
    try:
        yield ask
    finally:
        web.stop()


@row("10", "PostgreSQL restarted in the middle of batches; the answer to a COMMIT lost on its way")
def restarted(scenario: Scenario) -> None:
    proxy = LossyProxy(int(connection.settings_dict["PORT"]))
    url = urlsplit(os.environ["DATABASE_URL"])
    through = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{proxy.port}")._replace(
        path="/" + connection.settings_dict["NAME"]
    )
    try:
        scenario.listen(env={"DATABASE_URL": through.geturl()})
        with scenario.load():
            for _ in range(5):
                scenario.spend(0.12)
                # The statement is executed, and its answer lost.
                proxy.swallow_replies()
                time.sleep(random.uniform(0.05, 0.2))
                proxy.cut()
            for _ in range(2):
                scenario.spend(0.15)
                scenario.stack.restart("postgres")
            scenario.spend(0.1)
        result = scenario.settle()
    finally:
        proxy.close()
    duplicates = sum(totals["duplicates"] for totals in result.tables.totals.values())
    scenario.measure(f"7 interruptions; {duplicates} messages came again and were found to be stored")


@row("11", "PostgreSQL's disk is full (WAL on a file system of its own)")
def disk_full(scenario: Scenario) -> None:
    scenario.listen()
    with _small_wal(scenario) as wal, scenario.load():
        scenario.spend(0.2)
        ballast = wal / "ballast"
        _fill(ballast)
        full = time.time()
        wait_until(lambda: not scenario.stack.server("postgres").is_ready(), 60, "PostgreSQL serves on a full disk")
        stopped = time.time()
        scenario.spend(0.3)
        ballast.unlink()
        space = time.time()
        scenario.stack.wait_ready("postgres", 120)
        recovery = scenario.await_progress(space)
        scenario.spend(0.2)
    result = scenario.settle()
    meanwhile = sum(stopped + 1 <= at + lag < space for at, lag, _ in result.lags)
    scenario.measure(
        f"PostgreSQL ended {stopped - full:.1f} s after its disk was full; {meanwhile} stored or acknowledged to the "
        f"broker meanwhile; storing again {recovery:.1f} s after there was space"
    )
    scenario.require(meanwhile == 0, f"{meanwhile} messages were stored while there was no space")


def _fill(path: Path) -> None:
    """Fill the file system."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


@contextmanager
def _small_wal(scenario: Scenario) -> Iterator[Path]:
    """Move PostgreSQL's WAL to a small file system in memory, and back afterwards."""
    if os.geteuid() != 0:
        raise Skipped("a file system of its own can be mounted by root only")
    data = scenario.stack.var / "postgres" / "data"
    mount, wal, real = scenario.stack.var / "small-wal", data / "pg_wal", data / "pg_wal.real"
    owner = wal.stat()
    scenario.query("CHECKPOINT") if _may_checkpoint(scenario) else None
    scenario.stack.stop_server("postgres")
    mount.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_WAL_MIB}m", "tmpfs", str(mount)], capture_output=True)
    if done.returncode:
        scenario.stack.start_server("postgres")
        raise Skipped(f"no file system can be mounted: {done.stderr.decode().strip()}")
    try:
        os.chown(mount, owner.st_uid, owner.st_gid)
        wal.rename(real)
        _copy_needed_wal(data, real, mount / "wal")
        wal.symlink_to(mount / "wal")
        scenario.stack.start_server("postgres")
        yield mount
    finally:
        (mount / "ballast").unlink(missing_ok=True)
        _bring_back(scenario, mount, wal, real)


def _copy_needed_wal(data: Path, source: Path, target: Path) -> None:
    """Copy only the WAL that a cleanly stopped server needs: after hours of load all of it exceeds the headroom."""
    output = subprocess.run([binary("pg_controldata"), str(data)], check=True, capture_output=True, text=True).stdout
    (first,) = re.findall(r"^Latest checkpoint's REDO WAL file: +([0-9A-F]{24})$", output, re.MULTILINE)
    needed = [path for path in source.iterdir() if path.is_dir() or path.name == first]
    target.mkdir(mode=0o700)
    shutil.copystat(source, target)
    os.chown(target, source.stat().st_uid, source.stat().st_gid)
    _copy(needed, target)


def _copy(paths: Iterable[Path], target: Path) -> None:
    """Copy files and directories with their owners into a directory, all of them or an error."""
    subprocess.run(["cp", "-a", *map(str, paths), str(target)], check=True, capture_output=True)


def _bring_back(scenario: Scenario, mount: Path, wal: Path, real: Path) -> None:
    scenario.stack.stop_server("postgres")
    if wal.is_symlink():
        wal.unlink()
        shutil.rmtree(real, ignore_errors=True)
        _copy([mount / "wal"], wal)
    elif real.exists():
        real.rename(wal)
    subprocess.run(["umount", str(mount)], check=False, capture_output=True)
    scenario.stack.start_server("postgres")


def _may_checkpoint(scenario: Scenario) -> bool:
    return bool(scenario.query("SELECT pg_has_role(current_user, 'pg_checkpoint', 'usage')")[0][0])


@row("12", "one tenant's tables locked for half of the time (LOCK TABLE)")
def locked(scenario: Scenario) -> None:
    """Messages of other tenants must not wait for those of the locked one."""
    scenario.listen()
    mine = scenario.fleet.schemas[0]
    others = set(scenario.fleet.schemas[1:])
    with scenario.load():
        scenario.spend(0.1)  # a warm start
        calm = time.time()
        scenario.spend(0.2)
        with psycopg.connect(conninfo(), connect_timeout=5) as holder:
            holder.execute(f'LOCK TABLE "{mine}".telemetry_message IN ACCESS EXCLUSIVE MODE')
            began = time.time()
            scenario.spend(0.5)
            holder.rollback()
        ended = time.time()
        scenario.spend(0.2)
    evaluate_other_tenants(scenario, others, calm, began, ended)


def evaluate_other_tenants(scenario: Scenario, others: set[str], calm: float, began: float, ended: float) -> None:
    """The lag of the others from `began` to `ended` must be less than twice that from `calm` to `began`."""
    result = scenario.settle()
    before = result.lag(0.99, schemas=others, start=calm, stop=began)
    during = result.lag(0.99, schemas=others, start=began, stop=ended)
    scenario.measure(f"the others' p99 {1000 * before:.0f} ms before, {1000 * during:.0f} ms meanwhile")
    scenario.require_in_time(during < 2 * before, f"the others' p99 is {during / max(before, 1e-9):.1f} × what it was")


@row("28", "the tenants' tables altered at load, as migrations do")
def migrated(scenario: Scenario) -> None:
    """Add a column to the largest table of every tenant and remove it, with the editor that migrations use."""
    scenario.listen()
    column = models.IntegerField(null=True)
    column.set_attributes_from_name("fault_probe")
    longest = 0.0
    with scenario.load():
        for verb in ("add_field", "remove_field"):
            for schema in scenario.fleet.schemas:
                scenario.spend(0.8 / (2 * len(scenario.fleet.schemas)))
                began = time.monotonic()
                with schema_context(schema), connection.schema_editor() as editor:
                    getattr(editor, verb)(Message, column)
                longest = max(longest, time.monotonic() - began)
        scenario.spend(0.2)
    result = scenario.settle()
    scenario.measure(f"the longest took {longest:.2f} s; longest lag {result.lag(1):.2f} s")


@row("control-commit", "control: commits without the disk (synchronous_commit off), under row 8", control=True)
def commits_in_memory(scenario: Scenario) -> None:
    """A trigger turns it off in the listener's own transactions, which have turned it on."""
    with _asynchronous_commits(scenario):
        scenario.listen()
        play_kills(scenario)
    scenario.settle()


@contextmanager
def _asynchronous_commits(scenario: Scenario) -> Iterator[None]:
    name = "public.fault_asynchronous_commit"
    scenario.query(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM set_config('synchronous_commit', 'off', true); RETURN NULL; END $$"
    )
    tables = [(schema, table) for schema in scenario.fleet.schemas for table in _tables(scenario, schema)]
    for schema, table in tables:
        scenario.query(
            f'CREATE TRIGGER fault_commit AFTER INSERT OR UPDATE ON "{schema}"."{table}"'
            f" FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
        )
    try:
        yield
    finally:
        connection.close()
        for schema, table in tables:
            scenario.query(f'DROP TRIGGER IF EXISTS fault_commit ON "{schema}"."{table}"')
        scenario.query(f"DROP FUNCTION {name}()")


def _tables(scenario: Scenario, schema: str) -> list[str]:
    """Return the archive's partitions, which can be written by their own names, and the totals."""
    partitions = scenario.query(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass(%s)",
        f'"{schema}".telemetry_message',
    )
    return ["telemetry_message", "telemetry_ingesttotals", *(name for (name,) in partitions)]
