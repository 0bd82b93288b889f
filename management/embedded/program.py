"""The configuration of one supervised program."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LOG_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Program:
    """A process that the supervisor keeps running and restarts when it ends by itself.

    Programs of a lower priority are started first and stopped last. With `group` the whole process group is
    killed when the program does not stop within `stopwaitsecs`.
    """

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    stopsignal: str = "TERM"
    stopwaitsecs: int = 10
    autorestart: bool = True
    priority: int = 500
    group: bool = False
    # Standard output, where it is not part of the log.
    output: Path | None = None

    def section(self) -> str:
        """Return the program's section of supervisord.conf; it starts on request only. Raises ValueError."""
        values = {
            "command": shlex.join(self.command),
            "autostart": "false",
            "autorestart": str(self.autorestart).lower(),
            "startsecs": "1",
            "startretries": "20",
            "stopsignal": self.stopsignal,
            "stopwaitsecs": str(self.stopwaitsecs),
            "killasgroup": str(self.group).lower(),
            "priority": str(self.priority),
            "redirect_stderr": str(self.output is None).lower(),
            **_rotated("stdout", self.output or self.log),
        }
        if self.output is not None:
            values |= _rotated("stderr", self.log)
        if self.env:
            values["environment"] = ",".join(f"{key}={_quoted(value)}" for key, value in self.env.items())
        if self.directory:
            values["directory"] = str(self.directory)
        lines = [f"{key}={_ini(value)}" for key, value in values.items()]
        return "\n".join([f"[program:{self.name}]", *lines, ""])


def _rotated(stream: str, log: Path) -> dict[str, str]:
    options = {"": str(log), "_maxbytes": str(_LOG_BYTES), "_backups": "1"}
    return {f"{stream}_logfile{name}": value for name, value in options.items()}


def _quoted(value: str) -> str:
    if '"' in value:
        raise ValueError("the supervisor's configuration cannot hold a variable with a double quote")
    return f'"{value}"'


def _ini(value: str) -> str:
    """Return the value as supervisord.conf needs it: no expansions, no comments, one line."""
    if "\n" in value or " ;" in value or " #" in value:
        raise ValueError(f"the supervisor's configuration cannot hold {value!r}: a line end or a comment sign")
    return value.replace("%", "%%")
