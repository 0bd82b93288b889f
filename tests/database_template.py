"""The migrated database with two tenants as SQL, kept between runs, and copies of a tenant's schema made from it.

Migrations take seconds for each tenant, their result a tenth of one. The SQL is made by them again whenever a file
that may change it has changed: the migrations and models, the modules that fill the schema of a new tenant, and the
versions of the libraries.
"""

import fcntl
import hashlib
import inspect
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
from django.db import connection

from management.embedded.postgres import binary
from tenants.infrastructure import hooks
from tenants.infrastructure.database import conninfo

from .processes import ROOT

_KEPT = ROOT / "var" / "test-database"
_APPS = ("tenants", "devices", "telemetry", "alarms")
_SOURCES = (
    *(
        f"{app}/{folder}"
        for app in ("tenants", "devices", "telemetry", "alarms")
        for folder in ("migrations", "models")
    ),
    *("devices/domain", "management/quickstart", "platform", "tenants/services/lifecycle.py"),
    *("tests/conftest.py", "tests/database_template.py", "requirements.txt"),
)
# The tenant whose schema is copied; it holds what a new tenant has, and the demonstration hardware.
_COPIED_SCHEMA = "t_beta_farm"


def restore_database(migrate: Callable[[], None]) -> None:
    """Fill the empty database as `migrate` does, by the SQL of an earlier run where the sources are the same."""
    with _only_one_process():
        directory = _KEPT / _digest_of_sources()
        if directory.exists():
            _execute((directory / "database.sql").read_text(encoding="utf-8"))
        else:
            migrate()
            _keep(directory)
    connection.close()


def copy_tenant_schema(schema: str) -> None:
    """Create the schema with the tables and rows of a new tenant with the demonstration hardware."""
    _execute(_tenant_sql().replace(_COPIED_SCHEMA, schema))


@cache
def _tenant_sql() -> str:
    return (_KEPT / _digest_of_sources() / "tenant.sql").read_text(encoding="utf-8")


def _keep(directory: Path) -> None:
    """Write the SQL of the present database, in place of what older sources gave."""
    shutil.rmtree(_KEPT / "new", ignore_errors=True)
    for old in _KEPT.glob("*/"):
        shutil.rmtree(old)
    new = _KEPT / "new"
    new.mkdir()
    # A role that is not a superuser cannot create the schema of the database's owner again.
    database = _dump().replace("CREATE SCHEMA public;", "")
    (new / "database.sql").write_text(database, encoding="utf-8")
    (new / "tenant.sql").write_text(_dump("--schema", _COPIED_SCHEMA), encoding="utf-8")
    new.rename(directory)


def _dump(*options: str) -> str:
    settings = connection.settings_dict
    command = [binary("pg_dump"), "--host", settings["HOST"], "--port", str(settings["PORT"])]
    command += ["--username", settings["USER"], "--no-owner", "--rows-per-insert=500", *options]
    environment = {**os.environ, "PGPASSWORD": settings["PASSWORD"]}
    done = subprocess.run([*command, settings["NAME"]], env=environment, capture_output=True, text=True, check=True)
    return "".join(line for line in done.stdout.splitlines(keepends=True) if not _is_left_out(line))


def _is_left_out(line: str) -> bool:
    """Whether a line is for psql, which does not execute this, or about the schema of the database's owner."""
    return line.startswith("\\") or (line.startswith(("GRANT ", "REVOKE ")) and " SCHEMA public " in line)


def _execute(statements: str) -> None:
    with psycopg.connect(conninfo()) as own:
        own.execute(statements.encode())


@cache
def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for file in sorted(sources()):
        digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def sources() -> set[Path]:
    """Return the files that decide what the migrated database with two tenants contains."""
    paths = [ROOT / source for source in _SOURCES]
    files = {file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])}
    return files | {Path(inspect.getfile(install)) for install in hooks.new_tenant}


@contextmanager
def _only_one_process() -> Iterator[None]:
    """Let the first of several workers migrate, and the others wait for its result."""
    _KEPT.mkdir(parents=True, exist_ok=True)
    with (_KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
