"""Base classes of the tenant's admin: permissions by role, and the tenant's audit entries as history."""

import json
from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import PAGE_VAR
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import translation
from django.utils.translation import gettext as _
from unfold.admin import ModelAdmin, StackedInline, TabularInline

from devices.api.visibility import selector_of, visible_devices
from devices.models import AuditEntry, Device
from devices.models.base import SpecInput, announce_change
from devices.services import audit, audit_changes
from devices.services.visibility import narrow
from tenants.admin.base import LongList, QuotaErrors, render_page
from tenants.api.views.base import DeviceScope
from tenants.services.roles import Role

from .roles import may, person


class RolePermissions:
    """Permissions by role instead of Django's: every role may view, `changed_by` and above may change.

    Pages are closed to members with a device selector, unless they have another `device_scope`.
    """

    changed_by: ClassVar[Role] = Role.ADMIN
    device_scope: ClassVar[DeviceScope] = DeviceScope.TENANT

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may view."""
        return may(request, Role.VIEWER) and self._is_open(request, DeviceScope.DEVICES, DeviceScope.SHARED)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may see the app."""
        return may(request, Role.VIEWER)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may add."""
        return self._may_change(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may change."""
        return self._may_change(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may delete."""
        return self._may_change(request)

    def _may_change(self, request: HttpRequest) -> bool:
        return may(request, self.changed_by) and self._is_open(request, DeviceScope.DEVICES)

    def _is_open(self, request: HttpRequest, *scopes: DeviceScope) -> bool:
        return self.device_scope in scopes or not selector_of(request)


class TenantTabularInline(RolePermissions, TabularInline):
    """An inline as a table; it is open to members to whom its page is open."""

    device_scope: ClassVar = DeviceScope.DEVICES


class TenantStackedInline(RolePermissions, StackedInline):
    """An inline with a form for each row; it is open to members to whom its page is open."""

    device_scope: ClassVar = DeviceScope.DEVICES


class TenantModelAdmin(QuotaErrors, RolePermissions, LongList, ModelAdmin):
    """The admin of a model in the tenant's schema.

    Django's own log is in the public schema, where the object ids of all tenants would mix. Changes are recorded in the
    tenant's audit entries instead, which the history page reads.
    """

    object_history_template = "devices/admin/history.html"
    # The lookup from a row to its device, for members with a device selector.
    device_path: ClassVar[str] = ""

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        """Return the rows of the devices that the user can see; all, where they belong to no device."""
        rows = super().get_queryset(request)
        return narrow(rows, selector_of(request), self.device_path) if self.device_path else rows

    def formfield_for_foreignkey(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        """Return the field; a device must be one that the user can see."""
        if db_field.related_model is Device:
            kwargs["queryset"] = visible_devices(request)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Any:
        """Note the object as it is stored, for the audit entry of its change."""
        if change:
            # Settings that were never saved are shown with their defaults.
            stored = self.model._base_manager.filter(pk=form.instance.pk).first() or self.model()
            request.audited_before = audit_changes.snapshot(stored)  # type: ignore[attr-defined]
        return super().save_form(request, form, change)

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:
        audit.record(person(request), "add", obj, changes=audit_changes.added(obj))

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> None:
        if message:  # a form saved without changes is not recorded
            audit.record(person(request), "change", obj, _in_words(message), changes=_changes(request, obj))

    def log_deletions(self, request: HttpRequest, queryset: Iterable[Model]) -> None:
        for obj in queryset:
            audit.record(person(request), "delete", obj, changes=audit_changes.removed(obj))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Delete the rows one by one, each with an audit entry."""
        super().delete_queryset(request, queryset)
        if issubclass(self.model, SpecInput):
            announce_change()  # bulk deletion bypasses the model's delete()

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        obj = self.get_object(request, unquote(object_id))
        if obj is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self.has_view_or_change_permission(request, obj):
            raise PermissionDenied
        entries = AuditEntry.objects.filter(object_type=self.opts.label_lower, object_id=str(obj.pk))
        page = self.get_paginator(request, entries, 100).get_page(request.GET.get(PAGE_VAR))
        title = _("History of %(object)s") % {"object": obj}
        return render_page(self, request, self.object_history_template, title=title, obj=obj, page=page)


def _changes(request: HttpRequest, obj: Model) -> audit_changes.Changes | None:
    before = getattr(request, "audited_before", None)
    if before is None:
        return None
    return audit_changes.difference(before, audit_changes.snapshot(type(obj)._base_manager.get(pk=obj.pk)))


def _in_words(message: Any) -> str:
    """Return Django's change message as English text, whatever the user's language is."""
    if isinstance(message, str):
        return message
    with translation.override("en"):
        return LogEntry(change_message=json.dumps(message)).get_change_message()
