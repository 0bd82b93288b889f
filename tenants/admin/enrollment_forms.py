"""Forms for the preregistration of devices."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from tenants.infrastructure.text_encodings import ENCODINGS
from tenants.models import PreregisteredDevice
from tenants.services.enrollment import clean_components, clean_serial, split_hardware

# The preview page sends the table back in a form, of which Django reads 2.5 MB.
_MOST_BYTES = 1_500_000


class EnrollmentForm(forms.Form):
    """A device to preregister."""

    serial = forms.CharField(label=_("Serial number"), max_length=64, widget=UnfoldAdminTextInputWidget)
    hardware_model = forms.CharField(
        label=_("Hardware model"),
        max_length=121,
        help_text=_(
            "Name and version, for example GreenBox 1.2. The model is added to the tenant that claims the device."
        ),
        widget=UnfoldAdminTextInputWidget,
    )
    cpu_serial = forms.CharField(
        label=_("CPU serial"),
        max_length=64,
        required=False,
        help_text=_("If set, every message must contain it."),
        widget=UnfoldAdminTextInputWidget,
    )
    name = forms.CharField(
        label=_("Name"),
        max_length=120,
        required=False,
        help_text=_("If empty, the serial number."),
        widget=UnfoldAdminTextInputWidget,
    )
    components = forms.CharField(
        label=_("Components"),
        max_length=1000,
        required=False,
        help_text=_(
            "For example dht22;dht22-2:dht22;pump: each is a key, followed by :type where the type differs"
            " from the key."
        ),
        widget=UnfoldAdminTextInputWidget,
    )

    def clean_serial(self) -> str:
        """Return the serial number. Raises ValidationError for one that is invalid or already preregistered."""
        serial = clean_serial(self.cleaned_data["serial"])
        if PreregisteredDevice.objects.filter(serial=serial).exists():
            raise ValidationError(_t("A device with this serial number is already preregistered."))
        return serial

    def clean_hardware_model(self) -> str:
        """Return name and version of the hardware model. Raises ValidationError."""
        return " ".join(split_hardware(self.cleaned_data["hardware_model"]))

    def clean_components(self) -> str:
        """Return the components in the form of tables. Raises ValidationError."""
        return clean_components(self.cleaned_data["components"])


class ChangePreregisteredDeviceForm(forms.ModelForm):
    """Hardware and components of a preregistered device that is not claimed."""

    def clean_components(self) -> str:
        """Return the components in the form of tables. Raises ValidationError."""
        return clean_components(self.cleaned_data["components"])


def encoding_field() -> forms.ChoiceField:
    """Return the field of a CSV's encoding, empty for one that is recognized."""
    return forms.ChoiceField(
        label=_("Encoding"),
        required=False,
        choices=[("", _("recognize UTF-8, UTF-16 and Korean CP949")), *((name, name) for name in ENCODINGS)],
        help_text=_("Of a CSV. Choose it if names look wrong in the preview."),
        widget=UnfoldAdminSelectWidget,
    )


class EnrollmentTableForm(forms.Form):
    """A table of devices to preregister."""

    file = forms.FileField(
        label=_("File"),
        help_text=_("CSV or XLSX. A preview shows the result of each row first."),
        widget=UnfoldAdminFileFieldWidget,
    )
    encoding = encoding_field()

    def clean_file(self) -> Any:
        """Return the uploaded file. Raises ValidationError for one that is too large."""
        file = self.cleaned_data["file"]
        if file.size > _MOST_BYTES:
            raise ValidationError(
                _t("The file must not be larger than %(most)d bytes. Split it.") % {"most": _MOST_BYTES}
            )
        return file
