"""Devices of a tenant, their components, and their keys."""

import uuid
from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from devices.domain import pins
from devices.domain.attributes import validate_attributes
from devices.domain.tags import MAX_TAG_LENGTH, MAX_TAGS, validate_tags
from tenants.models.base import CountedModel

from .base import SpecInput, validate_key
from .metadata import ComponentType, HardwareModel
from .places import Place


class Device(CountedModel, SpecInput):
    """A device in the field. Registered and removed by `devices.services.provisioning.registration` only."""

    quota = "max_devices"
    not_in_specs = frozenset({"place", "tags", "external_id", "attributes"})

    # One level: a gateway speaks for devices that speak for no other.
    gateway = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="children",
        verbose_name=_("gateway"),
        db_index=False,
        help_text=_("The device that may sign and send messages for this one."),
    )

    class Signature(models.IntegerChoices):
        V1 = 1, _("version 1 or 2")
        V2 = 2, _("version 2 only")

    class Ownership(models.TextChoices):
        """Of its UUID; routes alone decide whose messages are whose."""

        OWNED = "owned", _("owned")
        UNPROVEN = "unproven", _("unproven: no valid message yet")
        DISPUTED = "disputed", _("disputed: another tenant has proven it")

    uuid = models.UUIDField(_("UUID"), unique=True, default=uuid.uuid4)
    ownership = models.CharField(
        _("ownership of the UUID"), max_length=8, choices=Ownership.choices, default=Ownership.OWNED, editable=False
    )
    name = models.CharField(_("name"), max_length=120)
    cpu_serial = models.CharField(
        _("CPU serial"), max_length=64, blank=True, help_text=_("If set, every message must contain it.")
    )
    hardware_model = models.ForeignKey(
        HardwareModel,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="devices",
        verbose_name=_("hardware model"),
    )
    place = models.ForeignKey(
        Place, on_delete=models.PROTECT, null=True, blank=True, related_name="devices", verbose_name=_("place")
    )
    tags = ArrayField(
        models.CharField(max_length=MAX_TAG_LENGTH),
        verbose_name=_("tags"),
        default=list,
        db_default=[],
        blank=True,
        validators=[validate_tags],
        help_text=_("Lower-case words, separated by commas."),
    )
    external_id = models.CharField(
        _("external id"),
        max_length=120,
        unique=True,
        null=True,
        blank=True,
        help_text=_("The id of the device in another system."),
    )
    attributes = models.JSONField(
        _("attributes"),
        default=dict,
        db_default={},
        blank=True,
        validators=[validate_attributes],
        help_text=_('Names with a text, a number or a boolean, for example {"crop": "tomato", "area_m2": 120}.'),
    )
    active = models.BooleanField(_("active"), default=True)
    # Set to 2 at the first valid version 2 message, and never lowered automatically (no downgrade).
    min_signature_version = models.PositiveSmallIntegerField(
        _("accepted signatures"), choices=Signature.choices, default=Signature.V1, db_column="signature_floor"
    )
    timeout_seconds = models.PositiveIntegerField(
        _("timeout in seconds"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_(
            "Seconds without a message until the device times out. If empty, the value of its hardware model, or "
            "one derived from its reporting interval."
        ),
    )
    created_at = models.DateTimeField(_("registered"), auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["name", "id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(tags__len__lte=MAX_TAGS), name="device_tags_bounded"),
            models.CheckConstraint(
                condition=Q(gateway__isnull=True) | ~Q(gateway=F("id")), name="device_is_not_its_own_gateway"
            ),
        ]
        indexes: ClassVar = [
            # Lists by tag, and by the value of an attribute.
            GinIndex(fields=["tags"], name="device_tags"),
            GinIndex(fields=["attributes"], name="device_attributes", opclasses=["jsonb_path_ops"]),
            # The children of a gateway whose state changes.
            models.Index(fields=["gateway"], name="device_children", condition=Q(gateway__isnull=False)),
        ]
        verbose_name = _("device")
        verbose_name_plural = _("devices")

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Validate the gateway; raises ValidationError."""
        if self.gateway is None:
            return
        if self.gateway_id == self.pk:
            raise ValidationError({"gateway": _("A device cannot be its own gateway.")})
        if self.gateway.gateway_id is not None:
            raise ValidationError({"gateway": _("%(name)s has a gateway itself.") % {"name": self.gateway.name}})
        if self.pk and self.children.exists():
            raise ValidationError({"gateway": _("The device is the gateway of other devices.")})


class Component(CountedModel, SpecInput):
    """A sensor or actuator of a device; its key is part of the topic."""

    quota = "max_components"

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="components", verbose_name=_("device"))
    component_type = models.ForeignKey(
        ComponentType, on_delete=models.PROTECT, related_name="components", verbose_name=_("component type")
    )
    key = models.CharField(_("key"), max_length=63, validators=[validate_key], help_text=_("For example dht22-2."))
    name = models.CharField(_("name"), max_length=120, blank=True)
    attached = models.BooleanField(_("attached"), default=True)
    expected_interval = models.PositiveIntegerField(
        _("expected interval in seconds"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("Only if its reporting interval differs from the interval of its type."),
    )
    pins = models.JSONField(
        _("pins"),
        default=dict,
        blank=True,
        help_text=_(
            'The pins of the board that its lines are connected to, for example {"data": 4} or {"sda": 2, "scl": 3}.'
        ),
    )

    class Meta:
        ordering: ClassVar = ["device", "key"]
        constraints: ClassVar = [
            # The topic's last segment identifies one component.
            models.UniqueConstraint(fields=["device", "key"], name="component_key_once_per_device"),
        ]
        verbose_name = _("component")
        verbose_name_plural = _("components")

    def __str__(self) -> str:
        return self.key

    def clean(self) -> None:
        """Validate the fields together; raises ValidationError."""
        self._clean_pins()
        model = self.device.hardware_model if self.device_id else None
        allowed = model.allowed_component_types.all() if model else ()
        if model and allowed and self.component_type_id and self.component_type not in allowed:
            raise ValidationError(
                {
                    "component_type": _(
                        "%(model)s cannot have a component of type %(type)s; allowed types: %(allowed)s."
                    )
                    % {"model": model, "type": self.component_type, "allowed": ", ".join(map(str, allowed))}
                }
            )

    def _clean_pins(self) -> None:
        """Normalize the pins. Raises ValidationError if an attached component shares one, except lines of a bus."""
        try:
            # An empty field of a form is None.
            self.pins = pins.normalize({} if self.pins is None else self.pins)
        except ValueError as error:
            raise ValidationError({"pins": str(error)}) from error
        twice = pins.find_duplicate(self.pins)
        if twice is not None:
            raise ValidationError({"pins": _("Two lines of the component use the pin %(pin)s.") % {"pin": twice}})
        if not self.pins or not self.attached or not self.device_id:
            return
        others = Component.objects.filter(device_id=self.device_id, attached=True).exclude(pk=self.pk)
        found = pins.find_conflict(self.pins, dict(others.exclude(pins={}).values_list("key", "pins")))
        if found is not None:
            values = {"pin": found[0], "other": found[1]}
            raise ValidationError(
                {"pins": _("The pin %(pin)s is already used by %(other)s; only bus lines can share a pin.") % values}
            )

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save it; with pins, check them again while the device's components are locked.

        Raises ValidationError if another component has taken one of them meanwhile.
        """
        if not self.pins:
            super().save(*args, **kwargs)
            return
        with transaction.atomic():
            Device.objects.select_for_update().get(pk=self.device_id)
            self._clean_pins()
            super().save(*args, **kwargs)


class DeviceCredential(SpecInput):
    """A key of a device in Vault, and its validity. The secret itself is never here."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="credentials", verbose_name=_("device"))
    version = models.PositiveIntegerField(_("version (key id)"))
    created_at = models.DateTimeField(_("issued"), auto_now_add=True)
    not_after = models.DateTimeField(
        _("valid until"), null=True, blank=True, help_text=_("Set when a newer key replaces this one.")
    )
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)
    # Since when the device signs with it (again): the newest one is the key in use. Set by the listener.
    in_use_since = models.DateTimeField(_("first used"), null=True, blank=True, editable=False)
    rotate = models.BooleanField(
        _("to be rotated"),
        default=False,
        help_text=_("This key may be known to others. A key rotation can select the devices with such keys."),
    )

    class Meta:
        ordering: ClassVar = ["device", "-version"]
        constraints: ClassVar = [
            # The version is the key id in a message's signature.
            models.UniqueConstraint(fields=["device", "version"], name="credential_version_once"),
        ]
        verbose_name = _("device key")
        verbose_name_plural = _("device keys")

    def __str__(self) -> str:
        return f"{self.device} · {self.version}"
