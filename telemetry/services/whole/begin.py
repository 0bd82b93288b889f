"""What is written down when somebody takes everything."""

from devices.services import audit
from tenants.models import Tenant
from tenants.schemas import current_schema


def record(acting_user: audit.Actor) -> None:
    """One row in the audit of the current tenant."""
    tenant = Tenant.objects.get(schema_name=current_schema())
    audit.record(acting_user, "export everything", tenant)
