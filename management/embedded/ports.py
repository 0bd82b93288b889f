"""Ports of the embedded servers: chosen once, kept in a file, and checked before anything is started."""

import errno
import json
import random
import socket
import threading
from pathlib import Path

from .errors import EmbeddedError, PortTaken
from .files import write_json

LOOPBACK = "127.0.0.1"
# Below the range from which the kernel takes the source ports of outgoing connections: a port chosen there
# can be in use by such a connection at the next start.
_RANGE = range(20_000, 32_000)


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Return whether a server could listen on the port. Raises EmbeddedError when this user must not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise EmbeddedError(f"Port {port} can be opened by root only. Choose a port above 1023.") from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise EmbeddedError(f"This machine has no address {host}.") from error
            return False
    return True


class PortBook:
    """The chosen ports by the names of their servers, and the file that holds them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # the servers are prepared in parallel
        self._ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}

    def kept(self, name: str, label: str) -> int:
        """Return the server's port; choose a free one the first time. Raises PortTaken."""
        with self._lock:
            if name not in self._ports:
                self._ports[name] = self._choose()
                write_json(self._path, self._ports)
        port = self._ports[name]
        if not is_free(port):
            raise PortTaken(
                f"Port {port} is in use by another program ({label}). Stop it, or let another port be chosen: "
                f'remove "{name}" from {self._path}.'
            )
        return port

    def _choose(self) -> int:
        for port in random.sample(_RANGE, 200):
            if port not in self._ports.values() and is_free(port):
                return port
        raise EmbeddedError(f"There is no free port between {_RANGE.start} and {_RANGE.stop}.")


def require(port: int, label: str, variable: str, host: str = LOOPBACK) -> int:
    """Return the port that the user set. Raises PortTaken, which names the variable to change."""
    if not is_free(port, host):
        raise PortTaken(
            f"Port {port} is in use by another program ({label}). "
            f"Stop it, or choose another port: make run {variable}={port + 1}"
        )
    return port
