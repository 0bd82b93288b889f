"""A device's own account as fast as the broker reads it: raw PUBLISH packets, without a client library in between."""

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Self
from urllib.parse import unquote, urlsplit

from tests.faults.fleet import Sender

_CONNECT, _PUBLISH_QOS1, _PUBLISH_QOS0 = 0x10, 0x32, 0x30
_CLEAN_WITH_PASSWORD = 0xC2
_CHUNK = 64 * 1024
_PATIENCE_SECONDS = 120.0

Message = tuple[str, bytes]


class RawPublisher:
    """Publishes messages over one connection from `with` on; its end waits until all were written."""

    def __init__(self, account: tuple[str, str], messages: Iterable[Message], *, qos: int = 1) -> None:
        """`account`: name and password, as `account_of` and `bridge_account` return them."""
        self._socket = _connect(*account)
        # Made beforehand, so that they are sent as fast as possible.
        self._data = b"".join(_packets(messages, qos))
        self._thread = threading.Thread(target=self._write, name="raw-publisher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(_PATIENCE_SECONDS)
        self._socket.close()

    def _write(self) -> None:
        sock, data, at = self._socket, memoryview(self._data), 0
        sock.setblocking(False)
        idle_at = time.monotonic() + _PATIENCE_SECONDS
        while at < len(data) and time.monotonic() < idle_at:
            readable, writable, _ = select.select([sock], [sock], [], 1.0)
            if readable and not sock.recv(_CHUNK):  # acknowledgements
                return
            if writable:
                at += sock.send(data[at : at + _CHUNK])


def account_of(sender: Sender) -> tuple[str, str]:
    """Return the broker account of a device."""
    return sender.uuid, sender.mqtt_password


def bridge_account() -> tuple[str, str]:
    """Return the broker account of the bridge, which may publish for any device."""
    url = urlsplit(os.environ["MQTT_BRIDGE_URL"])
    return unquote(url.username or ""), unquote(url.password or "")


def _connect(name: str, password: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", int(os.environ["MQTT_PORT"])), timeout=30)
    client_id = name if len(name) == 36 else f"raw-{os.urandom(4).hex()}"
    body = _text("MQTT") + bytes((4, _CLEAN_WITH_PASSWORD)) + struct.pack(">H", 600)
    sock.sendall(_packet(_CONNECT, body + _text(client_id) + _text(name) + _text(password)))
    answer = sock.recv(4)
    assert answer[3:] == b"\x00", f"the broker rejects the account: {answer!r}"
    return sock


def _packets(messages: Iterable[Message], qos: int) -> Iterator[bytes]:
    for number, (topic, payload) in enumerate(messages):
        mid = struct.pack(">H", number % 65_535 + 1) if qos else b""
        yield _packet(_PUBLISH_QOS1 if qos else _PUBLISH_QOS0, _text(topic) + mid + payload)


def _packet(kind: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (128 if length else 0))
        if not length:
            return bytes((kind,)) + bytes(encoded) + body


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded
