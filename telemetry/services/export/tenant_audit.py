"""What is written down when somebody takes everything."""

from devices.services import audit
from tenants.infrastructure.schema_context import current_schema
from tenants.models import Tenant


def record(acting_user: audit.Actor) -> None:
    """One row in the audit of the current tenant."""
    tenant = Tenant.objects.get(schema_name=current_schema())
    audit.record(acting_user, "export everything", tenant)
