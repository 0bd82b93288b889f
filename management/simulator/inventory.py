"""The devices of a running platform, read from its file for scripts (quickstart.json)."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class InventoryUnusable(Exception):
    """The file cannot be used; the message says what to do."""


@dataclass(frozen=True)
class DeviceEntry:
    """One device: identity, secrets, components."""

    tenant: str
    uuid: str
    mqtt_password: str
    secret: str
    signature: str
    kid: str
    cpu_serial: str | None
    hardware_version: str | None
    components: tuple[str, ...]
    simulated: bool


@dataclass(frozen=True)
class Inventory:
    """The broker and the devices; `bridge` is (username, password) of the account that may publish for all."""

    host: str
    port: int
    bridge: tuple[str, str] | None
    devices: tuple[DeviceEntry, ...]
    path: Path | None = None  # the file that it was read from

    def choose(self, uuids: Collection[str] = (), count: int | None = None) -> tuple[DeviceEntry, ...]:
        """Return the named devices, or the first `count` (default: all) of those to be simulated.

        InventoryUnusable when a named device is not in the file, or when there is none at all.
        """
        if uuids:
            chosen = tuple(device for device in self.devices if device.uuid in uuids)
            if missing := set(uuids) - {device.uuid for device in chosen}:
                raise InventoryUnusable(f"no such device in the file: {', '.join(sorted(missing))}")
        else:
            chosen = tuple(device for device in self.devices if device.simulated)
        if not chosen:
            raise InventoryUnusable("the file has no device to simulate: name one with --device")
        return chosen[:count]


def remember_key(path: Path, uuid: str, kid: str, secret: str) -> None:
    """Write a device's new key into the file, as a device would onto its card. Raises OSError."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for tenant in data["tenants"]:
        for device in tenant["devices"]:
            if str(device["uuid"]) == uuid:
                device.update(kid=kid, secret=secret)
    beside = path.with_suffix(".new")
    beside.touch(mode=0o600)
    beside.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")
    beside.chmod(path.stat().st_mode & 0o777)
    beside.replace(path)


def load_inventory(path: Path) -> Inventory:
    """Read quickstart.json. Raises InventoryUnusable when it is missing or has another form."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InventoryUnusable(f"{path} does not exist: start the platform with `make run`") from error
    except (OSError, ValueError) as error:
        raise InventoryUnusable(f"{path} cannot be read: {error}") from error
    try:
        bridge = data["mqtt"].get("bridge")
        return Inventory(
            host=data["mqtt"]["host"],
            port=int(data["mqtt"]["port"]),
            bridge=(bridge["username"], bridge["password"]) if bridge else None,
            devices=tuple(_devices(data["tenants"])),
            path=path,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InventoryUnusable(f"{path} does not have the form of quickstart.json: {error!r}") from error


def _devices(tenants: list[dict[str, Any]]) -> Iterator[DeviceEntry]:
    for tenant in tenants:
        for device in tenant["devices"]:
            yield DeviceEntry(
                tenant=tenant["slug"],
                uuid=str(device["uuid"]),
                mqtt_password=device["mqtt_password"],
                secret=device["secret"],
                signature=device["signature"],
                kid=str(device["kid"]),
                cpu_serial=device.get("cpu_serial"),
                hardware_version=device.get("hardware_version"),
                components=tuple(device["components"]),
                simulated=bool(device.get("simulated", False)),
            )
