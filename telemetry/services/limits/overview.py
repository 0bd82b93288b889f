"""A tenant's limits and quotas for people: value, source, usage, and the messages refused today."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Sum
from redis.exceptions import RedisError

from telemetry.models import LimitHit
from tenants.infrastructure.database import current_schema
from tenants.models import Tenant
from tenants.services import quotas
from tenants.services.limits import LABELS, Limit, LimitName, limits_of
from tenants.services.quotas import QUOTA_LABELS, WARNING_SHARE, QuotaName, QuotaUse

from .bucket_store import BucketStore
from .buckets import bucket_key
from .limiter import today

logger = logging.getLogger(__name__)

_SHARED_RATES = (LimitName.TENANT_RATE, LimitName.TENANT_BACKFILL_RATE)


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit or quota of the current tenant; `value` None means unlimited.

    `used`: for a rate of the tenant the messages a second over the last ten seconds, for the daily quota those of
    today, for a quota of objects their number; None for limits of each device, for the size of a message, and while
    Redis is unavailable.
    """

    name: LimitName | QuotaName
    value: float | None
    burst: float | None
    source: str
    used: float | None
    refused_today: int
    resets_at: datetime | None

    @property
    def label(self) -> str:
        """The limit's name, in the reader's language."""
        return str((LABELS | QUOTA_LABELS)[self.name])

    @property
    def share(self) -> float | None:
        """The used part of the limit, from 0 to 1."""
        return self.used / self.value if self.used is not None and self.value else None

    @property
    def is_near(self) -> bool:
        """Whether at least 80 % of the limit are used."""
        return self.share is not None and self.share >= WARNING_SHARE


def limits_now() -> list[LimitUse]:
    """Return all limits and quotas of the current tenant, including unset ones. Queries Redis where one is set."""
    tenant = Tenant.objects.select_related("limits__plan").get(schema_name=current_schema())
    limits = limits_of(tenant)
    used, refused = _used(tenant.schema_name, limits), _refused_today()
    rates = [_use(name, limits.get(name), used.get(name), refused.get(name, 0)) for name in LimitName]
    return rates + [_quota_use(use) for use in quotas.uses()]


def _quota_use(use: QuotaUse) -> LimitUse:
    return LimitUse(
        name=use.name,
        value=use.quota.value if use.quota else None,
        burst=None,
        source=use.quota.source if use.quota else "default",
        used=use.used,
        refused_today=0,
        resets_at=None,
    )


def _use(name: LimitName, limit: Limit | None, used: float | None, refused: int) -> LimitUse:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return LimitUse(
        name=name,
        value=limit.value if limit else None,
        burst=limit.burst if limit else None,
        source=limit.source if limit else "default",
        used=used,
        refused_today=refused,
        resets_at=midnight if limit and name is LimitName.DAILY_QUOTA else None,
    )


def _used(schema: str, limits: Mapping[LimitName, Limit]) -> dict[LimitName, float]:
    rates = [name for name in _SHARED_RATES if name in limits]
    has_quota = LimitName.DAILY_QUOTA in limits
    if not rates and not has_quota:
        return {}
    try:
        store = BucketStore()
        used = dict(zip(rates, store.current_rates([bucket_key(schema, name) for name in rates]), strict=True))
        if has_quota:
            used[LimitName.DAILY_QUOTA] = store.used_quota(bucket_key(schema, LimitName.DAILY_QUOTA, today()))
    except RedisError as error:
        logger.warning("The usage of the limits of %s is unknown: %s", schema, error)
        return {}
    return used


def _refused_today() -> dict[str, int]:
    rows = LimitHit.objects.filter(day=datetime.now(UTC).date()).order_by()
    return dict(rows.values_list("limit").annotate(refused=Sum("count")))
