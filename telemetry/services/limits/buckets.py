"""Token buckets as one listener holds them: what it leased from Redis, and what it counts by itself. No I/O here.

A tenant's buckets are leased from Redis a chunk at a time. Devices are many and mostly slow, so each is counted in
the process (one number a device) up to this listener's share of its limit; only a device that goes beyond gets a
bucket in Redis, which all listeners then draw from.
"""

from dataclasses import dataclass, field
from functools import partial

from devices.domain.specs import LimitSpec, RateSpec
from tenants.services.limits import LimitName

PREFIX = "gwanje:limit"
# A device that has been within its share for so long is counted in the process again.
_COLD_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class Bucket:
    """A rate's bucket, or a day's quota (`rate` 0). `left` is what is leased and not used; below 0 it is owed."""

    name: LimitName
    key: str
    rate: float
    size: float
    device_id: int | None = None
    left: int = 0
    # Since the last exchange with Redis.
    used: int = 0
    refused: int = 0
    # What was used before the bucket was in Redis.
    owed: int = 0
    # Redis had nothing more: not to be asked again before.
    ask_at: float = 0.0
    # When tokens were last taken, and when this listener last filled the bucket by itself, Redis being away.
    taken_at: float = 0.0
    filled_at: float = 0.0

    def retry_after(self) -> float:
        """Seconds until a message has a chance: as long as the rate needs for what was refused lately."""
        return min(60.0, max(1.0, (1 + self.refused) / self.rate))

    def fill_alone(self, need: int, now: float, share: float) -> None:
        """Lease from nobody, because Redis is away: this listener's share of the rate. A quota is not held up."""
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
class Lane:
    """What holds for one kind of a tenant's messages: live, late, or births and wills."""

    buckets: tuple[Bucket, ...]  # the tenant's, in the order in which they are asked
    device: RateSpec | None
    device_name: LimitName
    key: str
    # By device: when its local bucket is full again. One that is full has no entry.
    full_at: dict[int, float] = field(default_factory=dict)
    hot: dict[int, Bucket] = field(default_factory=dict)
    interval: float = 0.0
    slack: float = 0.0

    def set_share(self, share: float) -> None:
        """Which part of each device's limit this listener may count by itself; 1: it is the only one."""
        if self.device is not None:
            self.interval = 1 / (self.device.rate * share)
            # A millionth more: sums of intervals are not exact.
            self.slack = self.device.burst / self.device.rate - self.interval * 0.999999

    def take(self, device_id: int, now: float) -> bool:
        """Take a message's tokens where that needs nobody else; False: ask `bucket_of` and Redis."""
        for bucket in self.buckets:
            if bucket.left < 1:
                return False
        if self.device is not None and (device_id in self.hot or not self.take_device(device_id, now)):
            return False
        for bucket in self.buckets:
            bucket.left -= 1
            bucket.used += 1
        return True

    def take_device(self, device_id: int, now: float) -> bool:
        """Take a token of the device's bucket in this process; False: it is beyond this listener's share."""
        full_at = self.full_at.get(device_id, now)
        if full_at < now:
            full_at = now
        if full_at - now > self.slack:
            return False
        self.full_at[device_id] = full_at + self.interval
        return True

    def give_back(self, device_id: int, *, replayed: bool = False) -> None:
        """Undo `take`: the message was not taken after all, and comes again. A replay had taken of quotas alone."""
        for bucket in self.buckets:
            if not (replayed and bucket.rate):
                bucket.left += 1
                bucket.used -= 1
        if self.device is None or replayed:
            return
        hot = self.hot.get(device_id)
        if hot is not None:
            hot.left += 1
            hot.used -= 1
        elif device_id in self.full_at:
            self.full_at[device_id] -= self.interval

    def wait_of(self, device_id: int, now: float) -> float:
        """Seconds until the local bucket of the device has a token; 0: it has one."""
        return max(0.0, self.full_at.get(device_id, now) - now - self.slack)

    def heat(self, device_id: int, now: float) -> Bucket:
        """The device's bucket in Redis, which it gets when it goes beyond this listener's share."""
        bucket = self.hot.get(device_id)
        if bucket is None:
            assert self.device is not None  # noqa: S101 (only devices with a limit go beyond it)
            rate = self.device
            bucket = Bucket(self.device_name, f"{self.key}:{device_id}", rate.rate, rate.burst, device_id)
            self.hot[device_id] = bucket
            bucket.taken_at = now
            spent = max(0.0, self.full_at.pop(device_id, now) - now)
            bucket.owed = round(spent / self.interval)
        return bucket

    def tidy(self, now: float) -> None:
        """Forget devices that need no counting: their buckets are full."""
        self.full_at = {device_id: at for device_id, at in self.full_at.items() if at > now}
        self.hot = {one: bucket for one, bucket in self.hot.items() if now - bucket.taken_at < _COLD_SECONDS}


@dataclass(slots=True, eq=False)
class TenantBuckets:
    """A tenant's lanes, made from its limits."""

    limits: LimitSpec
    live: Lane
    late: Lane
    status: Lane

    @property
    def lanes(self) -> tuple[Lane, Lane, Lane]:
        """All three."""
        return self.live, self.late, self.status


def bucket_key(schema: str, *parts: object) -> str:
    """The bucket's key in Redis. Every one carries the schema; the quota's carries the day as well."""
    return ":".join(map(str, (PREFIX, schema, *parts)))


def make_buckets(schema: str, limits: LimitSpec, day: int, share: float) -> TenantBuckets:
    """A tenant's lanes, all empty."""
    key = partial(bucket_key, schema)

    def bucket(name: LimitName, rate: RateSpec | None) -> tuple[Bucket, ...]:
        return (Bucket(name, key(name), rate.rate, rate.burst),) if rate else ()

    quota = limits.daily_quota
    quotas = (Bucket(LimitName.DAILY_QUOTA, key(LimitName.DAILY_QUOTA, day), 0.0, quota),) if quota else ()
    rate, late = LimitName.DEVICE_RATE, LimitName.DEVICE_BACKFILL_RATE
    made = TenantBuckets(
        limits,
        live=Lane((*bucket(LimitName.TENANT_RATE, limits.tenant), *quotas), limits.device, rate, key(rate)),
        late=Lane(
            bucket(LimitName.TENANT_BACKFILL_RATE, limits.tenant_backfill), limits.device_backfill, late, key(late)
        ),
        # Presence rests on births and wills: no flood of telemetry keeps them out, only one of their own.
        status=Lane((), limits.device, rate, key(rate, "status")),
    )
    for lane in made.lanes:
        lane.set_share(share)
    return made
