"""The form that registers a device, and the page with its credentials."""

import base64
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django import forms
from django.conf import settings
from django.core import signing
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldAdminUUIDInputWidget

from devices.domain import tags
from devices.models import ComponentType, Device, HardwareModel, Place
from devices.models.base import validate_key
from devices.services.provisioning.device_config import device_config
from devices.services.provisioning.registration import IssuedCredentials
from tenants.models import DeviceRoute

_ROWS = 3
_SALT = "generated UUID of a device"
_GENERATED_SECONDS = 86_400
_MOST_ROWS = 50


class RegisterDeviceForm(forms.Form):
    """The fields of a device. The UUID is generated with the form, so that submitting twice registers one device."""

    name = forms.CharField(label=_("Name"), max_length=120, widget=UnfoldAdminTextInputWidget)
    uuid = forms.UUIDField(
        label=_("UUID"),
        required=False,
        help_text=_("Generated; replace it if the device already has a UUID."),
        widget=UnfoldAdminUUIDInputWidget,
    )
    cpu_serial = forms.CharField(
        label=_("CPU serial"),
        required=False,
        max_length=64,
        help_text=_("If set, every message must contain it."),
        widget=UnfoldAdminTextInputWidget,
    )
    hardware_model = forms.ModelChoiceField(
        label=_("Hardware model"),
        queryset=HardwareModel.objects.all(),
        required=False,
        empty_label=_("not checked"),
        widget=UnfoldAdminSelectWidget,
    )
    place = forms.ModelChoiceField(
        label=_("Place"),
        queryset=Place.objects.all(),
        required=False,
        empty_label=_("none"),
        widget=UnfoldAdminSelectWidget,
    )
    tags = forms.CharField(
        label=_("Tags"),
        required=False,
        help_text=_("Lower-case words, separated by commas."),
        widget=UnfoldAdminTextInputWidget,
    )

    # Signed, so that a generated UUID is owned at once, and one that a person enters only once it is proven.
    generated = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        uuid = str(uuid4())
        self.initial.update(uuid=uuid, generated=signing.dumps(uuid, salt=_SALT))

    def clean_uuid(self) -> UUID | None:
        uuid = self.cleaned_data["uuid"]
        if uuid is not None and DeviceRoute.objects.filter(device_uuid=uuid).exists():
            raise ValidationError(_("This UUID is already registered."))
        return uuid

    def clean_tags(self) -> list[str]:
        """Return the tags; raises ValidationError."""
        try:
            return tags.split(self.cleaned_data["tags"])
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def clean(self) -> dict[str, Any]:
        """Replace the signed UUID by whether the platform generated the given one."""
        values: dict[str, Any] = super().clean() or {}
        generated = values.pop("generated", "")
        values["is_uuid_confirmed"] = values.get("uuid") is None or str(values["uuid"]) == _signed_uuid(generated)
        return values


def _signed_uuid(text: str) -> str:
    """Return the UUID that the platform generated and signed within a day; empty for any other text."""
    try:
        return str(signing.loads(text, salt=_SALT, max_age=_GENERATED_SECONDS))
    except signing.BadSignature:
        return ""


class ComponentRowForm(forms.Form):
    """A component: its type, and its key, which defaults to the type's."""

    component_type = forms.ModelChoiceField(
        label=_("Component type"),
        queryset=ComponentType.objects.all(),
        required=False,
        empty_label=_("none"),
        widget=UnfoldAdminSelectWidget,
    )
    key = forms.CharField(
        label=_("Key"), required=False, max_length=63, validators=[validate_key], widget=UnfoldAdminTextInputWidget
    )

    def clean(self) -> dict[str, Any]:
        """Validate the fields together; raises ValidationError."""
        values: dict[str, Any] = super().clean() or {}
        if values.get("key") and not values.get("component_type") and "component_type" not in self.errors:
            self.add_error("component_type", _("Choose the type of this component."))
        return values


class BaseComponentRows(forms.BaseFormSet):
    """The components of a new device."""

    def clean(self) -> None:
        """Validate the fields together; raises ValidationError."""
        keys = [form.cleaned_data.get("key") for form in self.forms if form.is_valid()]
        given = [key for key in keys if key]
        if len(given) != len(set(given)):
            raise ValidationError(_("Two components have the same key."))

    def components(self) -> dict[str, ComponentType]:
        """Return key → type, in the order of the rows; missing keys become `dht22`, `dht22-2`, …"""
        rows = [form.cleaned_data for form in self.forms if form.cleaned_data.get("component_type")]
        taken = {row["key"] for row in rows if row["key"]}
        result = {}
        for row in rows:
            key = row["key"] or _free_key(row["component_type"].key, taken)
            taken.add(key)
            result[key] = row["component_type"]
        return result


ComponentRows = forms.formset_factory(
    ComponentRowForm, formset=BaseComponentRows, extra=_ROWS, max_num=_MOST_ROWS, absolute_max=_MOST_ROWS
)


def _free_key(wanted: str, taken: set[str]) -> str:
    key, number = wanted, 1
    while key in taken:
        number += 1
        key = f"{wanted}-{number}"
    return key


@dataclass(frozen=True, slots=True)
class Line:
    """A labelled value to copy."""

    label: Any
    value: str


def credentials_context(request: HttpRequest, device: Device, issued: IssuedCredentials) -> dict[str, Any]:
    """Return the context of the credentials page: values to copy, and a configuration file for `gwanje_device.py`."""
    config = device_config(request.tenant.slug, device, issued)  # type: ignore[attr-defined]
    text = json.dumps(config, indent=2, ensure_ascii=False)
    lines = [
        Line(_("Device UUID (also MQTT user name and client id)"), str(device.uuid)),
        Line(_("Secret"), issued.secret),
        Line(_("Key id (kid)"), str(issued.key_version)),
        Line(_("MQTT password"), issued.mqtt_password),
        Line(_("MQTT address"), f"{settings.MQTT_HOST}:{settings.MQTT_PORT}"),
    ]
    return {
        "lines": lines,
        "config": text,
        # Inline in the page: the server stores no copy for a second request.
        "config_url": "data:application/json;base64," + base64.b64encode(text.encode()).decode(),
        "config_name": f"gwanje-{device.uuid}.json",
    }
