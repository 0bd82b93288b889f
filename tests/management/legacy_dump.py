"""A dump of the old server's tables, as PostgreSQL's COPY … CSV HEADER writes them; made with none of the importer."""

import base64
import csv
import hashlib
import hmac
import json
import random
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

START = datetime(2025, 3, 1, tzinfo=UTC)
TYPES = {"dht22": ["dht22-1"], "pump": ["pump"]}


def sign_v1(message: dict[str, Any], secret: str) -> dict[str, Any]:
    """The message with its `hmac`, by the protocol's formula."""
    text = f"{message['timestamp']}|{json.dumps(message, sort_keys=True)}"
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
    return {**message, "hmac": base64.b64encode(digest).decode()}


@dataclass
class OldDevice:
    """A device of the old server, and what it speaks with."""

    id: int
    uuid: str
    cpu_serial: str
    owner: str
    secret: str
    password: str


@dataclass
class Dump:
    """The dump's tables, which tests change before they `write` it."""

    directory: Path
    devices: list[OldDevice] = field(default_factory=list)
    tables: dict[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)

    def write(self) -> Path:
        self.directory.mkdir(exist_ok=True)
        for name, (header, rows) in self.tables.items():
            with (self.directory / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([header, *rows])
        return self.directory

    @property
    def secrets(self) -> Path:
        """The file of the secrets, beside the directory."""
        path = self.directory.with_name(f"{self.directory.name}-secrets.csv")
        with path.open("w", newline="") as file:
            owners = {device.owner: device for device in self.devices}
            rows = [[owner, device.secret, device.password] for owner, device in owners.items()]
            csv.writer(file).writerows([["owner_email", "secret", "mqtt_password"], *rows])
        return path

    def rows(self, table: str) -> list[list[Any]]:
        return self.tables[table][1]

    def message(self, device: OldDevice, value: Any, at: datetime, component: str = "dht22", **more: Any) -> list[Any]:
        """A row of telemetry_data: the payload as PostgreSQL prints jsonb, shorter names first."""
        sent = {"timestamp": at.isoformat(), "cpu_serial": device.cpu_serial, "value": value, **more}
        signed = sign_v1(sent, device.secret)
        payload = json.dumps(dict(sorted(signed.items(), key=lambda pair: (len(pair[0]), pair[0]))))
        topic = f"telemetry/{device.owner}/{device.uuid}/{component}"
        received = at + timedelta(seconds=0.2)
        return [len(self.rows("telemetry_data")) + 1, device.id, topic, payload, _text(at), _text(received)]


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S.%f+00")


def make_dump(directory: Path, *, devices: int = 3, messages: int = 20, owner: str = "") -> Dump:
    """`devices` of one owner and one viewer, each with `messages` of its dht22, a minute apart, from `START` on."""
    owner = owner or f"grower-{secrets.token_hex(4)}@example.com"
    viewer = f"viewer-{secrets.token_hex(4)}@example.com"
    shared, password = secrets.token_hex(8), "broker-pass-of-old"
    dump = Dump(directory)
    dump.devices = [
        OldDevice(n + 1, str(uuid4()), secrets.token_hex(8), owner, shared, password) for n in range(devices)
    ]
    variant = f"Old board {secrets.token_hex(3)}"
    dump.tables = {
        "hardware_variants": (["id", "name", "version", "created_at"], [[1, variant, "1.4", _text(START)]]),
        "supported_components": (["id", "hardware_variant_id", "component_type"], [[1, 1, "dht22"], [2, 1, "pump"]]),
        "devices": (
            ["id", "device_uuid", "cpu_serial", "name", "hardware_variant_id", "owner_email", "status"],
            [[d.id, d.uuid, d.cpu_serial, "", 1, owner, "ONLINE"] for d in dump.devices],
        ),
        "attached_components": (["id", "device_id", "component_type", "instance_name", "pins"], []),
        "device_pin_configs": (["id", "device_id", "pin", "function"], []),
        "user_devices": (["id", "user_email", "device_id", "role", "nickname"], []),
        "telemetry_data": (["id", "device_id", "topic", "payload", "device_time", "received_time"], []),
    }
    chosen = random.Random(7)
    for d in dump.devices:
        dump.rows("attached_components").append([d.id * 10, d.id, "dht22", "", "[4]"])
        dump.rows("attached_components").append([d.id * 10 + 1, d.uuid, "pump", "drip-line", '{"relay": "GPIO17"}'])
        dump.rows("device_pin_configs").append([d.id, d.id, 4, "DATA"])
        dump.rows("user_devices").append([d.id, owner, d.id, "owner", f"house {d.id}"])
        dump.rows("user_devices").append([d.id + 1000, viewer, d.id, "viewer", f"my house {d.id}"])
    for minute in range(messages):
        for d in dump.devices:
            value = {"temp": round(chosen.uniform(15, 30), 1), "humidity": chosen.randint(30, 80)}
            dump.rows("telemetry_data").append(dump.message(d, value, START + timedelta(minutes=minute)))
    return dump
