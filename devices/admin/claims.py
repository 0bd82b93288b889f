"""Preregistered devices in the tenant's admin: claim form, panel on the device's page, release."""

from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextInputWidget

from devices import hooks
from devices.models import Device
from devices.services.provisioning import claims, disputes
from tenants.admin.base import add_errors, form_page
from tenants.infrastructure.hooks import device_release, uuid_confirmation, uuid_release
from tenants.services.roles import Role

from .keys import NOT_AVAILABLE, DeviceActions, errors_as_messages, unavailable_text
from .roles import may, person
from .site import page_of


class ClaimForm(forms.Form):
    """The values on the label of a preregistered device."""

    serial = forms.CharField(label=_("Serial number"), max_length=64, widget=UnfoldAdminTextInputWidget)
    code = forms.CharField(
        label=_("Claim code"),
        max_length=64,
        help_text=_("16 letters and digits. Case and hyphens are ignored."),
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "autocapitalize": "characters"}),
    )
    name = forms.CharField(
        label=_("Name"),
        max_length=120,
        required=False,
        help_text=_("The name of the device; if empty, the preregistered name or the serial number."),
        widget=UnfoldAdminTextInputWidget,
    )


class ClaimActions(DeviceActions):
    """Actions on preregistered devices: claim, release, reset credentials."""

    actions_list: ClassVar = ["claim", "import_table", {"title": _("Download"), "items": ["as_xlsx", "as_csv"]}]

    def has_claim_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, Role.OPERATOR)

    @action(description=_("Claim a device"), icon="qr_code", permissions=["claim"])
    def claim(self, request: HttpRequest) -> HttpResponse:
        form = ClaimForm(request.POST or None)
        if form.is_valid():
            answer = self._claim(request, form)
            if answer is not None:
                return answer
        return form_page(
            self,
            request,
            form,
            title=_("Claim a device"),
            lead=_(
                "The label of a preregistered device shows both values. The device fetches its credentials by itself."
            ),
            submit=_("Claim"),
            back=reverse("admin:devices_device_changelist"),
        )

    def _claim(self, request: HttpRequest, form: forms.Form) -> HttpResponse | None:
        """Claim the device and redirect to its page; None if the form has errors."""
        try:
            device = claims.claim(**form.cleaned_data, acting_user=person(request)).device
        except ValidationError as error:
            add_errors(form, error)
        except claims.AlreadyClaimed as error:
            messages.warning(request, str(error))
            if error.device is not None:
                return redirect(page_of(error.device.pk))
        except (claims.ClaimRefused, claims.TooManyClaims) as error:
            form.add_error(None, str(error))
        except NOT_AVAILABLE as error:
            form.add_error(None, unavailable_text(error))
        else:
            messages.success(
                request,
                _t("%(device)s is registered. It goes online after it has fetched its credentials.")
                % {"device": device},
            )
            return redirect(page_of(device.pk))
        return None

    @action(description=_("Import"), icon="upload_file", permissions=["claim"], url_path="import-table")
    def import_table(self, request: HttpRequest) -> HttpResponse:
        return redirect("admin:devices_deviceimport_add")

    @action(description=_("Devices as XLSX"), icon="download", permissions=["view"], url_path="as-xlsx")
    def as_xlsx(self, request: HttpRequest) -> HttpResponse:
        return redirect("admin:devices_deviceimport_devices", form="xlsx")

    @action(description=_("Devices as CSV"), icon="download", permissions=["view"], url_path="as-csv")
    def as_csv(self, request: HttpRequest) -> HttpResponse:
        return redirect("admin:devices_deviceimport_devices", form="csv")

    @action(description=_("Reset credentials"), permissions=["change"], url_path="reset-credentials")
    def reset_credentials(self, request: HttpRequest, object_id: str) -> HttpResponse:
        device = self.device(request, object_id)
        if request.method != "POST":
            return self._ask(
                request,
                device,
                title=_t("Reset the credentials of %(device)s") % {"device": device},
                lead=_(
                    "The device can fetch a new key and password once. Its present credentials, and every copy of"
                    " them, become invalid now."
                ),
                submit=_("Allow"),
                danger=True,
            )
        with errors_as_messages(request):
            claims.reset_credentials(device, acting_user=person(request))
            messages.success(request, _t("%(device)s can fetch new credentials once.") % {"device": device})
        return redirect(page_of(device.pk))

    @action(
        description=_("Release the device"),
        icon="undo",
        permissions=["change"],
        variant=ActionVariant.DANGER,
        url_path="release",
    )
    def release(self, request: HttpRequest, object_id: str) -> HttpResponse:
        device = self.device(request, object_id)
        if request.method != "POST":
            return self._ask(
                request,
                device,
                title=_t("Release %(device)s") % {"device": device},
                lead=_(
                    "After that, anyone with its label can claim it. The device is removed; a device with "
                    "readings stays, deactivated and without a key."
                ),
                submit=_("Release"),
                danger=True,
            )
        name, pk = str(device), device.pk
        with errors_as_messages(request):
            claims.release(device, acting_user=person(request))
            messages.success(request, _t("%(device)s has been released.") % {"device": name})
        stays = Device.objects.filter(pk=pk).exists()
        return redirect(page_of(pk) if stays else reverse("admin:devices_device_changelist"))


@hooks.panels_above_device.provider(2)
def repeated_request_warning(request: HttpRequest, device: Device) -> SafeString:
    """Return a warning if the credentials were requested again."""
    return _render(request, device, "devices/admin/repeated_request_warning.html")


@hooks.panels_below_device.provider(45)
def preregistration(request: HttpRequest, device: Device) -> SafeString:
    """Return the panel of the preregistration and the fetched credentials."""
    return _render(request, device, "devices/admin/preregistration.html")


def _render(request: HttpRequest, device: Device, template: str) -> SafeString:
    if not hasattr(device, "preregistration"):
        device.preregistration = claims.preregistration_of(device)  # type: ignore[attr-defined]
    found = device.preregistration  # type: ignore[attr-defined]
    context = {"device": device, "preregistration": found, "may_change": may(request, Role.OPERATOR)}
    return render_to_string(template, context, request) if found else SafeString("")


device_release.register(claims.release_by_staff)
uuid_confirmation.register(disputes.confirm_by_staff)
uuid_release.register(disputes.release_by_staff)
