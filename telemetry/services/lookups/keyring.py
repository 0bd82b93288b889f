"""Devices' keys, from Vault, held in this process's memory for a limited time and nowhere else.

A key is one entry of a plain dictionary: no time is looked at where a message is verified. What has become too old is
taken out by `prefetch`, which is called once a batch and reads what the batch lacks, many at a time.

Known keys live on while Vault is away, until the hard limit; a key that is not known then is `KeyUnavailable`,
and its message is parked. Revocation does not pass through here: it is in the device's specification.
"""

import logging
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from devices.domain.specs import DeviceSpec
from devices.services.vault.secret_store import SecretStore

from .key_reader import FAILED, KeyReader, Name

logger = logging.getLogger(__name__)

_MISSING_SECONDS = 5.0
# Keys do not change, so reading them again is no haste: it must not fill Vault's day, nor ours.
_REFRESHES_A_SECOND = 20
_SWEEP_SECONDS = (1.0, 5.0)
_MOST = 50_000


class KeyUnavailable(Exception):
    """Vault cannot be asked now and the key is not in memory."""


@dataclass(slots=True)
class _Table:
    """The keys of one version of one tenant's devices, by the UUID's number, and when they were read."""

    keys: dict[int, bytes] = field(default_factory=dict)
    read_at: dict[int, int] = field(default_factory=dict)


class Keyring:
    """Keys by (schema, device, version). `soft_ttl` and `hard_ttl` in seconds. Not shared between threads."""

    def __init__(self, store: SecretStore, *, soft_ttl: float, hard_ttl: float) -> None:
        self._reader = KeyReader(store)
        self._soft_ttl = soft_ttl
        self._hard_ttl = hard_ttl
        self._held: dict[str, dict[int, dict[int, bytes]]] = {}
        self._tables: dict[str, dict[int, _Table]] = {}
        self._none: dict[Name, float] = {}  # what Vault says there is not, until when
        self._pending: set[Name] = set()
        self._behind = False
        self._sweep_every = min(max(soft_ttl / 10, _SWEEP_SECONDS[0]), _SWEEP_SECONDS[1])
        self._sweep_at = time.monotonic() + self._sweep_every

    @property
    def is_paused(self) -> bool:
        """Whether Vault does not answer; it is asked again once a second, by another thread."""
        return self._reader.is_away

    def __len__(self) -> int:
        return sum(len(table) for versions in self._held.values() for table in versions.values())

    def get(self, schema: str, uuid: UUID, version: int) -> bytes | None:
        """The key's bytes; None where Vault says that there is none. Raises KeyUnavailable."""
        try:
            return self._held[schema][version][uuid.int]
        except KeyError:
            return self._get_unknown((schema, uuid, version))

    def prefetch(self, specs: Iterable[DeviceSpec]) -> None:
        """Once a batch, before `get`: read the keys of these devices that are not known yet, all at a time.

        Waits `VAULT_TIMEOUT` at most, and not at all where Vault is known to be away or is behind with what was
        asked before. Also takes in what was read meanwhile, and takes out what is too old.
        """
        self._collect()
        if time.monotonic() >= self._sweep_at:
            self._sweep()
        missing = [name for spec in specs for name in self._unknown_of(spec)]
        if missing:
            self._fetch(missing)

    def forget(self) -> None:
        """Drop every key."""
        self._held.clear()
        self._tables.clear()
        self._none.clear()

    def close(self) -> None:
        """End the threads that read."""
        self._reader.close()

    def _unknown_of(self, spec: DeviceSpec) -> Iterator[Name]:
        schema, number = spec.tenant.schema, spec.number
        held = self._held.get(schema, {})
        for key in spec.keys:
            if number not in held.get(key.version, ()) and (key.not_after is None or key.not_after > timezone.now()):
                yield schema, spec.uuid, key.version

    def _get_unknown(self, name: Name) -> bytes | None:
        if self._none.get(name, 0.0) > time.monotonic():
            return None
        if name not in self._pending:
            self._fetch([name])
        schema, uuid, version = name
        key = self._held.get(schema, {}).get(version, {}).get(uuid.int)
        if key is None and self._none.get(name, 0.0) <= time.monotonic():
            raise KeyUnavailable(f"key {version} of the device is not in memory and Vault cannot be asked")
        return key

    def _fetch(self, names: Collection[Name]) -> None:
        """Have the keys read, and wait for them as long as Vault answers."""
        now = time.monotonic()
        wanted = {name for name in names if self._none.get(name, 0.0) <= now}
        if self._reader.is_away or not self._ask(wanted) or self._behind:
            return
        deadline = now + settings.VAULT_TIMEOUT
        while not wanted.isdisjoint(self._pending) and not self._reader.is_away:
            left = deadline - time.monotonic()
            if left <= 0:
                # Until it has caught up nobody waits for it again: what has no key then is parked.
                self._behind = True
                logger.warning("Vault is slow: %d keys are still being read", len(self._pending))
                return
            self._collect(wait=min(left, 0.1))

    def _ask(self, names: Iterable[Name]) -> bool:
        """Put the names before the reader; False where so many wait already that no more are taken."""
        for name in names:
            if name not in self._pending:
                if len(self._pending) >= _MOST:
                    return False
                self._pending.add(name)
                self._reader.ask(name)
        return True

    def _collect(self, wait: float = 0.0) -> None:
        """Take in what was read; up to `wait` seconds for the first."""
        now = int(time.monotonic())
        for name, key in self._reader.answers(wait):
            self._pending.discard(name)
            if isinstance(key, bytes):
                self._hold(name, key, now)
            elif key is not FAILED:
                self._drop(name)
                self._none[name] = now + _MISSING_SECONDS
        if not self._pending:
            self._behind = False

    def _hold(self, name: Name, key: bytes, now: int) -> None:
        schema, uuid, version = name
        table = self._tables.setdefault(schema, {}).setdefault(version, _Table())
        self._held.setdefault(schema, {})[version] = table.keys
        # Where it is the same key, the same object as ever: new ones among those of the reading would leave holes.
        if table.keys.get(uuid.int) != key:
            table.keys[uuid.int] = key
        table.read_at[uuid.int] = now

    def _drop(self, name: Name) -> None:
        schema, uuid, version = name
        table = self._tables.get(schema, {}).get(version)
        if table is not None:
            table.keys.pop(uuid.int, None)
            table.read_at.pop(uuid.int, None)

    def _sweep(self) -> None:
        """Take out what is past its hard limit, and have read again some of what is past its soft one."""
        now = time.monotonic()
        self._sweep_at = now + self._sweep_every
        self._none = {name: until for name, until in self._none.items() if until > now}
        refreshes = 0 if self._reader.is_away else int(_REFRESHES_A_SECOND * self._sweep_every)
        soft, hard = now - self._soft_ttl, now - self._hard_ttl
        for schema, versions in self._tables.items():
            for version, table in versions.items():
                for number in [number for number, read_at in table.read_at.items() if read_at < hard]:
                    self._drop((schema, UUID(int=number), version))
                old = (number for number, read_at in table.read_at.items() if read_at < soft)
                for number in islice(old, refreshes):
                    refreshes -= 1
                    self._ask([(schema, UUID(int=number), version)])
