"""The data that `make run` begins with: staff, the tenant `demo`, its devices, and the file for scripts."""

import json
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django_tenants.utils import schema_context

from alarms.services.quickstart_rules import install_quickstart_rules
from devices.models import ApiKey, Device
from devices.services.api_keys import issue_api_key
from devices.services.provisioning.registration import register_device
from devices.services.vault.secret_store import provisioner
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.secret_values import reveal
from tenants.models import Tenant, User
from tenants.services.lifecycle import create_tenant

from .hardware import install_hardware

SLUG = "demo"

# name, signature, simulated, components (key → type)
DEVICES: tuple[tuple[str, str, bool, dict[str, str]], ...] = (
    ("My first device (signature 1)", "v1", False, {"dht22": "dht22"}),
    ("My first device (signature 2)", "v2", False, {"dht22": "dht22", "relay": "relay"}),
    ("Greenhouse 1, north", "v2", True, {"dht22": "dht22", "soil": "soil", "pump": "pump"}),
    ("Greenhouse 1, south", "v2", True, {"dht22": "dht22", "dht22-2": "dht22", "relay": "relay"}),
    ("Greenhouse 2", "v1", True, {"dht22": "dht22", "mh-z19": "mh-z19"}),
    ("Weather mast", "v2", True, {"bmp280": "bmp280"}),
)


def seed(path: Path) -> dict[str, Any]:
    """Create missing rows, write the file (mode 0600) and return its content; safe to repeat."""
    known = _read(path)
    staff = _person("staff", known.get("staff", {}).get("password"), is_superuser=True, is_staff=True)
    known_tenant: dict[str, Any] = next((t for t in known.get("tenants", []) if t["slug"] == SLUG), {})
    grower = _person("grower", known_tenant.get("password"))
    tenant = Tenant.objects.filter(slug=SLUG, state=Tenant.State.ACTIVE).first()
    if tenant is None:
        owner = User.objects.get(username="grower")
        tenant = create_tenant(slug=SLUG, name="Demo greenhouse", owner=owner)
    content = {
        "staff": {"url": f"{settings.PUBLIC_URL}/admin/", **staff},
        "mqtt": {"host": settings.MQTT_HOST, "port": settings.MQTT_PORT, "bridge": _bridge()},
        "tenants": [{"slug": SLUG, "url": f"{settings.PUBLIC_URL}/t/{SLUG}/", **grower, **_fill(tenant, known_tenant)}],
    }
    _write(path, content)
    return content


def _fill(tenant: Tenant, known: dict[str, Any]) -> dict[str, Any]:
    """Return the tenant's API key and devices; create missing ones."""
    with schema_context(tenant.schema_name):
        board, types = install_hardware()
        install_quickstart_rules()
        api_key = known.get("api_key")
        if not api_key or not ApiKey.objects.filter(name="quickstart", revoked_at=None).exists():
            _, api_key = issue_api_key(name="quickstart", scope=ApiKey.Scope.WRITE)
        entries = []
        for name, signature, simulated, components in DEVICES:
            device = Device.objects.filter(name=name).first()
            if device is None:
                device, _ = register_device(
                    name=name,
                    cpu_serial=f"10000000{secrets.token_hex(4)}",
                    hardware_model=board,
                    components={key: types[type_key] for key, type_key in components.items()},
                )
            entries.append(_entry(device, signature, simulated))
        return {"api_key": api_key, "devices": entries}


def _entry(device: Device, signature: str, simulated: bool) -> dict[str, Any]:
    """Return what a script needs to act as the device. The secrets come from Vault each time."""
    held = provisioner().read(current_schema(), device.uuid)
    return {
        "name": device.name,
        "uuid": str(device.uuid),
        "mqtt_username": str(device.uuid),
        "mqtt_password": held.mqtt_password,
        "secret": held.secret,
        "signature": signature,
        "kid": str(held.version),
        "cpu_serial": device.cpu_serial,
        "hardware_version": device.hardware_model.version if device.hardware_model else "",
        "components": list(device.components.values_list("key", flat=True)),
        "simulated": simulated,
    }


def _person(username: str, password: str | None, **flags: bool) -> dict[str, str]:
    """Return a user with that password; replace an unknown one."""
    user, _ = User.objects.get_or_create(username=username, defaults=flags)
    if not password or not user.check_password(password):
        password = secrets.token_urlsafe(12)
        user.set_password(password)
        user.save(update_fields=["password"])
    return {"username": username, "password": password}


def _bridge() -> dict[str, str] | None:
    """Return the account that may publish for every device: for load, and for a bridge from the old broker."""
    if not settings.MQTT_BRIDGE_URL:
        return None
    url = urlsplit(reveal(settings.MQTT_BRIDGE_URL))
    return {"username": unquote(url.username or ""), "password": unquote(url.password or "")}


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write the file atomically, readable by its owner only."""
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
    part.replace(path)
