"""A device of the Gwanje platform in one file: copy it to a Raspberry Pi, `pip install paho-mqtt`, and send.

It needs Python 3.9 or newer and paho-mqtt 2. Every message is signed, written to a small database on the
SD card, and removed from it only when the broker has acknowledged it: neither a lost network nor a power cut
loses a measurement. As a program it sends a simulated climate: `python gwanje_device.py config.json`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import math
import os
import random
import secrets
import selectors
import signal
import socket
import sqlite3
import ssl
import threading
import time
import urllib.error
import urllib.request
import uuid as uuids
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

logger = logging.getLogger("gwanje_device")

MAX_PAYLOAD = 64 * 1024  # bytes; the platform rejects larger messages
BACK_OFF_MOST = 60.0  # seconds: the longest pause that a back-off command of the platform can set
SESSION_EXPIRY = 7 * 24 * 3600  # seconds that the broker keeps a disconnected session (MQTT 5)
FETCH_EVERY = 30.0  # seconds between requests for credentials when the platform does not say
FORGET_EVERY = 1.0  # seconds; acknowledged rows are deleted in batches, which spares the SD card
# Names that the platform reads itself, or that JSON Web Tokens define: they cannot name values.
RESERVED = {"timestamp", "cpu_serial", "hardware_version", "firmware_version", "component_type", "instance_name"}
RESERVED |= {"hmac", "device_uuid", "component", "boot", "seq", "session", "gateway"}
RESERVED |= {"iss", "sub", "aud", "exp", "nbf", "iat", "jti"}
CommandHandler = Callable[["dict[str, Any]"], "dict[str, Any] | None"]
KeyKeeper = Callable[[str, str], None]


# --- signatures -----------------------------------------------------------------------------------------


def sign_v1(message: dict[str, Any], secret: str) -> dict[str, Any]:
    """Return a copy of `message` with the member `hmac` of signature version 1; KeyError without `timestamp`.

    The signed text is the timestamp, a bar, and Python's own JSON with sorted keys. The order of members on
    the wire is free, because the platform sorts them again.
    """
    unsigned = {key: value for key, value in message.items() if key != "hmac"}
    text = f"{unsigned['timestamp']}|{json.dumps(unsigned, sort_keys=True)}"
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
    return {**unsigned, "hmac": base64.b64encode(digest).decode("ascii")}


def sign_v2(message: dict[str, Any], secret: str, kid: str) -> str:
    """Return `message` as a compact JWS (RFC 7515, HS256): exactly the bytes that are sent are signed."""
    return _sign_body(_base64url(_compact(message)), secret, kid)


def _header(kid: str) -> str:
    return _base64url(_compact({"alg": "HS256", "kid": kid, "typ": "telemetry+jws"}))


def _sign_body(body: str, secret: str, kid: str) -> str:
    signed = f"{_header(kid)}.{body}"
    digest = hmac.new(secret.encode(), signed.encode("ascii"), hashlib.sha256).digest()
    return f"{signed}.{_base64url(digest)}"


def open_command(payload: bytes, secret: str) -> dict[str, Any]:
    """Return the command: a JSON object, or the content of a JWS signed with the device's secret; else ValueError."""
    if not payload.startswith(b"{"):
        signed, _, signature = payload.rpartition(b".")
        digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
        if not hmac.compare_digest(_base64url(digest).encode("ascii"), signature):
            raise ValueError("the command's signature does not match")
        header, payload = (_unbase64url(part) for part in signed.split(b"."))
        if json.loads(header).get("typ") != "command+jws":
            raise ValueError("the signed object is not a command")
    command = json.loads(payload)
    if not isinstance(command, dict):
        raise ValueError("a command must be a JSON object")
    return command


def key_id(token: bytes) -> str:
    """Return the `kid` of a compact JWS, unverified: only to choose the key. ValueError when there is none."""
    return str(json.loads(_unbase64url(token.split(b".")[0]))["kid"])


def _unverified_id(token: bytes) -> Any:
    with contextlib.suppress(ValueError, IndexError, AttributeError):
        return json.loads(token if token.startswith(b"{") else _unbase64url(token.split(b".")[1])).get("id")
    return None


def decrypt_secret(command: dict[str, Any], old: str, uuid: str, old_kid: str) -> str:
    """Return the secret that a `rotate_key` command brings; ValueError when it cannot be read.

    It is encrypted with AES-256-GCM under a key derived from the old secret (HKDF-SHA256).
    """
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        raise ValueError("to take new keys this device needs: pip install cryptography") from error
    salt, nonce, sealed = (_unbase64url(str(command[name]).encode()) for name in ("salt", "nonce", "secret"))
    context = f"gwanje rotate_key|{uuid}|{old_kid}|{command['kid']}".encode()
    key = HKDF(SHA256(), 32, salt, context).derive(old.encode())
    try:
        return AESGCM(key).decrypt(nonce, sealed, context).decode()
    except InvalidTag as error:
        raise ValueError("the new secret cannot be decrypted") from error


def _unbase64url(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def finite(value: Any, path: str = "") -> Any:
    """Return a JSON value with null for NaN and infinity, which JSON lacks; each is logged with its path."""
    if isinstance(value, dict):
        return {key: finite(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item, f"{path}.{index}") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        logger.warning("%s is %s: it is sent as null, and not stored", path[1:], value)
        return None
    return value


def iso_timestamp(when: datetime | str | float | None = None) -> str | float:
    """Return `when` (default: now) in ISO 8601 with an offset; text and Unix times are returned unchanged."""
    if when is None:
        when = datetime.now(timezone.utc)
    if not isinstance(when, datetime):
        return when
    if when.tzinfo is None:
        raise ValueError("a timestamp needs an offset: use an aware datetime")
    return when.isoformat()


# --- the buffer -----------------------------------------------------------------------------------------


class Outbox:
    """Messages that the broker has not acknowledged, oldest first, in SQLite (in memory when `path` is None).

    When `limit` messages wait, the oldest is dropped. Any thread can use it.
    """

    def __init__(self, path: Path | None = None, limit: int = 50_000) -> None:
        self.limit, self.dropped = limit, 0
        self._lock = threading.RLock()
        try:
            self._db = self._open(path)
        except sqlite3.OperationalError as error:
            raise RuntimeError(f"cannot use the buffer {path} (does another process?): {error}") from error
        except sqlite3.DatabaseError as error:
            if path is None:
                raise
            logger.error("the buffer %s is damaged: it is renamed and a new one is created: %s", path, error)
            self._rename_damaged(path)
            self._db = self._open(path)
        self._count = int(self._db.execute("SELECT COUNT(*) FROM outbox").fetchone()[0])

    @staticmethod
    def _rename_damaged(path: Path) -> None:
        path.replace(path.with_suffix(f".damaged-{int(time.time())}"))
        wal = Path(f"{path}-wal")  # its pages belong to the damaged file
        if wal.exists():
            wal.unlink()

    @staticmethod
    def _open(path: Path | None) -> sqlite3.Connection:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        db = sqlite3.connect(path or ":memory:", timeout=2, check_same_thread=False)
        # two processes with one buffer would send every message twice
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA journal_mode=WAL")
        # on the card before put() returns: this is what survives a power cut
        db.execute("PRAGMA synchronous=FULL")
        with db:
            # AUTOINCREMENT: an id is never used again, so that `after` never skips a message
            db.execute(
                "CREATE TABLE IF NOT EXISTS outbox"
                " (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL)"
            )
            db.execute("CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL)")
            # the keys that came by command, and the configured one before them; readable by the owner only
            db.execute(
                "CREATE TABLE IF NOT EXISTS key (kid TEXT PRIMARY KEY, secret TEXT NOT NULL, used INTEGER NOT NULL)"
            )
        return db

    def __len__(self) -> int:
        return self._count

    def next_boot(self) -> int:
        """Count this start of the device, durably, and return its number.

        Without a stored number (a new or replaced card) it begins at the Unix time, so that a number that the
        platform already knows is not used a second time.
        """
        with self._lock, self._db:
            row = self._db.execute("SELECT value FROM counter WHERE name = 'boot'").fetchone()
            boot = int(row[0]) + 1 if row else int(time.time())
            self._db.execute("INSERT OR REPLACE INTO counter VALUES ('boot', ?)", (boot,))
        return boot

    def keys(self) -> list[tuple[str, str]]:
        """Return the stored (kid, secret), the one in use first."""
        with self._lock:
            return self._db.execute("SELECT kid, secret FROM key ORDER BY used DESC").fetchall()

    def keep_key(self, kid: str, secret: str, alone: bool = False) -> None:
        """Store a key durably as the one in use; `alone`: forget all others."""
        with self._lock, self._db:
            if alone:
                self._db.execute("DELETE FROM key")
            query = "INSERT OR REPLACE INTO key SELECT ?, ?, COALESCE(MAX(used), 0) + 1 FROM key"
            self._db.execute(query, (kid, secret))

    def put(self, topic: str, payload: bytes) -> None:
        """Store a message durably; sqlite3.Error when the disk is full."""
        with self._lock:
            full = self._count >= self.limit
            with self._db:
                if full:
                    self._db.execute("DELETE FROM outbox WHERE id = (SELECT MIN(id) FROM outbox)")
                self._db.execute("INSERT INTO outbox (topic, payload) VALUES (?, ?)", (topic, payload))
            self._count += 0 if full else 1
            self.dropped += 1 if full else 0

    def after(self, row_id: int, count: int) -> list[tuple[int, str, bytes]]:
        """Return up to `count` messages (id, topic, payload) that follow `row_id`, in order."""
        query = "SELECT id, topic, payload FROM outbox WHERE id > ? ORDER BY id LIMIT ?"
        with self._lock:
            return self._db.execute(query, (row_id, count)).fetchall()

    def remove(self, row_ids: list[int]) -> None:
        """Delete messages that the broker has acknowledged."""
        with self._lock, self._db:
            done = self._db.executemany("DELETE FROM outbox WHERE id = ?", [(row_id,) for row_id in row_ids])
            self._count -= done.rowcount

    def close(self) -> None:
        with self._lock:
            self._db.close()


# --- the connection -------------------------------------------------------------------------------------


class Link:
    """One MQTT connection that sends an outbox, and reconnects by itself.

    It has no thread: `turn()` does all work that needs no waiting, so that one loop can drive many links. Every
    connection is a new paho client, because paho's own reconnect would register the old will again; messages to be
    sent again come from the outbox.
    """

    def __init__(
        self,
        username: str,
        password: str | None,
        host: str,
        port: int,
        *,
        keepalive: int = 30,
        tls: ssl.SSLContext | Path | str | bool | None = None,
        mqtt_version: str = "3.1.1",
        outbox: Outbox | None = None,
        window: int = 20,
        reconnect_delay: tuple[float, float] = (1.0, 60.0),
    ) -> None:
        if mqtt_version not in ("3.1.1", "5"):
            raise ValueError(f"mqtt_version must be '3.1.1' or '5', not {mqtt_version!r}")
        self.username, self.password, self.host, self.port = username, password, host, port
        self.keepalive, self.mqtt_version, self.window = keepalive, mqtt_version, window
        self.outbox = outbox if outbox is not None else Outbox()
        self.connected = self.gone = False
        self.connections = self.acknowledged = self.refused = 0
        self.selector: selectors.BaseSelector | None = None
        self._tls = ssl.create_default_context(cafile=tls) if isinstance(tls, (str, Path)) else tls
        self._delay_range, self._delay = reconnect_delay, reconnect_delay[0]
        self._retry_at = self._held_until = 0.0
        self._mqtt: mqtt.Client | None = None
        self._room = window
        self._inflight: dict[int, int] = {}  # MQTT message id -> outbox row; 0 for a message outside of the outbox
        self._cursor = 0  # the last row sent on this connection
        self._acked: list[int] = []
        self._forgotten_at = 0.0
        self._farewell: set[int] | None = None  # unacknowledged last messages; None before `leave`

    # methods that subclasses override
    def will(self) -> tuple[str, bytes] | None:
        """Return the will (topic, payload) of the next connection."""
        return None

    def on_connected(self) -> None:
        """Publish the first messages of a new connection."""

    def goodbyes(self) -> list[tuple[str, bytes]]:
        """Return the messages to publish before a clean disconnect."""
        return []

    def on_message(self, topic: str, payload: bytes) -> None:
        """Handle a message from the broker."""

    def renewed(self, payload: bytes) -> bytes:
        """Return a waiting message in the form in which it must be sent now."""
        return payload

    # the loop
    @property
    def pending(self) -> int:
        """Return how many messages the broker has not acknowledged."""
        return len(self.outbox) - len(self._acked)

    @property
    def client(self) -> mqtt.Client:
        """Return the paho client of the current connection; RuntimeError before the first one."""
        if self._mqtt is None:
            raise RuntimeError("not connected yet")
        return self._mqtt

    def socket(self) -> Any:
        """Return the open socket, or None."""
        return self._mqtt.socket() if self._mqtt else None

    def seconds_to_retry(self) -> float:
        """Return the seconds until the next attempt to connect."""
        return max(0.0, self._retry_at - time.monotonic())

    def turn(self, readable: bool = False) -> None:
        """Connect when it is due, read, send waiting messages, keep the connection alive.

        It waits only for the TCP connection (at most 5 s).
        """
        client = self._mqtt
        if client is None or client.socket() is None:
            if not self.gone and self._retry_at <= time.monotonic():
                self._connect()
            return
        if readable:
            self._read(client)
        if client.want_write():
            client.loop_write()
        client.loop_misc()
        self._pump(client)
        self._forget_acknowledged()
        self._watch_writes(client)

    def publish_now(self, topic: str, payload: bytes) -> int:
        """Publish without the outbox, on this connection only, and return the MQTT message id."""
        info = self.client.publish(topic, payload, qos=1)
        self._inflight[info.mid] = 0
        return info.mid

    def hold(self, seconds: float) -> None:
        """Send nothing from the outbox for `seconds`; a message that the platform refuses would be lost."""
        self._held_until = time.monotonic() + min(max(0.0, seconds), BACK_OFF_MOST)

    def drop(self) -> None:
        """Close the connection without a DISCONNECT, as a lost network does; the broker publishes the will."""
        sock = self.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """Begin a clean disconnect: publish the last messages, then DISCONNECT. Call `turn()` until `gone`."""
        self._farewell = set()
        if not self.connected:
            self.gone = True
            self.drop()
            return
        self._farewell = {self.publish_now(topic, payload) for topic, payload in self.goodbyes()}
        self._disconnect_when_acknowledged()

    def finish(self) -> None:
        """Close the buffer; its messages stay for the next start."""
        self.gone = True
        self.drop()
        self._forget_acknowledged(now=True)
        self.outbox.close()

    # internal
    def _connect(self) -> None:
        # jitter, so that a fleet does not reconnect in one instant
        self._retry_at = time.monotonic() + self._delay * random.uniform(0.5, 1.0)
        self._delay = min(self._delay_range[1], self._delay * 2)
        self._mqtt = client = self._new_client()
        try:
            if self.mqtt_version == "5":
                properties = Properties(PacketTypes.CONNECT)
                properties.SessionExpiryInterval = SESSION_EXPIRY
                client.connect(self.host, self.port, self.keepalive, clean_start=False, properties=properties)
            else:
                client.connect(self.host, self.port, self.keepalive)
        except OSError as error:
            logger.warning("%s: cannot reach %s:%s: %s", self.username, self.host, self.port, error)

    def _new_client(self) -> mqtt.Client:
        five = self.mqtt_version == "5"
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.username,
            clean_session=None if five else False,
            protocol=mqtt.MQTTv5 if five else mqtt.MQTTv311,
        )
        client.username_pw_set(self.username, self.password)
        if self._tls:
            client.tls_set_context(None if self._tls is True else self._tls)
        client.max_inflight_messages_set(0)  # the window is counted here, over the outbox
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = lambda _client, _data, message: self.on_message(message.topic, bytes(message.payload))
        client.on_socket_open, client.on_socket_close = self._on_socket_open, self._on_socket_close
        will = self.will()
        if will is not None:
            client.will_set(*will, qos=1)
        return client

    def _read(self, client: mqtt.Client) -> None:
        client.loop_read()
        # TLS can buffer decrypted bytes that no selector reports
        while isinstance(sock := client.socket(), ssl.SSLSocket) and sock.pending():
            client.loop_read()

    def _pump(self, client: mqtt.Client) -> None:
        """Publish messages in order while the window has room."""
        free = self._room - len(self._inflight)
        if not self.connected or self._farewell is not None or free <= 0 or time.monotonic() < self._held_until:
            return
        for row_id, topic, payload in self.outbox.after(self._cursor, free):
            info = client.publish(topic, self.renewed(payload), qos=1)
            if info.rc != mqtt.MQTT_ERR_SUCCESS or not self.connected:
                return
            self._inflight[info.mid] = row_id
            self._cursor = row_id

    def _forget_acknowledged(self, now: bool = False) -> None:
        if not self._acked or not (now or time.monotonic() - self._forgotten_at >= FORGET_EVERY):
            return
        self._forgotten_at = time.monotonic()
        try:
            self.outbox.remove(self._acked)
        except sqlite3.Error as error:  # a full disk: they are deleted later, and at worst sent twice
            logger.warning("%s: acknowledged messages stay in the buffer for now: %s", self.username, error)
        else:
            self._acked = []

    def _disconnect_when_acknowledged(self) -> None:
        if self._farewell is not None and not self._farewell:
            self.client.disconnect()

    # paho's callbacks, all inside turn()
    def _on_connect(self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            logger.warning("%s: the broker refuses the connection: %s", self.username, reason)
            return
        self.connected, self._delay = True, self._delay_range[0]
        self.connections += 1
        self._forget_acknowledged(now=True)  # before the buffer is read from its beginning again
        self._inflight, self._cursor = {}, 0
        # more than the broker's Receive Maximum (MQTT 5) would end the connection
        self._room = min(self.window, getattr(properties, "ReceiveMaximum", self.window))
        self.on_connected()

    def _on_disconnect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if client is not self._mqtt:
            return
        if self.connected:
            self._retry_at = time.monotonic() + self._delay * random.uniform(0.5, 1.0)
        self.connected = False
        if self._farewell is not None:
            self.gone = True
        else:
            logger.info("%s: disconnected: %s", self.username, reason)

    def _on_publish(self, _client: mqtt.Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        row_id = self._inflight.pop(mid, None)
        if row_id:
            self._acked.append(row_id)
            self.acknowledged += 1
        if row_id is not None and reason.is_failure:
            # only MQTT 5 reports a refusal. Sending the message again would block all that follow
            self.refused += 1
            logger.warning("%s: the broker refuses a message: %s", self.username, reason)
        if self._farewell is not None:
            self._farewell.discard(mid)
            self._disconnect_when_acknowledged()

    def _on_socket_open(self, _client: mqtt.Client, _data: Any, sock: Any) -> None:
        if self.selector is not None:
            self.selector.register(sock, selectors.EVENT_READ, self)

    def _on_socket_close(self, _client: mqtt.Client, _data: Any, sock: Any) -> None:
        if self.selector is not None:
            with contextlib.suppress(KeyError):
                self.selector.unregister(sock)

    def _watch_writes(self, client: mqtt.Client) -> None:
        sock = client.socket()
        if self.selector is None or sock is None:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.want_write() else 0)
        if self.selector.get_key(sock).events != events:
            self.selector.modify(sock, events, self)


def _check_topic_level(text: str) -> None:
    if not text or set(text) & set("/+#\0"):
        raise ValueError(f"not usable as one level of a topic: {text!r}")


# --- the device -----------------------------------------------------------------------------------------


class GwanjeDevice(Link):
    """A device: signed births and measurements, a will, commands, and a buffer that survives a power cut.

    `secret` is the signing secret, `mqtt_password` the broker's; `tls` is True (the system's authorities),
    the path of a CA file, or an SSLContext. With `state_dir` the buffer and the boot counter are stored there;
    without it, in memory. `on_command` is called with each command (a dict) and returns the response's result. A new
    key that the platform sends is kept in `state_dir`, and goes before the configured one from then on; without it
    `on_key` is called with its kid and secret, and must have kept them when it returns.

    `start()` and `close()` run it in a thread of its own; a loop over many devices calls `turn()` instead.
    """

    def __init__(
        self,
        uuid: str,
        secret: str,
        host: str,
        port: int,
        tenant: str,
        mqtt_password: str | None,
        signature: str = "v2",
        kid: str = "1",
        cpu_serial: str | None = None,
        hardware_version: str | None = None,
        firmware_version: str | None = None,
        keepalive: int = 30,
        tls: ssl.SSLContext | Path | str | bool | None = None,
        state_dir: Path | str | None = None,
        on_command: CommandHandler | None = None,
        on_key: KeyKeeper | None = None,
        mqtt_version: str = "3.1.1",
        buffer_limit: int = 50_000,
        reconnect_delay: tuple[float, float] = (1.0, 60.0),
    ) -> None:
        if signature not in ("v1", "v2"):
            raise ValueError(f"signature must be 'v1' or 'v2', not {signature!r}")
        for level in (uuid, tenant):
            _check_topic_level(level)
        path = Path(state_dir) / f"{uuid}.sqlite3" if state_dir is not None else None
        super().__init__(
            uuid,
            mqtt_password,
            host,
            port,
            keepalive=keepalive,
            tls=tls,
            mqtt_version=mqtt_version,
            outbox=Outbox(path, buffer_limit),
            reconnect_delay=reconnect_delay,
        )
        self.uuid, self.secret, self.tenant = uuid, secret, tenant
        self.signature, self.kid = signature, str(kid)
        self.on_key, self._keeps = on_key, state_dir is not None
        self._keys = {self.kid: secret}
        self._take_stored_keys()
        self.cpu_serial = cpu_serial
        self.hardware_version, self.firmware_version = hardware_version, firmware_version
        self.on_command = on_command
        self.boot, self.seq = self.outbox.next_boot(), 0
        self.session = ""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake_sockets: tuple[socket.socket, socket.socket] | None = None  # of the thread, which reads the first

    # messages
    def compose(
        self, component: str, values: dict[str, Any], timestamp: datetime | str | float | None = None
    ) -> dict[str, Any]:
        """Return the unsigned message with the next number; ValueError for reserved names."""
        _check_topic_level(component)
        if RESERVED & values.keys():
            names = ", ".join(sorted(RESERVED & values.keys()))
            raise ValueError(f"{names}: reserved names cannot name values; rename them, or nest them in an object")
        message: dict[str, Any] = {"timestamp": iso_timestamp(timestamp)}
        if self.signature == "v2":
            message.update(device_uuid=self.uuid, component=component, boot=self.boot, seq=self.seq + 1)
        return {**message, **self._board(), **finite(values)}

    def _board(self) -> dict[str, str]:
        """Return what is known of the hardware."""
        known = {"cpu_serial": self.cpu_serial, "hardware_version": self.hardware_version}
        return {name: value for name, value in known.items() if value}

    def encode(self, message: dict[str, Any]) -> bytes:
        """Sign and serialize; ValueError for what is not JSON (NaN, infinity) or too large."""
        if self.signature == "v2":
            payload = sign_v2(message, self.secret, self.kid).encode("ascii")
        else:
            payload = json.dumps(sign_v1(message, self.secret), allow_nan=False).encode("utf-8")
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a message must have at most {MAX_PAYLOAD} bytes, not {len(payload)}")
        return payload

    def topic(self, component: str) -> str:
        return f"telemetry/{self.tenant}/{self.uuid}/{component}"

    def send(self, component: str, values: dict[str, Any], timestamp: datetime | str | float | None = None) -> None:
        """Sign a measurement and store it in the buffer, which is sent when there is a connection.

        `values` contains the metrics' paths, such as {"value": {"temp": 21.5}}. The message is on disk when this
        returns. ValueError when it cannot be sent, sqlite3.Error when the disk is full.
        """
        with self._lock:
            payload = self.encode(self.compose(component, values, timestamp))
            self.outbox.put(self.topic(component), payload)
            self.seq += 1  # after the message is stored: a number that was never sent would look like a loss
        self._wake()

    # messages of every connection
    def will(self) -> tuple[str, bytes]:
        self.session = str(uuids.uuid4())  # new for every connection: this is called for every connection
        return self._offline()

    def birth(self) -> tuple[str, bytes]:
        """Return topic and payload of the current session's signed birth.

        It has no number and is not buffered: a birth that is lost with its connection must not be sent again, because
        it would announce a session that has ended.
        """
        message = {"device_uuid": self.uuid, "session": self.session, "timestamp": iso_timestamp(), **self._board()}
        if self.firmware_version:
            message["firmware_version"] = self.firmware_version
        return f"device/birth/{self.uuid}", self.encode(message)

    def on_connected(self) -> None:
        self.client.subscribe(f"command/{self.tenant}/{self.uuid}/request", qos=1)
        self.publish_now(*self.birth())
        logger.info("%s: connected, %d messages waiting", self.uuid, self.pending)

    def goodbyes(self) -> list[tuple[str, bytes]]:
        return [self._offline()]

    def _offline(self) -> tuple[str, bytes]:
        will = {"device_uuid": self.uuid, "status": "OFFLINE", "session": self.session}
        return f"device/lwt/{self.uuid}", json.dumps(will).encode()

    # commands
    def on_message(self, _topic: str, payload: bytes) -> None:
        """Run a command and buffer its signed response. A command can arrive twice: handlers must be idempotent."""
        answer: dict[str, Any] = {"device_uuid": self.uuid, "id": None, "timestamp": iso_timestamp()}
        try:
            answer["id"] = _unverified_id(payload)
            command = open_command(payload, self._secret_for(payload))
            if command.get("command") == "back_off":
                self._back_off(command)
                return
            answer["id"] = command.get("id")
            response = self.encode({**answer, **self._obey(command, payload)})
        except Exception as error:  # the handler is the user's code and must not end the connection
            logger.exception("%s: a command failed", self.uuid)
            detail = f"{type(error).__name__}: {error}"[:500]
            response = self.encode({**answer, "status": "error", "detail": detail})
        self.outbox.put(f"command/{self.tenant}/{self.uuid}/response", response)

    def _back_off(self, command: dict[str, Any]) -> None:
        """Pause: the tenant's limit is exceeded. The command gets no response, which would be another message."""
        logger.warning("%s: over the limit %s, waiting %s s", self.uuid, command["limit"], command["retry_after"])
        self.hold(float(command["retry_after"]))

    def _obey(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Execute a command and return the members of the response."""
        if command.get("command") in ("rotate_key", "use_key"):
            return {"status": "ok", "result": self._change_key(command, payload)}
        if self.on_command is None:
            return {"status": "error", "detail": "this device takes no commands"}
        return {"status": "ok", "result": self.on_command(command) or {}}

    # keys
    def _take_stored_keys(self) -> None:
        """Load the stored keys, unless the configuration contains another key since then."""
        stored = self.outbox.keys()
        if dict(stored).get(self.kid) == self.secret:
            self._keys = dict(stored)
            self.kid, self.secret = stored[0]
        elif stored:
            self.outbox.keep_key(self.kid, self.secret, alone=True)

    def _secret_for(self, payload: bytes) -> str:
        """Return the secret for verifying a command; ValueError when the device does not have it."""
        if payload.startswith(b"{"):
            return self.secret
        kid = key_id(payload)
        if kid not in self._keys:
            raise ValueError(f"signed with key {kid[:20]}, which this device does not have")
        return self._keys[kid]

    def _change_key(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Execute a verified key command; ValueError when that is impossible."""
        if payload.startswith(b"{"):
            raise ValueError("a command about keys must be signed")
        if command.get("device_uuid") != self.uuid:
            raise ValueError("a command for another device")
        kid, signer = str(command["kid"]), key_id(payload)
        if command["command"] == "use_key":
            if kid not in self._keys:
                raise ValueError(f"key {kid} was deleted from this device")
            self._use(kid, self._keys[kid])
        elif kid not in self._keys:
            if int(kid) <= max(map(int, self._keys)):
                raise ValueError(f"key {kid} is older than the keys of this device")
            self._use(kid, decrypt_secret(command, self._keys[signer], self.uuid, signer))
        return {"command": command["command"], "kid": self.kid}

    def _use(self, kid: str, secret: str) -> None:
        """Sign with this key from now on, once it is stored: a device that loses its key is lost."""
        if self._keeps:
            if not self.outbox.keys():
                self.outbox.keep_key(self.kid, self.secret)
            self.outbox.keep_key(kid, secret)
        elif self.on_key is not None:
            self.on_key(kid, secret)
        else:
            raise ValueError("this device cannot keep a key: it was made without state_dir and on_key")
        with self._lock:
            self._keys[kid] = secret
            self.kid, self.secret = kid, secret
        logger.info("%s: signs with key %s", self.uuid, kid)

    def renewed(self, payload: bytes) -> bytes:
        """Return a version 2 message that waited under another key, signed with the current one.

        Its content does not change, so that it is the same message for the platform.
        """
        if payload.startswith((b"{", _header(self.kid).encode("ascii") + b".")):
            return payload
        with contextlib.suppress(ValueError, KeyError):
            if key_id(payload) != self.kid:
                return _sign_body(payload.split(b".")[1].decode("ascii"), self.secret, self.kid).encode("ascii")
        return payload

    # the thread
    def start(self) -> GwanjeDevice:
        """Connect and stay connected in a background thread."""
        self._wake_sockets = socket.socketpair()
        for end in self._wake_sockets:
            end.setblocking(False)
        self._thread = threading.Thread(
            target=self._run, args=self._wake_sockets[:1], name=f"gwanje-{self.uuid}", daemon=True
        )
        self._thread.start()
        return self

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the broker has acknowledged all messages; return whether it has."""
        deadline = time.monotonic() + timeout
        while self.pending and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.pending

    def close(self, timeout: float = 5.0) -> None:
        """Publish OFFLINE, disconnect, stop the thread. Unacknowledged messages stay in the buffer."""
        self._closing.set()
        self._wake()
        if self._thread is not None:
            self._thread.join(timeout)
        self.finish()

    def finish(self) -> None:
        super().finish()
        for end in self._wake_sockets or ():
            end.close()

    def __enter__(self) -> GwanjeDevice:
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _wake(self) -> None:
        if self._wake_sockets is not None:
            with contextlib.suppress(OSError):  # full: the thread wakes up anyway; closed: it has ended
                self._wake_sockets[1].send(b"!")

    def _run(self, woken: socket.socket) -> None:
        with selectors.DefaultSelector() as self.selector:
            self.selector.register(woken, selectors.EVENT_READ)
            while not self.gone:
                try:
                    self._step(self.selector, woken)
                except Exception:  # the edge of the thread: the device must continue
                    logger.exception("%s: unexpected error, going on in a second", self.uuid)
                    time.sleep(1)

    def _step(self, selector: selectors.BaseSelector, woken: socket.socket) -> None:
        if self._closing.is_set() and self._farewell is None:
            self.leave()
        events = selector.select(0.5 if self.socket() else min(0.5, self.seconds_to_retry()))
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)
        self.turn(readable=any(key.data is self and mask & selectors.EVENT_READ for key, mask in events))


# --- as a program ---------------------------------------------------------------------------------------


def read_cpu_serial() -> str | None:
    """Return a Raspberry Pi's serial number from the kernel; None on other machines."""
    path = Path("/sys/firmware/devicetree/base/serial-number")
    return path.read_text().strip("\0\n ") if path.exists() else None


def simulated_climate(seconds: float) -> dict[str, Any]:
    """Return a temperature (°C) and a relative humidity (%) that follow the day: replace it by your sensor."""
    day = math.sin(2 * math.pi * (seconds / 86400 - 0.375))
    temperature = 20 + 6 * day + random.gauss(0, 0.2)
    return {"value": {"temp": round(temperature, 1), "humidity": round(65 - 18 * day + random.gauss(0, 0.8), 1)}}


# --- credentials ----------------------------------------------------------------------------------------


def fetch_credentials(path: Path, again: bool = False, stop: threading.Event | None = None) -> bool:
    """Fetch the credentials that a file with `provisioning_url` and `fetch_token` lacks, and write them into it.

    Wait while the device is not claimed or the platform is unavailable; `again` fetches new ones although some are
    there. Return False when `stop` was set before. SystemExit when the platform refuses permanently.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    if "fetch_token" not in config or ("uuid" in config and not again):
        return True
    # Stored before the request: after a lost answer or a power cut the platform recognizes the device.
    if "attempt" not in config or ("uuid" in config and not config.get("attempt_open")):
        config.update(attempt=secrets.token_urlsafe(24), attempt_open=True)
        _rewrite(path, config)
    stop = stop or threading.Event()
    while not stop.is_set():
        answer, wait = _ask_for_credentials(config)
        if answer is not None:
            config.pop("attempt_open", None)
            _rewrite(path, {**config, **answer})
            logger.info("the credentials of %s are in %s", answer["uuid"], path)
            return True
        stop.wait(wait)
    return False


def _ask_for_credentials(config: dict[str, Any]) -> tuple[dict[str, Any] | None, float]:
    """Return the credentials, or None and the seconds to wait; SystemExit when a retry cannot help."""
    url = config["provisioning_url"]
    if not url.startswith(("https://", "http://")):
        raise SystemExit(f"provisioning_url: {url} must be an http or https address")
    body = json.dumps({"token": config["fetch_token"], "attempt": config["attempt"]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 (checked above)
    tls = config.get("tls")
    context = ssl.create_default_context(cafile=tls if isinstance(tls, str) else None)
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as response:  # noqa: S310
            answer = json.load(response)
        if answer["status"] == "issued":
            return answer["credentials"], 0
        logger.info("no credentials yet (%s), next request in %s s", answer["status"], answer["retry_after"])
        return None, float(answer["retry_after"])
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")[:500]
        if error.code in (400, 403, 404, 409):
            raise SystemExit(f"the platform refuses credentials ({error.code}): {text}") from error
        logger.warning("the platform answered %s, trying again", error.code)
        return None, _seconds(error.headers.get("Retry-After"))
    except (OSError, ValueError, KeyError) as error:
        logger.warning("the platform is unavailable (%s), trying again", error)
        return None, FETCH_EVERY


def _seconds(text: str | None) -> float:
    return min(3600.0, float(text)) if text and text.isdecimal() else FETCH_EVERY


def _rewrite(path: Path, config: dict[str, Any]) -> None:
    """Replace the file atomically, readable for its user only: a power cut leaves the old or the new one."""
    new = path.with_name(path.name + ".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def device_from_config(path: Path) -> tuple[GwanjeDevice, dict[str, Any]]:
    """Return the device that a JSON file describes; SystemExit with the missing members."""
    config = json.loads(path.read_text(encoding="utf-8"))
    needed = ("uuid", "secret", "host", "port", "tenant", "mqtt_password")
    missing = [name for name in needed if name not in config]
    if missing:
        raise SystemExit(f"{path}: missing {', '.join(missing)}")
    optional = ("signature", "kid", "hardware_version", "firmware_version", "keepalive", "tls", "mqtt_version")
    options = {name: config[name] for name in (*needed, *optional) if name in config}
    options["cpu_serial"] = config.get("cpu_serial") or read_cpu_serial()
    options["state_dir"] = config.get("state_dir") or path.resolve().parent / "state"
    return GwanjeDevice(**options), config


def main() -> None:
    """Send a simulated temperature and humidity every `interval` seconds until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("config", type=Path, help="JSON: uuid, secret, host, …, or provisioning_url, fetch_token")
    parser.add_argument("--fetch-again", action="store_true", help="fetch new credentials, which was allowed before")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if not fetch_credentials(arguments.config, arguments.fetch_again, stop):
        return
    device, config = device_from_config(arguments.config)
    component = (config.get("components") or ["dht22"])[0]
    with device:
        while not stop.is_set():
            values = simulated_climate(time.time())
            device.send(component, values)
            logger.info("%s %s (%d waiting)", component, values["value"], device.pending)
            stop.wait(float(config.get("interval", 5)))
        device.flush(2)


if __name__ == "__main__":
    main()
