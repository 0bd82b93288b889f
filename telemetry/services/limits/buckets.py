"""Token buckets of one listener: tokens leased from Redis, and devices counted locally. No I/O.

Tokens of a tenant's buckets are leased from Redis a chunk at a time. Devices are many and mostly slow, so each is
counted in the process (one number a device) up to this listener's share of its limit; only a device that exceeds it
gets a bucket in Redis, which all listeners then share.
"""

from dataclasses import dataclass, field
from functools import partial

from devices.domain.specs import LimitSpec, RateSpec
from tenants.services.limits import LimitName

PREFIX = "gwanje:limit"
# A device that has been within its share for this long is counted in the process again.
_SHARED_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class TokenBucket:
    """A rate's bucket, or a day's quota (`rate` 0). `left` are the leased and unused tokens; below 0 they are owed."""

    name: LimitName
    key: str
    rate: float
    size: float
    device_id: int | None = None
    left: int = 0
    # Since the last exchange with Redis.
    used: int = 0
    refused: int = 0
    # Tokens that were used before the bucket was in Redis.
    owed: int = 0
    # Redis had no more tokens: the next request must not be before.
    request_at: float = 0.0
    # When tokens were last taken, and when this listener last filled the bucket locally, Redis being unavailable.
    taken_at: float = 0.0
    filled_at: float = 0.0

    def retry_after(self) -> float:
        """Return the seconds until a message may pass: the time that the rate needs for the messages refused lately."""
        return min(60.0, max(1.0, (1 + self.refused) / self.rate))

    def fill_locally(self, need: int, now: float, share: float) -> None:
        """Add this listener's share of the rate while Redis is unavailable. A quota does not limit then."""
        if not self.rate:
            self.left += need
            self.owed += need
            return
        elapsed = now - self.filled_at if self.filled_at else self.size / self.rate
        tokens = int(min(elapsed * self.rate, self.size) * share)
        if tokens:
            self.left += tokens
            self.filled_at = now


@dataclass(slots=True, eq=False)
class TrafficClass:
    """The limits of one class of a tenant's messages: live, late, or births and wills."""

    buckets: tuple[TokenBucket, ...]  # the tenant's, in the order in which tokens are taken
    device: RateSpec | None
    device_name: LimitName
    key: str
    # By device: when its local bucket is full again. A full one has no entry.
    full_at: dict[int, float] = field(default_factory=dict)
    shared: dict[int, TokenBucket] = field(default_factory=dict)
    interval: float = 0.0
    slack: float = 0.0

    def set_share(self, share: float) -> None:
        """Set the part of each device's limit that this listener may count locally; 1: it is the only listener."""
        if self.device is not None:
            self.interval = 1 / (self.device.rate * share)
            # A millionth more, because sums of intervals are not exact.
            self.slack = self.device.burst / self.device.rate - self.interval * 0.999999

    def take(self, device_id: int, now: float) -> bool:
        """Take a message's tokens locally; return False where `shared_bucket_of` and Redis are needed."""
        for bucket in self.buckets:
            if bucket.left < 1:
                return False
        if self.device is not None and (device_id in self.shared or not self.take_device(device_id, now)):
            return False
        for bucket in self.buckets:
            bucket.left -= 1
            bucket.used += 1
        return True

    def take_device(self, device_id: int, now: float) -> bool:
        """Take a token of the device's local bucket; return False where it exceeds this listener's share."""
        full_at = self.full_at.get(device_id, now)
        if full_at < now:
            full_at = now
        if full_at - now > self.slack:
            return False
        self.full_at[device_id] = full_at + self.interval
        return True

    def release(self, device_id: int, *, replayed: bool = False) -> None:
        """Undo `take` for a message that was not stored and comes again. A replay takes tokens of quotas only."""
        for bucket in self.buckets:
            if not (replayed and bucket.rate):
                bucket.left += 1
                bucket.used -= 1
        if self.device is None or replayed:
            return
        shared = self.shared.get(device_id)
        if shared is not None:
            shared.left += 1
            shared.used -= 1
        elif device_id in self.full_at:
            self.full_at[device_id] -= self.interval

    def seconds_until_token(self, device_id: int, now: float) -> float:
        """Return the seconds until the device's local bucket has a token, 0 where it has one."""
        return max(0.0, self.full_at.get(device_id, now) - now - self.slack)

    def shared_bucket_of(self, device_id: int, now: float) -> TokenBucket:
        """Return the device's bucket in Redis, which it gets when it exceeds this listener's share."""
        bucket = self.shared.get(device_id)
        if bucket is None:
            assert self.device is not None  # noqa: S101 (only devices with a limit go beyond it)
            rate = self.device
            bucket = TokenBucket(self.device_name, f"{self.key}:{device_id}", rate.rate, rate.burst, device_id)
            self.shared[device_id] = bucket
            bucket.taken_at = now
            spent = max(0.0, self.full_at.pop(device_id, now) - now)
            bucket.owed = round(spent / self.interval)
        return bucket

    def drop_idle(self, now: float) -> None:
        """Forget the devices whose buckets are full."""
        self.full_at = {device_id: at for device_id, at in self.full_at.items() if at > now}
        self.shared = {one: bucket for one, bucket in self.shared.items() if now - bucket.taken_at < _SHARED_SECONDS}


@dataclass(slots=True, eq=False)
class TenantBuckets:
    """A tenant's traffic classes, made from its limits."""

    limits: LimitSpec
    live: TrafficClass
    late: TrafficClass
    status: TrafficClass

    @property
    def classes(self) -> tuple[TrafficClass, TrafficClass, TrafficClass]:
        """All three classes."""
        return self.live, self.late, self.status


def bucket_key(schema: str, *parts: object) -> str:
    """Return the bucket's key in Redis, which contains the schema, and for the quota also the day."""
    return ":".join(map(str, (PREFIX, schema, *parts)))


def make_buckets(schema: str, limits: LimitSpec, day: int, share: float) -> TenantBuckets:
    """Return a tenant's traffic classes without leased tokens."""
    key = partial(bucket_key, schema)

    def bucket(name: LimitName, rate: RateSpec | None) -> tuple[TokenBucket, ...]:
        return (TokenBucket(name, key(name), rate.rate, rate.burst),) if rate else ()

    quota = limits.daily_quota
    quotas = (TokenBucket(LimitName.DAILY_QUOTA, key(LimitName.DAILY_QUOTA, day), 0.0, quota),) if quota else ()
    rate, late = LimitName.DEVICE_RATE, LimitName.DEVICE_BACKFILL_RATE
    made = TenantBuckets(
        limits,
        live=TrafficClass((*bucket(LimitName.TENANT_RATE, limits.tenant), *quotas), limits.device, rate, key(rate)),
        late=TrafficClass(
            bucket(LimitName.TENANT_BACKFILL_RATE, limits.tenant_backfill), limits.device_backfill, late, key(late)
        ),
        # Presence depends on births and wills: telemetry must not use up their limit, only births and wills can.
        status=TrafficClass((), limits.device, rate, key(rate, "status")),
    )
    for traffic in made.classes:
        traffic.set_share(share)
    return made
