"""Roles of users in tenants."""

from django.contrib.auth.models import AnonymousUser

from tenants.models import Membership, Tenant, User

Role = Membership.Role
_RANK = {Role.VIEWER: 1, Role.OPERATOR: 2, Role.ADMIN: 3}


def role_of(user: User | AnonymousUser, tenant: Tenant | None) -> Membership.Role | None:
    """Return the user's role in the tenant, or None. Superusers are administrators of all tenants."""
    if tenant is None or not isinstance(user, User) or not user.is_active:
        return None
    if user.is_superuser:
        return Role.ADMIN
    row = Membership.objects.filter(user=user, tenant_id=tenant.pk).values_list("role", flat=True).first()
    return Role(row) if row else None


def reaches(role: Membership.Role | None, needed: Membership.Role) -> bool:
    """Return whether the role includes the needed one."""
    return role is not None and _RANK[role] >= _RANK[needed]
