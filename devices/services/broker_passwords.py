"""Salted hashes of the devices' passwords at the broker, for brokers that ask the platform who is who."""

import hmac
import os
from collections.abc import Mapping
from uuid import UUID

from devices.models import BrokerPassword, Device

_SALT_BYTES = 16


def keep(passwords: Mapping[int, str]) -> None:
    """Keep what the passwords (by the device's primary key, in the current tenant) are checked with."""
    rows = []
    for device_id, password in passwords.items():
        salt = os.urandom(_SALT_BYTES)
        rows.append(BrokerPassword(device_id=device_id, salt=salt, digest=digest(salt, password)))
    BrokerPassword.objects.bulk_create(
        rows, batch_size=1000, update_conflicts=True, update_fields=["salt", "digest"], unique_fields=["device"]
    )


def without() -> list[tuple[int, UUID]]:
    """The current tenant's devices (primary key, UUID) whose password cannot be checked yet."""
    return list(Device.objects.filter(broker_password=None).order_by("pk").values_list("pk", "uuid"))


def digest(salt: bytes, password: str) -> bytes:
    """HMAC-SHA256 of the password under the salt; any text is a password, also one that is not valid UTF-8."""
    return hmac.digest(salt, password.encode("utf-8", "surrogatepass"), "sha256")


def matches(salt: bytes, kept: bytes, password: str) -> bool:
    """Whether the password is the one of which `kept` was made; in constant time."""
    return hmac.compare_digest(kept, digest(salt, password))
