"""A raw MQTT client for tests: says exactly what the broker answered."""

import os
import threading
import time
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.processes import wait_until


class RawClient:
    """Connects on `with`; keeps what was delivered and acknowledged."""

    def __init__(
        self,
        username: str,
        password: str,
        *,
        client_id: str | None = None,
        will: tuple[str, bytes, bool] | None = None,
        clean: bool = True,
        keepalive: int = 30,
    ) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.acknowledged: set[int] = set()
        self.refusal: str | None = None
        self._subscribed: dict[int, list[Any]] = {}
        self._connected = threading.Event()
        self._keepalive = keepalive
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=username if client_id is None else client_id, clean_session=clean
        )
        self.client.username_pw_set(username, password)
        self.client.reconnect_delay_set(1, 1)
        self.client.max_inflight_messages_set(200)
        if will is not None:
            self.client.will_set(will[0], will[1], qos=1, retain=will[2])
        self.client.on_connect = self._on_connect
        self.client.on_message = lambda _c, _u, message: self.received.append((message.topic, bytes(message.payload)))
        self.client.on_publish = lambda _c, _u, mid, *_: self.acknowledged.add(mid)
        self.client.on_subscribe = lambda _c, _u, mid, codes, _p: self._subscribed.__setitem__(mid, codes)

    @classmethod
    def of_url(cls, name: str, **kwargs: Any) -> Self:
        """A client with the account in the environment variable, for example MQTT_URL."""
        url = urlsplit(os.environ[name])
        kwargs.setdefault("client_id", f"test-{os.urandom(4).hex()}")
        return cls(unquote(url.username or ""), unquote(url.password or ""), **kwargs)

    def __enter__(self) -> Self:
        self.client.connect("127.0.0.1", int(os.environ["MQTT_PORT"]), keepalive=self._keepalive)
        self.client.loop_start()
        assert self._connected.wait(60), "no answer to CONNECT"
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.refusal = str(reason) if reason.is_failure else None
        self._connected.set()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Publish with QoS 1; the message id."""
        return self.client.publish(topic, payload, qos=1, retain=retain).mid

    def publish_acknowledged(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        mid = self.publish(topic, payload, retain=retain)
        wait_until(lambda: mid in self.acknowledged, 60, lambda: f"no PUBACK for {topic}")

    def subscribe(self, pattern: str) -> bool:
        """Whether the broker granted the subscription."""
        mid = self.client.subscribe(pattern, qos=1)[1]
        codes = wait_until(lambda: self._subscribed.get(mid or 0), 60, lambda: f"no SUBACK for {pattern}")
        return not codes[0].is_failure

    def drop(self) -> None:
        """Cut the socket without a DISCONNECT."""
        self.client.loop_stop()
        sock = self.client.socket()
        if sock is not None:
            sock.close()

    def settle(self, seconds: float = 0.3) -> list[tuple[str, bytes]]:
        """What was delivered, once nothing has come for a while."""
        count = -1
        while count != len(self.received):
            count = len(self.received)
            time.sleep(seconds)
        return self.received
