"""What a tenant may send: rates of it and of each of its devices, and a quota a day, kept for all listeners together.

Asked once for a batch, between verification (a forged message uses up nobody's limit) and storage. Late messages
have buckets of their own and no quota; births and wills are held to their device's rate alone, apart from its
telemetry. A message counts when it is judged, a redelivery of it again; what could not be stored for want of the
database is given back by `release`, and counts when it is tried again.
"""

import logging
import math
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from redis.exceptions import RedisError

from devices.domain.specs import LimitSpec, TenantSpec
from telemetry.services.pipeline.refusal import Refused
from telemetry.services.pipeline.results import AcceptedItem
from tenants.services.limits import LimitName

from .backoff_notices import Hint, HintQueue
from .bucket_store import LimitStore, Wish
from .buckets import Bucket, Lane, TenantBuckets, make_buckets

logger = logging.getLogger(__name__)

_DAY = 86400
# A bucket that is empty is asked for again after this at the soonest.
_ASK_SECONDS = 0.05
# Redis that does not answer is left alone for so long.
_AWAY_SECONDS = 2.0
# What is leased lasts for about so long, so that most batches ask nobody; what is idle is given back after it.
_AHEAD_SECONDS = 2.0
_TIDY_SECONDS = 10.0


@dataclass(slots=True)
class LimitHit:
    """Why a message is refused. A `rate` is counted and told to the device, a `quota` is quarantined."""

    limit: LimitName
    kind: str  # "rate" or "quota"
    value: float
    retry_after: float  # seconds
    device_id: int | None = None  # where the limit is the device's own

    def refusal(self) -> Refused:
        """The quarantine's reason and words of a `quota`."""
        resets_at = datetime.now(UTC) + timedelta(seconds=self.retry_after)
        return Refused(
            "quota_exceeded",
            f"The tenant's {self.limit} of {self.value:.0f} messages a day is used up; it begins anew at"
            f" {resets_at:%Y-%m-%d %H:%M} UTC. The message can be replayed then.",
            limit=self.limit,
        )


def check_payload(payload: bytes, limits: LimitSpec | None) -> None:
    """Refuse (`too_large`) a payload above the tenant's own maximum."""
    if limits is not None and limits.max_payload is not None and len(payload) > limits.max_payload:
        raise Refused(
            "too_large",
            f"The payload has {len(payload)} bytes; the tenant's {LimitName.MAX_PAYLOAD} is {limits.max_payload}.",
            limit=LimitName.MAX_PAYLOAD,
        )


class Limiter:
    """Not shared between threads. `flush` is to be called about twice a second."""

    def __init__(self) -> None:
        self._store = LimitStore()
        self._hints = HintQueue(settings.LIMIT_HINT_SECONDS)
        self._name = secrets.token_hex(6)
        self._tenants: dict[str, TenantBuckets] = {}
        self._listeners = 1
        self._away_until = 0.0
        self._is_away = False
        self._day = today()
        # Leases of buckets that are no more.
        self._returned: list[Wish] = []
        self._flushed_at = self._tidied_at = time.monotonic()

    def admit(self, accepted: Sequence[AcceptedItem], *, replayed: bool = False) -> dict[int, LimitHit]:
        """Which of the messages are over a limit, by their position. Never raises for want of Redis.

        Messages that are `replayed` from quarantine are held to the quota alone: a rate would lose them.
        """
        if self._day != today():
            self._begin_day()
        now = time.monotonic()
        tenants = self._tenants
        short: list[tuple[int, Lane]] = []
        for position, item in enumerate(accepted):
            limits = item.spec.tenant.limits
            if limits is None:
                continue
            tenant = tenants.get(item.spec.tenant.schema)
            if tenant is None or tenant.limits is not limits:
                tenant = self._enter(item.spec.tenant, limits)
            verdict = item.verdict
            # Births and wills are of no component.
            lane = tenant.status if not verdict.component else tenant.late if verdict.late else tenant.live
            if replayed or not lane.take(item.spec.device_id, now):
                short.append((position, lane))
        return self._decide(accepted, short, now, replayed) if short else {}

    def release(
        self, accepted: Iterable[AcceptedItem], hits: Mapping[int, LimitHit], *, replayed: bool = False
    ) -> None:
        """Give back what `admit` took for these messages: they were not stored, and come again."""
        for position, item in enumerate(accepted):
            tenant = self._tenants.get(item.spec.tenant.schema)
            if tenant is not None and position not in hits:
                verdict = item.verdict
                lane = tenant.status if not verdict.component else tenant.late if verdict.late else tenant.live
                lane.give_back(item.spec.device_id, replayed=replayed)

    def flush(self) -> None:
        """Lease ahead, give back what is idle, hand hints to the notifier. Never raises for want of Redis."""
        now = time.monotonic()
        elapsed, self._flushed_at = max(0.001, now - self._flushed_at), now
        wishes = [wish for bucket in self._buckets() if (wish := _wish(bucket, now, elapsed)) is not None]
        if now >= self._away_until:
            try:
                if self._tenants:
                    self._set_listeners(self._store.meet(self._name))
                if wishes or self._returned:
                    self._store.exchange([*self._returned, *wishes])
                    self._returned.clear()
                self._hints.flush()
                self._is_back()
            except RedisError as error:
                self._lose(error, now)
        if now - self._tidied_at >= _TIDY_SECONDS:
            self._tidied_at = now
            for tenant in self._tenants.values():
                for lane in tenant.lanes:
                    lane.tidy(now)

    # --- deciding ---------------------------------------------------------------------------------------------

    def _decide(
        self, accepted: Sequence[AcceptedItem], short: Sequence[tuple[int, Lane]], now: float, replayed: bool
    ) -> dict[int, LimitHit]:
        """Lease what the messages lack, and give it to them in their order."""
        wishes: dict[Bucket, Wish] = {}
        asked = [(position, lane, self._asked(lane, accepted[position], now, replayed)) for position, lane in short]
        for _position, _lane, buckets in asked:
            for bucket in buckets or ():
                wishes.setdefault(bucket, Wish(bucket)).need += 1
        self._lease([wish for wish in wishes.values() if wish.need > wish.bucket.left], now)
        hits = {}
        for position, lane, buckets in asked:
            item = accepted[position]
            hit = _take(buckets) if buckets is not None else _local_hit(lane, item.spec.device_id, now)
            if hit is not None:
                hits[position] = hit
                if self._hints.wants(item.spec.tenant.schema, item.spec.device_id):
                    self._hints.note(_hint(item, hit))
        return hits

    def _asked(self, lane: Lane, item: AcceptedItem, now: float, replayed: bool) -> tuple[Bucket, ...] | None:
        """The buckets that the message draws from, the device's first; None: its device has used up its own here.

        A device's bucket is drawn from by what it sends, whether or not the tenant's lets it through.
        """
        if replayed:
            return tuple(bucket for bucket in lane.buckets if not bucket.rate)
        if lane.device is None:
            return lane.buckets
        device_id = item.spec.device_id
        if device_id not in lane.hot:
            if lane.take_device(device_id, now):
                return lane.buckets
            if self._listeners == 1:
                return None
        return (lane.heat(device_id, now), *lane.buckets)

    def _lease(self, wishes: Sequence[Wish], now: float) -> None:
        """Lease what is needed, in one round trip, or as if alone where Redis is away."""
        for wish in wishes:
            # As much again for the next batch; `flush` then leases by what is used.
            wish.wish, wish.need = wish.need, wish.need - wish.bucket.left
        asked = [wish for wish in wishes if wish.bucket.ask_at <= now]
        if asked and now >= self._away_until:
            try:
                self._store.exchange(asked)
                self._is_back()
            except RedisError as error:
                self._lose(error, now)
        if self._is_away:
            for wish in wishes:
                wish.bucket.fill_alone(wish.need, now, 1 / self._listeners)
            return
        for wish in asked:
            if wish.bucket.left < wish.need:
                wish.bucket.ask_at = now + _ASK_SECONDS

    # --- what it knows ----------------------------------------------------------------------------------------

    def _enter(self, spec: TenantSpec, limits: LimitSpec) -> TenantBuckets:
        """Buckets for a tenant that is new here, or whose limits changed."""
        known = self._tenants.get(spec.schema)
        if known is not None and known.limits == limits:  # read again, and the same
            known.limits = limits
            return known
        if known is not None:
            self._returned += _leases(known)
        made = self._tenants[spec.schema] = make_buckets(spec.schema, limits, self._day, self._share)
        return made

    def _begin_day(self) -> None:
        self._day = today()
        for schema, known in self._tenants.items():
            self._returned += _leases(known)
            self._tenants[schema] = make_buckets(schema, known.limits, self._day, self._share)

    def _buckets(self) -> Iterable[Bucket]:
        for tenant in self._tenants.values():
            for lane in tenant.lanes:
                yield from lane.buckets
                yield from lane.hot.values()

    @property
    def _share(self) -> float:
        """The part of a device's limit that is counted here alone. Half of it where there are several listeners:
        a device that goes beyond it in one of them may have the other half in the others."""
        return 1.0 if self._listeners == 1 else 1 / (2 * self._listeners)

    def _set_listeners(self, count: int) -> None:
        if count != self._listeners:
            self._listeners = max(1, count)
            for tenant in self._tenants.values():
                for lane in tenant.lanes:
                    lane.set_share(self._share)

    def _lose(self, error: Exception, now: float) -> None:
        if not self._is_away:
            logger.warning("Redis is away (%s): limits are kept by each listener for itself", error)
        self._is_away, self._away_until = True, now + _AWAY_SECONDS

    def _is_back(self) -> None:
        if self._is_away:
            logger.info("Redis is back: limits are kept for all listeners together")
        self._is_away = False


def seconds_lefttoday() -> float:
    """Until a day's quota begins anew, at midnight UTC."""
    return _DAY - time.time() % _DAY


def today() -> int:
    """The day (UTC) that a quota is of, as a number."""
    return int(time.time() // _DAY)


def _take(buckets: Sequence[Bucket]) -> LimitHit | None:
    """Take a message's tokens; the limit that has none, where one has not."""
    for bucket in buckets:
        if bucket.left < 1:
            bucket.refused += 1
            if bucket.rate:
                return LimitHit(bucket.name, "rate", bucket.rate, bucket.retry_after(), bucket.device_id)
            return LimitHit(bucket.name, "quota", bucket.size, seconds_lefttoday())
        bucket.left -= 1
        bucket.used += 1
    return None


def _local_hit(lane: Lane, device_id: int, now: float) -> LimitHit:
    assert lane.device is not None  # noqa: S101 (only a device's limit is kept here alone)
    return LimitHit(lane.device_name, "rate", lane.device.rate, max(1.0, lane.wait_of(device_id, now)), device_id)


def _wish(bucket: Bucket, now: float, elapsed: float) -> Wish | None:
    """What to exchange for the bucket now: as much as is used in the next seconds, or nothing."""
    used, bucket.used = bucket.used, 0
    bucket.refused //= 2
    if used > 0:
        bucket.taken_at = now
    ahead = math.ceil(max(0, used) / elapsed * _AHEAD_SECONDS)
    if bucket.left < ahead / 2 and bucket.ask_at <= now:
        return Wish(bucket, wish=max(1, min(ahead - bucket.left, int(bucket.size / 4))))
    if bucket.left > 4 * ahead and now - bucket.taken_at > _AHEAD_SECONDS:
        return Wish(bucket, back=bucket.left - ahead)
    return Wish(bucket) if bucket.owed else None


def _leases(tenant: TenantBuckets) -> list[Wish]:
    """Everything that the tenant's buckets hold, to be given back."""
    held = [bucket for lane in tenant.lanes for bucket in (*lane.buckets, *lane.hot.values())]
    return [Wish(bucket, back=bucket.left) for bucket in held if bucket.left or bucket.owed]


def _hint(item: AcceptedItem, hit: LimitHit) -> Hint:
    spec, verdict = item.spec, item.verdict
    return Hint(
        schema=spec.tenant.schema,
        device_id=spec.device_id,
        uuid=verdict.topic.device,
        limit=hit.limit,
        value=hit.value,
        retry_after=hit.retry_after,
        signature=verdict.signature,
        key_version=verdict.key_version,
    )
