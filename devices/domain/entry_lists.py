"""Where a component type's messages have their time, and a list of entries with times of their own. Pure."""

from dataclasses import dataclass

from devices.domain.paths import Path

# The forms of a list: objects (an array, or JSON lines in a text), and a SenML pack (RFC 8428).
OBJECTS, SENML = "objects", "senml"
# The forms of a time. `AUTO`: ISO 8601, or a Unix time in the unit that its size suggests.
AUTO, ISO, SECONDS, MILLISECONDS, MICROSECONDS, NANOSECONDS = "auto", "iso", "s", "ms", "us", "ns"


@dataclass(frozen=True, slots=True)
class EntryList:
    """The places of the list and of the time, in each entry or, without a list, in the message.

    `zone` is the IANA name of the zone of times without an offset, empty where these are refused.
    """

    path: Path = ()
    form: str = OBJECTS
    time_path: Path = ()
    time_format: str = AUTO
    zone: str = ""

    @property
    def covered(self) -> list[Path]:
        """Return the paths that are not values."""
        return [path for path in (self.path, self.time_path) if path]
