"""MQTT 3.1.1 packets, as bytes. Needs nothing but the standard library, as the publisher does."""

import struct

CONNACK_ACCEPTED = b"\x20\x02\x00\x00"
DISCONNECT = b"\xe0\x00"
PUBACK_SIZE = 4
# Packet identifiers are used in turn; a window of unacknowledged messages must be smaller.
PACKET_IDS = 65_535
_CLEAN_WITH_LOGIN = 0xC2


def connect(client_id: str, username: str, password: str, keepalive: int = 60) -> bytes:
    """CONNECT of a clean session."""
    fields = (client_id, username, password)
    body = struct.pack(">H4sBBH", 4, b"MQTT", 4, _CLEAN_WITH_LOGIN, keepalive) + b"".join(map(_text, fields))
    return b"\x10" + _length(len(body)) + body


def publish(topic: bytes, packet_id: int, payload: bytes) -> bytes:
    """PUBLISH with QoS 1, not retained."""
    size = 2 + len(topic) + 2 + len(payload)
    return b"".join(
        (b"\x32", _length(size), struct.pack(">H", len(topic)), topic, struct.pack(">H", packet_id), payload)
    )


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded


def _length(size: int) -> bytes:
    """The remaining length: seven bits a byte, lowest first."""
    encoded = bytearray()
    while True:
        size, low = divmod(size, 128)
        encoded.append(low | 0x80 if size else low)
        if not size:
            return bytes(encoded)
