"""The role of a request's user in its tenant, cached on the request."""

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from tenants.models import User
from tenants.services.roles import Role, reaches, role_of


def role(request: HttpRequest) -> Role | None:
    """Return the user's role in the request's tenant, or None."""
    known = getattr(request, "_tenant_role", None)
    if known is None or known[0] != request.user.pk:
        known = (request.user.pk, role_of(request.user, getattr(request, "tenant", None)))
        request._tenant_role = known  # type: ignore[attr-defined]
    return known[1]


def may(request: HttpRequest, needed: Role) -> bool:
    """Return whether the user's role includes the needed one."""
    return reaches(role(request), needed)


def person(request: HttpRequest) -> User:
    """Return the signed-in user. Raises PermissionDenied."""
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user
