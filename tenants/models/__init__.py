"""Models of the public schema: tenants, users, memberships, plans, routes, preregistered devices and messages."""

from .enrollment import PreregisteredDevice
from .messages import OverflowCount, OverflowMessage, OverflowUsage, SuppressedUnroutedMessages, UnroutedMessage
from .plans import Plan, TenantLimits
from .routes import AppRoute, DeviceRoute, RouteCandidate
from .service_keys import ServiceKey
from .sessions import UserSession
from .sign_ins import SignIn
from .tenants import SLUG_PATTERN, Domain, Membership, Tenant, TenantAlias, User, validate_slug

__all__ = [
    "SLUG_PATTERN",
    "AppRoute",
    "DeviceRoute",
    "Domain",
    "Membership",
    "OverflowCount",
    "OverflowMessage",
    "OverflowUsage",
    "Plan",
    "PreregisteredDevice",
    "RouteCandidate",
    "ServiceKey",
    "SignIn",
    "SuppressedUnroutedMessages",
    "Tenant",
    "TenantAlias",
    "TenantLimits",
    "UnroutedMessage",
    "User",
    "UserSession",
    "validate_slug",
]
