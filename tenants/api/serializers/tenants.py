"""Tenants, as the platform's staff see and create them."""

from typing import ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.core.validators import DomainNameValidator
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from tenants.api.serializers.base import NamedObjectField, StrictSerializer
from tenants.models import Domain, Plan, Tenant, User, validate_slug
from tenants.models.plans import LimitValues


class TenantSerializer(serializers.ModelSerializer[Tenant]):
    """A tenant and whether it is in use."""

    domains = serializers.SlugRelatedField[Domain](slug_field="domain", many=True, read_only=True)

    plan = serializers.CharField(
        source="limits.plan.name", read_only=True, allow_null=True, default=None, help_text="The name of its plan."
    )

    class Meta:
        model = Tenant
        fields: ClassVar = ["slug", "name", "state", "state_detail", "created_at", "domains", "plan"]
        read_only_fields = fields


class NewTenantSerializer(StrictSerializer):
    """A tenant to create; one whose creation failed is resumed."""

    slug = serializers.CharField(validators=[validate_slug], help_text="In addresses (/t/{slug}/) and topics.")
    name = serializers.CharField(max_length=120)
    domain = serializers.CharField(required=False, max_length=253, help_text="A host name of its own.")
    owner = NamedObjectField(
        slug_field="username",
        queryset=User.objects.filter(is_active=True),
        required=False,
        error_messages={"does_not_exist": _("There is no active user {value}. Create the user first.")},
        help_text="The username of its first owner.",
    )

    def validate_domain(self, value: str) -> str:
        domain = value.lower().rstrip(".")
        DomainNameValidator(message=_("Give a host name, for example demo.example.com."))(domain)
        if domain == urlsplit(settings.PUBLIC_URL).hostname:
            raise serializers.ValidationError(_t("%(host)s is the platform's own address.") % {"host": domain})
        return domain


class TenantChangesSerializer(StrictSerializer):
    """What can be changed of a tenant."""

    name = serializers.CharField(max_length=120)
    plan = serializers.SlugRelatedField(
        slug_field="name",
        queryset=Plan.objects.all(),
        allow_null=True,
        error_messages={"does_not_exist": _("There is no plan {value}. plans/ lists the plans.")},
        help_text="The name of a plan; null: none.",
    )


class SuspensionSerializer(StrictSerializer):
    """Why a tenant is suspended."""

    reason = serializers.CharField(max_length=500, help_text="For staff.")


class PlanSerializer(serializers.ModelSerializer[Plan]):
    """A plan. A limit is null where that of the platform applies; 0: no limit."""

    class Meta:
        model = Plan
        fields: ClassVar = ["name", *(field.name for field in LimitValues._meta.local_fields)]
        read_only_fields = fields
