"""The client of a request."""

from rest_framework import serializers

from tenants.services.roles import Role

from .selectors import SelectorSerializer

CLIENT_KINDS = ("key", "person")


class WhoAmISerializer(serializers.Serializer):
    """The client: an API key with its scopes, or a person with a role."""

    tenant = serializers.CharField(help_text="The tenant's slug.")
    kind = serializers.ChoiceField(choices=CLIENT_KINDS)
    name = serializers.CharField(help_text="The key's name, or the person's user name.")
    prefix = serializers.CharField(allow_null=True, help_text="The key's first characters; null for a person.")
    role = serializers.ChoiceField(
        choices=Role.choices, allow_null=True, help_text="The person's role; null for a key."
    )
    scopes = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="The key's scopes; null for a person."
    )
    selector = SelectorSerializer(help_text="The devices that the client can see; without members all.")
    expires_at = serializers.DateTimeField(allow_null=True, help_text="The key's end; null for none.")
