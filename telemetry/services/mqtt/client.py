"""A fast client on paho's: for receiving messages and acknowledging them, where a listener spends its time.

paho reads a packet in several calls of `recv` and handles it in many Python calls. This client reads all available
bytes, and decodes every whole PUBLISH of QoS 0 and 1 in one loop; paho handles every other packet, connecting, TLS,
keep-alive and subscribing. It uses paho's internals (`_create_socket`, `_packet_read`, `_packet_queue`,
`_loop_rc_handle`, the times of the keep-alive): the version is pinned, and the tests compare received messages with
sent ones, packet by packet.
"""

import ssl
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode

_READ_BYTES = 256 * 1024
_DISCONNECT = b"\xe0\x00"  # without a reason, in both versions of MQTT
# Reason 0, five bytes of properties: the session expires after 0 seconds.
_DISCONNECT_FOR_GOOD = b"\xe0\x07\x00\x05\x11" + bytes(4)
# Type PUBLISH and the QoS, whatever DUP and RETAIN say.
_PUBLISH_MASK, _QOS1, _QOS0 = 0b1111_0110, 0b0011_0010, 0b0011_0000
# Publish(…) does the same through a function in Python, which takes twice as long.
_new = tuple.__new__
_PUBACK = 0x4002  # with two bytes to follow: reason 0, no properties, in both versions of MQTT


class Publish(NamedTuple):
    """A message as the broker sent it. The topic is not necessarily UTF-8, and `mid` is 0 in QoS 0."""

    topic: bytes
    payload: bytes
    mid: int
    retained: bool  # an old message that the broker kept, and sent because of a subscription


class _MalformedPublish(Exception):
    """The broker sent a PUBLISH whose length is too small for its content."""


class _BufferedSocket:
    """A socket with the bytes that were read from it and are not decoded yet; `recv` returns only these to paho."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self.data = b""
        self.at = 0

    def fill(self) -> bool:
        """Read the available bytes. Returns False where the other side has closed. Raises OSError.

        Over TLS one call of `recv` returns one record, which is one message of most brokers: records are read until
        none is whole, or there are as many bytes as a plain socket returns at once.
        """
        parts, size, is_open = [self.data[self.at :]], 0, True
        try:
            while is_open and size < _READ_BYTES:
                read = self._sock.recv(_READ_BYTES)
                is_open = bool(read)
                parts.append(read)
                size += len(read)
                if not self._is_tls:
                    break
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        self.data = b"".join(parts)
        self.at = 0
        # What was read before the end is handled first: the next call finds the end again.
        return is_open or size > 0

    def recv(self, size: int) -> bytes:
        """Return bytes that were read already. Raises BlockingIOError where there are none."""
        if self.at >= len(self.data):
            raise BlockingIOError
        part = self.data[self.at : self.at + size]
        self.at += len(part)
        return part

    def discard(self) -> bool:
        """Read and discard bytes. Returns False where the other side has closed. Raises OSError."""
        return bool(self._sock.recv(_READ_BYTES))

    def pending(self) -> int:
        """Return the number of bytes that TLS has decrypted and `select` does not see."""
        return self._sock.pending() if self._is_tls else 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class BufferedClient(mqtt.Client):
    """A client that receives messages of QoS 0 and 1 in lists: `on_publishes` is called with those of one read."""

    on_publishes: Callable[[list[Publish]], None]
    _received_at = 0.0

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Acknowledge messages of this connection, in this order, in one write."""
        if mids:
            words = [_PUBACK] * (2 * len(mids))
            words[1::2] = mids
            self._packet_queue(mqtt.PUBACK, struct.pack(f">{len(words)}H", *words), 0, 0)

    def drop_if_silent(self, seconds: float) -> None:
        """End a connection on which nothing was received for so long, not even an answer to our ping."""
        if self._sock is not None and time.monotonic() - self._received_at > seconds:
            self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_KEEPALIVE)

    def leave(self, seconds: float, *, for_good: bool = False) -> None:
        """Disconnect, and wait up to `seconds` until the broker has read that and closes.

        `for_good` (MQTT 5) lets the broker drop the session and its messages.

        A socket that is closed while unread messages arrive is reset, and the bytes that the broker has not read, the
        last acknowledgements among them, are lost.
        """
        sock: Any = self._sock
        if sock is None:
            return
        deadline = time.monotonic() + seconds
        try:
            sock.settimeout(seconds)
            sock.sendall(_DISCONNECT_FOR_GOOD if for_good else _DISCONNECT)
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                if not sock.discard():
                    break
        except OSError:
            pass
        self._sock_close()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read the available bytes and handle every whole packet of them."""
        sock: Any = self._sock
        if sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        try:
            is_open = sock.fill()
        except OSError:
            is_open = False
        if not is_open:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        # The library's own time of the last bytes is also set by its ping.
        self._received_at = time.monotonic()
        with self._msgtime_mutex:
            self._last_bytes_received = self._received_at
        try:
            return self._handle_buffered(sock)
        except (IndexError, _MalformedPublish):
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_PROTOCOL)

    def _create_socket(self) -> Any:
        sock = _BufferedSocket(super()._create_socket())
        self._received_at = time.monotonic()
        return sock

    def _handle_buffered(self, sock: _BufferedSocket) -> MQTTErrorCode:
        while True:
            publishes, sock.at, is_whole = _decode(sock.data, sock.at, self._protocol == mqtt.MQTTv5)
            if publishes:
                self.on_publishes(publishes)
            if not is_whole:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            code = self._packet_read()
            if code not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
                return self._loop_rc_handle(code)
            if self._sock is not sock:  # the packet ended the connection
                return MQTTErrorCode.MQTT_ERR_SUCCESS


def _decode(data: bytes, at: int, has_properties: bool) -> tuple[list[Publish], int, bool]:
    """Return (the messages of QoS 0 and 1 from `at` on, their end, whether a whole packet of another kind follows)."""
    publishes: list[Publish] = []
    append = publishes.append
    end = len(data)
    while end - at >= 2:
        length, start = data[at + 1], at + 2
        if length > 127:
            # Two bytes are the usual case.
            if start < end and data[start] < 128:
                length, start = length & 127 | data[start] << 7, start + 1
            else:
                length, start = _length(data, at + 1)
        stop = start + length
        if stop > end or start < 0:
            # Not whole; or its length is invalid, and paho rejects it.
            return publishes, at, start < 0
        kind = data[at] & _PUBLISH_MASK
        if kind != _QOS1 and kind != _QOS0:
            return publishes, at, True
        body = start + 2 + (data[start] << 8 | data[start + 1])
        topic = data[start + 2 : body]
        mid = 0
        if kind == _QOS1:
            mid = data[body] << 8 | data[body + 1]
            body += 2
        if has_properties:
            if size := data[body]:
                size, body = (size, body + 1) if size < 128 else _length(data, body)
                body += size
            else:
                body += 1
        if body > stop:
            raise _MalformedPublish
        append(_new(Publish, (topic, data[body:stop], mid, data[at] & 1 == 1)))
        at = stop
    return publishes, at, False


# Longer than any packet.
_MORE = 1 << 62


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Return (a variable byte integer, its end); (huge, 0) where it is not whole, (0, -1) beyond four bytes."""
    value = 0
    for i, byte in enumerate(data[at : at + 4]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    return (0, -1) if len(data) >= at + 4 else (_MORE, 0)
