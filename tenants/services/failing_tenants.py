"""The tenants for which some work fails now, by slug, for the console and `/metrics`."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from django_tenants.utils import schema_context
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from redis.exceptions import RedisError

from tenants.infrastructure.tenant_failures import TenantFailure, current_failures
from tenants.models import Tenant

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailingTenant:
    """A tenant's slug, or the schema of one that is gone, with one of its failures."""

    slug: str
    failure: TenantFailure


def failing_tenants() -> list[FailingTenant]:
    """Return the failures of now by slug and work; none while Redis is unavailable. Queries `public` only."""
    try:
        failures = current_failures()
    except RedisError as error:
        logger.warning("The tenants' failures are not shown: %s", error)
        return []
    if not failures:
        return []
    with schema_context("public"):
        wanted = {failure.schema for failure in failures}
        slugs = dict(Tenant.objects.filter(schema_name__in=wanted).values_list("schema_name", "slug"))
    found = [FailingTenant(slugs.get(failure.schema, failure.schema), failure) for failure in failures]
    return sorted(found, key=lambda one: (one.slug, one.failure.work))


def collect() -> Iterable[Metric]:
    """Return the gauge of failing tenants for `/metrics`."""
    gauge = GaugeMetricFamily(
        "gwanje_tenant_failing", "1 for each work that fails for a tenant.", labels=["tenant", "work"]
    )
    for one in failing_tenants():
        gauge.add_metric([one.slug, one.failure.work], 1)
    return [gauge]
