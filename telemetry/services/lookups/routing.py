"""Step 2, routing: device UUID → tenant and DeviceSpec, from a cache in the process.

A specification is read again when its tenant's metadata changed (announced through Redis, before its next use). While
Redis is unavailable it is read again after `ttl` seconds, otherwise after ten times that, so that a lost announcement
has an end.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from redis.exceptions import RedisError

from devices import change_feeds
from devices.domain.specs import DeviceSpec
from devices.services.specs.loader import BlockedTenant, load_candidates, load_specs

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_UNKNOWN_SECONDS = 2.0
_LOCKED_SECONDS = 0.25
_FAULTY_SECONDS = 2.0
_REFRESH_SECONDS = 1.0
_REFRESH_DEVICES = 1000
# A specification lives this many times longer while changes are received.
_INVALIDATED_TTL_FACTOR = 9
_MAX_UNKNOWN = 50_000
# Wrong signatures cause at most this many devices to be read again in this time.
_MAX_RELOADS = 20
_RELOAD_SECONDS = 1.0


@dataclass(slots=True)
class Route:
    """The destination of a device's messages: its specification (None: not registered), read again after `until`.

    `locked_schema` is the schema of a tenant whose tables are locked or faulty, so that the specification cannot be
    read.
    """

    spec: DeviceSpec | None
    until: float
    locked_schema: str = ""


class Router:
    """Cache of devices' specifications. Not shared between threads."""

    def __init__(self, *, ttl: float, on_renamed_series: Callable[[str], None] = lambda _schema: None) -> None:
        self._ttl = ttl
        self._on_renamed_series = on_renamed_series
        # By the UUID's number, which is smaller than the UUID, and compared without a call.
        self._cached: dict[int, Route] = {}
        # The route of a device in the cache, by its UUID's number, however old it is.
        self.known: Callable[[int], Route | None] = self._cached.get
        self._poll_at = 0.0
        self._seen: dict[str, int] = {}
        self._newest = 0
        self._upgraded_at = 0
        # The devices in the cache by their tenant's schema: a change concerns one tenant, of a thousand or a million
        # devices. A list, which is small; what has left the cache or the tenant is skipped.
        self._numbers: dict[str, list[int]] = {}
        # Devices whose specification is older than `ttl`, by schema.
        self._aged: dict[str, set[int]] = {}
        self._refresh_at = 0.0
        self._invalidation_lost = False
        # Devices that were read again lately because of a message.
        self._reloaded: set[UUID] = set()
        self._reloads_reset_at = 0.0
        # The devices in the cache without a specification: each costs memory. Some may have been registered since.
        self._unregistered: set[int] = set()
        # Registrations of UUIDs that no tenant has proven, by the UUID's number; they are unregistered devices too.
        self._candidates: dict[int, tuple[DeviceSpec, ...]] = {}
        # The error of each tenant, by schema, whose specifications cannot be read because its schema is faulty.
        self.faults: dict[str, str] = {}

    def resolve(self, uuids: Iterable[UUID]) -> dict[UUID, DeviceSpec | None]:
        """Return the devices' specifications, None for those that are not registered. May query PostgreSQL."""
        wanted = list(set(uuids))
        return {uuid: route.spec for uuid, route in zip(wanted, self.routes(wanted), strict=True)}

    def routes(self, uuids: Sequence[UUID]) -> list[Route]:
        """Return the devices' routes, in their order; one device has one object, and unregistered ones share some.

        May query PostgreSQL.
        """
        self._drop_changed()
        now = time.monotonic()
        cached = self._cached.get
        routes = [cached(uuid.int) for uuid in uuids]
        missing = set()
        # While changes are received, this only finds a lost one.
        aged = now if self._invalidation_lost else now - _INVALIDATED_TTL_FACTOR * self._ttl
        for uuid, route in zip(uuids, routes, strict=True):
            if route is None or (route.until < now and (route.spec is None or route.locked_schema)):
                missing.add(uuid)
            elif route.until < aged and route.spec is not None:
                self._aged.setdefault(route.spec.tenant.schema, set()).add(route.spec.number)
        if missing:
            self._load(missing, now)
        self._refresh(now)
        return [self._cached[uuid.int] for uuid in uuids] if missing else routes  # type: ignore[return-value]

    def _refresh(self, now: float) -> None:
        """Read aged specifications again, many at once; changed ones were already dropped by their announcement."""
        if self._aged and now >= self._refresh_at:
            self._refresh_at = now + _REFRESH_SECONDS
            numbers: set[int] = set()
            while self._aged and len(numbers) < _REFRESH_DEVICES:
                schema, aged = self._aged.popitem()
                numbers |= aged
                numbers.update(self._ageing(schema, now, _REFRESH_DEVICES - len(numbers)))
            self._load([UUID(int=number) for number in numbers], now)

    def _ageing(self, schema: str, now: float, limit: int) -> Iterator[int]:
        """Yield the tenant's devices that will soon be aged, if it has at most `limit`: each reading of a tenant reads
        its types and metrics, so all of its devices are read together.
        """
        numbers = self._numbers.get(schema, [])
        if len(numbers) <= limit:
            ageing = now - _INVALIDATED_TTL_FACTOR * self._ttl / 2
            for number in numbers:
                route = self._cached.get(number)
                if route is not None and route.spec is not None and route.until < ageing:
                    yield number

    def _load(self, uuids: Collection[UUID], now: float) -> None:
        blocked: dict[UUID, BlockedTenant] = {}
        loaded = load_specs(uuids, blocked)
        self._note_faults(loaded.values(), blocked.values())
        self._load_candidates([uuid for uuid in uuids if uuid not in loaded and uuid not in blocked])
        # One float object for all of them: one for each would be as large as a third of the route.
        known_until, unknown = now + self._ttl, Route(None, now + _UNKNOWN_SECONDS)
        for uuid in uuids:
            spec, before = loaded.get(uuid), self._cached.get(uuid.int)
            if (tenant := blocked.get(uuid)) is not None:
                # The former specification stays valid a little longer.
                until = now + (_FAULTY_SECONDS if tenant.fault else _LOCKED_SECONDS)
                self._cached[uuid.int] = Route(before.spec if before else None, until, tenant.schema)
                if before is None or before.spec is None:
                    self._unregistered.add(uuid.int)
            elif spec is None:
                self._cached[uuid.int] = unknown
                self._unregistered.add(uuid.int)
            elif before is not None and before.spec == spec:
                # The same objects stay: new ones among the temporary objects would fragment the memory.
                before.until, before.locked_schema = known_until, ""
            elif before is not None and before.spec is not None:
                if before.spec.tenant.schema != spec.tenant.schema:
                    self._numbers.setdefault(spec.tenant.schema, []).append(spec.number)
                before.spec, before.until, before.locked_schema = _with_same_parts(spec, before.spec), known_until, ""
            else:
                # The specification's own number object, so that the message's can be freed.
                self._cached[spec.number] = Route(spec, known_until)
                self._numbers.setdefault(spec.tenant.schema, []).append(spec.number)
        if len(self._unregistered) > _MAX_UNKNOWN:
            self._drop_unregistered({uuid.int for uuid in uuids})

    def _drop_unregistered(self, kept: set[int]) -> None:
        for number in self._unregistered - kept:
            route = self._cached.get(number)
            if route is not None and route.spec is None:
                del self._cached[number]
        self._unregistered &= kept

    def _load_candidates(self, unregistered: Sequence[UUID]) -> None:
        for uuid in unregistered:
            self._candidates.pop(uuid.int, None)
        if unregistered:
            found = load_candidates(unregistered)
            self._candidates |= {uuid.int: candidates for uuid, candidates in found.items()}

    def candidates_of(self, uuid: UUID) -> tuple[DeviceSpec, ...]:
        """Return the unproven registrations of a UUID without a route, as they were when its route was last read."""
        return self._candidates.get(uuid.int, ())

    def read_again(self, uuid: UUID) -> Route:
        """Return the device's route as it is in PostgreSQL now."""
        self._candidates.pop(uuid.int, None)
        self._load([uuid], time.monotonic())
        return self._cached[uuid.int]

    def _note_faults(self, loaded: Iterable[DeviceSpec], blocked: Iterable[BlockedTenant]) -> None:
        if self.faults:
            for schema in {spec.tenant.schema for spec in loaded}:
                self.faults.pop(schema, None)
        self.faults |= {tenant.schema: tenant.fault for tenant in blocked if tenant.fault}

    def reload(self, uuid: UUID) -> Route | None:
        """Return the route of a device whose message is refused as it is registered now, None where it was reloaded a
        moment ago. A key that has just been issued may be used before its announcement arrives.
        """
        now = time.monotonic()
        if now >= self._reloads_reset_at:
            self._reloads_reset_at = now + _RELOAD_SECONDS
            self._reloaded.clear()
        if uuid in self._reloaded or len(self._reloaded) >= _MAX_RELOADS:
            return None
        self._reloaded.add(uuid)
        self._load([uuid], now)
        return self._cached.get(uuid.int)

    def upgrade_signature(self, uuid: UUID) -> None:
        """Require version 2 from a device that has signed with it, from now on and at every listener."""
        self._upgrade_signature(uuid)
        change_feeds.publish_signature_upgrade(uuid)

    def _upgrade_signature(self, uuid: UUID) -> None:
        cached = self._cached.get(uuid.int)
        if cached is not None and cached.spec is not None:
            cached.spec = replace(cached.spec, min_signature_version=2)

    def forget(self, schema: str | None = None) -> None:
        """Remove a tenant's specifications and all unregistered devices, or everything."""
        self._candidates.clear()
        if schema is None:
            self._cached.clear()
            self._numbers.clear()
            self._unregistered.clear()
            return
        for number in (*self._numbers.pop(schema, ()), *self._unregistered):
            route = self._cached.get(number)
            if route is not None and (route.spec is None or route.spec.tenant.schema == schema):
                del self._cached[number]
        self._unregistered.clear()

    def _drop_changed(self) -> None:
        now = time.monotonic()
        if now < self._poll_at:
            return
        self._poll_at = now + _POLL_SECONDS
        try:
            upgraded_devices = change_feeds.signature_upgrades_after(self._upgraded_at)
            changed = change_feeds.spec_changes_since(self._newest)
        except RedisError:
            logger.warning("Redis is unavailable: changed metadata takes effect after at most %.0f s", self._ttl)
            self._poll_at = now + 1.0
            self._invalidation_lost = True
            return
        self._invalidation_lost = False
        # Before changed specifications are dropped: staff may have allowed version 1 again.
        for uuid, at in upgraded_devices.items():
            self._upgrade_signature(uuid)
            self._upgraded_at = max(self._upgraded_at, at)
        for schema, at in changed.items():
            if self._seen.get(schema) != at:
                self._seen[schema] = at
                self._newest = max(self._newest, at)
                if (renamed := change_feeds.renamed_series_of(schema)) is not None:
                    self._on_renamed_series(renamed)
                else:
                    self.forget(schema)


def _with_same_parts(spec: DeviceSpec, before: DeviceSpec) -> DeviceSpec:
    """Return the specification with equal parts replaced by the former one's objects: the tables of keys and series
    refer to these, and a second object of each for every changed device would take as much memory again.
    """
    names = ("number", "device_id", "cpu_serial")
    old = {name: getattr(before, name) for name in names if getattr(before, name) == getattr(spec, name)}
    return replace(spec, **old)
