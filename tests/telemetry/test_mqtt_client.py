"""The listener's client: whatever the broker sends arrives as it was sent, however the network cuts it."""

import fcntl
import select
import socket
import ssl
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from telemetry.services.mqtt import client as mqtt_client
from telemetry.services.mqtt.client import BufferedClient, Publish
from telemetry.services.mqtt.session import BrokerSession
from telemetry.services.pipeline.results import Incoming
from tests.certificates import make_certificates
from tests.factories import Registered
from tests.mqtt import RawClient
from tests.processes import Process, wait_until


def remaining(length: int) -> bytes:
    """A remaining length as MQTT writes it."""
    out = bytearray()
    while True:
        length, byte = divmod(length, 128)
        out.append(byte | (128 if length else 0))
        if not length:
            return bytes(out)


def packet(message: Publish, properties: bytes | None) -> bytes:
    """A PUBLISH of QoS 1, or of QoS 0 without a message id, written here from the standard."""
    body = struct.pack(">H", len(message.topic)) + message.topic
    if message.mid:
        body += struct.pack(">H", message.mid)
    if properties is not None:
        body += remaining(len(properties)) + properties
    body += message.payload
    return bytes([(0x32 if message.mid else 0x30) | message.retained]) + remaining(len(body)) + body


publishes = st.builds(
    Publish,
    topic=st.binary(min_size=1, max_size=300),
    payload=st.binary(max_size=400) | st.integers(0, 20_000).map(bytes),
    mid=st.just(0) | st.integers(1, 65_535),
    retained=st.booleans(),
)
# A user property, repeated until its length takes two bytes.
properties = st.integers(0, 30).map(lambda n: b"\x26\x00\x01k\x00\x03val" * n)


@given(st.lists(st.tuples(publishes, properties), max_size=12), st.booleans(), st.data())
def test_whole_packets_are_decoded_wherever_the_stream_is_cut(
    sent: list[tuple[Publish, bytes]], has_properties: bool, data: st.DataObject
) -> None:
    stream = b"".join(packet(message, p if has_properties else None) for message, p in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    received: list[Publish] = []
    buffered = b""
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffered += stream[start:stop]
        found, at, is_other = mqtt_client._decode(buffered, 0, has_properties)
        assert not is_other
        received += found
        buffered = buffered[at:]
    assert received == [message for message, _ in sent]
    assert buffered == b""


def test_a_packet_of_another_kind_is_left_to_paho() -> None:
    first = Publish(b"t", b"1", 1, False)
    pingresp, qos2 = b"\xd0\x00", b"\x34\x06\x00\x01t\x00\x07x"
    for other in (pingresp, qos2):
        stream = packet(first, None) + other + packet(first, None)
        found, at, is_other = mqtt_client._decode(stream, 0, False)
        assert (found, stream[at:], is_other) == ([first], other + packet(first, None), True)
        assert mqtt_client._decode(stream[: len(packet(first, None)) + 1], 0, False)[2] is False, "not whole yet"


@pytest.mark.parametrize(
    "stream",
    [b"\x32\xff\xff\xff\xff\x01", b"\x32\x02\x00\x09", b"\x32\x05\x00\x09abc", b"\x32\x00"],
    ids=["a length of five bytes", "no message id", "a topic that is longer than the packet", "nothing"],
)
def test_a_malformed_packet_ends_the_connection(stream: bytes) -> None:
    """A server that speaks nonsense: the client leaves, and does not raise."""
    server = socket.create_server(("127.0.0.1", 0))
    lost: list[object] = []
    client = BufferedClient(CallbackAPIVersion.VERSION2, client_id="x", manual_ack=True)
    client.on_publishes = lambda _messages: pytest.fail("nothing was sent that is a message")
    client.on_disconnect = lambda *_: lost.append(True)
    client.connect("127.0.0.1", server.getsockname()[1])
    peer, _ = server.accept()
    peer.recv(1000)
    peer.sendall(b"\x20\x02\x00\x00" + stream)
    deadline = time.monotonic() + 60
    while not lost and time.monotonic() < deadline:
        client.loop_read()
        time.sleep(0.01)
    assert lost
    peer.close()
    server.close()


@pytest.fixture
def make_session(stack: Any) -> Iterator[Callable[..., tuple[BrokerSession, list[Incoming]]]]:
    sessions = []

    def make(topic: str, **options: Any) -> tuple[BrokerSession, list[Incoming]]:
        received: list[Incoming] = []
        session = BrokerSession(
            "session-under-test", [topic], window=1000, on_messages=received.extend, on_lost=received.clear, **options
        )
        sessions.append(session)
        turn(session, lambda: session.is_connected)
        session.exchange(0.2, reading=True)
        return session, received

    yield make
    for session in sessions:
        session.close(1)
    with RawClient.of_url("MQTT_URL", client_id="session-under-test", clean=True):
        pass


def turn(session: BrokerSession, condition: Callable[[], Any], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        session.exchange(0.02, reading=True)


def test_what_is_published_arrives_and_what_is_not_acknowledged_comes_again(
    make_session: Callable[..., Any], register: Callable[..., Registered]
) -> None:
    """Sizes from nothing to near the limit, on the real broker."""
    topic = f"telemetry/alpha/{register().uuid}/dht22"
    session, received = make_session("telemetry/alpha/#")
    payloads = [bytes([n % 256]) * size for n, size in enumerate([0, 1, 125, 126, 300, 16_400, 60_000] * 40)]
    with RawClient.of_url("MQTT_BRIDGE_URL") as publisher:
        for payload in payloads:
            publisher.publish(topic, payload)
        publisher.client.publish(topic, b"at most once", qos=0)
        turn(session, lambda: len(received) > len(payloads))
    at_least_once = [message for message in received if message.qos]
    assert [message.payload for message in at_least_once] == payloads
    assert [message.payload for message in received if not message.qos] == [b"at most once"]
    assert {message.topic for message in received} == {topic}

    session.acknowledge(at_least_once[:-3])
    session.close(2)
    session, again = make_session("telemetry/alpha/#")
    turn(session, lambda: len(again) >= 3)
    session.exchange(0.3, reading=True)
    assert [message.payload for message in again] == payloads[-3:]
    session.acknowledge(at_least_once[-3:])
    session.acknowledge(again)
    session.close(2)
    session, nothing = make_session("telemetry/alpha/#")
    session.exchange(0.3, reading=True)
    assert nothing == []


class OldBroker(threading.Thread):
    """Stands before the real broker and refuses MQTT 5, as a broker of 2014 does; passes 3.1.1 through."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._broker_port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.versions: list[int] = []

    def run(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            first = client.recv(4096)
            # Fixed header, remaining length of one or two bytes, the name "MQTT" with its length, the version.
            version = first[first.index(b"MQTT") + 4]
            self.versions.append(version)
            if version > 4:
                client.sendall(b"\x20\x02\x00\x01")
                client.close()
                continue
            broker = socket.create_connection(("127.0.0.1", self._broker_port))
            broker.sendall(first)
            for a, b in ((client, broker), (broker, client)):
                threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    @staticmethod
    def _pass(a: socket.socket, b: socket.socket) -> None:
        try:
            while data := a.recv(65536):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._server.close()


def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(
    make_session: Callable[..., Any], register: Callable[..., Registered], settings: Any
) -> None:
    url = settings.MQTT_URL.parts
    old = OldBroker(url.port or 1883)
    old.start()
    settings.MQTT_URL = settings.MQTT_URL.replace(f":{url.port}", f":{old.port}")
    topic = f"device/birth/{register().uuid}"
    with RawClient.of_url("MQTT_BRIDGE_URL") as publisher:
        session, received = make_session("device/birth/+")
        assert old.versions == [5, 4]
        publisher.publish_acknowledged(topic, b"live")
        turn(session, lambda: received)
        assert [message.payload for message in received] == [b"live"]
        session.close(2)
        session, again = make_session("device/birth/+")
        turn(session, lambda: again)
        assert [message.payload for message in again] == [b"live"], "the session was persistent"
        session.acknowledge(again)
        session.close(2)
    old.close()


def test_a_second_listener_of_the_same_name_is_told_of(start: Callable[..., Process], live_db: None) -> None:
    first = start("manage.py", "run_mqtt_listener", "--client-id", "twice")
    first.wait_for("Connected to the broker")
    second = start("manage.py", "run_mqtt_listener", "--client-id", "twice")
    wait_until(
        lambda: "is taken over again and again" in first.log.read_text() + second.log.read_text(),
        45,
        lambda: first.log.read_text(),
    )
    first.stop()
    second.stop()
    with RawClient.of_url("MQTT_URL", client_id="twice", clean=True):
        pass


def test_puback_is_as_the_library_writes_it() -> None:
    """Our joined acknowledgements against the library's own, in both versions."""
    for version in (mqtt.MQTTv311, mqtt.MQTTv5):
        written = []
        for acknowledge in (lambda c: c.acknowledge([1, 513]), lambda c: (c.ack(1, 1), c.ack(513, 1))):
            client = BufferedClient(CallbackAPIVersion.VERSION2, client_id="x", protocol=version, manual_ack=True)
            acknowledge(client)
            written.append(b"".join(bytes(out["packet"]) for out in client._out_packet))
        assert written[0] == written[1]


# --- TLS ------------------------------------------------------------------------------------------------------


def _bytes_on_the_way(sock: socket.socket) -> int:
    """Return the number of written bytes that the other side's kernel has not acknowledged."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_all_records_that_have_arrived_are_read_at_once(tmp_path: Path) -> None:
    """A broker writes each message as a TLS record of its own: read one by one, each would be a batch of its own."""
    certificates = make_certificates(tmp_path)
    listening = socket.create_server(("127.0.0.1", 0))
    sent = [packet(Publish(b"t", bytes([n]) * 100, n, retained=False), None) for n in range(1, 201)]
    arrived = threading.Event()

    def serve() -> None:
        raw, _ = listening.accept()
        with certificates.server_context().wrap_socket(raw, server_side=True) as server:
            for each in sent:
                server.sendall(each)
            # Written is not arrived: the kernel delivers, also to this machine, when it has time.
            wait_until(lambda: not _bytes_on_the_way(server), 60)
            arrived.set()
            server.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    context = ssl.create_default_context(cafile=certificates.authority)
    raw = socket.create_connection(listening.getsockname())
    with context.wrap_socket(raw, server_hostname="localhost") as sock:
        assert arrived.wait(60)
        sock.setblocking(False)
        buffered = mqtt_client._BufferedSocket(sock)
        while not buffered.data:  # the first records may be those of the handshake's end
            assert select.select([sock], [], [], 10)[0]
            assert buffered.fill()
        assert len(buffered.data) == sum(map(len, sent))
        assert buffered.pending() == 0
    listening.close()
