"""Which limits hold for a tenant: its own, else its plan's, else the settings'. Changing them tells the listeners."""

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
    """The names under which limits are shown, counted, and told to devices."""

    TENANT_RATE = "tenant_rate"
    DEVICE_RATE = "device_rate"
    TENANT_BACKFILL_RATE = "tenant_backfill_rate"
    DEVICE_BACKFILL_RATE = "device_backfill_rate"
    DAILY_QUOTA = "daily_quota"
    MAX_PAYLOAD = "max_payload"


# Those whose refusals are counted as rate limited; the others' are in quarantine.
RATES = (
    LimitName.TENANT_RATE,
    LimitName.DEVICE_RATE,
    LimitName.TENANT_BACKFILL_RATE,
    LimitName.DEVICE_BACKFILL_RATE,
)
LABELS: dict[str, Promise] = {
    LimitName.TENANT_RATE: _("messages per second, all devices together"),
    LimitName.DEVICE_RATE: _("messages per second, each device"),
    LimitName.TENANT_BACKFILL_RATE: _("late messages per second, all devices together"),
    LimitName.DEVICE_BACKFILL_RATE: _("late messages per second, each device"),
    LimitName.DAILY_QUOTA: _("messages per day (UTC), without late ones"),
    LimitName.MAX_PAYLOAD: _("bytes of a message"),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in force. `burst` (messages) is of rates only; `source` is tenant, plan or default."""

    name: LimitName
    value: float
    burst: float | None
    source: str


def limits_of(tenant: Tenant) -> dict[LimitName, Limit]:
    """The limits that hold for the tenant. Asks nothing where `limits__plan` was selected with the tenant."""
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
    """Give the tenant a plan (None: none) and limits of its own, those that are named: `tenant_rate=100`.

    None takes a value away again, so that the plan's holds; 0 is no limit. Raises ValidationError. Listeners follow
    within a second or so.
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
        announce([tenant.schema_name])
    return limits


def announce_plan(plan: Plan) -> None:
    """Tell the listeners that a plan was changed, once that is committed."""
    announce(list(plan.tenants.values_list("tenant__schema_name", flat=True)))


def announce(schemas: list[str]) -> None:
    """Tell the listeners, after the commit, that these tenants' limits changed."""

    def publish() -> None:
        for schema in schemas:
            for announce_change in hooks.tenant_changed:
                announce_change(schema)

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
    # A bucket that holds less than one message would never let one through.
    return burst or max(1.0, rate * settings.LIMIT_BURST_SECONDS)
