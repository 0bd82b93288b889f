"""Preregistered devices on the console: registered one by one or with a table, and their codes, shown once."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django_tenants.utils import schema_context
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from tenants.infrastructure import hooks
from tenants.infrastructure.spreadsheets import CONTENT_TYPES, TableFile, TableRow
from tenants.models import PreregisteredDevice, User
from tenants.services import enrollment
from tenants.services.enrollment import IssuedCodes

from .base import LongList, add_errors, coloured, form_page, render_page
from .enrollment_forms import ChangePreregisteredDeviceForm, EnrollmentForm, EnrollmentTableForm
from .site import console

_SHOWN = 100
_OUTCOMES = {"new": (_("new"), "success"), "unchanged": (_("unchanged"), "neutral"), "error": (_("error"), "danger")}


class ClaimedFilter(admin.SimpleListFilter):
    """Claimed or not."""

    title = _("claimed")
    parameter_name = "claimed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Return the choices: claimed or free."""
        return [("yes", _("claimed")), ("no", _("free"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the devices of the selected choice."""
        return queryset.filter(tenant__isnull=self.value() == "no") if self.value() in ("yes", "no") else queryset


@admin.register(PreregisteredDevice, site=console)
class PreregisteredDeviceAdmin(LongList, ModelAdmin):
    """Preregistered devices. Hardware and components can be changed until a tenant claims the device."""

    form = ChangePreregisteredDeviceForm
    list_display: ClassVar = ["serial", "hardware", "state", "tenant", "claimed_at", "fetched_at", "created_at"]
    list_filter: ClassVar = [ClaimedFilter, "tenant"]
    list_select_related: ClassVar = ["tenant"]
    search_fields: ClassVar = ["serial", "cpu_serial", "name", "device_uuid"]
    search_help_text = _("serial number, CPU serial, name, or UUID of the device")
    fields: ClassVar = [
        "serial",
        ("hardware_name", "hardware_version"),
        ("cpu_serial", "name"),
        "components",
        ("state", "tenant"),
        ("device_uuid", "claimed_at"),
        ("fetched_at", "repeated_requests"),
        ("created_at", "codes_issued_at"),
        "created_by_label",
    ]
    changeable: ClassVar = ["hardware_name", "hardware_version", "cpu_serial", "name", "components"]
    actions_list: ClassVar = ["import_table"]
    actions_detail: ClassVar = ["new_codes", "release"]
    actions: ClassVar = ["new_codes_of"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return the fields that the request cannot change on this object."""
        names = [name for line in self.fields for name in ([line] if isinstance(line, str) else line)]
        open_to_change = obj is not None and obj.tenant_id is None
        return [name for name in names if not (open_to_change and name in self.changeable)]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user can delete the object."""
        free = obj is None or obj.tenant_id is None
        return free and super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: PreregisteredDevice, form: forms.ModelForm, change: bool) -> None:
        """Save the changed fields."""
        # Only the changed columns, and only while it is unclaimed.
        values = {name: form.cleaned_data[name] for name in form.changed_data}
        if values and not PreregisteredDevice.objects.filter(pk=obj.pk, tenant=None).update(**values):
            messages.warning(request, _t("The device was not changed, because it has been claimed in the meantime."))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Delete the selected devices, except claimed ones."""
        # One that was claimed since the confirmation page was shown is kept.
        queryset.filter(tenant=None).delete()

    def has_create_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user can add objects; used by actions."""
        return self.has_add_permission(request)

    @display(description=_("hardware model"), ordering="hardware_name")
    def hardware(self, device: PreregisteredDevice) -> str:
        """Return name and version of the hardware model."""
        return device.hardware

    @display(description=_("state"), ordering="claimed_at")
    def state(self, device: PreregisteredDevice) -> SafeString:
        """Return the state as a label."""
        if device.repeated_requests:
            return coloured(_("repeated requests"), "danger")
        if device.fetched_at is not None:
            return coloured(_("fetched"), "success")
        return coloured(_("claimed"), "info") if device.tenant_id else coloured(_("free"), "neutral")

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the admin and that of the table's template."""
        view = self.admin_site.admin_view(self.template)
        return [path("template.<str:form>", view, name="tenants_preregistereddevice_template"), *super().get_urls()]

    # --- preregistration --------------------------------------------------------------------------------

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Show the enrollment form; the response to a valid one is the page with the codes."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = EnrollmentForm(request.POST or None)
        if form.is_valid():
            try:
                issued = enrollment.preregister([TableRow(1, form.cleaned_data)], acting_user=_person(request))
            except ValidationError as error:
                add_errors(form, error)
            else:
                self.log_addition(request, issued[0].device, "Preregistered.")
                return self._show(request, issued)
        return form_page(
            self,
            request,
            form,
            title=_("Preregister a device"),
            lead=_("Anyone with its label can claim it. Its codes are shown once, on the next page."),
            submit=_("Preregister"),
            back=_list_url(),
        )

    @action(description=_("Import"), icon="upload_file", permissions=["create"], url_path="import-table")
    def import_table(self, request: HttpRequest) -> HttpResponse:
        """Upload a table, show the result of a dry run, then preregister all rows or none."""
        form = EnrollmentTableForm(request.POST or None, request.FILES or None)
        try:
            if request.method == "POST" and "kept" in request.POST:
                issued = enrollment.preregister(_kept_rows(request), acting_user=_person(request))
                for one in issued:
                    self.log_addition(request, one.device, "Preregistered.")
                return self._show(request, issued) if issued else self._nothing_new(request)
            if form.is_valid():
                content = form.cleaned_data["file"].read()
                return self._preview(request, content, enrollment.read_upload(content, form.cleaned_data["encoding"]))
        except ValidationError as error:
            add_errors(form, error)
        return form_page(
            self,
            request,
            form,
            template="tenants/enrollment_upload.html",
            title=_("Preregister devices"),
            submit=_("Preview"),
            back=_list_url(),
            columns=_columns(),
        )

    def template(self, request: HttpRequest, form: str) -> HttpResponse:
        """Return an empty table with examples."""
        if form not in CONTENT_TYPES:
            raise Http404
        headers = {"Content-Disposition": f'attachment; filename="devices-template.{form}"'}
        return HttpResponse(enrollment.template(form), content_type=CONTENT_TYPES[form], headers=headers)

    def _preview(self, request: HttpRequest, content: bytes, table: TableFile) -> HttpResponse:
        results = enrollment.dry_run(table.rows)
        shown = sorted(results, key=lambda row: row.outcome != "error")[:_SHOWN]
        numbers = {name: sum(row.outcome == name for row in results) for name in _OUTCOMES}
        return render_page(
            self,
            request,
            "tenants/enrollment_preview.html",
            title=_("Preregister devices"),
            counts=[
                {"label": _OUTCOMES[name][0], "number": number, "colour": _OUTCOMES[name][1] if number else "neutral"}
                for name, number in numbers.items()
            ],
            rows=[{"row": row, "label": coloured(*_OUTCOMES[row.outcome])} for row in shown],
            left=len(results) - _SHOWN,
            new=numbers["new"],
            errors=numbers["error"],
            kept=base64.b64encode(content).decode(),
            encoding=table.encoding,
            back=_list_url(),
        )

    def _nothing_new(self, request: HttpRequest) -> HttpResponse:
        messages.warning(request, _t("The table contains no new device: all of them are already preregistered."))
        return redirect(_list_url())

    # --- codes and releases -------------------------------------------------------------------------------

    @action(description=_("New codes"), icon="qr_code", permissions=["change"], url_path="new-codes")
    def new_codes(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Issue new codes for a device, after a confirmation."""
        device = self._device(request, object_id)
        if request.method != "POST":
            return form_page(
                self,
                request,
                None,
                title=_t("New codes for %(device)s") % {"device": device},
                lead=_("The codes on its label and its memory card become invalid: make both again."),
                submit=_("Issue codes"),
                danger=True,
                back=_page_of(device),
                obj=device,
            )
        return self._issue(request, [device], _page_of(device))

    @admin.action(description=_("New codes for the selected devices"), permissions=["change"])
    def new_codes_of(self, request: HttpRequest, queryset: QuerySet[PreregisteredDevice]) -> HttpResponse:
        """Issue new codes for devices whose codes were lost before they were printed."""
        return self._issue(request, list(queryset[: settings.IMPORT_MAX_ROWS]), _list_url())

    def _issue(self, request: HttpRequest, devices: Sequence[PreregisteredDevice], back: str) -> HttpResponse:
        try:
            issued = enrollment.issue_codes(devices)
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return redirect(back)
        for one in issued:
            self.log_change(request, one.device, "New codes.")
        return self._show(request, issued)

    @action(description=_("Release"), icon="undo", permissions=["change"], variant=ActionVariant.DANGER)
    def release(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Release a device from its tenant, after a confirmation."""
        device = self._device(request, object_id)
        if request.method != "POST":
            return form_page(
                self,
                request,
                None,
                title=_t("Release %(device)s") % {"device": device},
                lead=_(
                    "The device is removed from its tenant; a device with readings stays there, deactivated and"
                    " without a key. After that, anyone with the label can claim it."
                ),
                submit=_("Release"),
                danger=True,
                back=_page_of(device),
                obj=device,
            )
        if device.tenant is not None:
            person = _person(request)
            with schema_context(device.tenant.schema_name):
                hooks.device_release.first()(str(device.device_uuid), person.pk, person.get_username())
            self.log_change(request, device, "Released.")
            messages.success(request, _t("%(device)s has been released.") % {"device": device})
        return redirect(_page_of(device))

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Return the actions that the object's state allows."""
        device = PreregisteredDevice.objects.filter(pk=object_id).first() if str(object_id).isdecimal() else None
        useless = (
            "tenants_preregistereddevice_new_codes"
            if device and device.tenant_id
            else "tenants_preregistereddevice_release"
        )
        return [item for item in super().get_actions_detail(request, object_id) if item.action_name != useless]

    def _show(self, request: HttpRequest, issued: Sequence[IssuedCodes]) -> HttpResponse:
        """Show the codes, in this response only."""
        codes = enrollment.codes_table(issued)
        card = json.dumps(_card(request, issued[0]), indent=2)
        return render_page(
            self,
            request,
            "tenants/enrollment_codes.html",
            title=_("Codes"),
            issued=issued[:_SHOWN],
            left=len(issued) - _SHOWN,
            # In the page itself, so that the server stores no copy for a second request.
            codes_url=_as_url(codes, "text/csv"),
            card=card if len(issued) == 1 else "",
            card_url=_as_url(card.encode(), "application/json"),
            card_name=f"gwanje-{issued[0].device.serial}.json".replace("/", "-").replace(":", "-"),
            address=_card(request, issued[0])["provisioning_url"],
            back=_list_url(),
        )

    def _device(self, request: HttpRequest, object_id: str) -> PreregisteredDevice:
        device = self.get_object(request, object_id)
        if not isinstance(device, PreregisteredDevice):
            raise Http404
        return device


def _card(request: HttpRequest, one: IssuedCodes) -> dict[str, str]:
    """Return the configuration file of a device that fetches its credentials."""
    url = settings.PUBLIC_URL.rstrip("/") + reverse("provisioning-credentials")
    return {"provisioning_url": url, "fetch_token": one.fetch_token}


def _kept_rows(request: HttpRequest) -> list[TableRow]:
    """Return the table that the preview page contains."""
    try:
        content = base64.b64decode(request.POST["kept"], validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValidationError(_t("The file cannot be read. Upload it again.")) from error
    return enrollment.read_upload(content, request.POST.get("encoding", "")).rows


def _as_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode()


def _person(request: HttpRequest) -> User:
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user


def _columns() -> list[tuple[str, Any]]:
    return [
        ("serial", _("required; it is on the label")),
        ("hardware_model", _("required: name and version, for example GreenBox 1.2")),
        ("cpu_serial", _("if set, every message must contain it")),
        ("name", _("of the device; if empty, the serial number")),
        ("components", _("for example dht22;dht22-2:dht22;pump")),
    ]


def _list_url() -> str:
    return reverse("admin:tenants_preregistereddevice_changelist")


def _page_of(device: PreregisteredDevice) -> str:
    return reverse("admin:tenants_preregistereddevice_change", args=[device.pk])
