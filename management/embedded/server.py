"""The base class of the embedded servers."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .errors import ServerMissing
from .files import Secrets
from .ports import PortBook
from .program import Program

BASE_DIR = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Site:
    """The directory, ports and secrets that the servers of a stack share."""

    var: Path
    ports: PortBook
    secrets: Secrets
    fsync: bool
    progress: Callable[[str], None]

    @property
    def logs(self) -> Path:
        """Return the directory of the log files."""
        return self.var / "log"


class Server(ABC):
    """One embedded server. Call `prepare` before the start, and `configure` once `is_ready`."""

    name: ClassVar[str]
    label: ClassVar[str]

    def __init__(self, site: Site) -> None:
        self.site = site
        self.directory = site.var / self.name

    @abstractmethod
    def prepare(self) -> None:
        """Reserve the port and write the files that the server needs. Raises EmbeddedError."""

    @abstractmethod
    def program(self) -> Program:
        """Return the supervised program; call it after `prepare`."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether the server serves, checked over its own protocol."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the environment variables by which the platform finds the server; call it after `prepare`."""

    def configure(self) -> None:
        """Apply the platform's configuration to the running server; safe to repeat."""
        return

    def pids_to_signal(self, pid: int) -> list[int]:
        """Return the processes that SIGSTOP and SIGCONT must reach, given the supervisor's."""
        return [pid]

    @property
    def log(self) -> Path:
        """Return the path of the log file."""
        return self.site.logs / f"{self.name}.log"


def package_directory(package: str) -> Path:
    """Return the directory of a wheel that contains a server, without importing it. Raises ServerMissing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ServerMissing(f"The Python package {package} is not installed: run `make run`, which installs it.")
    return Path(spec.submodule_search_locations[0])
