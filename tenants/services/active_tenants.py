"""The schemas of active tenants, for work that visits each of them."""

from collections.abc import Callable

from django_tenants.utils import schema_context

from tenants.models import Tenant

from .tenant_rounds import visit_each


def active_schemas() -> list[str]:
    """Return the schemas' names, read in the public schema."""
    with schema_context("public"):
        return list(Tenant.objects.filter(state=Tenant.State.ACTIVE).values_list("schema_name", flat=True))


def sum_over_active(work: str, count: Callable[[], int]) -> int:
    """Call the function in the schema of each active tenant, and return the sum of its results.

    Tenants for which it fails are left out, and recorded under the name of the work.
    """
    return sum(visit_each(work, active_schemas(), count).results.values())
