"""Devices in the tenant's admin."""

from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from devices import hooks
from devices.api.visibility import selector_of, visible_devices
from devices.domain import tags
from devices.models import Component, Device, DeviceImport, Place, PresenceSettings, StatusChange, WaitingPublisher
from devices.models.places import within
from devices.services.presence import contacts, overview, status_changes
from devices.services.provisioning.registration import register_device
from devices.services.visibility import visible_places
from tenants.admin.base import LongChangeList, add_errors, form_page
from tenants.api.views.base import DeviceScope
from tenants.infrastructure.hooks import NavigationGroup
from tenants.services.roles import Role

from .claims import ClaimActions
from .components import ComponentInline
from .keys import NOT_AVAILABLE, unavailable_text
from .maintenance import MaintenanceWindowInline
from .presence import label_of
from .presence_panels import badges
from .registration import ComponentRows, RegisterDeviceForm
from .roles import person
from .site import tenant_admin

_LISTED_PLACES = 200


class DeviceForm(forms.ModelForm):
    """The form of a device: tags in order, each once."""

    def clean_tags(self) -> Any:
        """Return the tags in order; the field's validator has checked them."""
        return tags.normalize(self.cleaned_data["tags"])

    def clean_external_id(self) -> str | None:
        return self.cleaned_data["external_id"] or None

    def clean_attributes(self) -> Any:
        """Return an empty object for an empty field."""
        return self.cleaned_data["attributes"] or {}


class PlaceListFilter(admin.SimpleListFilter):
    """A filter by place; devices at places below it are included."""

    title = _("place")
    parameter_name = "place"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the first places of the tree."""
        places = visible_places(selector_of(request))[:_LISTED_PLACES]
        return [(place.key, "\N{NO-BREAK SPACE}" * 3 * place.path.count("/") + place.name) for place in places]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Device]) -> QuerySet[Device]:
        """Return the devices at the chosen place and below it."""
        if self.value() is None:
            return queryset
        paths = Place.objects.filter(key=self.value()).values_list("path", flat=True)
        return queryset.filter(within(paths, "place__path"))


class RefusedListFilter(admin.SimpleListFilter):
    """A filter of devices that send verified messages of which none counts."""

    title = _("contact")
    parameter_name = "refused"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Return the one choice."""
        return [("true", _("sends, but is refused or late"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Device]) -> QuerySet[Device]:
        """Return the devices whose last contact is newer than their last activity."""
        return queryset.filter(contacts.sends_without_activity(timezone.now())) if self.value() == "true" else queryset


class DeviceChangeList(LongChangeList):
    """The list, with the last activity of each device on the page, read from Redis at once."""

    def get_results(self, request: HttpRequest) -> None:
        """Compute the rows of the page."""
        super().get_results(request)
        devices: list[Any] = list(self.result_list)  # type: ignore[has-type]
        seen = overview.last_seen(devices)
        for device in devices:
            device.seen_at = seen[device.pk]
        self.result_list = devices


@admin.register(Device, site=tenant_admin)
class DeviceAdmin(ClaimActions):
    """Devices. Registered and removed by `devices.services.provisioning.registration` only."""

    changed_by: ClassVar = Role.OPERATOR
    device_scope: ClassVar = DeviceScope.DEVICES
    device_path = "pk"
    list_display: ClassVar = ["name", "status", "seen", "hardware_model", "uuid", "active"]
    list_filter: ClassVar = [
        *(
            "presence__status",
            "active",
            RefusedListFilter,
            PlaceListFilter,
            "hardware_model",
            "components__component_type",
        )
    ]
    list_select_related: ClassVar = ["hardware_model", "presence", "contact", "omissions"]
    search_fields: ClassVar = ["name", "uuid", "cpu_serial", "external_id"]
    search_help_text = _("name, UUID, CPU serial or external id")
    autocomplete_fields: ClassVar = ["place", "gateway"]
    form = DeviceForm
    fields: ClassVar = [
        ("name", "hardware_model"),
        ("place", "gateway"),
        "tags",
        ("uuid", "cpu_serial"),
        ("external_id", "ownership"),
        "attributes",
        ("active", "min_signature_version"),
        ("timeout_seconds", "created_at"),
    ]
    # `active` and the accepted signatures are changed by actions, which say what they do.
    readonly_fields: ClassVar = ["uuid", "ownership", "active", "min_signature_version", "created_at"]
    inlines: ClassVar = [ComponentInline, MaintenanceWindowInline]
    change_form_outer_before_template = "devices/admin/panels_above.html"
    change_form_outer_after_template = "devices/admin/panels_below.html"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may register devices: not one who sees only some."""
        return super().has_add_permission(request, obj) and not selector_of(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may delete."""
        return False  # see the action "Remove"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the class of the list."""
        return DeviceChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Device]:
        """Return the rows of the current tenant."""
        return super().get_queryset(request).annotate(maintained=status_changes.in_maintenance(timezone.now()))

    @display(description=_("status"), ordering="presence__status")
    def status(self, device: Any) -> SafeString:
        status = overview.status_of(device)
        flapping = overview.is_flapping(status, timezone.now())
        words = [label_of(status.status), *badges(flapping, device.maintained)]
        if status.since is not None:
            since = _t("since %(when)s") % {"when": naturaltime(status.since)}
            words.append(format_html('<span class="gw-muted gw-nowrap">{}</span>', since))
        return format_html('<span class="gw-words">{}</span>', format_html_join(" ", "{}", ((word,) for word in words)))

    @display(description=_("last seen"))
    def seen(self, device: Any) -> str:
        return str(naturaltime(device.seen_at)) if device.seen_at else "–"

    def save_model(self, request: HttpRequest, obj: Device, form: forms.ModelForm, change: bool) -> None:
        """Save the row by its service, with an audit entry."""
        # Not the whole row: a listener may have changed the accepted signatures meanwhile.
        obj.save(update_fields=[name for name in form.changed_data if name in form.cleaned_data])
        if not visible_devices(request).filter(pk=obj.pk).exists():
            raise PermissionDenied(_t("You could not see the device after this change."))

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        """Return the page of one object."""
        device = kwargs.get("obj")
        if isinstance(device, Device):
            context["panels_above"] = [panel(request, device) for panel in hooks.panels_above_device]
            context["panels_below"] = [panel(request, device) for panel in hooks.panels_below_device]
        return super().render_change_form(request, context, *args, **kwargs)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Return the actions that change something for the device in its present state."""
        device = self.get_object(request, unquote(str(object_id)))
        useless = {"devices_device_activate" if device and device.active else "devices_device_deactivate"}
        if device and device.min_signature_version == Device.Signature.V1:
            useless.add("devices_device_allow_v1")
        return [item for item in super().get_actions_detail(request, object_id) if item.action_name not in useless]

    # --- registering --------------------------------------------------------------------------------------

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Show a form of its own: a registration creates a row, a route, a secret and an account."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form, rows = RegisterDeviceForm(request.POST or None), ComponentRows(request.POST or None, prefix="components")
        if form.is_valid() and rows.is_valid():
            answer = self._register(request, form, rows)
            if answer is not None:
                return answer
        return form_page(
            self,
            request,
            form,
            template="devices/admin/register.html",
            rows=rows,
            title=_("Register a device"),
            submit=_("Register"),
            back=reverse("admin:devices_device_changelist"),
        )

    def _register(self, request: HttpRequest, form: forms.Form, rows: Any) -> HttpResponse | None:
        """Return the page with the credentials; None if the form has errors."""
        try:
            device, issued = register_device(
                **form.cleaned_data, components=rows.components(), acting_user=person(request)
            )
        except ValidationError as error:
            add_errors(form, error)
        except NOT_AVAILABLE as error:
            form.add_error(None, unavailable_text(error))
        else:
            return self.show_credentials(request, device, issued)
        return None

    # --- pages of other apps ------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs with those of the pages below."""
        own = [
            path(
                "<path:object_id>/revoke-key/",
                self.admin_site.admin_view(self.revoke_key),
                name="devices_device_revoke_key",
            ),
            *(
                path(
                    f"<path:object_id>/{name}/",
                    self.admin_site.admin_view(view),
                    name=f"devices_device_{view.__name__}",
                )
                for name, view in (("reset-credentials", self.reset_credentials), ("release", self.release))
            ),
        ]
        return [*own, *(self._page_url(page) for page in hooks.device_pages), *super().get_urls()]

    def _page_url(self, page: hooks.DevicePage) -> URLPattern:
        def view(request: HttpRequest, object_id: str) -> HttpResponse:
            return page.view(request, self.device(request, object_id))

        name = f"devices_device_{page.name}"
        return path(f"<path:object_id>/{page.path}/", self.admin_site.admin_view(view), name=name)


_NAVIGATION = NavigationGroup(
    _("Fleet"),
    (
        (Device, "sensors"),
        (Place, "account_tree"),
        (Component, "memory"),
        (DeviceImport, "upload_file"),
        (WaitingPublisher, "router"),
        (StatusChange, "monitor_heart"),
        (PresenceSettings, "timer"),
    ),
)
hooks.tenant_navigation.register(_NAVIGATION, order=10)
