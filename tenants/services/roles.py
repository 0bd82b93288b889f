"""Roles of users in tenants."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.models import AnonymousUser

from tenants.models import Membership, Tenant, User

Role = Membership.Role
_RANK = {Role.VIEWER: 1, Role.OPERATOR: 2, Role.ADMIN: 3, Role.OWNER: 4}


@dataclass(frozen=True, slots=True)
class MemberAccess:
    """The role of a member, and the stored selector of the devices that the member can see; empty: all."""

    role: Membership.Role | None = None
    selector: Mapping[str, Any] = field(default_factory=dict)


def access_of(user: User | AnonymousUser, tenant: Tenant | None) -> MemberAccess:
    """Return the user's access to the tenant. Superusers are owners of all tenants and see all devices."""
    if tenant is None or not isinstance(user, User) or not user.is_active:
        return MemberAccess()
    if user.is_superuser:
        return MemberAccess(Role.OWNER)
    row = Membership.objects.filter(user=user, tenant_id=tenant.pk).values_list("role", "selector").first()
    return MemberAccess(Role(row[0]), row[1]) if row else MemberAccess()


def request_access(request: Any) -> MemberAccess:
    """Return the access of a request's user to its tenant: one query for a request, of Django or REST framework."""
    known: tuple[Any, MemberAccess] | None = getattr(request, "_member_access", None)
    if known is None or known[0] != request.user.pk:
        known = request.user.pk, access_of(request.user, getattr(request, "tenant", None))
        request._member_access = known
    return known[1]


def role_of(user: User | AnonymousUser, tenant: Tenant | None) -> Membership.Role | None:
    """Return the user's role in the tenant, or None."""
    return access_of(user, tenant).role


def reaches(role: Membership.Role | None, needed: Membership.Role) -> bool:
    """Return whether the role includes the needed one."""
    return role is not None and _RANK[role] >= _RANK[needed]
