"""Rows 8 to 12 and 28: what happens to PostgreSQL. And the control: commits that do not mean the disk."""

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
from .scenario import Scene

_WEB_SECONDS = 5.0
_WAL_MIB = 224


@row("8", "PostgreSQL killed (`kill -9`) three times")
def killed(scene: Scene) -> None:
    scene.listen()
    play_kills(scene)
    scene.settle()


def play_kills(scene: Scene, kills: int = 3) -> None:
    """Kill every process of the server, at load."""
    recoveries = []
    with scene.load():
        for _ in range(kills):
            scene.spend(0.8 / kills)
            began = time.time()
            scene.stack.kill("postgres")
            scene.stack.wait_ready("postgres")
            recoveries.append(scene.await_progress(began))
        scene.spend(0.2)
    scene.measure(f"storing again after {max(recoveries):.1f} s at most")


@row("9", "PostgreSQL stopped for half of the time (SIGSTOP), and continued")
def frozen(scene: Scene) -> None:
    scene.listen()
    with _web(scene) as ask, scene.load():
        scene.spend(0.2)
        scene.require(ask() == "200", f"the web server says {ask()} before the fault")
        scene.stack.signal("postgres", signal.SIGSTOP)
        try:
            began = time.monotonic()
            answer = ask()
            took = time.monotonic() - began
            time.sleep(max(0.0, 0.5 * scene.seconds - took))
        finally:
            scene.stack.signal("postgres", signal.SIGCONT)
        scene.spend(0.3)
    result = scene.settle()
    scene.measure(f"/readyz says {answer} within {took:.1f} s; longest lag {result.lag(1):.1f} s")
    scene.require(
        answer == "503" and took < _WEB_SECONDS, f"/readyz says {answer} after {took:.1f} s, not 503 within 5 s"
    )


@contextmanager
def _web(scene: Scene) -> Iterator[Callable[[], str]]:
    """A web server; what is yielded asks it whether it is ready, and returns the status, or what went wrong."""
    port = free_port()
    web = scene.start("-m", "uvicorn", "config.asgi:application", "--port", str(port), env={"DATABASE_POOL": "1"})

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
def restarted(scene: Scene) -> None:
    proxy = LossyProxy(int(connection.settings_dict["PORT"]))
    url = urlsplit(os.environ["DATABASE_URL"])
    through = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{proxy.port}")._replace(
        path="/" + connection.settings_dict["NAME"]
    )
    try:
        scene.listen(env={"DATABASE_URL": through.geturl()})
        with scene.load():
            for _ in range(5):
                scene.spend(0.12)
                # What was asked is done, and nobody hears of it.
                proxy.swallow_replies()
                time.sleep(random.uniform(0.05, 0.2))
                proxy.cut()
            for _ in range(2):
                scene.spend(0.15)
                scene.stack.restart("postgres")
            scene.spend(0.1)
        result = scene.settle()
    finally:
        proxy.close()
    duplicates = sum(totals["duplicates"] for totals in result.found.totals.values())
    scene.measure(f"7 interruptions; {duplicates} messages came again and were found to be stored")


@row("11", "PostgreSQL's disk is full (WAL on a file system of its own)")
def disk_full(scene: Scene) -> None:
    scene.listen()
    with _small_wal(scene) as wal, scene.load():
        scene.spend(0.2)
        ballast = wal / "ballast"
        _fill(ballast)
        full = time.time()
        wait_until(lambda: not scene.stack.server("postgres").is_ready(), 60, "PostgreSQL serves on a full disk")
        stopped = time.time()
        scene.spend(0.3)
        ballast.unlink()
        space = time.time()
        scene.stack.wait_ready("postgres", 120)
        recovery = scene.await_progress(space)
        scene.spend(0.2)
    result = scene.settle()
    meanwhile = sum(stopped + 1 <= at + lag < space for at, lag, _ in result.lags)
    scene.measure(
        f"PostgreSQL ended {stopped - full:.1f} s after its disk was full; {meanwhile} stored or acknowledged to the "
        f"broker meanwhile; storing again {recovery:.1f} s after there was space"
    )
    scene.require(meanwhile == 0, f"{meanwhile} messages were stored while there was no space")


def _fill(path: Path) -> None:
    """Take all space that is left."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


@contextmanager
def _small_wal(scene: Scene) -> Iterator[Path]:
    """PostgreSQL's WAL on a small file system in memory; afterwards it is where it was."""
    if os.geteuid() != 0:
        raise Skipped("a file system of its own can be mounted by root only")
    data = scene.stack.var / "postgres" / "data"
    mount, wal, real = scene.stack.var / "small-wal", data / "pg_wal", data / "pg_wal.real"
    owner = wal.stat()
    scene.query("CHECKPOINT") if _may_checkpoint(scene) else None
    scene.stack.stop_server("postgres")
    mount.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_WAL_MIB}m", "tmpfs", str(mount)], capture_output=True)
    if done.returncode:
        scene.stack.start_server("postgres")
        raise Skipped(f"no file system can be mounted: {done.stderr.decode().strip()}")
    try:
        os.chown(mount, owner.st_uid, owner.st_gid)
        wal.rename(real)
        _copy_needed_wal(data, real, mount / "wal")
        wal.symlink_to(mount / "wal")
        scene.stack.start_server("postgres")
        yield mount
    finally:
        (mount / "ballast").unlink(missing_ok=True)
        _bring_back(scene, mount, wal, real)


def _copy_needed_wal(data: Path, source: Path, target: Path) -> None:
    """What a server that was stopped in order needs to start: hours of load leave more beside it than there is room."""
    told = subprocess.run([binary("pg_controldata"), str(data)], check=True, capture_output=True, text=True).stdout
    (first,) = re.findall(r"^Latest checkpoint's REDO WAL file: +([0-9A-F]{24})$", told, re.MULTILINE)
    needed = [path for path in source.iterdir() if path.is_dir() or path.name == first]
    target.mkdir(mode=0o700)
    shutil.copystat(source, target)
    os.chown(target, source.stat().st_uid, source.stat().st_gid)
    _copy(needed, target)


def _copy(paths: Iterable[Path], target: Path) -> None:
    """Copy files and directories with their owners into a directory, all of them or an error."""
    subprocess.run(["cp", "-a", *map(str, paths), str(target)], check=True, capture_output=True)


def _bring_back(scene: Scene, mount: Path, wal: Path, real: Path) -> None:
    scene.stack.stop_server("postgres")
    if wal.is_symlink():
        wal.unlink()
        shutil.rmtree(real, ignore_errors=True)
        _copy([mount / "wal"], wal)
    elif real.exists():
        real.rename(wal)
    subprocess.run(["umount", str(mount)], check=False, capture_output=True)
    scene.stack.start_server("postgres")


def _may_checkpoint(scene: Scene) -> bool:
    return bool(scene.query("SELECT pg_has_role(current_user, 'pg_checkpoint', 'usage')")[0][0])


@row("12", "one tenant's tables locked for half of the time (LOCK TABLE)")
def locked(scene: Scene) -> None:
    """The others' messages must not wait for the locked tenant's."""
    scene.listen()
    mine = scene.fleet.schemas[0]
    others = set(scene.fleet.schemas[1:])
    with scene.load():
        scene.spend(0.1)  # a warm start
        calm = time.time()
        scene.spend(0.2)
        with psycopg.connect(conninfo(), connect_timeout=5) as holder:
            holder.execute(f'LOCK TABLE "{mine}".telemetry_message IN ACCESS EXCLUSIVE MODE')
            began = time.time()
            scene.spend(0.5)
            holder.rollback()
        ended = time.time()
        scene.spend(0.2)
    judge_neighbours(scene, others, calm, began, ended)


def judge_neighbours(scene: Scene, others: set[str], calm: float, began: float, ended: float) -> None:
    """The lag of the others from `began` to `ended` must be less than twice that from `calm` to `began`."""
    result = scene.settle()
    before = result.lag(0.99, schemas=others, start=calm, stop=began)
    during = result.lag(0.99, schemas=others, start=began, stop=ended)
    scene.measure(f"the others' p99 {1000 * before:.0f} ms before, {1000 * during:.0f} ms meanwhile")
    scene.require(during < 2 * before, f"the others' p99 is {during / max(before, 1e-9):.1f} × what it was")


@row("28", "the tenants' tables altered at load, as migrations do")
def migrated(scene: Scene) -> None:
    """A column comes to the largest table and goes again, in every tenant, with the editor that migrations use."""
    scene.listen()
    column = models.IntegerField(null=True)
    column.set_attributes_from_name("fault_probe")
    longest = 0.0
    with scene.load():
        for verb in ("add_field", "remove_field"):
            for schema in scene.fleet.schemas:
                scene.spend(0.8 / (2 * len(scene.fleet.schemas)))
                began = time.monotonic()
                with schema_context(schema), connection.schema_editor() as editor:
                    getattr(editor, verb)(Message, column)
                longest = max(longest, time.monotonic() - began)
        scene.spend(0.2)
    result = scene.settle()
    scene.measure(f"the longest took {longest:.2f} s; longest lag {result.lag(1):.2f} s")


@row("control-commit", "control: commits without the disk (synchronous_commit off), under row 8", control=True)
def commits_in_memory(scene: Scene) -> None:
    """A trigger turns it off in the listener's own transactions, which have turned it on."""
    with _asynchronous_commits(scene):
        scene.listen()
        play_kills(scene)
    scene.settle()


@contextmanager
def _asynchronous_commits(scene: Scene) -> Iterator[None]:
    name = "public.fault_asynchronous_commit"
    scene.query(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM set_config('synchronous_commit', 'off', true); RETURN NULL; END $$"
    )
    tables = [(schema, table) for schema in scene.fleet.schemas for table in _tables(scene, schema)]
    for schema, table in tables:
        scene.query(
            f'CREATE TRIGGER fault_commit AFTER INSERT OR UPDATE ON "{schema}"."{table}"'
            f" FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
        )
    try:
        yield
    finally:
        connection.close()
        for schema, table in tables:
            scene.query(f'DROP TRIGGER IF EXISTS fault_commit ON "{schema}"."{table}"')
        scene.query(f"DROP FUNCTION {name}()")


def _tables(scene: Scene, schema: str) -> list[str]:
    """The archive's partitions, which may be written to by their own names, and the totals."""
    partitions = scene.query(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass(%s)",
        f'"{schema}".telemetry_message',
    )
    return ["telemetry_message", "telemetry_ingesttotals", *(name for (name,) in partitions)]
