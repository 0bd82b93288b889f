"""Tenants, as the platform's staff see and create them. On the public side only."""

from typing import Any, cast

from django.contrib.admin.models import ADDITION, CHANGE
from django.db import transaction
from django.http import Http404
from django.utils.translation import gettext as _t
from django_tenants.utils import get_public_schema_name
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import ErrorDetail, NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.api.entity_tags import TaggedObject
from tenants.api.errors import Conflict, ErrorSerializer
from tenants.api.serializers.base import refuse_body
from tenants.api.serializers.tenants import (
    NewTenantSerializer,
    PlanSerializer,
    SuspensionSerializer,
    TenantChangesSerializer,
    TenantSerializer,
)
from tenants.infrastructure.error_codes import ErrorCode
from tenants.models import Domain, Plan, ServiceKey, Tenant
from tenants.services import lifecycle
from tenants.services.lifecycle import create_tenant
from tenants.services.limits import set_limits
from tenants.services.service_keys import log_staff_change

from .staff import StaffView


class TenantViewSet(TaggedObject, mixins.ListModelMixin, mixins.RetrieveModelMixin, StaffView, viewsets.GenericViewSet):
    """The platform's tenants."""

    resource = "tenants"
    http_method_names = ("get", "head", "post", "patch")
    lookup_value_converter = "str"
    lookup_field = lookup_url_kwarg = "slug"
    queryset = (
        Tenant.objects.exclude(schema_name=get_public_schema_name())
        .select_related("limits__plan")
        .prefetch_related("domains")
        .order_by("slug")
    )
    serializer_class = TenantSerializer

    def edited_members(self) -> frozenset[str]:
        """Return the members that PATCH changes."""
        return frozenset(TenantChangesSerializer().fields)

    def get_object(self) -> Tenant:
        """Return the tenant of the request. Raises NotFound."""
        try:
            return cast("Tenant", super().get_object())
        except Http404 as error:
            text = _t("There is no tenant with the slug %(slug)s.") % {"slug": self.kwargs["slug"]}
            raise NotFound(text) from error

    @extend_schema(request=NewTenantSerializer, responses={201: TenantSerializer, 409: ErrorSerializer})
    def create(self, request: Request) -> Response:
        """Create a tenant with its schema and units. Takes a second or two."""
        wanted = NewTenantSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        _refuse_taken_domain(wanted.validated_data)
        tenant = create_tenant(**wanted.validated_data)
        tenant.refresh_from_db()
        log_staff_change(self.staff_user, tenant, self._by_key("Created."), ADDITION)
        return Response(TenantSerializer(tenant).data, status.HTTP_201_CREATED)

    @extend_schema(request=TenantChangesSerializer, responses=TenantSerializer)
    def partial_update(self, request: Request, slug: str) -> Response:
        """Rename a tenant, or give it another plan. Limits of its own stay, and replace those of the plan."""
        wanted = TenantChangesSerializer(data=request.data, partial=True)
        wanted.is_valid(raise_exception=True)
        tenant, changes = self.get_object(), wanted.validated_data
        with transaction.atomic():
            if "name" in changes:
                lifecycle.rename_tenant(tenant, changes["name"])
            if "plan" in changes:
                set_limits(tenant, plan=changes["plan"])
            if changes:
                text = "; ".join(f"{name}: {value}" for name, value in changes.items())
                log_staff_change(self.staff_user, tenant, self._by_key(text), CHANGE)
        return self._shown()

    @extend_schema(request=SuspensionSerializer, responses={200: TenantSerializer, 409: ErrorSerializer})
    @action(detail=True, methods=["post"], pagination_class=None)
    def suspend(self, request: Request, slug: str) -> Response:
        """Suspend an active tenant: its addresses close, and messages of its devices are quarantined."""
        wanted = SuspensionSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        tenant, reason = self.get_object(), wanted.validated_data["reason"]
        return self._changed(tenant, lifecycle.suspend_tenant(tenant, reason=reason), f"Suspended: {reason}")

    @extend_schema(request=None, responses={200: TenantSerializer, 409: ErrorSerializer})
    @action(detail=True, methods=["post"], pagination_class=None)
    def resume(self, request: Request, slug: str) -> Response:
        """Resume a suspended tenant."""
        refuse_body(request)
        tenant = self.get_object()
        return self._changed(tenant, lifecycle.resume_tenant(tenant), "Resumed.")

    def _changed(self, tenant: Tenant, done: bool, message: str) -> Response:
        """Log the change of the state and return the tenant. Raises Conflict where nothing was changed."""
        if not done:
            tenant.refresh_from_db()
            text = _t("The tenant %(slug)s is %(state)s.")
            values = {"slug": tenant.slug, "state": tenant.get_state_display()}
            raise Conflict(text % values, ErrorCode.WRONG_STATE)
        log_staff_change(self.staff_user, tenant, self._by_key(message), CHANGE)
        return self._shown()

    def _shown(self) -> Response:
        return Response(self.get_serializer(self.get_object()).data)

    def _by_key(self, message: str) -> str:
        key = self.request.auth
        return f"{message} (service key {key.prefix})" if isinstance(key, ServiceKey) else message


class PlanViewSet(mixins.ListModelMixin, StaffView, viewsets.GenericViewSet):
    """The plans that tenants can have, with their limits."""

    resource = "tenants"
    queryset = Plan.objects.order_by("name")
    serializer_class = PlanSerializer


def _refuse_taken_domain(wanted: dict[str, Any]) -> None:
    """409 for a host name of another tenant; a resumed tenant may have its own already."""
    domain = wanted.get("domain")
    holder = Domain.objects.select_related("tenant").filter(domain=domain).first() if domain else None
    if holder is not None and holder.tenant.slug != wanted["slug"]:
        text = _t("The host name %(host)s belongs to another tenant. Choose another one.") % {"host": domain}
        raise ValidationError({"domain": ErrorDetail(text, ErrorCode.EXISTS)})
