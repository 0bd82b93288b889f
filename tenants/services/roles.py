"""The one place that says what a user may do in a tenant."""

from django.contrib.auth.models import AnonymousUser

from tenants.models import Membership, Tenant, User

Role = Membership.Role
_RANK = {Role.VIEWER: 1, Role.OPERATOR: 2, Role.ADMIN: 3}


def role_of(user: User | AnonymousUser, tenant: Tenant | None) -> Membership.Role | None:
    """The user's role in the tenant, or None. Superusers are administrators everywhere (the platform's staff)."""
    if tenant is None or not isinstance(user, User) or not user.is_active:
        return None
    if user.is_superuser:
        return Role.ADMIN
    row = Membership.objects.filter(user=user, tenant_id=tenant.pk).values_list("role", flat=True).first()
    return Role(row) if row else None


def reaches(role: Membership.Role | None, needed: Membership.Role) -> bool:
    """Whether the role is at least the needed one."""
    return role is not None and _RANK[role] >= _RANK[needed]
