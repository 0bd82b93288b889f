"""The options of a run."""

from dataclasses import dataclass

PARTS = ("one", "one_tls", "two", "old", "old_lean", "node_red", "receive", "copy", "tenants", "latency", "memory")


@dataclass(frozen=True, slots=True)
class Options:
    """How much of what. Rates are messages a second."""

    only: tuple[str, ...] = PARTS
    rounds: int = 3
    devices: int = 1000
    messages: int = 60_000
    # The slow ways get less to do, so that a round stays short; a rate is a rate.
    old_messages: int = 4000
    node_red_messages: int = 15_000
    version_2_share: float = 0.5
    tenants: int = 100
    rates: tuple[int, ...] = (1000, 10_000)
    latency_seconds: float = 15.0
    known_devices: int = 100_000
    minutes: float = 10.0
    soak_rate: int = 1000
    node_red: str = ""
    samples: int = 300

    def wants(self, *parts: str) -> bool:
        """Whether the run includes any of the parts."""
        return any(part in self.only for part in parts)
