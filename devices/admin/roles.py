"""The role of a request's user in its tenant."""

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from tenants.models import User
from tenants.services.roles import Role, reaches, request_access


def role(request: HttpRequest) -> Role | None:
    """Return the user's role in the request's tenant, or None."""
    return request_access(request).role


def may(request: HttpRequest, needed: Role) -> bool:
    """Return whether the user's role includes the needed one."""
    return reaches(role(request), needed)


def person(request: HttpRequest) -> User:
    """Return the signed-in user. Raises PermissionDenied."""
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user
