"""Audit entries in the API."""

from typing import ClassVar

from rest_framework import serializers

from devices.models import AuditEntry


class ChangeSerializer(serializers.Serializer):
    """A member that was changed."""

    before = serializers.JSONField(help_text="null if the object was added.")
    after = serializers.JSONField(help_text="null if the object was removed.")


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    """A change by a person, a key or the platform."""

    user = serializers.CharField(source="user_label", help_text="The person, `API key` with its prefix, or `gwanje`.")
    object = serializers.CharField(source="object_label", help_text="The object's name at the time of the change.")
    changes = serializers.DictField(
        child=ChangeSerializer(),
        allow_null=True,
        help_text="Changed members, without secrets; null for actions such as an export.",
    )

    class Meta:
        model = AuditEntry
        fields: ClassVar = [
            "id",
            "at",
            "user",
            "user_id",
            "key_id",
            "address",
            "request_id",
            "action",
            "object",
            "object_type",
            "object_id",
            "detail",
            "changes",
            "position",
            "previous_hash",
            "hash",
        ]
        read_only_fields = fields
        extra_kwargs: ClassVar = {
            "user_id": {"help_text": "null for keys and for the platform."},
            "key_id": {"help_text": "The API key; null for people and for the platform."},
            "address": {"help_text": "The client's address; empty for the platform's own work."},
            "request_id": {"help_text": "`X-Request-ID` of the request; empty for the platform's own work."},
            "position": {"help_text": "In the chain of hashes; null for a moment after the change."},
            "previous_hash": {"help_text": "The hash of the entry before in the chain."},
        }


class AuditPageSerializer(serializers.Serializer):
    """A page of audit entries."""

    results = AuditEntrySerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The next page; null on the last one.")
