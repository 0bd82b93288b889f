"""Stage 2: device UUID → tenant and DeviceSpec, from a cache in the process.

A specification is read again when its tenant's metadata changed (told through Redis, before its next use). While
Redis is away, it is read again soon after `ttl` seconds, and else after ten times that, so that a lost change heals.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from redis.exceptions import RedisError

from devices import change_feeds
from devices.domain.specs import DeviceSpec, TenantSpec
from devices.services.specs.loader import load_specs, load_tenant_by_segment

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_UNKNOWN_SECONDS = 2.0
_BUSY_SECONDS = 0.25
_REFRESH_SECONDS = 1.0
_REFRESH_DEVICES = 1000
# A specification lives so many times longer while we are told of changes.
_HEARING = 9
_MOST_UNKNOWN = 50_000
# Whoever sends wrong signatures has so many devices read again in so many seconds, and no more.
_MOST_DOUBTED = 20
_DOUBT_SECONDS = 1.0


@dataclass(slots=True)
class Route:
    """Where a device's messages go: its specification now (None: not registered), read again after `until`.

    `busy` is the schema of a tenant whose tables are locked, so that nothing is known of the device yet.
    """

    spec: DeviceSpec | None
    until: float
    busy: str = ""


class Router:
    """Specifications of devices. Not shared between threads."""

    def __init__(self, *, ttl: float, on_renamed_series: Callable[[str], None] = lambda _schema: None) -> None:
        self._ttl = ttl
        self._on_renamed_series = on_renamed_series
        # By the UUID's number, which is smaller than the UUID, and compared without a call.
        self._cached: dict[int, Route] = {}
        self._segments: dict[str, tuple[TenantSpec | None, float]] = {}
        self._poll_at = 0.0
        self._seen: dict[str, int] = {}
        self._newest = 0
        self._risen_at = 0
        # Devices whose specification is older than `ttl`, by the specification's own number.
        self._aged: set[int] = set()
        self._refresh_at = 0.0
        self._is_deaf = False
        # Devices that were read again because of a message, and until when that is enough.
        self._doubted: set[UUID] = set()
        self._doubt_from = 0.0
        # How many that are not registered were asked for: each costs memory.
        self._unknown = 0

    def resolve(self, uuids: Iterable[UUID]) -> dict[UUID, DeviceSpec | None]:
        """The devices' specifications, None for those that are not registered. May ask PostgreSQL."""
        wanted = list(set(uuids))
        return {uuid: route.spec for uuid, route in zip(wanted, self.routes(wanted), strict=True)}

    def routes(self, uuids: Sequence[UUID]) -> list[Route]:
        """The devices' routes, in their order; the same device has the same object. May ask PostgreSQL."""
        self._drop_changed()
        now = time.monotonic()
        cached = self._cached.get
        routes = [cached(uuid.int) for uuid in uuids]
        missing = set()
        # While we hear of changes, only one that was lost has to be found.
        aged = now if self._is_deaf else now - _HEARING * self._ttl
        for uuid, route in zip(uuids, routes, strict=True):
            if route is None or (route.until < now and (route.spec is None or route.busy)):
                missing.add(uuid)
            elif route.until < aged and route.spec is not None:
                self._aged.add(route.spec.number)
        if missing:
            self._load(missing, now)
        self._refresh(now)
        return [self._cached[uuid.int] for uuid in uuids] if missing else routes  # type: ignore[return-value]

    def _refresh(self, now: float) -> None:
        """Read aged specifications again, many at once: they are changed already where we were told of a change."""
        if self._aged and now >= self._refresh_at:
            self._refresh_at = now + _REFRESH_SECONDS
            aged = [UUID(int=self._aged.pop()) for _ in range(min(len(self._aged), _REFRESH_DEVICES))]
            self._load(aged, now)

    def _load(self, uuids: Collection[UUID], now: float) -> None:
        busy: dict[UUID, str] = {}
        loaded = load_specs(uuids, busy)
        # One number for all of them: each of its own would be as large as a third of the route.
        known_until, unknown_until = now + self._ttl, now + _UNKNOWN_SECONDS
        for uuid in uuids:
            spec, before = loaded.get(uuid), self._cached.get(uuid.int)
            if uuid in busy:
                # What was known of the device holds a little longer.
                self._cached[uuid.int] = Route(before.spec if before else None, now + _BUSY_SECONDS, busy[uuid])
            elif spec is None:
                self._cached[uuid.int] = Route(None, unknown_until)
                self._unknown += 1
            elif before is not None and before.spec == spec:
                # The same objects as ever: new ones among those of the reading would leave holes in the memory.
                before.until, before.busy = known_until, ""
            elif before is not None and before.spec is not None:
                before.spec, before.until, before.busy = _with_same_parts(spec, before.spec), known_until, ""
            else:
                # The specification's own number, so that the message's need not be kept.
                self._cached[spec.number] = Route(spec, known_until)
        if self._unknown > _MOST_UNKNOWN:
            self._unknown = 0
            asked = {uuid.int for uuid in uuids}
            self._cached = {n: route for n, route in self._cached.items() if route.spec is not None or n in asked}

    def read_again(self, uuid: UUID) -> Route | None:
        """The device's route as it is registered now, for one whose message is refused: a key that has just been
        issued may be used before we are told of it. None where that was looked at a moment ago.
        """
        now = time.monotonic()
        if now >= self._doubt_from:
            self._doubt_from = now + _DOUBT_SECONDS
            self._doubted.clear()
        if uuid in self._doubted or len(self._doubted) >= _MOST_DOUBTED:
            return None
        self._doubted.add(uuid)
        self._load([uuid], now)
        return self._cached.get(uuid.int)

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
        """The device has signed with version 2: from now on version 1 is a downgrade, at every listener."""
        self._raise_floor(uuid)
        change_feeds.publish_signature_upgrade(uuid)

    def _raise_floor(self, uuid: UUID) -> None:
        cached = self._cached.get(uuid.int)
        if cached is not None and cached.spec is not None:
            cached.spec = replace(cached.spec, signature_floor=2)

    def forget(self, schema: str | None = None) -> None:
        """Drop a tenant's specifications and every 'not registered', or everything."""
        self._cached = {
            number: cached
            for number, cached in self._cached.items()
            if schema is not None and cached.spec is not None and cached.spec.tenant.schema != schema
        }
        self._segments.clear()

    def _drop_changed(self) -> None:
        now = time.monotonic()
        if now < self._poll_at:
            return
        self._poll_at = now + _POLL_SECONDS
        try:
            risen = change_feeds.signature_upgrades_after(self._risen_at)
            changed = change_feeds.spec_changes_since(self._newest)
        except RedisError:
            logger.warning("Redis is away: changed metadata is seen after %.0f s at the latest", self._ttl)
            self._poll_at = now + 1.0
            self._is_deaf = True
            return
        self._is_deaf = False
        # Before what changed is dropped: staff may have allowed version 1 again.
        for uuid, at in risen.items():
            self._raise_floor(uuid)
            self._risen_at = max(self._risen_at, at)
        for schema, at in changed.items():
            if self._seen.get(schema) != at:
                self._seen[schema] = at
                self._newest = max(self._newest, at)
                if (renamed := change_feeds.renamed_series_of(schema)) is not None:
                    self._on_renamed_series(renamed)
                else:
                    self.forget(schema)


def _with_same_parts(spec: DeviceSpec, before: DeviceSpec) -> DeviceSpec:
    """The specification with the objects of the one before where they are equal: tables of keys and of series know the
    device by these, and a second one of each for every device that has changed would be as large as it is.
    """
    names = ("number", "device_id", "cpu_serial")
    old = {name: getattr(before, name) for name in names if getattr(before, name) == getattr(spec, name)}
    return replace(spec, **old)
