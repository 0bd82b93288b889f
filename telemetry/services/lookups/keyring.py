"""Devices' keys from Vault, cached in this process's memory for a limited time and nowhere else.

A key is one entry of a plain dictionary: verifying a message compares no times. `prefetch`, which runs once a batch,
removes expired keys and reads the keys that the batch lacks, many at a time.

Cached keys stay valid while Vault is unavailable, until the hard limit; any other key is `KeyUnavailable` then, and its
message is deferred. Revocation does not pass through here: it is in the device's specification.
"""

import logging
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from devices.domain.specs import DeviceSpec
from devices.services.vault.secret_store import SecretStore

from .key_reader import FAILED, KeyName, KeyReader

logger = logging.getLogger(__name__)

_MISSING_SECONDS = 5.0
# Keys do not change, so reading them again must cost neither Vault nor this process much.
_REFRESHES_PER_SECOND = 20
_SWEEP_SECONDS = (1.0, 5.0)
_MAX_PENDING = 50_000


_NO_KEYS: dict[int, Any] = {}


class KeyUnavailable(Exception):
    """Vault is unavailable and the key is not in memory."""


@dataclass(slots=True)
class _KeyTable:
    """The keys of one version of one tenant's devices, by the UUID's number, and when they were read."""

    keys: dict[int, bytes] = field(default_factory=dict)
    read_at: dict[int, int] = field(default_factory=dict)


class Keyring:
    """Keys by (schema, device, version). `soft_ttl` and `hard_ttl` in seconds. Not shared between threads."""

    def __init__(self, store: SecretStore, *, soft_ttl: float, hard_ttl: float) -> None:
        self._reader = KeyReader(store)
        self._soft_ttl = soft_ttl
        self._hard_ttl = hard_ttl
        self._keys: dict[str, dict[int, dict[int, bytes]]] = {}
        self._tables: dict[str, dict[int, _KeyTable]] = {}
        self._missing: dict[KeyName, float] = {}  # keys that do not exist in Vault, until when that is remembered
        self._pending: set[KeyName] = set()
        self._is_behind = False
        self._sweep_every = min(max(soft_ttl / 10, _SWEEP_SECONDS[0]), _SWEEP_SECONDS[1])
        self._sweep_at = time.monotonic() + self._sweep_every

    @property
    def is_vault_unavailable(self) -> bool:
        """Whether Vault does not answer; another thread probes it once a second."""
        return self._reader.is_unavailable

    def __len__(self) -> int:
        return sum(len(table) for versions in self._keys.values() for table in versions.values())

    def get(self, schema: str, uuid: UUID, version: int) -> bytes | None:
        """Return the key's bytes, None where it does not exist in Vault. Raises KeyUnavailable."""
        try:
            return self._keys[schema][version][uuid.int]
        except KeyError:
            return self._get_uncached((schema, uuid, version))

    def prefetch(self, specs: Iterable[DeviceSpec]) -> None:
        """Read the keys of these devices that are not cached, all at a time; called once a batch, before `get`.

        Waits up to `VAULT_TIMEOUT`, and not at all while Vault is unavailable or behind with earlier requests. Also
        caches the keys that were read meanwhile, and removes expired ones.
        """
        if self._pending:
            self._collect()
        if time.monotonic() >= self._sweep_at:
            self._sweep()
        if missing := self._uncached_keys(specs):
            self._fetch(missing)

    def forget(self) -> None:
        """Remove every key."""
        self._keys.clear()
        self._tables.clear()
        self._missing.clear()

    def close(self) -> None:
        """End the threads that read keys."""
        self._reader.close()

    def _uncached_keys(self, specs: Iterable[DeviceSpec]) -> list[KeyName]:
        missing: list[KeyName] = []
        for spec in specs:
            cached = self._keys.get(spec.tenant.schema, _NO_KEYS)
            for key in spec.keys:
                if spec.number not in cached.get(key.version, _NO_KEYS) and (
                    key.not_after is None or key.not_after > timezone.now()
                ):
                    missing.append((spec.tenant.schema, spec.uuid, key.version))
        return missing

    def _get_uncached(self, name: KeyName) -> bytes | None:
        if self._missing.get(name, 0.0) > time.monotonic():
            return None
        if name not in self._pending:
            self._fetch([name])
        schema, uuid, version = name
        key = self._keys.get(schema, {}).get(version, {}).get(uuid.int)
        if key is None and self._missing.get(name, 0.0) <= time.monotonic():
            raise KeyUnavailable(f"key {version} of the device is not in memory and Vault is unavailable")
        return key

    def _fetch(self, names: Collection[KeyName]) -> None:
        """Request keys, and wait for them as long as Vault answers."""
        now = time.monotonic()
        wanted = {name for name in names if self._missing.get(name, 0.0) <= now}
        if self._reader.is_unavailable or not self._request(wanted) or self._is_behind:
            return
        deadline = now + settings.VAULT_TIMEOUT
        while not wanted.isdisjoint(self._pending) and not self._reader.is_unavailable:
            left = deadline - time.monotonic()
            if left <= 0:
                # Until it has caught up it is not waited for again: messages without a key are deferred.
                self._is_behind = True
                logger.warning("Vault is slow: %d keys are still being read", len(self._pending))
                return
            self._collect(wait=min(left, 0.1))

    def _request(self, names: Iterable[KeyName]) -> bool:
        """Request keys; return False where too many requests are pending."""
        for name in names:
            if name not in self._pending:
                if len(self._pending) >= _MAX_PENDING:
                    return False
                self._pending.add(name)
                self._reader.request(name)
        return True

    def _collect(self, wait: float = 0.0) -> None:
        """Cache the keys that were read, waiting up to `wait` seconds for the first."""
        now = int(time.monotonic())
        for name, key in self._reader.answers(wait):
            self._pending.discard(name)
            if isinstance(key, bytes):
                self._store(name, key, now)
            elif key is not FAILED:
                self._remove(name)
                self._missing[name] = now + _MISSING_SECONDS
        if not self._pending:
            self._is_behind = False

    def _store(self, name: KeyName, key: bytes, now: int) -> None:
        schema, uuid, version = name
        table = self._tables.setdefault(schema, {}).setdefault(version, _KeyTable())
        self._keys.setdefault(schema, {})[version] = table.keys
        # The same key stays the same object: new ones among the temporary objects would fragment the memory.
        if table.keys.get(uuid.int) != key:
            table.keys[uuid.int] = key
        table.read_at[uuid.int] = now

    def _remove(self, name: KeyName) -> None:
        schema, uuid, version = name
        table = self._tables.get(schema, {}).get(version)
        if table is not None:
            table.keys.pop(uuid.int, None)
            table.read_at.pop(uuid.int, None)

    def _sweep(self) -> None:
        """Remove keys past the hard limit, and request some of those past the soft limit again."""
        now = time.monotonic()
        self._sweep_at = now + self._sweep_every
        self._missing = {name: until for name, until in self._missing.items() if until > now}
        refreshes = 0 if self._reader.is_unavailable else int(_REFRESHES_PER_SECOND * self._sweep_every)
        soft, hard = now - self._soft_ttl, now - self._hard_ttl
        for schema, versions in self._tables.items():
            for version, table in versions.items():
                for number in [number for number, read_at in table.read_at.items() if read_at < hard]:
                    self._remove((schema, UUID(int=number), version))
                old = (number for number, read_at in table.read_at.items() if read_at < soft)
                for number in islice(old, refreshes):
                    refreshes -= 1
                    self._request([(schema, UUID(int=number), version)])
