"""The messages that were sent and acknowledged by the broker, to be compared with PostgreSQL."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

# What must become of a message: stored, or refused (in quarantine with a reason), or either of the two.
Fate = Literal["stored", "refused", "either"]


@dataclass(slots=True)
class Entry:
    """A message. Times are seconds since 1970 of this machine; `acked_at` is None until the first PUBACK.

    `schema` is the tenant that it belongs to, "" for none; `counter` is (boot, seq), None in version 1.
    """

    schema: str
    device_id: int
    topic: str
    payload: bytes
    counter: tuple[int, int] | None
    fate: Fate = "stored"
    sent_at: float = field(default_factory=time.time)
    acked_at: float | None = None
    at: str = ""  # the device's own time
    value: dict[str, float] = field(default_factory=dict)
    readings: int | None = 2  # None: as many as there may be
    digest: bytes = b""

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256(self.payload).digest()

    @property
    def name(self) -> tuple[str, bytes]:
        """Topic and digest: a replay on another topic is another message."""
        return self.topic, self.digest


class Ledger:
    """The messages of one run. Written by the load's thread, read by others."""

    def __init__(self) -> None:
        self.began_at = time.time()
        self.entries: list[Entry] = []

    def add(self, entry: Entry) -> Entry:
        """Note the message before it is sent, so that no stored message can be unknown."""
        self.entries.append(entry)
        return entry

    def acknowledged(self) -> Iterator[Entry]:
        return (entry for entry in list(self.entries) if entry.acked_at is not None)

    def names(self) -> int:
        """Return how many different messages were acknowledged."""
        return len({entry.name for entry in self.acknowledged()})
