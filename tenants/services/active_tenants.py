"""The schemas of active tenants, for work that visits each of them."""

from collections.abc import Callable

from django_tenants.utils import schema_context

from tenants.models import Tenant


def active_schemas() -> list[str]:
    """Return the schemas' names, read in the public schema."""
    with schema_context("public"):
        return list(Tenant.objects.filter(state=Tenant.State.ACTIVE).values_list("schema_name", flat=True))


def sum_over_active(count: Callable[[], int]) -> int:
    """Call the function in the schema of each active tenant, and return the sum of its results."""
    total = 0
    for schema in active_schemas():
        with schema_context(schema):
            total += count()
    return total
