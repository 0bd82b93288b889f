"""The limits of the embedded broker: bounds of one client, and of the whole broker.

Mosquitto has no limits for a single account. What is bounded here is bounded for every client, the listener's session
included, or for the whole broker.
"""

import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import EmbeddedError

_MB = 1024 * 1024
_LARGEST_DEFAULT_MB = 1024
# A message above the platform's own limit reaches it, and is quarantined with its reason.
_MESSAGE_FACTOR = 4
_PAYLOAD_DEFAULT = 64 * 1024
# Topic, properties and header beside the payload.
_PACKET_FACTOR = 2
_MOST_CONNECTIONS = 100_000
# Files of the broker itself, and connections of the platform's processes on their own port.
_RESERVED_FILES = 200
# Practically unlimited: the broker acknowledges and drops a message that does not fit into a queue, so that memory is
# bounded instead, where a publisher gets no acknowledgement. Its own value for unlimited, 0, makes it close the
# connection of a client that publishes to a refused topic (2.0.16, Debian's 2.0.11).
_QUEUE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """Bytes of the broker's whole memory, of a payload and of a packet; devices' connections; the greatest QoS."""

    memory_bytes: int
    message_bytes: int
    packet_bytes: int
    connections: int
    qos: int

    def lines(self) -> str:
        """Return the lines of Mosquitto's configuration that apply to the whole broker."""
        return f"""max_queued_messages {_QUEUE}
max_inflight_messages 1000
message_size_limit {self.message_bytes}
max_packet_size {self.packet_bytes}
persistent_client_expiration 7d
max_keepalive 120
"""

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command with the limit of memory; an allocation beyond it fails as under `memory_limit`.

        Before 2.0.22 Mosquitto's own option cannot be used with the dynamic security plugin: each change of an account
        is subtracted from the counted memory, and below zero the broker takes itself for full.
        """
        return ["/bin/sh", "-c", 'ulimit -d "$0" && exec "$@"', str(self.memory_bytes // 1024), *command]

    def listener_lines(self) -> str:
        """Return the lines that apply to the listener of devices and apps."""
        return f"max_connections {self.connections}\nmax_qos {self.qos}\nmax_topic_alias 10\n"


def read_limits(environment: Mapping[str, str] = os.environ) -> BrokerLimits:
    """Return the limits, with the operator's variables. Raises EmbeddedError for an invalid value."""
    payload = _number(environment, "INGEST_MAX_PAYLOAD", _PAYLOAD_DEFAULT, 1, 64 * _MB)
    message = max(_PAYLOAD_DEFAULT, payload) * _MESSAGE_FACTOR
    return BrokerLimits(
        memory_bytes=_number(environment, "MQTT_MEMORY_MB", _default_memory_mb(), 32, 1024 * 1024) * _MB,
        message_bytes=message,
        packet_bytes=message * _PACKET_FACTOR,
        connections=_number(environment, "MQTT_MAX_CONNECTIONS", _default_connections(), 10, _MOST_CONNECTIONS),
        qos=_number(environment, "MQTT_MAX_QOS", 1, 1, 2),
    )


def _default_memory_mb() -> int:
    """Return half of this machine's memory, at most 1 GB."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MB
    return max(32, min(_LARGEST_DEFAULT_MB, physical // 2))


def _default_connections() -> int:
    """Return 10,000, or fewer where the process may not open so many files."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(100, min(10_000, files - _RESERVED_FILES)) if files != resource.RLIM_INFINITY else 10_000


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise EmbeddedError(f"{name} must be a whole number from {least} to {most}, not {text!r}.")
    return int(text)
