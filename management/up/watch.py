"""Unexpected ends of servers and processes, read from the supervisor's log."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EXITED = re.compile(r" exited: (\S+) \((.+?)(?:; (?:not )?expected)?\)$")
_GAVE_UP = re.compile(r" gave up: (\S+) entered FATAL state")


@dataclass(frozen=True, slots=True)
class Ending:
    """A server or process that ended by itself: how, and whether it is restarted."""

    name: str
    how: str
    is_given_up: bool

    def __str__(self) -> str:
        if self.is_given_up:
            return f"{self.name} keeps ending and is not restarted"
        return f"{self.name} has ended ({self.how}) and is restarted"


class Watch:
    """Reads the supervisor's log from its present end."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = log.stat().st_size

    def endings(self) -> Iterator[Ending]:
        """Yield the programs that ended by themselves since the last call."""
        for line in self._new_text().splitlines():
            if exited := _EXITED.search(line):
                yield Ending(exited[1], exited[2], is_given_up=False)
            elif gave_up := _GAVE_UP.search(line):
                yield Ending(gave_up[1], "", is_given_up=True)

    def _new_text(self) -> str:
        """Return the complete lines written since; a log that became shorter was rotated."""
        if self._log.stat().st_size < self._offset:
            self._offset = 0
        with self._log.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace")
