"""The tenant of a request by its slug or its host name, kept for a moment by each web process."""

from django.db.models import QuerySet
from django_tenants.utils import get_public_schema_name

from tenants.infrastructure.access_cache import AccessCache
from tenants.models import Domain, Tenant

# By "slug:…" or "host:…".
_found: AccessCache[str, Tenant] = AccessCache()


def by_slug(slug: str) -> Tenant | None:
    """Return the tenant in whatever state; one that another process suspended is active for a second longer."""
    return _found.get(f"slug:{slug}", lambda: _tenants().filter(slug=slug).first())


def by_host(hostname: str) -> Tenant | None:
    """Return the tenant of the host name in lower case; None for any other name."""
    return _found.get(f"host:{hostname}", lambda: _tenant_of(hostname))


def forget(pk: int) -> None:
    """Read the tenant again at its next request to this process."""
    _found.forget(lambda _key, tenant: tenant.pk == pk)


def _tenants() -> QuerySet[Tenant]:
    return Tenant.objects.exclude(schema_name=get_public_schema_name())


def _tenant_of(hostname: str) -> Tenant | None:
    domain = Domain.objects.select_related("tenant").filter(domain=hostname).first()
    if domain is None or domain.tenant.schema_name == get_public_schema_name():
        return None
    return domain.tenant
