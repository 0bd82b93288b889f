"""Fields for the device selector of a member or an API key."""

import re
from typing import Any
from uuid import UUID

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectMultipleWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from devices.domain import tags
from devices.domain.selector import MAX_DEVICES, Selector
from devices.models import Device, HardwareModel, Place

FIELDS = ("selector_places", "selector_tags", "selector_hardware_models", "selector_devices")


class SelectorForm(forms.Form):
    """The members of a selector, each in a field of its own; all empty: all devices."""

    selector_places = forms.ModelMultipleChoiceField(
        Place.objects.all(),
        label=_("Only devices at these places"),
        required=False,
        widget=UnfoldAdminSelectMultipleWidget,
        help_text=_("And at the places below them. A device is visible if one of the four fields selects it."),
    )
    selector_tags = forms.CharField(
        label=_("Only devices with one of these tags"),
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text=_("With commas, for example rented, north."),
    )
    selector_hardware_models = forms.ModelMultipleChoiceField(
        HardwareModel.objects.all(),
        label=_("Only devices of these hardware models"),
        required=False,
        widget=UnfoldAdminSelectMultipleWidget,
    )
    selector_devices = forms.CharField(
        label=_("Only these devices"),
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text=_("UUIDs, with spaces or one a line."),
    )

    @property
    def selector(self) -> Selector:
        """Return the entered selector of a valid form."""
        values = self.cleaned_data
        return Selector(
            places=tuple(place.pk for place in values["selector_places"]),
            tags=tuple(values["selector_tags"]),
            hardware_models=tuple(model.pk for model in values["selector_hardware_models"]),
            devices=tuple(values["selector_devices"]),
        )

    def clean_selector_tags(self) -> list[str]:
        """Return the tags in order, each once. Raises ValidationError."""
        try:
            return tags.split(self.cleaned_data["selector_tags"])
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def clean_selector_devices(self) -> list[str]:
        """Return the UUIDs, which must exist. Raises ValidationError."""
        words = list(dict.fromkeys(re.split(r"[\s,;]+", self.cleaned_data["selector_devices"].strip().lower())))
        words = [word for word in words if word]
        if len(words) > MAX_DEVICES:
            raise ValidationError(_t("At most %(most)d devices can be listed.") % {"most": MAX_DEVICES})
        uuids = [uuid for word in words if (uuid := _uuid(word)) is not None]
        known = {str(uuid) for uuid in Device.objects.filter(uuid__in=uuids).values_list("uuid", flat=True)}
        if unknown := [word for word in words if word not in known]:
            raise ValidationError(_t("These do not exist: %(names)s.") % {"names": ", ".join(unknown[:10])})
        return words


def selector_values(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the form's fields for a stored selector, without what was removed since."""
    places = Place.objects.filter(pk__in=stored.get("places", []))
    models = HardwareModel.objects.filter(pk__in=stored.get("hardware_models", []))
    devices = Device.objects.filter(uuid__in=stored.get("devices", [])).order_by("uuid")
    return {
        "selector_places": list(places.values_list("pk", flat=True)),
        "selector_tags": ", ".join(stored.get("tags", [])),
        "selector_hardware_models": list(models.values_list("pk", flat=True)),
        "selector_devices": "\n".join(map(str, devices.values_list("uuid", flat=True))),
    }


def _uuid(word: str) -> UUID | None:
    try:
        return UUID(word)
    except ValueError:
        return None
