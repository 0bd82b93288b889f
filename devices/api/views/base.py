"""What the views of a tenant share: who may, what is refused, and one audit row for each change."""

from collections.abc import Iterable
from typing import Any, ClassVar, cast

from django.db import transaction
from django.db.models import Model
from django.http import Http404
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, viewsets
from rest_framework.exceptions import NotFound
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from devices.models import ApiKey
from devices.services import audit
from tenants.api.errors import ErrorSerializer
from tenants.api.views import StrictView
from tenants.models import Membership, User

Role = Membership.Role


class TenantView(StrictView):
    """A view in a tenant. The roles are read by `devices.api.permissions.TenantAccess`."""

    role_to_read: ClassVar[Membership.Role] = Role.VIEWER
    role_to_write: ClassVar[Membership.Role] = Role.ADMIN
    open_to_keys: ClassVar[bool] = True
    only_admin_keys: ClassVar[bool] = False
    how_to_authenticate = _("Send an API key of this tenant (Authorization: Bearer <key>), or log in.")

    @property
    def acting_user(self) -> User | ApiKey:
        """Whom the audit names: the permissions let nobody else past."""
        return cast("User | ApiKey", self.request.user)


class TenantObjects(TenantView, GenericAPIView):
    """A view over objects of one model."""

    def known_parameters(self) -> Iterable[str]:
        if getattr(self, "action", "list") != "list":
            return ()
        filterset = getattr(self, "filterset_class", None)
        return {*getattr(self.paginator, "parameters", ()), *(filterset.base_filters if filterset else ())}

    def get_object(self) -> Any:
        try:
            return super().get_object()
        except Http404 as error:
            name, value = next(iter(self.kwargs.items()))
            kind = self.get_queryset().model._meta.verbose_name
            values = {"kind": kind, "name": name, "value": value}
            raise NotFound(_t("There is no %(kind)s with the %(name)s %(value)s.") % values) from error


class AuditedUpdate(mixins.UpdateModelMixin, TenantObjects):
    """PATCH, with the audit row in the same transaction."""

    def perform_update(self, serializer: BaseSerializer[Any]) -> None:
        with transaction.atomic():
            changed = ", ".join(sorted(serializer.validated_data))
            audit.record(self.acting_user, "change", serializer.save(), changed)


class TenantModelViewSet(
    mixins.CreateModelMixin,
    mixins.RetrieveModelMixin,
    AuditedUpdate,
    mixins.DestroyModelMixin,
    mixins.ListModelMixin,
    TenantObjects,
    viewsets.GenericViewSet,
):
    """List, add, read, change (PATCH) and remove, each change with its audit row in one transaction."""

    http_method_names = ("get", "head", "post", "patch", "delete")
    lookup_value_converter = "int"
    lookup_field = "pk"
    lookup_url_kwarg = "id"

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        with transaction.atomic():
            audit.record(self.acting_user, "add", serializer.save())

    @extend_schema(responses={204: None, 409: ErrorSerializer})
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().destroy(request, *args, **kwargs)

    def perform_destroy(self, instance: Model) -> None:
        with transaction.atomic():
            audit.record(self.acting_user, "remove", instance)
            instance.delete()
