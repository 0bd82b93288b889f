"""Device selectors of members and API keys: the devices that they can see."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Names of one kind in a selector, and devices named by UUID.
MAX_NAMES = 100
MAX_DEVICES = 1000


@dataclass(frozen=True, slots=True)
class Selector:
    """Devices at a place or below it, with a tag, of a hardware model, or of a UUID: one of them suffices.

    Places and hardware models are ids, so that a place that is renamed stays selected. Empty: all devices.
    """

    places: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    hardware_models: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether it limits the devices."""
        return any(asdict(self).values())

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "Selector":
        """Return the selector as `stored` returned it."""
        return cls(**{name: tuple(values) for name, values in stored.items()})

    def stored(self) -> dict[str, list[Any]]:
        """Return the members that are not empty, for a JSON column."""
        return {name: list(values) for name, values in asdict(self).items() if values}
