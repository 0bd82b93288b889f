"""Salted hashes of the devices' passwords at the broker, for brokers that ask the platform who is who."""

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from uuid import UUID

from devices.models import BrokerPassword, Device

_SALT_BYTES = 16
# What the platform makes: 192 random bits as text. Anything else came with its device.
_MADE_HERE = re.compile(r"[A-Za-z0-9_-]{32}")
# About 10 ms: it is done at each connection of such a device.
_ROUNDS = 20_000


def keep(passwords: Mapping[int, str]) -> None:
    """Keep what the passwords (by the device's primary key, in the current tenant) are checked with."""
    rows = []
    for device_id, password in passwords.items():
        salt, rounds = os.urandom(_SALT_BYTES), 0 if _MADE_HERE.fullmatch(password) else _ROUNDS
        made = digest(salt, password, rounds)
        rows.append(BrokerPassword(device_id=device_id, salt=salt, digest=made, rounds=rounds))
    BrokerPassword.objects.bulk_create(
        rows,
        batch_size=1000,
        update_conflicts=True,
        update_fields=["salt", "digest", "rounds"],
        unique_fields=["device"],
    )


def without() -> list[tuple[int, UUID]]:
    """The current tenant's devices (primary key, UUID) whose password cannot be checked yet."""
    return list(Device.objects.filter(broker_password=None).order_by("pk").values_list("pk", "uuid"))


def digest(salt: bytes, password: str, rounds: int = 0) -> bytes:
    """HMAC-SHA256 of the password under the salt, or so many rounds of PBKDF2 with it.

    Any text is a password, also one that is not valid UTF-8.
    """
    encoded = password.encode("utf-8", "surrogatepass")
    return hashlib.pbkdf2_hmac("sha256", encoded, salt, rounds) if rounds else hmac.digest(salt, encoded, "sha256")


def matches(salt: bytes, kept: bytes, password: str, rounds: int = 0) -> bool:
    """Whether the password is the one of which `kept` was made; in constant time."""
    return hmac.compare_digest(kept, digest(salt, password, rounds))
