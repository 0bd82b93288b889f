"""Limits of a tenant: its own, those of its plan, or those of the settings. Changes are published to listeners."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from tenants.infrastructure import hooks
from tenants.models import Plan, Tenant, TenantLimits


class LimitName(StrEnum):
    """The names of limits on pages, in counters and in commands to devices."""

    TENANT_RATE = "tenant_rate"
    DEVICE_RATE = "device_rate"
    TENANT_BACKFILL_RATE = "tenant_backfill_rate"
    DEVICE_BACKFILL_RATE = "device_backfill_rate"
    TENANT_REFUSAL_RATE = "tenant_refusal_rate"
    DEVICE_REFUSAL_RATE = "device_refusal_rate"
    DAILY_QUOTA = "daily_quota"
    MAX_PAYLOAD = "max_payload"
    OVERFLOW_MEGABYTES = "overflow_megabytes"


# Messages over these, and those beyond the overflow, are counted as rate limited; messages over the others are
# quarantined.
RATES = (
    LimitName.TENANT_RATE,
    LimitName.DEVICE_RATE,
    LimitName.TENANT_BACKFILL_RATE,
    LimitName.DEVICE_BACKFILL_RATE,
    LimitName.TENANT_REFUSAL_RATE,
    LimitName.DEVICE_REFUSAL_RATE,
)
LABELS: dict[str, Promise] = {
    LimitName.TENANT_RATE: _("messages per second, all devices together"),
    LimitName.DEVICE_RATE: _("messages per second, each device"),
    LimitName.TENANT_BACKFILL_RATE: _("late messages per second, all devices together"),
    LimitName.DEVICE_BACKFILL_RATE: _("late messages per second, each device"),
    LimitName.TENANT_REFUSAL_RATE: _("rejected messages per second, all devices together"),
    LimitName.DEVICE_REFUSAL_RATE: _("rejected messages per second, each device"),
    LimitName.DAILY_QUOTA: _("messages per day (UTC), without late ones"),
    LimitName.MAX_PAYLOAD: _("bytes of a message"),
    LimitName.OVERFLOW_MEGABYTES: _("megabytes that wait while the tenant's tables cannot be used"),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """An effective limit. Only rates have a `burst` (messages); `source` is tenant, plan or default."""

    name: LimitName
    value: float
    burst: float | None
    source: str


def limits_of(tenant: Tenant) -> dict[LimitName, Limit]:
    """Return the tenant's effective limits; without a query where `limits__plan` was selected with the tenant."""
    own: TenantLimits | None = getattr(tenant, "limits", None)
    plan = own.plan if own is not None else None
    found = {}
    for name in LimitName:
        value, source = _first(own, plan, name)
        if name is LimitName.MAX_PAYLOAD:
            value = min(value or settings.INGEST_MAX_PAYLOAD, settings.INGEST_MAX_PAYLOAD)
        if value:
            found[name] = Limit(name, value, _burst(own, plan, name, value), source)
    return found


def set_limits(tenant: Tenant, *, plan: Plan | str | None = "", **values: float | None) -> TenantLimits:
    """Set the tenant's plan (None: no plan) and its own limits by name: `tenant_rate=100`.

    None removes a value, so that the plan's applies; 0 means unlimited. Raises ValidationError. Listeners apply the
    change within about a second.
    """
    with transaction.atomic():
        limits, _created = TenantLimits.objects.select_for_update().get_or_create(tenant=tenant)
        for name, value in values.items():
            limits._meta.get_field(name)  # raises FieldDoesNotExist
            setattr(limits, name, value)
        if not isinstance(plan, str):
            limits.plan = plan
        limits.full_clean(validate_unique=False)
        limits.save()
        publish_changes([tenant.schema_name])
    return limits


def publish_plan_change(plan: Plan) -> None:
    """Publish, after the commit, that the limits of a plan's tenants changed."""
    publish_changes(list(plan.tenants.values_list("tenant__schema_name", flat=True)))


def publish_changes(schemas: list[str]) -> None:
    """Publish, after the commit, that state or limits of these tenants changed."""

    def publish() -> None:
        for schema in schemas:
            for receive in hooks.tenant_changed:
                receive(schema)

    transaction.on_commit(publish)


def _first(own: TenantLimits | None, plan: Plan | None, name: str) -> tuple[float, str]:
    for row, source in ((own, "tenant"), (plan, "plan")):
        value: Any = getattr(row, name, None)
        if value is not None:
            return value, source
    return settings.TENANT_LIMITS.get(name, 0), "default"


def _burst(own: TenantLimits | None, plan: Plan | None, name: LimitName, rate: float) -> float | None:
    if name not in RATES:
        return None
    burst, _source = _first(own, plan, name.replace("_rate", "_burst"))
    # A bucket of less than one message would reject all messages.
    return burst or max(1.0, rate * settings.LIMIT_BURST_SECONDS)
