"""Salted hashes of the devices' broker passwords, for brokers that authenticate through the platform."""

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from uuid import UUID

from devices.models import BrokerPassword, Device

_SALT_BYTES = 16
# The platform generates 192 random bits as text. Other passwords came with their devices.
_GENERATED = re.compile(r"[A-Za-z0-9_-]{32}")
# About 10 ms, at each connection of such a device.
_ROUNDS = 20_000


def store_hashes(passwords: Mapping[int, str]) -> None:
    """Store the hashes of the passwords, by the device's primary key, in the current tenant."""
    rows = []
    for device_id, password in passwords.items():
        salt, rounds = os.urandom(_SALT_BYTES), 0 if _GENERATED.fullmatch(password) else _ROUNDS
        made = digest(salt, password, rounds)
        rows.append(BrokerPassword(device_id=device_id, salt=salt, digest=made, rounds=rounds))
    BrokerPassword.objects.bulk_create(
        rows,
        batch_size=1000,
        update_conflicts=True,
        update_fields=["salt", "digest", "rounds"],
        unique_fields=["device"],
    )


def devices_without_hash() -> list[tuple[int, UUID]]:
    """Return the current tenant's devices (primary key, UUID) whose password cannot be checked yet."""
    return list(Device.objects.filter(broker_password=None).order_by("pk").values_list("pk", "uuid"))


def digest(salt: bytes, password: str, rounds: int = 0) -> bytes:
    """Return the HMAC-SHA256 of the password with the salt, or PBKDF2 with that many rounds.

    Any text is a password, even if it is not valid UTF-8.
    """
    encoded = password.encode("utf-8", "surrogatepass")
    return hashlib.pbkdf2_hmac("sha256", encoded, salt, rounds) if rounds else hmac.digest(salt, encoded, "sha256")


def matches(salt: bytes, kept: bytes, password: str, rounds: int = 0) -> bool:
    """Return whether `kept` is the digest of the password; in constant time."""
    return hmac.compare_digest(kept, digest(salt, password, rounds))
