"""The public schema: tenants, users and their memberships, plans, and which device belongs to which tenant."""

from .messages import UnroutedFlood, UnroutedMessage, WaitingMessage
from .plans import Plan, TenantLimits
from .preregistration import Board
from .routes import AppRoute, DeviceRoute
from .tenants import SLUG_PATTERN, Domain, Membership, Tenant, TenantAlias, User, validate_slug

__all__ = [
    "SLUG_PATTERN",
    "AppRoute",
    "Board",
    "DeviceRoute",
    "Domain",
    "Membership",
    "Plan",
    "Tenant",
    "TenantAlias",
    "TenantLimits",
    "UnroutedFlood",
    "UnroutedMessage",
    "User",
    "WaitingMessage",
    "validate_slug",
]
