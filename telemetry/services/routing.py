"""Stage 2: device UUID → tenant and DeviceSpec, from a cache in the process.

A specification is read again when its tenant's metadata changed (told through Redis) and in any case after
`ttl` seconds, so that a lost change heals by itself.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from redis.exceptions import RedisError

from devices.services import spec_changes
from devices.services.spec_loader import load_specs, load_tenant_by_segment
from devices.services.specs import DeviceSpec, TenantSpec

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_UNKNOWN_SECONDS = 2.0


@dataclass(slots=True)
class _Cached:
    spec: DeviceSpec | None
    until: float


class Router:
    """Specifications of devices. Not shared between threads."""

    def __init__(self, *, ttl: float) -> None:
        self._ttl = ttl
        self._cached: dict[UUID, _Cached] = {}
        self._segments: dict[str, tuple[TenantSpec | None, float]] = {}
        self._poll_at = 0.0
        self._seen: dict[str, int] = {}
        self._newest = 0

    def resolve(self, uuids: Iterable[UUID]) -> dict[UUID, DeviceSpec | None]:
        """The devices' specifications, None for those that are not registered. May ask PostgreSQL."""
        self._drop_changed()
        now = time.monotonic()
        wanted = set(uuids)
        missing = {uuid for uuid in wanted if (cached := self._cached.get(uuid)) is None or cached.until < now}
        if missing:
            loaded = load_specs(missing)
            for uuid in missing:
                spec = loaded.get(uuid)
                self._cached[uuid] = _Cached(spec, now + (self._ttl if spec else _UNKNOWN_SECONDS))
        return {uuid: self._cached[uuid].spec for uuid in wanted}

    def cached(self, uuid: UUID) -> DeviceSpec | None:
        """The device's specification as it is in the cache now."""
        found = self._cached.get(uuid)
        return found.spec if found else None

    def tenant_named(self, segment: str) -> TenantSpec | None:
        """The active tenant with that slug, for a message of no registered device."""
        now = time.monotonic()
        tenant, until = self._segments.get(segment, (None, 0.0))
        if until < now:
            tenant = load_tenant_by_segment(segment) if segment else None
            self._segments[segment] = (tenant, now + _UNKNOWN_SECONDS)
            if len(self._segments) > 10_000:
                self._segments.clear()
        return tenant

    def raise_floor(self, uuid: UUID) -> None:
        """The device has signed with version 2: from the next message on, version 1 is a downgrade."""
        cached = self._cached.get(uuid)
        if cached is not None and cached.spec is not None:
            cached.spec = replace(cached.spec, signature_floor=2)

    def forget(self, schema: str | None = None) -> None:
        """Drop a tenant's specifications and every 'not registered', or everything."""
        self._cached = {
            uuid: cached
            for uuid, cached in self._cached.items()
            if schema is not None and cached.spec is not None and cached.spec.tenant.schema != schema
        }
        self._segments.clear()

    def _drop_changed(self) -> None:
        now = time.monotonic()
        if now < self._poll_at:
            return
        self._poll_at = now + _POLL_SECONDS
        try:
            changed = spec_changes.changed_since(self._newest)
        except RedisError:
            logger.warning("Redis is away: changed metadata is seen after %.0f s at the latest", self._ttl)
            self._poll_at = now + 1.0
            return
        for schema, at in changed.items():
            if self._seen.get(schema) != at:
                self._seen[schema] = at
                self._newest = max(self._newest, at)
                self.forget(schema)
