"""Tenants, as the platform's staff see and create them. On the public side only."""

from collections.abc import Iterable
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import DomainNameValidator
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django_tenants.utils import get_public_schema_name
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tenants.models import Domain, Tenant, User, validate_slug
from tenants.services.lifecycle import create_tenant

from .authentication import CarefulBasicAuthentication
from .errors import ErrorSerializer
from .exceptions import Conflict
from .serializers import StrictSerializer
from .views import StrictView


class IsSuperuser(BasePermission):
    """The platform's staff."""

    message = _("This needs a superuser of the platform.")

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.user, User) and request.user.is_active and request.user.is_superuser


class TenantSerializer(serializers.ModelSerializer[Tenant]):
    """A tenant and whether it is in use."""

    domains = serializers.SlugRelatedField[Domain](slug_field="domain", many=True, read_only=True)

    class Meta:
        model = Tenant
        fields: ClassVar = ["slug", "name", "state", "state_detail", "created_at", "domains"]
        read_only_fields = fields


class NewTenantSerializer(StrictSerializer):
    """A tenant to create; one whose creation failed is resumed."""

    slug = serializers.CharField(validators=[validate_slug], help_text="In addresses (/t/{slug}/) and topics.")
    name = serializers.CharField(max_length=120)
    domain = serializers.CharField(required=False, max_length=253, help_text="A host name of its own.")
    owner = serializers.SlugRelatedField(
        slug_field="username",
        queryset=User.objects.filter(is_active=True),
        required=False,
        error_messages={"does_not_exist": _("There is no active user {value}: create the user first.")},
        help_text="The username of its first administrator.",
    )

    def validate_domain(self, value: str) -> str:
        domain = value.lower().rstrip(".")
        DomainNameValidator(message=_("Give a host name, for example demo.example.com."))(domain)
        if domain == urlsplit(settings.PUBLIC_URL).hostname:
            raise serializers.ValidationError(_t("%(host)s is the platform's own address.") % {"host": domain})
        return domain


class TenantViewSet(mixins.ListModelMixin, StrictView, viewsets.GenericViewSet):
    """The platform's tenants."""

    authentication_classes = (CarefulBasicAuthentication, SessionAuthentication)
    permission_classes = (IsSuperuser,)
    throttle_classes = ()
    filter_backends = ()
    how_to_authenticate = _("Send the username and password of a superuser (HTTP Basic), or log in.")
    queryset = Tenant.objects.exclude(schema_name=get_public_schema_name()).prefetch_related("domains").order_by("slug")
    serializer_class = TenantSerializer

    def known_parameters(self) -> Iterable[str]:
        return getattr(self.paginator, "parameters", ())

    @extend_schema(request=NewTenantSerializer, responses={201: TenantSerializer, 409: ErrorSerializer})
    def create(self, request: Request) -> Response:
        """Create a tenant with its schema and units. Takes a second or two."""
        wanted = NewTenantSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        _refuse_taken_domain(wanted.validated_data)
        try:
            tenant = create_tenant(**wanted.validated_data)
        except ValidationError as error:
            raise Conflict(" ".join(error.messages)) from error
        tenant.refresh_from_db()
        return Response(TenantSerializer(tenant).data, status.HTTP_201_CREATED)


def _refuse_taken_domain(wanted: dict[str, Any]) -> None:
    """409 for a host name of another tenant; a resumed tenant may have its own already."""
    domain = wanted.get("domain")
    holder = Domain.objects.select_related("tenant").filter(domain=domain).first() if domain else None
    if holder is not None and holder.tenant.slug != wanted["slug"]:
        raise Conflict(_t("The host name %(host)s belongs to another tenant: choose another one.") % {"host": domain})
