"""Publishes a file of packets, and does as little as can be done: it shares the machine with what is measured.

A program of its own (`python -m …publisher`). It connects, prints `ready`, waits for a line on its standard input,
sends, waits for the last acknowledgement, and prints a JSON object: `began` and `ended` (seconds of the system's
monotonic clock), and `sent`. Without `--rate` it sends as fast as the broker takes it, with at most `--window`
messages unacknowledged. With `--rate` it sends the due messages every millisecond, and writes the moment of each
message to `--stamps`, as 64-bit floats.
"""

import argparse
import json
import os
import select
import socket
import sys
import time
from array import array
from pathlib import Path
from urllib.parse import unquote, urlsplit

from . import packets

_CHUNK = 256 * 1024
_TICK = 0.001
_PATIENCE_SECONDS = 60.0


class Publisher:
    """One connection and the packets to send: `data`, of which packet n ends at `ends[n]`."""

    def __init__(self, sock: socket.socket, data: bytes, ends: "array[int]") -> None:
        self._sock = sock
        self._view = memoryview(data)
        self._ends = ends
        self._answered = 0  # bytes of acknowledgements

    @property
    def acknowledged(self) -> int:
        """How many messages the broker has taken over."""
        return self._answered // packets.PUBACK_SIZE

    def publish_at_full_rate(self, window: int) -> None:
        """Send everything, with at most `window` messages unacknowledged."""
        total, position = len(self._ends), 0
        self._sock.setblocking(False)
        while self.acknowledged < total:
            limit = self._ends[min(total, self.acknowledged + window) - 1]
            readable, writable, _ = select.select(
                [self._sock], [self._sock] if position < limit else [], [], _PATIENCE_SECONDS
            )
            if not readable and not writable:
                raise TimeoutError(f"the broker acknowledged {self.acknowledged} of {total} messages and stopped")
            if readable:
                self._receive()
            if writable:
                position += self._sock.send(self._view[position : min(limit, position + _CHUNK)])
            # Or each acknowledgement would wake this program, at its cost and the broker's.
            time.sleep(_TICK)

    def pace(self, rate: float) -> "array[float]":
        """Send `rate` messages a second; the moment at which each was handed to the system."""
        total, sent, position = len(self._ends), 0, 0
        stamps = array("d")
        began = time.monotonic()
        while sent < total:
            now = time.monotonic()
            due = min(total, int((now - began) * rate) + 1)
            if due > sent:
                stamps.extend([now] * (due - sent))
                self._sock.setblocking(True)
                self._sock.sendall(self._view[position : self._ends[due - 1]])
                self._sock.setblocking(False)
                sent, position = due, self._ends[due - 1]
            self._receive_what_is_there()
            time.sleep(max(_TICK, began + sent / rate - time.monotonic()))
        while self.acknowledged < total:
            if not select.select([self._sock], [], [], _PATIENCE_SECONDS)[0]:
                raise TimeoutError(f"the broker acknowledged {self.acknowledged} of {total} messages and stopped")
            self._receive()
        return stamps

    def _receive(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionError("the broker closed the connection")
        self._answered += len(data)

    def _receive_what_is_there(self) -> None:
        try:
            self._receive()
        except BlockingIOError:
            return


def connect(url: str) -> socket.socket:
    """A connection with the account in the URL. Raises ConnectionError where the broker refuses it."""
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname or "localhost", parts.port or 1883), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    name = f"bench-publisher-{os.getpid()}"
    sock.sendall(packets.connect(name, unquote(parts.username or ""), unquote(parts.password or "")))
    answer = sock.recv(4, socket.MSG_WAITALL)
    if answer != packets.CONNACK_ACCEPTED:
        raise ConnectionError(f"the broker refuses the publisher: {answer.hex()}")
    return sock


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("ends", type=Path)
    parser.add_argument("--window", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--stamps", type=Path)
    options = parser.parse_args()
    ends = array("Q")
    ends.frombytes(options.ends.read_bytes())
    sock = connect(os.environ["MQTT_BRIDGE_URL"])
    publisher = Publisher(sock, options.data.read_bytes(), ends)
    print("ready", flush=True)  # noqa: T201 (this is what it is started for)
    sys.stdin.readline()
    began = time.monotonic()
    if options.rate:
        options.stamps.write_bytes(publisher.pace(options.rate).tobytes())
    else:
        publisher.publish_at_full_rate(options.window)
    ended = time.monotonic()
    sock.setblocking(True)
    sock.sendall(packets.DISCONNECT)
    print(json.dumps({"began": began, "ended": ended, "sent": len(ends)}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
