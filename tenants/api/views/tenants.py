"""Tenants, as the platform's staff see and create them. On the public side only."""

from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django_tenants.utils import get_public_schema_name
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.api.authentication import ThrottledBasicAuthentication
from tenants.api.errors import ErrorSerializer
from tenants.api.permissions import IsSuperuser
from tenants.api.serializers.tenants import NewTenantSerializer, TenantSerializer
from tenants.infrastructure.error_codes import ErrorCode
from tenants.models import Domain, Tenant
from tenants.services.lifecycle import create_tenant

from .base import StrictView


class TenantViewSet(mixins.ListModelMixin, StrictView, viewsets.GenericViewSet):
    """The platform's tenants."""

    authentication_classes = (ThrottledBasicAuthentication, SessionAuthentication)
    permission_classes = (IsSuperuser,)
    throttle_classes = ()
    filter_backends = ()
    how_to_authenticate = _("Send the username and password of a superuser (HTTP Basic), or log in.")
    queryset = Tenant.objects.exclude(schema_name=get_public_schema_name()).prefetch_related("domains").order_by("slug")
    serializer_class = TenantSerializer

    def known_parameters(self) -> Iterable[str]:
        """Return the names of the accepted query parameters."""
        return getattr(self.paginator, "parameters", ())

    @extend_schema(request=NewTenantSerializer, responses={201: TenantSerializer, 409: ErrorSerializer})
    def create(self, request: Request) -> Response:
        """Create a tenant with its schema and units. Takes a second or two."""
        wanted = NewTenantSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        _refuse_taken_domain(wanted.validated_data)
        tenant = create_tenant(**wanted.validated_data)
        tenant.refresh_from_db()
        return Response(TenantSerializer(tenant).data, status.HTTP_201_CREATED)


def _refuse_taken_domain(wanted: dict[str, Any]) -> None:
    """409 for a host name of another tenant; a resumed tenant may have its own already."""
    domain = wanted.get("domain")
    holder = Domain.objects.select_related("tenant").filter(domain=domain).first() if domain else None
    if holder is not None and holder.tenant.slug != wanted["slug"]:
        text = _t("The host name %(host)s belongs to another tenant. Choose another one.") % {"host": domain}
        raise ValidationError({"domain": ErrorDetail(text, ErrorCode.EXISTS)})
