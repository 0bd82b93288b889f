"""Many devices of several tenants, half of them signing with version 1, half with version 2."""

import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django_tenants.utils import schema_context

from devices.models import Device
from devices.services.provisioning.registration import IssuedCredentials, register_device
from management.device_client.gwanje_device import sign_v1, sign_v2
from management.quickstart.hardware import install_hardware
from tenants.models import Tenant

from .ledger import Entry, Fate

COMPONENT = "dht22"
READINGS = 2  # of each message


@dataclass(slots=True)
class Sender:
    """A registered device with its credentials."""

    schema: str
    slug: str
    device_id: int
    uuid: str
    version: int
    key: tuple[str, str] = field(repr=False)  # its id and the secret; replaced together
    mqtt_password: str = field(repr=False)
    boot: int = 1
    seq: int = 0

    @property
    def topic(self) -> str:
        return f"telemetry/{self.slug}/{self.uuid}/{COMPONENT}"

    def take(self, issued: IssuedCredentials) -> None:
        """Sign with a new key from now on."""
        self.key = str(issued.key_version), issued.secret

    def next(self, *, ahead: float = 0.0, fate: Fate = "stored", **members: Any) -> Entry:
        """Return the next message, measured `ahead` seconds from now; in version 2 it uses a sequence number."""
        self.seq += 1
        kid, secret = self.key
        value = {"temp": 20 + self.seq % 100 / 10, "humidity": 40 + self.seq % 300 / 10}
        at = (datetime.now(UTC) + timedelta(seconds=ahead)).isoformat(timespec="microseconds")
        message = {"timestamp": at, "value": value, **members}
        if self.version == 1:
            payload = json.dumps(sign_v1(message, secret)).encode()
            return Entry(self.schema, self.device_id, self.topic, payload, None, fate, at=at, value=value)
        message |= {"device_uuid": self.uuid, "component": COMPONENT, "boot": self.boot, "seq": self.seq}
        token, counter = sign_v2(message, secret, kid).encode(), (self.boot, self.seq)
        return Entry(self.schema, self.device_id, self.topic, token, counter, fate, at=at, value=value)


class Fleet:
    """The senders, tenant by tenant in turn, so that neighbours in the traffic are of different tenants."""

    def __init__(self, tenants: list[Tenant], devices: int) -> None:
        self.tenants = list(tenants)
        of_tenants = [[self.register(tenant, number) for number in range(devices)] for tenant in tenants]
        self.senders = [sender for of_each_tenant in zip(*of_tenants, strict=True) for sender in of_each_tenant]

    @staticmethod
    def register(tenant: Tenant, number: int, version: int | None = None) -> Sender:
        """Register a device of the tenant; without `version`, even numbers sign with version 1, odd ones with 2."""
        with schema_context(tenant.schema_name):
            _, types = install_hardware()
            device, issued = register_device(
                name=f"fault {secrets.token_hex(4)}", components={COMPONENT: types[COMPONENT]}
            )
        key = str(issued.key_version), issued.secret
        version = version or 1 + number % 2
        return Sender(tenant.schema_name, tenant.slug, device.pk, str(device.uuid), version, key, issued.mqtt_password)

    def reboot(self) -> None:
        """Begin a new boot of every device, with new sequence numbers."""
        for sender in self.senders:
            sender.boot, sender.seq = sender.boot + 1, 0

    def senders_of(self, schema: str) -> list[Sender]:
        return [sender for sender in self.senders if sender.schema == schema]

    @property
    def schemas(self) -> list[str]:
        return [tenant.schema_name for tenant in self.tenants]

    def device(self, sender: Sender) -> Device:
        """Return the sender's row; call it in the sender's schema."""
        return Device.objects.get(pk=sender.device_id)
