"""The old server's tables: imported columns with their names, and known columns that are ignored.

`docs/legacy.md` repeats this table, and a test compares the two.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from devices.domain import pins
from tenants.models import Membership

Role = Membership.Role

# Roles on single devices become a role in the whole tenant, so no user becomes an administrator.
ROLES: dict[str, Membership.Role] = {
    **dict.fromkeys(("owner", "admin", "administrator", "manager", "editor", "operator"), Role.OPERATOR),
    **dict.fromkeys(("viewer", "user", "member", "guest", "shared", "read"), Role.VIEWER),
}

_TRUE, _FALSE = ("t", "true", "1", "yes", "y"), ("f", "false", "0", "no", "n")


@dataclass(frozen=True, slots=True)
class Column:
    """An imported column. `parse` raises ValueError; an empty value is None and not parsed."""

    name: str
    aliases: tuple[str, ...] = ()
    required: bool = True  # the column
    filled: bool = False  # each of its values
    expected: str = "text"
    parse: Callable[[str], Any] = str.strip


@dataclass(frozen=True, slots=True)
class Table:
    """A table, and its file's name without the extension. `left_out` are known columns that are ignored."""

    name: str
    columns: tuple[Column, ...]
    left_out: tuple[str, ...] = ("id", "created_at", "updated_at")


def _uuid(text: str) -> UUID:
    return UUID(text.strip())


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(text)
    return word in _TRUE


def _email(text: str) -> str:
    address = text.strip()
    if "@" not in address[1:-1] or len(address) > 150:
        raise ValueError(text)
    return address


def _role(text: str) -> Membership.Role:
    return ROLES[text.strip().lower()]


def _pins(text: str) -> Any:
    """Return {line: pin}, or a list of pins without their lines."""
    text = text.strip()
    value = json.loads(text) if text[:1] in ("{", "[") else [part for part in text.split(",") if part.strip()]
    if isinstance(value, list):
        return [pins.normalize_pin(pin) for pin in value]
    return pins.normalize(value)


_REFERENCE = "a device's id or UUID, as in devices.csv"
_DEVICE = Column("device_id", ("device_uuid", "device"), filled=True, expected=_REFERENCE)
_KNOWN_ROLES = ", ".join(ROLES)

HARDWARE_VARIANTS = Table(
    "hardware_variants",
    (
        Column("id", ("variant_id",), filled=True, expected="a number or text that names the row"),
        Column("name", ("variant_name", "model", "model_name"), filled=True),
        Column("version", ("hardware_version", "revision"), filled=True, expected="what devices send as it"),
    ),
    ("description", "created_at", "updated_at"),
)
SUPPORTED_COMPONENTS = Table(
    "supported_components",
    (
        Column("hardware_variant_id", ("variant_id", "hardware_variant"), filled=True, expected="an id there"),
        Column("component_type", ("type", "component"), filled=True, expected="as it stands in topics"),
    ),
    ("id", "description", "created_at", "updated_at"),
)
DEVICES = Table(
    "devices",
    (
        Column("id", required=False, expected="a number or text that names the row"),
        Column("uuid", ("device_uuid",), filled=True, expected="a UUID", parse=_uuid),
        Column("cpu_serial", ("cpu_serial_number", "serial_number", "serial")),
        Column("hardware_variant_id", ("variant_id", "hardware_variant"), expected="an id there"),
        Column("owner_email", ("owner", "user_email", "email"), expected="an e-mail address", parse=_email),
        Column("name", ("device_name", "nickname"), required=False),
        Column("active", ("is_active", "enabled"), required=False, expected="true or false", parse=_boolean),
    ),
    ("status", "device_status", "last_seen", "last_seen_at", "created_at", "updated_at"),
)
ATTACHED_COMPONENTS = Table(
    "attached_components",
    (
        Column("id", ("component_id",), required=False, expected="a number or text that names the row"),
        _DEVICE,
        Column("component_type", ("type",), filled=True, expected="as it stands in topics"),
        Column("instance_name", ("name", "instance")),
        Column("pins", ("pin", "gpio_pins"), required=False, expected='{"data": 4}, [4] or 4', parse=_pins),
        Column("attached", ("is_attached", "active", "is_active"), required=False, expected="t or f", parse=_boolean),
    ),
    ("attached_at", "created_at", "updated_at"),
)
DEVICE_PIN_CONFIGS = Table(
    "device_pin_configs",
    (
        _DEVICE,
        Column(
            "pin", ("pin_number", "gpio", "gpio_pin"), filled=True, expected="4, GPIO4 or A0", parse=pins.normalize_pin
        ),
        Column("function", ("pin_function", "signal", "line"), filled=True, expected="what the pin is for"),
        Column("component_id", ("attached_component_id",), required=False, expected="an id in attached_components.csv"),
        Column("instance_name", ("component_name",), required=False),
    ),
    ("id", "component_type", "mode", "description", "created_at", "updated_at"),
)
USER_DEVICES = Table(
    "user_devices",
    (
        Column("user_email", ("email", "user"), filled=True, expected="an e-mail address", parse=_email),
        _DEVICE,
        Column("role", ("permission",), filled=True, expected=f"one of {_KNOWN_ROLES}", parse=_role),
        Column("nickname", ("device_nickname", "name"), required=False),
    ),
)
TELEMETRY_DATA = Table(
    "telemetry_data",
    (
        Column("topic", (), filled=True),
        Column("payload", ("message", "data"), filled=True, expected="the JSON object as it was sent"),
        Column("device_time", ("timestamp", "measured_at"), expected="a time with an offset"),
        Column("received_time", ("received_at", "server_time"), filled=True, expected="a time with an offset"),
        Column("device_id", ("device_uuid", "device"), required=False, expected=_REFERENCE),
    ),
    ("id", "component_type", "instance_name", "created_at", "updated_at"),
)
# Not part of the dump.
SECRETS = Table(
    "secrets",
    (
        Column("owner_email", ("email", "user_email"), required=False, expected="an e-mail address", parse=_email),
        Column("device_uuid", ("uuid",), required=False, expected="a UUID", parse=_uuid),
        Column("secret", ("shared_secret", "hmac_secret"), expected="the secret that the devices sign with", parse=str),
        Column(
            "mqtt_password", ("broker_password",), required=False, expected="their password at the broker", parse=str
        ),
    ),
    (),
)

METADATA = (HARDWARE_VARIANTS, SUPPORTED_COMPONENTS, DEVICES, ATTACHED_COMPONENTS, DEVICE_PIN_CONFIGS, USER_DEVICES)
# Names of columns with secrets, which must not be in a dump.
SECRET_NAMES = frozenset(
    {"secret", "shared_secret", "hmac_secret", "secret_key", "mqtt_password", "broker_password", "password"}
)
