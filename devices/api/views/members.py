"""Members of the tenant: administrators, owners, and keys with the scopes `members:read` and `members:write`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.exceptions import PermissionDenied, Throttled
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from devices.api import filters
from devices.api.serializers.members import MemberSerializer, NewMemberSerializer
from devices.services import members
from tenants.api.errors import ErrorSerializer
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.error_codes import ErrorCode
from tenants.models import Membership
from tenants.services.roles import Role

from .base import AuditedUpdate


class MemberViewSet(
    AuditedUpdate, mixins.RetrieveModelMixin, mixins.ListModelMixin, mixins.DestroyModelMixin, viewsets.GenericViewSet
):
    """The people of the tenant, with the role and the device selector of each."""

    resource = "members"
    role_to_read = role_to_write = Role.ADMIN
    http_method_names = ("get", "head", "post", "patch", "delete")
    lookup_value_converter = "int"
    lookup_field = "pk"
    lookup_url_kwarg = "id"
    queryset = Membership.objects.none()
    serializer_class = MemberSerializer
    filterset_class = filters.MemberFilter
    orderings: ClassVar = {"username": "user__username", "email": "user__email", "role": "role"}

    def get_queryset(self) -> QuerySet[Membership]:
        """Return the tenant's members."""
        return members.members_of(current_schema()).order_by("user__username")

    def lock_object(self) -> None:
        """Lock all members of the tenant: a change of one depends on the others."""
        self.get_object()
        members.lock_members()

    @extend_schema(request=NewMemberSerializer, responses={201: MemberSerializer, 409: ErrorSerializer})
    def create(self, request: Request) -> Response:
        """Add a person with an account to the tenant.

        Only an owner adds owners. A key gives only roles whose scopes it has itself.
        """
        wanted = NewMemberSerializer(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        with _refusals():
            user = members.find_user(username=given.pop("username", ""), email=given.pop("email", ""))
            member = members.add_member(user, **given, acting_user=self.acting_user)
        return Response(self.get_serializer(member).data, status.HTTP_201_CREATED)

    @extend_schema(responses={200: MemberSerializer, 409: ErrorSerializer})
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change the role or the selector. The last owner cannot become something else."""
        return super().partial_update(request, *args, **kwargs)

    def perform_update(self, serializer: BaseSerializer[Any]) -> None:
        """Change the member by the service."""
        member, changes = cast("Membership", serializer.instance), serializer.validated_data
        with _refusals():
            serializer.instance = members.change_member(member, **changes, acting_user=self.acting_user)

    @extend_schema(responses={204: None, 409: ErrorSerializer})
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Remove a person from the tenant; the account itself stays. The last owner cannot be removed."""
        return super().destroy(request, *args, **kwargs)

    def perform_destroy(self, instance: Membership) -> None:
        """Remove the member by the service."""
        with _refusals():
            members.remove_member(instance, acting_user=self.acting_user)


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise the service's exceptions as those of the API."""
    try:
        yield
    except members.RoleNotGrantable as error:
        code = ErrorCode.SCOPE_REQUIRED if error.by_key else ErrorCode.ROLE_REQUIRED
        raise PermissionDenied(str(error), code) from error
    except members.TooManyUnknownNames as error:
        raise Throttled(error.wait, str(error)) from error
