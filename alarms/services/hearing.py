"""Whether silence is evidence: what Redis knows of the listeners, and the outages that are recorded from it."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django_redis import get_redis_connection
from redis.exceptions import RedisError

from alarms.domain.silence import Outage
from alarms.models import AlarmProgress, ListenerOutage
from devices.services.presence import redis_scripts as scripts
from tenants.infrastructure.database import current_schema

logger = logging.getLogger(__name__)

_MAX_OUTAGES = 1000
_SAVED_EVERY = timedelta(seconds=1)
_SKEW = timedelta(seconds=1)
_GAP = timedelta(seconds=scripts.LISTENING_GAP_SECONDS)
_SUSPENSION = timedelta(seconds=scripts.SUSPENSION_SECONDS)


@dataclass(frozen=True, slots=True)
class Hearing:
    """The time of Redis' clock, whether silence counts now, and since when no listener is there (None: one is)."""

    now: datetime
    is_heard: bool
    lost_at: datetime | None = None

    def outages(self) -> list[Outage]:
        """Return the recorded outages of the current tenant, and the present one."""
        rows = ListenerOutage.objects.order_by("starts_at", "id").values_list("starts_at", "ends_at")
        found = [Outage(*row) for row in rows]
        if self.lost_at is not None:
            found.append(Outage(self.lost_at, max(self.lost_at, self.now)))
        return found


def observe(progress: AlarmProgress) -> Hearing:
    """Return whether listeners receive the current tenant's messages, and record an outage that has ended.

    The caller has locked the progress; its `listener_seen_at` is updated and saved.
    """
    now = datetime.now(UTC)
    try:
        redis = get_redis_connection("default")
        seconds, microseconds = redis.time()
        now = datetime.fromtimestamp(float(seconds) + microseconds / 1e6, UTC)
        last, since, clock_skew = redis.hmget(scripts.LISTENING, "last", "since", "stepped")
        suspended = redis.hget(scripts.SUSPENDED_TIMEOUTS, current_schema())
    except RedisError as error:
        logger.warning("Redis is unavailable (%s): no silence raises an alarm", error)
        return Hearing(now, is_heard=False, lost_at=progress.listener_seen_at)
    if last is None or since is None or clock_skew:
        return Hearing(now, is_heard=False, lost_at=progress.listener_seen_at)
    listener_seen_at, heard_since = _time(last), _time(since)
    if listener_seen_at > now + _SKEW or now - listener_seen_at > _GAP:
        return Hearing(now, is_heard=False, lost_at=min(now, listener_seen_at))
    suspended_until = _time(suspended) if suspended else None
    _record(progress, listener_seen_at, heard_since, suspended_until, now)
    is_suspended = suspended_until is not None and now < suspended_until <= now + _SUSPENSION
    return Hearing(now, is_heard=not is_suspended)


def _record(
    progress: AlarmProgress,
    seen_at: datetime,
    since: datetime,
    suspended_until: datetime | None,
    now: datetime,
) -> None:
    before = progress.listener_seen_at
    if before is not None and before > now + _SKEW:
        # The clock was set back.
        before = None
    if before is None or since > before:
        _add_outage(before or since, since)
    if suspended_until is not None and (before is None or suspended_until > before):
        begin = suspended_until - _SUSPENSION
        if begin <= now:
            _add_outage(begin, min(suspended_until, now))
    if before is None or seen_at - before >= _SAVED_EVERY or since > before:
        progress.listener_seen_at = seen_at
        progress.save(update_fields=["listener_seen_at"])


def _add_outage(begin: datetime, end: datetime) -> None:
    """Record an outage; one that continues the last is merged with it."""
    last = ListenerOutage.objects.order_by("-ends_at", "-id").first()
    if last is not None and begin <= last.ends_at and last.starts_at <= begin:
        ListenerOutage.objects.filter(pk=last.pk).update(ends_at=max(end, last.ends_at))
        return
    ListenerOutage.objects.create(starts_at=begin, ends_at=end)
    kept = ListenerOutage.objects.order_by("-ends_at", "-id").values_list("pk", flat=True)[:_MAX_OUTAGES]
    ListenerOutage.objects.exclude(pk__in=list(kept)).delete()


def _time(text: bytes) -> datetime:
    return datetime.fromtimestamp(float(text), UTC)
