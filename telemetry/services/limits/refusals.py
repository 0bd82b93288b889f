"""Step 3, limits before a message is validated: the rates of messages that were refused, or were over a rate.

A message costs this process nearly as much when it is refused as when it is stored, and a publisher can send any number
of bad ones. So each refused message is charged to its device and to its tenant, and a device that has used up its rate
is braked: as many of its messages as the rate allows are validated, the others are only counted. A message that turns
out to be valid is not charged, so that a device with good messages is never braked, however fast it sends. A tenant's
rate only brakes the devices that have caused refusals themselves. All unregistered publishers share one bucket.

The broker binds a topic's device to the account, so a device cannot use up another one's rate.
"""

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from django.conf import settings

from tenants.services.limits import LimitName

Key = TypeVar("Key", bound=Hashable)

# In place of a schema: unregistered publishers.
UNKNOWN = ""
# A device that caused no refusal for so long is not braked with its tenant.
_DROP_IDLE_SECONDS = 10.0
# A message over another limit is charged so that its publisher may send this many times the limit.
_EXCESS_FACTOR = 2
# The burst of unregistered publishers together, in seconds of their rate: anyone can make them up, and each of their
# messages costs a row of its own.
_UNREGISTERED_BURST_SECONDS = 2.0


class Publisher(NamedTuple):
    """The sender of a message: the tenant's schema, or `UNKNOWN`, and the UUID's number and the id of the device."""

    schema: str
    number: int
    device_id: int | None


UNREGISTERED = Publisher(UNKNOWN, 0, None)


class ExceededRate(NamedTuple):
    """The limit under which a message of a braked publisher is counted; `device_id` where it is the device's own."""

    limit: LimitName
    device_id: int | None


@dataclass(slots=True)
class _Bucket:
    """A bucket of refusals. It is braked from when it is empty until it is half full again."""

    full_at: float
    cost: float  # seconds that the last message was charged
    exceeded: ExceededRate
    burst: float  # seconds
    is_braked: bool = False


class RefusalLimiter:
    """The refusals that one listener has seen. Not shared between threads; `drop_idle` must run now and then."""

    def __init__(self, limits: Mapping[str, float] | None = None) -> None:
        """`limits`: rates in messages a second by name, by default those of the settings. 0: no limit."""
        limits = settings.TENANT_LIMITS if limits is None else limits
        self._device_rate = limits.get(LimitName.DEVICE_REFUSAL_RATE, 0.0)
        self._tenant_rate = limits.get(LimitName.TENANT_REFUSAL_RATE, 0.0)
        self._burst_seconds = settings.LIMIT_BURST_SECONDS
        self._devices: dict[int, _Bucket] = {}
        self._tenants: dict[str, _Bucket] = {}
        self._drop_idle_at = 0.0
        # Whether any bucket is braked: while none is, messages need not be checked.
        self.is_braking = False
        self._newly_braked: list[Publisher] = []

    def exceeded(self, publisher: Publisher) -> ExceededRate | None:
        """Return the limit under which the publisher's next message is counted; None: it is to be validated."""
        now = time.monotonic()
        device = self._devices.get(publisher.number)
        if device is None and publisher.schema != UNKNOWN:
            return None
        tenant = self._tenants.get(publisher.schema)
        for bucket in (device, tenant):
            if bucket is not None and bucket.is_braked and not self._has_token(bucket, now):
                return bucket.exceeded
        for bucket in (device, tenant):
            if bucket is not None and bucket.is_braked:
                bucket.full_at += bucket.cost
        return None

    def charge(
        self, publisher: Publisher, limit: LimitName | None = None, value: float = 0.0, *, is_own: bool = False
    ) -> None:
        """Charge a refused message to its publisher; `limit`, its `value` and whether it is the device's own: of a
        message that was over a rate.
        """
        now = time.monotonic()
        if self._device_rate and publisher.schema != UNKNOWN:
            device = ExceededRate(limit or LimitName.DEVICE_REFUSAL_RATE, publisher.device_id)
            if limit is not None and not is_own:
                device = ExceededRate(limit, None)
            rate = max(self._device_rate, _EXCESS_FACTOR * value)
            if self._charge(self._devices, publisher.number, device, rate, now):
                self._newly_braked.append(publisher)
        if self._tenant_rate:
            tenant = ExceededRate(limit or LimitName.TENANT_REFUSAL_RATE, None)
            rate = max(self._tenant_rate, _EXCESS_FACTOR * value)
            if self._charge(self._tenants, publisher.schema, tenant, rate, now) and publisher.schema == UNKNOWN:
                self._newly_braked.append(UNREGISTERED)

    def refund(self, publisher: Publisher) -> None:
        """Return what `exceeded` has charged for a message that turned out to be valid."""
        for bucket in (self._devices.get(publisher.number), self._tenants.get(publisher.schema)):
            if bucket is not None and bucket.is_braked:
                bucket.full_at -= bucket.cost

    def take_newly_braked(self) -> list[Publisher]:
        """Return the publishers that have been braked since the last call: some of their messages may wait to be
        validated.
        """
        found, self._newly_braked = self._newly_braked, []
        return found

    def drop_idle(self) -> None:
        """Forget the publishers whose buckets have been full for a while."""
        now = time.monotonic()
        if now < self._drop_idle_at:
            return
        self._drop_idle_at = now + _DROP_IDLE_SECONDS
        full_since = now - _DROP_IDLE_SECONDS
        self._devices = {number: one for number, one in self._devices.items() if one.full_at > full_since}
        self._tenants = {schema: one for schema, one in self._tenants.items() if one.full_at > full_since}
        self.is_braking = any(one.is_braked for one in (*self._devices.values(), *self._tenants.values()))

    def _charge(self, buckets: dict[Key, _Bucket], key: Key, exceeded: ExceededRate, rate: float, now: float) -> bool:
        """Charge a message to the bucket; return whether that braked it."""
        bucket = buckets.get(key)
        if bucket is None:
            burst = self._burst_seconds if key != UNKNOWN else min(self._burst_seconds, _UNREGISTERED_BURST_SECONDS)
            bucket = buckets[key] = _Bucket(now, 1 / rate, exceeded, burst)
        if bucket.is_braked:
            return False  # it was charged before it was validated
        bucket.exceeded, bucket.cost = exceeded, 1 / rate
        bucket.full_at = max(bucket.full_at, now) + bucket.cost
        if bucket.full_at - now > bucket.burst:
            bucket.is_braked = self.is_braking = True
        return bucket.is_braked

    @staticmethod
    def _has_token(bucket: _Bucket, now: float) -> bool:
        wait = bucket.full_at - now
        if wait < bucket.burst / 2:
            bucket.is_braked = False
        return wait + bucket.cost <= bucket.burst
