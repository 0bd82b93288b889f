"""Quotas of a tenant: how many objects of a kind it may have, and whether there is room for more.

A quota is the tenant's own value, its plan's, or that of the settings. A tenant that has more objects than a new value
keeps them, and cannot add any. Under the tenant's lock no two requests take the last place.
"""

import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from tenants.infrastructure import hooks, metrics
from tenants.infrastructure.database import current_schema
from tenants.models import Plan, Tenant, TenantLimits

# The used part of a quota from which people are warned.
WARNING_SHARE = 0.8


class QuotaName(StrEnum):
    """The names of quotas: the fields of plans, and the names in the API."""

    DEVICES = "max_devices"
    COMPONENTS = "max_components"
    HARDWARE_MODELS = "max_hardware_models"
    COMPONENT_TYPES = "max_component_types"
    METRICS = "max_metrics"
    MAINTENANCE_WINDOWS = "max_maintenance_windows"
    API_KEYS = "max_api_keys"
    MEMBERSHIPS = "max_memberships"


QUOTA_LABELS: dict[str, Promise] = {
    QuotaName.DEVICES: gettext_lazy("devices"),
    QuotaName.COMPONENTS: gettext_lazy("components"),
    QuotaName.HARDWARE_MODELS: gettext_lazy("hardware models"),
    QuotaName.COMPONENT_TYPES: gettext_lazy("component types"),
    QuotaName.METRICS: gettext_lazy("metrics"),
    QuotaName.MAINTENANCE_WINDOWS: gettext_lazy("maintenance windows"),
    QuotaName.API_KEYS: gettext_lazy("valid API keys"),
    QuotaName.MEMBERSHIPS: gettext_lazy("memberships"),
}


@dataclass(frozen=True, slots=True)
class Quota:
    """An effective quota; `source` is tenant, plan or default, `plan` the name of the tenant's plan or empty."""

    name: QuotaName
    value: int
    source: str
    plan: str


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """A quota of the current tenant and the number of objects; `quota` None means unlimited."""

    name: QuotaName
    quota: Quota | None
    used: int

    @property
    def room(self) -> int | None:
        """How many more there may be; None: any number."""
        return None if self.quota is None else max(0, self.quota.value - self.used)


class QuotaExceeded(ValidationError):
    """The tenant has as many objects of a kind as its quota allows."""

    def __init__(self, quota: Quota, used: int) -> None:
        super().__init__(exceeded_text(quota, used), code="quota_exceeded")
        self.quota, self.used = quota, used


def quota_of(tenant: Tenant, name: QuotaName) -> Quota | None:
    """Return the tenant's effective quota; None: no limit. No query where `limits__plan` was selected with it."""
    own: TenantLimits | None = getattr(tenant, "limits", None)
    plan: Plan | None = own.plan if own is not None else None
    for row, source in ((own, "tenant"), (plan, "plan")):
        value: int | None = getattr(row, name, None)
        if value is not None:
            return Quota(name, value, source, plan.name if plan else "") if value else None
    default = settings.TENANT_QUOTAS[name]
    return Quota(name, default, "default", plan.name if plan else "") if default else None


def check(schema: str, name: str, count: int) -> None:
    """Raise QuotaExceeded where a tenant has no room for so many more objects. Nothing is checked outside of tenants.

    Must be called in the transaction that adds them: it holds the tenant's lock until its end.
    """
    tenant = Tenant.objects.select_related("limits__plan").filter(schema_name=schema).first()
    quota = quota_of(tenant, QuotaName(name)) if tenant is not None else None
    if quota is None:
        return
    transaction_id = _lock(schema)
    used = _counts.get(transaction_id, schema, name)
    if used is None or used + count > quota.value:
        used = _count(schema, name)
    if used + count > quota.value:
        metrics.record({}, {"quota_refused_total": 1})
        raise QuotaExceeded(quota, used)
    _counts.note(transaction_id, schema, name, used + count)


def use_of(name: QuotaName) -> QuotaUse:
    """Return a quota of the current tenant with its use."""
    tenant = _current_tenant()
    return QuotaUse(name, quota_of(tenant, name), _count(tenant.schema_name, name))


def uses() -> list[QuotaUse]:
    """Return all quotas of the current tenant with their use; one query for each."""
    tenant = _current_tenant()
    return [QuotaUse(name, quota_of(tenant, name), _count(tenant.schema_name, name)) for name in QuotaName]


def exceeded_text(quota: Quota, used: int) -> str:
    """Return which quota is exceeded, its value and source, and what to do."""
    sources = {
        "tenant": _("set for this tenant"),
        "plan": _("of the plan %(plan)s") % {"plan": quota.plan},
        "default": _("default of the platform"),
    }
    text = _(
        "The quota %(name)s (%(label)s) is %(value)d (%(source)s), and %(used)d are in use. Remove some, or ask the"
        " platform's staff for a larger quota."
    )
    return text % {
        "name": quota.name,
        "label": QUOTA_LABELS[quota.name],
        "value": quota.value,
        "source": sources[quota.source],
        "used": used,
    }


def _current_tenant() -> Tenant:
    return Tenant.objects.select_related("limits__plan").get(schema_name=current_schema())


def _count(schema: str, name: str) -> int:
    (model,) = (model for model in hooks.counted_models if model.quota == name)  # type: ignore[attr-defined]
    return int(model.counted(schema).count())  # type: ignore[attr-defined]


def _lock(schema: str) -> str:
    """Take the tenant's lock of the current transaction; return the transaction's id."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtext('gwanje_quota'), hashtext(%s)), pg_current_xact_id()::text", [schema]
        )
        return str(cursor.fetchone()[1])


class _TransactionCounts:
    """The numbers of objects that the last transaction of each thread knows, so that it counts them once.

    Under the lock only this transaction adds objects. A savepoint that was rolled back makes a number too large, never
    too small; before a refusal they are counted again.
    """

    def __init__(self) -> None:
        self._threads: Any = threading.local()

    def get(self, transaction_id: str, schema: str, name: str) -> int | None:
        """Return the number that the transaction knows."""
        known, numbers = self._known()
        return numbers.get((schema, name)) if known == transaction_id else None

    def note(self, transaction_id: str, schema: str, name: str, used: int) -> None:
        """Remember the number for the rest of the transaction."""
        known, numbers = self._known()
        self._threads.known = (transaction_id, {**(numbers if known == transaction_id else {}), (schema, name): used})

    def _known(self) -> tuple[str, dict[tuple[str, str], int]]:
        return getattr(self._threads, "known", ("", {}))


_counts = _TransactionCounts()
