"""Devices, their components, their keys."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, ClassVar

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from devices.api.idempotency import NULL_WHEN_REPEATED
from devices.api.visibility import VisibleDeviceField
from devices.models import Device, DeviceContact, DeviceCredential, DeviceStatus, HardwareModel
from devices.models.base import validate_key
from devices.services.presence import contacts, descriptions, overview, warnings
from devices.services.presence.timeouts import TimeoutSource, loaded
from devices.services.provisioning.registration import IssuedCredentials
from tenants.api.serializers.base import (
    NumberedObjectField,
    QuickSerializer,
    StrictModelSerializer,
    StrictSerializer,
    Timestamp,
)
from tenants.infrastructure.error_codes import ErrorCode

from .attributes import AttributesField, TagsField
from .components import DeviceComponentSerializer, component_type_by_key, time_or_null
from .places import place_field

_NO_SUCH_MODEL = _("There is no hardware model {pk_value}. Create it at hardware-models/ first.")


def hardware_model_field() -> NumberedObjectField:
    return NumberedObjectField(
        queryset=HardwareModel.objects.all(),
        required=False,
        allow_null=True,
        error_messages={"does_not_exist": _NO_SUCH_MODEL},
        help_text="The id of a hardware model.",
    )


def gateway_field() -> VisibleDeviceField:
    return VisibleDeviceField(
        required=False, allow_null=True, help_text="The UUID of the device that may send messages for this one."
    )


def external_id_field() -> serializers.CharField:
    return serializers.CharField(
        max_length=120, required=False, allow_null=True, help_text="The id of the device in another system."
    )


def _seconds_field(help_text: str) -> serializers.IntegerField:
    return serializers.IntegerField(
        min_value=1, max_value=2**31 - 1, required=False, allow_null=True, help_text=help_text
    )


def _is_valid(key: DeviceCredential) -> bool:
    return key.revoked_at is None and (key.not_after is None or key.not_after > timezone.now())


class DeviceKeySerializer(QuickSerializer, serializers.ModelSerializer[DeviceCredential]):
    """A key of a device: its version, which is the key id (`kid`) in signatures, and its validity."""

    quick: ClassVar = {
        "version": attrgetter("version"),
        "created_at": lambda key: time_or_null(key.created_at),
        "expires_at": lambda key: time_or_null(key.not_after),
        "revoked_at": lambda key: time_or_null(key.revoked_at),
        "valid": lambda key: _is_valid(key),
    }

    expires_at = serializers.DateTimeField(source="not_after", read_only=True, allow_null=True)
    valid = serializers.SerializerMethodField()

    class Meta:
        model = DeviceCredential
        fields: ClassVar = ["version", "created_at", "expires_at", "revoked_at", "valid"]
        read_only_fields = fields

    def get_valid(self, key: DeviceCredential) -> bool:
        return _is_valid(key)


def _parts(device: Device) -> list[dict[str, Any]]:
    show = _component_serializer.to_representation
    _overview(device)  # reads the reports of all components
    return [show(component) for component in loaded(device, "components")]


def _keys(device: Device) -> list[dict[str, Any]]:
    show = _key_serializer.to_representation
    return [show(key) for key in loaded(device, "credentials")]


# They show all members without fields, so one serves every request.
_component_serializer, _key_serializer = DeviceComponentSerializer(), DeviceKeySerializer()


def _status_description(device: Device) -> str | None:
    known = _overview(device)
    sentences = [descriptions.describe_change(known.change, known.status.session)] if known.change else []
    sentences += [contacts.describe_contact(known.contact)] if known.contact else []
    return " ".join(sentences) or None


class ContactSerializer(serializers.Serializer[DeviceContact]):
    """A verified message that came after the last activity and does not count: late, or refused for `reason`."""

    received_at = Timestamp()
    device_time = Timestamp(allow_null=True, help_text="By the device's clock; null where it cannot be read.")
    clock_offset_seconds = serializers.FloatField(
        allow_null=True, help_text="The device's time less the arrival; negative: the clock is behind."
    )
    reason = serializers.CharField(help_text="`late`, or a reason for quarantine.")
    topic = serializers.CharField()
    description = serializers.CharField(help_text="The message in words, and why it does not count.")


class DeviceWarningSerializer(serializers.Serializer[warnings.DeviceWarning]):
    """Values were left out of the messages of a component; `at`: of the newest such message."""

    code = serializers.ChoiceField(choices=["message_limit", "series_limit"])
    detail = serializers.CharField()
    component = serializers.CharField()
    at = Timestamp()


def _warnings(device: Device) -> list[dict[str, Any]]:
    return [
        {"code": one.code, "detail": one.detail, "component": one.component, "at": time_or_null(one.at)}
        for one in warnings.warnings_of(device, timezone.now())
    ]


def _contact(device: Device) -> dict[str, Any] | None:
    contact = _overview(device).contact
    if contact is None:
        return None
    return {
        "received_at": time_or_null(contact.received_at),
        "device_time": time_or_null(contact.device_time),
        "clock_offset_seconds": contacts.clock_offset(contact),
        "reason": contact.reason,
        "topic": contact.topic,
        "description": contacts.describe_contact(contact),
    }


class DeviceSerializer(QuickSerializer, StrictModelSerializer[Device]):
    """A device with its state, its components and its keys (never their secrets)."""

    quick: ClassVar = {
        "uuid": lambda device: str(device.uuid),
        "name": attrgetter("name"),
        "cpu_serial": attrgetter("cpu_serial"),
        "hardware_model": attrgetter("hardware_model_id"),
        "place": lambda device: device.place.key if device.place else None,
        "gateway": lambda device: str(device.gateway.uuid) if device.gateway else None,
        "tags": attrgetter("tags"),
        "external_id": attrgetter("external_id"),
        "attributes": attrgetter("attributes"),
        "active": attrgetter("active"),
        "ownership": attrgetter("ownership"),
        "timeout_seconds": attrgetter("timeout_seconds"),
        "created_at": lambda device: time_or_null(device.created_at),
        "status": lambda device: overview.status_of(device).status,
        "status_changed_at": lambda device: time_or_null(overview.status_of(device).since),
        "status_cause": lambda device: overview.status_of(device).cause,
        "status_description": lambda device: _status_description(device),
        "last_seen_at": lambda device: time_or_null(_overview(device).last_seen_at),
        "last_contact": _contact,
        "warnings": lambda device: _warnings(device),
        "flapping": lambda device: _overview(device).flapping,
        "in_maintenance": lambda device: _overview(device).in_maintenance,
        "effective_timeout_seconds": lambda device: round(_overview(device).timeout),
        "timeout_source": lambda device: _overview(device).timeout_source.value,
        "components": _parts,
        "keys": _keys,
    }

    hardware_model = hardware_model_field()
    place = place_field()
    gateway = gateway_field()
    tags = TagsField(required=False)
    external_id = external_id_field()
    attributes = AttributesField(required=False)
    status = serializers.ChoiceField(
        choices=DeviceStatus.Status.choices, source="presence.status", read_only=True, default="UNKNOWN"
    )
    status_changed_at = serializers.DateTimeField(source="presence.since", read_only=True, allow_null=True)
    status_cause = serializers.CharField(source="presence.cause", read_only=True, default="")
    status_description = serializers.SerializerMethodField(help_text="The cause of the state in words, with its times.")
    last_seen_at = serializers.SerializerMethodField()
    last_contact = serializers.SerializerMethodField(
        help_text="A verified message that came after `last_seen_at` and does not count; null if there is none."
    )
    warnings = serializers.SerializerMethodField(
        help_text="Values that were left out of its messages in the last day, with the cause; empty: none."
    )
    flapping = serializers.SerializerMethodField(help_text="It changes so often that apps do not receive each change.")
    in_maintenance = serializers.SerializerMethodField()
    effective_timeout_seconds = serializers.SerializerMethodField(
        help_text="Seconds without a message until the device times out."
    )
    timeout_source = serializers.SerializerMethodField(
        help_text="The device itself, its model, its components' intervals, or the tenant."
    )
    components = DeviceComponentSerializer(many=True, read_only=True)
    keys = DeviceKeySerializer(many=True, read_only=True, source="credentials")

    class Meta:
        model = Device
        fields: ClassVar = [
            "uuid",
            "name",
            "cpu_serial",
            "hardware_model",
            "place",
            "gateway",
            "tags",
            "external_id",
            "attributes",
            "active",
            "ownership",
            "timeout_seconds",
            "created_at",
            "status",
            "status_changed_at",
            "status_cause",
            "status_description",
            "last_seen_at",
            "last_contact",
            "warnings",
            "flapping",
            "in_maintenance",
            "effective_timeout_seconds",
            "timeout_source",
            "components",
            "keys",
        ]
        read_only_fields: ClassVar = ["uuid", "ownership"]

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_status_description(self, device: Device) -> str | None:
        return _status_description(device)

    @extend_schema_field(Timestamp(allow_null=True))
    def get_last_seen_at(self, device: Device) -> str | None:
        return time_or_null(_overview(device).last_seen_at)

    @extend_schema_field(ContactSerializer(allow_null=True))
    def get_last_contact(self, device: Device) -> dict[str, Any] | None:
        return _contact(device)

    @extend_schema_field(DeviceWarningSerializer(many=True))
    def get_warnings(self, device: Device) -> list[dict[str, Any]]:
        return _warnings(device)

    def get_flapping(self, device: Device) -> bool:
        return _overview(device).flapping

    def get_in_maintenance(self, device: Device) -> bool:
        return _overview(device).in_maintenance

    def get_effective_timeout_seconds(self, device: Device) -> int:
        return round(_overview(device).timeout)

    def get_timeout_source(self, device: Device) -> TimeoutSource:
        return _overview(device).timeout_source


# What the states of a page of devices are read for.
PRESENCE_MEMBERS = frozenset(
    {
        "status_description", "last_seen_at", "last_contact", "flapping", "in_maintenance", "effective_timeout_seconds",
        "timeout_source", "components",
    }
)  # fmt: skip


class NewComponentSerializer(StrictSerializer):
    """A component of a device that is being registered."""

    key = serializers.CharField(validators=[validate_key], help_text="Key in topics, for example dht22.")
    component_type = component_type_by_key()
    expected_interval = _seconds_field("Seconds between its reports, if they differ from the interval of its type.")


class RegistrationSerializer(StrictSerializer):
    """A device to register. Without a UUID it gets one."""

    name = serializers.CharField(max_length=120)
    uuid = serializers.UUIDField(required=False)
    cpu_serial = serializers.CharField(
        max_length=64, required=False, allow_blank=True, help_text="If given, every message must contain it."
    )
    hardware_model = hardware_model_field()
    place = place_field()
    gateway = gateway_field()
    tags = TagsField(required=False)
    external_id = external_id_field()
    attributes = AttributesField(required=False)
    timeout_seconds = _seconds_field("Seconds without a message until the device times out; null: derived.")
    components = NewComponentSerializer(many=True, required=False)

    def validate_components(self, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        keys = [component["key"] for component in value]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            refusal = _t("Keys of components must be unique; given more than once: %(keys)s.")
            raise serializers.ValidationError(refusal % {"keys": ", ".join(twice)}, ErrorCode.REPEATED)
        return value


class CredentialsSerializer(serializers.Serializer):
    """Credentials of a device. They are shown in this answer only."""

    uuid = serializers.UUIDField()
    secret = serializers.CharField(allow_null=True, help_text=f"Signs the device's messages; {NULL_WHEN_REPEATED}")
    kid = serializers.IntegerField(help_text="The version of the secret, in the header of version 2 signatures.")
    mqtt_host = serializers.CharField()
    mqtt_port = serializers.IntegerField()
    mqtt_username = serializers.CharField(help_text="Also the client id.")
    mqtt_password = serializers.CharField(allow_null=True, help_text=NULL_WHEN_REPEATED)


class RegisteredDeviceSerializer(DeviceSerializer):
    """A device that was just registered, with its credentials."""

    credentials = CredentialsSerializer(read_only=True)

    class Meta(DeviceSerializer.Meta):
        fields: ClassVar = [*DeviceSerializer.Meta.fields, "credentials"]


class RotationSerializer(StrictSerializer):
    """Options for the next key of a device."""

    overlap_seconds = serializers.IntegerField(
        required=False,
        min_value=0,
        max_value=90 * 86400,
        help_text="Seconds for which the earlier keys stay valid; default: 7 days. Use 0 if a key was disclosed.",
    )


def note_presence(devices: Iterable[Device]) -> None:
    """Read the presence of all these devices in a few queries, instead of some for each."""
    listed = list(devices)
    overviews = overview.overviews_of(listed, timezone.now())
    for device in listed:
        device.overview = overviews[device.pk]  # type: ignore[attr-defined]
        for component in loaded(device, "components"):
            component.report = overviews[device.pk].reports[component.pk]


def _overview(device: Any) -> overview.PresenceOverview:
    if not hasattr(device, "overview"):
        note_presence([device])
    return device.overview


def credentials_data(issued: IssuedCredentials) -> dict[str, Any]:
    """Return the issued credentials as CredentialsSerializer describes them."""
    return {
        "uuid": str(issued.uuid),
        "secret": issued.secret,
        "kid": issued.key_version,
        "mqtt_host": settings.MQTT_HOST,
        "mqtt_port": settings.MQTT_PORT,
        "mqtt_username": str(issued.uuid),
        "mqtt_password": issued.mqtt_password,
    }
