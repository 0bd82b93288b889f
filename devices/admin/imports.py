"""Imports of devices in the tenant's admin: upload, preview, progress, and one download of the credentials."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display
from unfold.widgets import UnfoldAdminFileFieldWidget

from devices.models import DeviceImport
from devices.services.provisioning import import_application, import_files, import_jobs
from tenants.admin.base import ReadOnly, add_errors, coloured, form_page, render_page
from tenants.admin.enrollment_forms import encoding_field
from tenants.infrastructure.spreadsheets import CONTENT_TYPES
from tenants.services.roles import Role

from .base import TenantModelAdmin
from .keys import NOT_AVAILABLE, errors_as_messages, unavailable_text
from .roles import may, person
from .site import tenant_admin

State = DeviceImport.State
_SHOWN = 100
_COLOURS = {State.CHECKED: "neutral", State.WAITING: "neutral", State.RUNNING: "info", State.DONE: "success"}
OUTCOMES = {
    import_application.NEW: (_("new"), "success"),
    import_application.UPDATED: (_("updated"), "info"),
    import_application.UNCHANGED: (_("unchanged"), "neutral"),
    import_application.ERROR: (_("error"), "danger"),
}


class UploadForm(forms.Form):
    """The form of a table to upload."""

    file = forms.FileField(
        label=_("File"),
        help_text=_("CSV or XLSX. Nothing is registered yet: a preview shows the result for each row."),
        widget=UnfoldAdminFileFieldWidget,
    )

    encoding = encoding_field()

    def clean_file(self) -> Any:
        """Validate the file; raises ValidationError."""
        file = self.cleaned_data["file"]
        if file.size > settings.IMPORT_MAX_BYTES:
            raise ValidationError(
                _t("The file must not be larger than %(most)d bytes. Split it.") % {"most": settings.IMPORT_MAX_BYTES}
            )
        return file


@admin.register(DeviceImport, site=tenant_admin)
class DeviceImportAdmin(ReadOnly, TenantModelAdmin):
    """Imports. The page of an import shows its preview, its progress, or its result."""

    list_display: ClassVar = [
        "__str__", "filename", "state_label", "progress", "added", "refused", "created_by_label", "created_at",
    ]  # fmt: skip

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may add."""
        return may(request, Role.OPERATOR)

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeviceImport]:
        """Return the rows of the current tenant."""
        return super().get_queryset(request).defer("rows", "registered")

    @display(description=_("state"), ordering="state")
    def state_label(self, kept: DeviceImport) -> SafeString:
        """Return the state with its colour."""
        return coloured(kept.get_state_display(), _COLOURS[State(kept.state)])

    @display(description=_("progress"))
    def progress(self, kept: DeviceImport) -> str:
        return f"{kept.position} / {kept.total}"

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs with those of the pages below."""
        pages = (("begin", self.begin), ("credentials", self.credentials))
        own = [
            path(f"<path:object_id>/{name}/", self.admin_site.admin_view(view), name=f"devices_deviceimport_{name}")
            for name, view in pages
        ]
        files = [
            path(f"{name}.<str:form>", self.admin_site.admin_view(view), name=f"devices_deviceimport_{name}")
            for name, view in (("template", self.template), ("devices", self.devices))
        ]
        return [*own, *files, *super().get_urls()]

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Upload a table and redirect to its preview."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = UploadForm(request.POST or None, request.FILES or None)
        if form.is_valid():
            file = form.cleaned_data["file"]
            try:
                table = import_files.read_upload(file.read(), form.cleaned_data["encoding"])
                kept = import_jobs.keep(table.rows, file.name, encoding=table.encoding, acting_user=person(request))
            except ValidationError as error:
                add_errors(form, error)
            else:
                return redirect(_page_of(kept))
        return form_page(
            self,
            request,
            form,
            template="devices/admin/import_upload.html",
            title=_("Import devices"),
            submit=_("Check"),
            back=reverse("admin:devices_device_changelist"),
            columns=_columns(),
        )

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show the preview or the progress. With `?part`, only the part that is refreshed."""
        kept = self._kept(request, object_id)
        if not self.has_view_permission(request, kept):
            raise PermissionDenied
        may_change = self.has_add_permission(request)
        if kept.state == State.CHECKED:
            found = import_application.dry_run(import_jobs.rows_of(kept))
            context = {"counts": _cards(found.counts()), "rows": _shown(found.rows), "left": len(found.rows) - _SHOWN}
            context |= {"errors": len(found.refused()), "good": len(found.rows) - len(found.refused())}
        else:
            context = {"counts": _cards(_counts(kept)), "problems": kept.problems}
        context |= {"kept": kept, "label": self.state_label(kept), "may_change": may_change}
        if "part" in request.GET:
            return render(request, "devices/admin/import_progress.html", context)
        title = _t("Import %(import)s") % {"import": kept}
        return render_page(self, request, "devices/admin/import.html", title=title, obj=kept, **context)

    def begin(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Start the import, with or without the rows with errors."""
        kept = self._kept(request, object_id)
        if not self.has_add_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            try:
                import_jobs.begin(kept, skip_errors="skip_errors" in request.POST, acting_user=person(request))
            except import_jobs.HasErrors:
                messages.error(request, _t("Some rows have errors: nothing was registered."))
            except ValidationError as error:
                messages.error(request, " ".join(error.messages))
            except NOT_AVAILABLE as error:
                messages.error(request, unavailable_text(error))
        return redirect(_page_of(kept))

    def credentials(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Return the credentials of the registered devices as a ZIP, in this response only."""
        kept = self._kept(request, object_id)
        if not self.has_add_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return redirect(_page_of(kept))
        with errors_as_messages(request):
            given = import_jobs.hand_over(kept, acting_user=person(request))
            if given:
                slug = request.tenant.slug  # type: ignore[attr-defined]
                name = f"credentials-{kept.pk}-{kept.handed_over}.zip"
                return _file(import_files.credentials_archive(slug, given), name, "application/zip")
            messages.warning(request, _t("The credentials have already been downloaded."))
        return redirect(_page_of(kept))

    def template(self, request: HttpRequest, form: str) -> HttpResponse:
        """Return a table with the columns and example rows."""
        return self._table(request, form, "devices-template", import_files.template)

    def devices(self, request: HttpRequest, form: str) -> HttpResponse:
        """Return all devices as a table that can be imported again."""
        return self._table(request, form, "devices", import_files.export_devices)

    def _table(self, request: HttpRequest, form: str, name: str, write: Any) -> HttpResponse:
        if not may(request, Role.VIEWER):
            raise PermissionDenied
        if form not in CONTENT_TYPES:
            raise Http404
        return _file(write(form), f"{name}.{form}", CONTENT_TYPES[form])

    def _kept(self, request: HttpRequest, object_id: str) -> DeviceImport:
        kept = self.get_object(request, object_id)
        if not isinstance(kept, DeviceImport):
            raise Http404
        return kept


def _page_of(kept: DeviceImport) -> str:
    return reverse("admin:devices_deviceimport_change", args=[kept.pk])


def _file(content: bytes, name: str, kind: str) -> HttpResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return HttpResponse(content, content_type=kind, headers=headers)


def _counts(kept: DeviceImport) -> dict[str, int]:
    return {
        import_application.NEW: kept.added,
        import_application.UPDATED: kept.updated,
        import_application.UNCHANGED: kept.unchanged,
        import_application.ERROR: kept.refused,
    }


def _cards(counts: dict[str, int]) -> list[dict[str, Any]]:
    return [
        {"label": OUTCOMES[name][0], "number": number, "colour": OUTCOMES[name][1] if number else "neutral"}
        for name, number in counts.items()
    ]


def _shown(rows: Sequence[import_application.ImportedRow]) -> list[dict[str, Any]]:
    """Return the first rows, those with errors first."""
    first = sorted(rows, key=lambda row: row.outcome != import_application.ERROR)[:_SHOWN]
    return [{"row": row, "label": coloured(*OUTCOMES[row.outcome])} for row in first]


def _columns() -> list[tuple[str, Any]]:
    return [
        ("name", _("required for a new device")),
        ("uuid", _("generated if empty")),
        ("external_id", _("the id of the device in another system")),
        ("hardware_model", _("name and version of a hardware model")),
        ("place", _("the key of a place")),
        ("cpu_serial", _("if set, every message must contain it")),
        ("timeout_seconds", _("seconds without a message until the device times out")),
        ("active", _("yes or no")),
        ("tags", _("for example rented;north")),
        ("attributes", _('a JSON object, for example {"crop": "tomato"}')),
        ("components", _("for example dht22;dht22-2:dht22;pump")),
    ]
