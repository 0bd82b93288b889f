"""Members of the tenant."""

from typing import Any, ClassVar

from django.utils.translation import gettext as _
from rest_framework import serializers

from devices.domain.selector import Selector
from tenants.api.serializers.base import StrictSerializer
from tenants.models import Membership
from tenants.services.roles import Role

from .selectors import SelectorSerializer


class MemberSerializer(StrictSerializer, serializers.ModelSerializer[Membership]):
    """A person's membership in the tenant."""

    username = serializers.CharField(source="user.username", read_only=True)
    email = serializers.CharField(source="user.email", read_only=True, help_text="Empty if the account has none.")
    active = serializers.BooleanField(
        source="user.is_active", read_only=True, help_text="Whether the person can sign in."
    )
    selector = SelectorSerializer(
        required=False, help_text="The devices that the member can see; without members all. Empty for owners."
    )

    class Meta:
        model = Membership
        fields: ClassVar = ["id", "username", "email", "active", "role", "selector"]
        extra_kwargs: ClassVar = {"role": {"required": False, "help_text": "Only owners give and take `owner`."}}

    def validate_selector(self, value: Selector) -> Selector:
        """Refuse empty lists: a selector of removed places is shown with them, and would become one of all devices."""
        if not value and self.initial_data["selector"]:
            text = _("All lists of the selector are empty. Send {} to show the member all devices.")
            raise serializers.ValidationError(text)
        return value


class NewMemberSerializer(StrictSerializer):
    """A person to be added, by user name or by e-mail address; the account must exist."""

    username = serializers.CharField(max_length=150, required=False)
    email = serializers.CharField(
        max_length=254, required=False, help_text="Instead of the user name, if one account only has it."
    )
    role = serializers.ChoiceField(choices=Role.choices, default=Role.VIEWER)
    selector = SelectorSerializer(required=False, help_text="The devices that the member can see; without members all.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Validate the members together; raises ValidationError."""
        if ("username" in attrs) == ("email" in attrs):
            raise serializers.ValidationError({"username": _("Send either 'username' or 'email'.")})
        return attrs
