"""What happens to the servers and processes while they run, from what the supervisor writes down."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EXITED = re.compile(r" exited: (\S+) \((.+?)(?:; (?:not )?expected)?\)$")
_GAVE_UP = re.compile(r" gave up: (\S+) entered FATAL state")


@dataclass(frozen=True, slots=True)
class Ending:
    """A server or process that ended by itself: how, and whether it is started again."""

    name: str
    how: str
    is_given_up: bool

    def __str__(self) -> str:
        if self.is_given_up:
            return f"{self.name} does not stay up and is not started again"
        return f"{self.name} has ended ({self.how}) and is started again"


class Watch:
    """Reads the supervisor's log from where it ends now."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = log.stat().st_size

    def endings(self) -> Iterator[Ending]:
        """What has ended by itself since the last time."""
        for line in self._new_text().splitlines():
            if exited := _EXITED.search(line):
                yield Ending(exited[1], exited[2], is_given_up=False)
            elif gave_up := _GAVE_UP.search(line):
                yield Ending(gave_up[1], "", is_given_up=True)

    def _new_text(self) -> str:
        """The whole lines that were written since; a log that became shorter was begun anew."""
        if self._log.stat().st_size < self._offset:
            self._offset = 0
        with self._log.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace")
