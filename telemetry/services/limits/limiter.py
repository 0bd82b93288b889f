"""Step 6, limits: rates of a tenant and of each of its devices, and a daily quota, shared by all listeners.

The limits apply once for a batch, between normalization (a forged message must not use up a limit) and storage. Late
messages have buckets of their own and no quota; only their device's rate limits births and wills, apart from its
telemetry. A message counts when it is validated, and a redelivery counts again; `release` returns the tokens of
messages that could not be stored because the database was unavailable.
"""

import logging
import math
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from redis.exceptions import RedisError

from devices.domain.specs import LimitSpec, TenantSpec
from telemetry.services.pipeline.results import AcceptedItem, Refusal
from tenants.services.limits import LimitName

from .backoff_notices import BackoffNotice, BackoffNoticeQueue
from .bucket_store import BucketStore, LeaseRequest
from .buckets import TenantBuckets, TokenBucket, TrafficClass, make_buckets

logger = logging.getLogger(__name__)

_DAY = 86400
# An empty bucket requests tokens again after this time at the earliest.
_REQUEST_SECONDS = 0.05
# The pause after Redis was found to be unavailable.
_UNAVAILABLE_SECONDS = 2.0
# Leased tokens last for about this long, so that most batches need no request; idle ones are returned after it.
_AHEAD_SECONDS = 2.0
_DROP_IDLE_SECONDS = 10.0


@dataclass(slots=True)
class ExceededLimit:
    """The limit that a message exceeds: a `rate` (counted, and the device is notified) or a `quota` (quarantined)."""

    limit: LimitName
    kind: str  # "rate" or "quota"
    value: float
    retry_after: float  # seconds
    device_id: int | None = None  # where the limit is the device's own

    def refusal(self) -> Refusal:
        """Return the refusal of a message that exceeds a `quota`."""
        resets_at = datetime.now(UTC) + timedelta(seconds=self.retry_after)
        return Refusal(
            "quota_exceeded",
            f"The tenant's {self.limit} of {self.value:.0f} messages a day is used up until"
            f" {resets_at:%Y-%m-%d %H:%M} UTC. The message can be replayed then.",
            limit=self.limit,
        )


class Limiter:
    """The limits as one listener applies them. Not shared between threads; `flush` must run about twice a second."""

    def __init__(self) -> None:
        self._store = BucketStore(secrets.token_hex(6))
        self._notices = BackoffNoticeQueue(settings.LIMIT_BACKOFF_SECONDS)
        self._tenants: dict[str, TenantBuckets] = {}
        self._listeners = 1
        self._retry_at = 0.0
        self._is_redis_unavailable = False
        self._day = today()
        # Tokens of buckets that no longer exist.
        self._returned: list[LeaseRequest] = []
        self._flushed_at = self._idle_dropped_at = time.monotonic()

    def admit(self, accepted: Sequence[AcceptedItem], *, replayed: bool = False) -> dict[int, ExceededLimit]:
        """Return the limits that messages exceed, by their position. Never raises when Redis is unavailable.

        Only the quota limits messages that are `replayed` from quarantine: a rate would lose them.
        """
        if self._day != today():
            self._begin_day()
        now = time.monotonic()
        tenants = self._tenants
        short: list[tuple[int, TrafficClass]] = []
        for position, item in enumerate(accepted):
            limits = item.spec.tenant.limits
            if limits is None:
                continue
            tenant = tenants.get(item.spec.tenant.schema)
            if tenant is None or tenant.limits is not limits:
                tenant = self._buckets_for(item.spec.tenant, limits)
            message = item.result
            # Births and wills have no component.
            traffic = tenant.status if not message.component else tenant.late if message.late else tenant.live
            if replayed or not traffic.take(item.spec.device_id, now):
                short.append((position, traffic))
        return self._decide(accepted, short, now, replayed) if short else {}

    def release(self, admitted: Iterable[AcceptedItem], *, replayed: bool = False) -> None:
        """Return the tokens of messages that `admit` passed, and that were not stored and come again."""
        for item in admitted:
            tenant = self._tenants.get(item.spec.tenant.schema)
            if tenant is not None:
                message = item.result
                traffic = tenant.status if not message.component else tenant.late if message.late else tenant.live
                traffic.release(item.spec.device_id, replayed=replayed)

    def flush(self) -> None:
        """Lease tokens ahead, return idle ones, send notices to notifiers. Never raises when Redis is unavailable."""
        now = time.monotonic()
        elapsed, self._flushed_at = max(0.001, now - self._flushed_at), now
        requests = [one for bucket in self._buckets() if (one := _request_of(bucket, now, elapsed)) is not None]
        if now >= self._retry_at:
            try:
                if self._tenants:
                    self._set_listeners(self._store.register_listener())
                if requests or self._returned:
                    self._store.exchange([*self._returned, *requests])
                    self._returned.clear()
                self._notices.flush()
                self._on_redis_available()
            except RedisError as error:
                self._on_redis_unavailable(error, now)
        if now - self._idle_dropped_at >= _DROP_IDLE_SECONDS:
            self._idle_dropped_at = now
            for tenant in self._tenants.values():
                for traffic in tenant.classes:
                    traffic.drop_idle(now)

    # --- messages that need Redis -----------------------------------------------------------------------------

    def _decide(
        self, accepted: Sequence[AcceptedItem], short: Sequence[tuple[int, TrafficClass]], now: float, replayed: bool
    ) -> dict[int, ExceededLimit]:
        """Lease the missing tokens, and give them to the messages in their order."""
        requests: dict[TokenBucket, LeaseRequest] = {}
        drawing = [
            (position, traffic, self._buckets_of(traffic, accepted[position], now, replayed))
            for position, traffic in short
        ]
        for _position, _traffic, buckets in drawing:
            for bucket in buckets or ():
                requests.setdefault(bucket, LeaseRequest(bucket)).needed += 1
        self._lease([request for request in requests.values() if request.needed > request.bucket.left], now)
        exceeded = {}
        for position, traffic, buckets in drawing:
            item = accepted[position]
            limit = _take(buckets) if buckets is not None else _exceeded_locally(traffic, item.spec.device_id, now)
            if limit is not None:
                exceeded[position] = limit
                if self._notices.accepts(item.spec.tenant.schema, item.spec.device_id):
                    self._notices.add(_notice_of(item, limit))
        return exceeded

    def _buckets_of(
        self, traffic: TrafficClass, item: AcceptedItem, now: float, replayed: bool
    ) -> tuple[TokenBucket, ...] | None:
        """Return the buckets that the message draws from, the device's first; None: the device's local one is empty.

        Every message draws from its device's bucket, even where the tenant's limit refuses it.
        """
        if replayed:
            return tuple(bucket for bucket in traffic.buckets if not bucket.rate)
        if traffic.device is None:
            return traffic.buckets
        device_id = item.spec.device_id
        if device_id not in traffic.shared:
            if traffic.take_device(device_id, now):
                return traffic.buckets
            if self._listeners == 1:
                return None
        return (traffic.shared_bucket_of(device_id, now), *traffic.buckets)

    def _lease(self, requests: Sequence[LeaseRequest], now: float) -> None:
        """Lease the needed tokens in one round trip, or add the local share while Redis is unavailable."""
        for request in requests:
            # As many again for the next batch; `flush` then leases by the usage.
            request.ahead, request.needed = request.needed, request.needed - request.bucket.left
        due = [request for request in requests if request.bucket.request_at <= now]
        if due and now >= self._retry_at:
            try:
                self._store.exchange(due)
                self._on_redis_available()
            except RedisError as error:
                self._on_redis_unavailable(error, now)
        if self._is_redis_unavailable:
            for request in requests:
                request.bucket.fill_locally(request.needed, now, 1 / self._listeners)
            return
        for request in due:
            if request.bucket.left < request.needed:
                request.bucket.request_at = now + _REQUEST_SECONDS

    # --- state ------------------------------------------------------------------------------------------------

    def _buckets_for(self, spec: TenantSpec, limits: LimitSpec) -> TenantBuckets:
        """Return the buckets of a tenant that is new here, or whose limits changed."""
        known = self._tenants.get(spec.schema)
        if known is not None and known.limits == limits:  # read again, and equal
            known.limits = limits
            return known
        if known is not None:
            self._returned += _return_all(known)
        made = self._tenants[spec.schema] = make_buckets(spec.schema, limits, self._day, self._share)
        return made

    def _begin_day(self) -> None:
        """Replace all buckets, because the quotas begin anew."""
        self._day = today()
        for schema, known in self._tenants.items():
            self._returned += _return_all(known)
            self._tenants[schema] = make_buckets(schema, known.limits, self._day, self._share)

    def _buckets(self) -> Iterable[TokenBucket]:
        for tenant in self._tenants.values():
            for traffic in tenant.classes:
                yield from traffic.buckets
                yield from traffic.shared.values()

    @property
    def _share(self) -> float:
        """The part of a device's limit that is counted locally. Half of a listener's share where there are several: a
        device that exceeds it in one of them may use the other half in the others."""
        return 1.0 if self._listeners == 1 else 1 / (2 * self._listeners)

    def _set_listeners(self, count: int) -> None:
        if count != self._listeners:
            self._listeners = max(1, count)
            for tenant in self._tenants.values():
                for traffic in tenant.classes:
                    traffic.set_share(self._share)

    def _on_redis_unavailable(self, error: Exception, now: float) -> None:
        if not self._is_redis_unavailable:
            logger.warning("Redis is unavailable (%s): each listener applies its share of the limits", error)
        self._is_redis_unavailable, self._retry_at = True, now + _UNAVAILABLE_SECONDS

    def _on_redis_available(self) -> None:
        if self._is_redis_unavailable:
            logger.info("Redis is available again: the listeners share the limits")
        self._is_redis_unavailable = False


def seconds_until_reset() -> float:
    """Return the seconds until the daily quotas begin anew, at midnight UTC."""
    return _DAY - time.time() % _DAY


def today() -> int:
    """Return the current day (UTC) of the quotas as a number."""
    return int(time.time() // _DAY)


def _take(buckets: Sequence[TokenBucket]) -> ExceededLimit | None:
    """Take a message's tokens; return the limit whose bucket is empty, or None."""
    for bucket in buckets:
        if bucket.left < 1:
            bucket.refused += 1
            if bucket.rate:
                return ExceededLimit(bucket.name, "rate", bucket.rate, bucket.retry_after(), bucket.device_id)
            return ExceededLimit(bucket.name, "quota", bucket.size, seconds_until_reset())
        bucket.left -= 1
        bucket.used += 1
    return None


def _exceeded_locally(traffic: TrafficClass, device_id: int, now: float) -> ExceededLimit:
    assert traffic.device is not None  # noqa: S101 (only a device's limit is counted locally)
    wait = max(1.0, traffic.seconds_until_token(device_id, now))
    return ExceededLimit(traffic.device_name, "rate", traffic.device.rate, wait, device_id)


def _request_of(bucket: TokenBucket, now: float, elapsed: float) -> LeaseRequest | None:
    """Return the lease request for the usage of the next seconds, or None where no exchange is needed."""
    used, bucket.used = bucket.used, 0
    bucket.refused //= 2
    if used > 0:
        bucket.taken_at = now
    ahead = math.ceil(max(0, used) / elapsed * _AHEAD_SECONDS)
    if bucket.left < ahead / 2 and bucket.request_at <= now:
        return LeaseRequest(bucket, ahead=max(1, min(ahead - bucket.left, int(bucket.size / 4))))
    if bucket.left > 4 * ahead and now - bucket.taken_at > _AHEAD_SECONDS:
        return LeaseRequest(bucket, returned=bucket.left - ahead)
    # What is left of a quota is recorded, too.
    return LeaseRequest(bucket) if bucket.owed or (used and not bucket.rate) else None


def _return_all(tenant: TenantBuckets) -> list[LeaseRequest]:
    """Return the requests that return all tokens of the tenant's buckets."""
    buckets = [bucket for traffic in tenant.classes for bucket in (*traffic.buckets, *traffic.shared.values())]
    return [LeaseRequest(bucket, returned=bucket.left) for bucket in buckets if bucket.left or bucket.owed]


def _notice_of(item: AcceptedItem, limit: ExceededLimit) -> BackoffNotice:
    spec, message = item.gateway or item.spec, item.result
    return BackoffNotice(
        schema=spec.tenant.schema,
        device_id=spec.device_id,
        uuid=str(message.topic.uuid),
        limit=limit.limit,
        value=limit.value,
        retry_after=limit.retry_after,
        signature=message.signature,
        key_version=message.key_version,
    )
