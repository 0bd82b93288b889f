"""The bridge as a program: the local broker on one side, the platform on the other, and a file that names both."""

import argparse
import json
import logging
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from .api_client import ApiClient, PlatformUnavailable
from .decoders import UnreadablePayload
from .dialects import Dialects
from .gateway import Gateway, GatewayChild

logger = logging.getLogger(__name__)

SYNC_EVERY = 60.0  # seconds between two questions for children
_NEEDED = ("uuid", "secret", "host", "port", "tenant", "mqtt_password", "local")
_OPTIONAL = ("kid", "keepalive", "tls", "mqtt_version", "hardware_version", "firmware_version", "buffer_limit")
_OWN = {*_NEEDED, *_OPTIONAL, "state_dir", "children", "api", "dialects", "cpu_serial", "signature"}


class Bridge:
    """Takes messages of the local broker for the children of a gateway."""

    def __init__(self, gateway: Gateway, dialects: Dialects, local: dict[str, Any]) -> None:
        self.gateway, self.dialects = gateway, dialects
        self.configured = dict(gateway.children)
        self.unreadable = 0
        self._subscribed: set[str] = set()
        # A session of its own, so that the local broker keeps messages of QoS 1 while the bridge does not run.
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"gwanje-bridge-{gateway.uuid}", clean_session=False, manual_ack=True
        )
        if local.get("username"):
            self.client.username_pw_set(local["username"], local.get("password"))
        self.client.reconnect_delay_set(1, 30)
        self.client.on_connect = self._on_connect
        self.client.on_message = self._on_message
        self._address = str(local["host"]), int(local.get("port", 1883))

    def start(self) -> None:
        """Connect to both brokers, in threads."""
        self.gateway.start()
        self.client.connect_async(*self._address)
        self.client.loop_start()

    def close(self) -> None:
        """Leave the local broker, then the platform; what is not acknowledged stays in the spool."""
        self.client.disconnect()
        self.client.loop_stop()
        self.gateway.close()

    def handle(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        """Take a message of the local broker. A retained one was sent some time ago: only discovery reads it."""
        is_config = topic.startswith("homeassistant/")
        if retained and not is_config:
            return
        try:
            for report in self.dialects.read(topic, payload, self.gateway.clock()):
                self.gateway.take(report)
        except UnreadablePayload as error:
            self.unreadable += 1
            logger.warning("A message on %s cannot be read: %s", topic, error)
        except ValueError as error:
            logger.warning("A message on %s cannot be sent: %s", topic, error)
        if is_config and self.dialects.discovery.changed:
            self.dialects.discovery.changed = False
            self._subscribe()

    def _on_connect(self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            logger.error("The local broker refuses the connection: %s", reason)
            return
        logger.info("Connected to the local broker at %s:%d", *self._address)
        self._subscribed.clear()
        self._subscribe()

    def _subscribe(self) -> None:
        new = [name for name in self.dialects.filters() if name not in self._subscribed]
        if new:
            self.client.subscribe([(name, 1) for name in new])
            self._subscribed.update(new)

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        """Acknowledge a message only when what it says is on disk: a full disk leaves it with the local broker."""
        try:
            self.handle(message.topic, bytes(message.payload), retained=message.retain)
        except sqlite3.Error as error:
            logger.error("A message on %s cannot be stored: %s", message.topic, error)
            return
        except Exception:  # the edge of the thread: one message must not stop all others
            logger.exception("A message on %s cannot be handled", message.topic)
        client.ack(message.mid, message.qos)


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration. SystemExit where it is wrong, with what to mend."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from error
    missing = [name for name in _NEEDED if name not in config]
    if missing:
        raise SystemExit(f"{path}: missing {', '.join(missing)}")
    unknown = sorted(config.keys() - _OWN)
    if unknown:
        raise SystemExit(f"{path}: unknown {', '.join(unknown)}; known: {', '.join(sorted(_OWN))}")
    if not isinstance(config["local"], dict) or "host" not in config["local"]:
        raise SystemExit(f"{path}: 'local' must be an object with the host of the local broker")
    if config.get("signature", "v2") != "v2":
        raise SystemExit(f"{path}: a gateway signs with version 2")
    return config


def build(path: Path, clock: Callable[[], float] = time.time) -> tuple[Bridge, ApiClient | None]:
    """Return the bridge that a configuration describes. SystemExit where it is wrong."""
    config = read_config(path)
    state = Path(config.get("state_dir") or path.resolve().parent / "state")
    options = {name: config[name] for name in (*_NEEDED, *_OPTIONAL) if name in config and name != "local"}
    try:
        dialects = Dialects(config.get("dialects"))
    except ValueError as error:
        raise SystemExit(f"{path}: {error}") from error
    gateway = Gateway(**options, state_dir=state, cpu_serial=config.get("cpu_serial"), clock=clock)
    for name, child in (config.get("children") or {}).items():
        gateway.children[name] = GatewayChild(child["uuid"], child["component"])
    api = ApiClient(config["api"], gateway.uuid, state / "children.json") if config.get("api") else None
    bridge = Bridge(gateway, dialects, config["local"])
    if api is not None:
        gateway.children = {**bridge.configured, **api.stored()}
    return bridge, api


def synchronize(bridge: Bridge, api: ApiClient) -> None:
    """Load the children, and announce those who wait. An unavailable platform is logged: the known children stay."""
    gateway = bridge.gateway
    try:
        gateway.children = {**bridge.configured, **api.children()}
        for name in [name for name in list(gateway.waiting) if name in gateway.children]:
            del gateway.waiting[name]
        waiting = list(gateway.waiting.values())
        api.announce([(one, bridge.dialects.contract(one.report)) for one in waiting])
    except PlatformUnavailable as error:
        logger.warning("The platform is unavailable, and the children are those of before: %s", error)


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="bridge", description="Sends off-the-shelf devices' messages as a gateway.")
    parser.add_argument("config", type=Path, help="JSON with the gateway's credentials and the local broker")
    path = parser.parse_args(arguments).config
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    bridge, api = build(path)
    bridge.start()
    while not stop.is_set():
        if api is not None:
            synchronize(bridge, api)
        stop.wait(SYNC_EVERY)
        gateway = bridge.gateway
        logger.info("%d taken, %d not taken, %d in the spool", gateway.taken, gateway.not_taken, gateway.pending)
    bridge.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
