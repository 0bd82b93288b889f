"""Devices' keys, from Vault, held in this process's memory for a limited time and nowhere else.

Known keys live on while Vault is away, until the hard limit; a key that is not known then is `KeyUnavailable`,
and its message is parked. Revocation does not pass through here: it is in the device's specification.
"""

import logging
import time
from dataclasses import dataclass
from uuid import UUID

from devices.services.secrets import SecretMissing, SecretStore, SecretsUnavailable

logger = logging.getLogger(__name__)

# After a failure Vault is left alone for this long, so that a batch does not wait for it message by message.
_PAUSE_SECONDS = 1.0
_MISSING_SECONDS = 5.0


class KeyUnavailable(Exception):
    """Vault cannot be asked now and the key is not in memory."""


@dataclass(slots=True)
class _Entry:
    key: bytes | None  # None: Vault said that there is none
    read_at: float


class Keyring:
    """Keys by (schema, device, version). `soft_ttl` and `hard_ttl` in seconds."""

    def __init__(self, store: SecretStore, *, soft_ttl: float, hard_ttl: float) -> None:
        self._store = store
        self._soft_ttl = soft_ttl
        self._hard_ttl = hard_ttl
        self._entries: dict[tuple[str, UUID, int], _Entry] = {}
        self._paused_until = 0.0

    @property
    def is_paused(self) -> bool:
        """Whether Vault did not answer a moment ago."""
        return time.monotonic() < self._paused_until

    def get(self, schema: str, uuid: UUID, version: int) -> bytes | None:
        """The key's bytes; None where Vault says that there is none. Raises KeyUnavailable."""
        name, now = (schema, uuid, version), time.monotonic()
        entry = self._entries.get(name)
        if entry is not None and now - entry.read_at < (self._soft_ttl if entry.key else _MISSING_SECONDS):
            return entry.key
        if not self.is_paused:
            try:
                entry = self._entries[name] = _Entry(self._read(schema, uuid, version), now)
            except SecretsUnavailable as error:
                self._paused_until = time.monotonic() + _PAUSE_SECONDS
                logger.warning("%s; keys in memory stay in use", error)
        if entry is None or entry.key is None or now - entry.read_at > self._hard_ttl:
            if entry is not None and entry.key is None and not self.is_paused:
                return None
            raise KeyUnavailable(f"key {version} of the device is not in memory and Vault cannot be asked")
        return entry.key

    def forget(self) -> None:
        """Drop every key."""
        self._entries.clear()

    def _read(self, schema: str, uuid: UUID, version: int) -> bytes | None:
        try:
            return self._store.read(schema, uuid, version).secret.encode()
        except SecretMissing:
            return None
