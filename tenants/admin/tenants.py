"""Tenants on the console: creation, suspension, and retry or removal of an incomplete creation."""

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django_tenants.utils import get_public_schema_name
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextInputWidget

from tenants.infrastructure import hooks
from tenants.models import Domain, Membership, Plan, Tenant, TenantAlias, TenantLimits
from tenants.services import lifecycle, limits

from .base import QuotaErrors, add_errors, coloured, form_page
from .overview import STATE_COLOURS
from .plans import TenantLimitsInline
from .site import console
from .tenant_forms import CreateTenantForm, DomainForm, OwnerAndHostForm, SuspendTenantForm

# Actions by state of the tenant.
ACTIONS = {
    Tenant.State.ACTIVE: {"suspend"},
    Tenant.State.SUSPENDED: {"resume"},
    Tenant.State.CREATING: {"try_again", "discard"},
    Tenant.State.FAILED: {"try_again", "discard"},
}


class DomainInline(TabularInline):
    model = Domain
    form = DomainForm
    extra = 0
    hide_title = True


class AliasInline(TabularInline):
    model = TenantAlias
    extra = 0
    hide_title = True


class MembershipInline(TabularInline):
    model = Membership
    autocomplete_fields: ClassVar = ["user"]
    extra = 0
    hide_title = True


@admin.register(Tenant, site=console)
class TenantAdmin(QuotaErrors, ModelAdmin):
    """Tenants. `tenants.services.lifecycle.create_tenant` creates them; a complete one cannot be deleted here."""

    list_display: ClassVar = ["name", "slug", "state_label", "state_detail", "address", "created_at"]
    list_filter: ClassVar = ["state"]
    search_fields: ClassVar = ["name", "slug", "domains__domain", "aliases__address"]
    search_help_text = _("name, slug, host name or topic alias")
    fields: ClassVar = [
        "name",
        "slug",
        "address",
        "quarantine",
        "schema",
        "state_label",
        "state_detail",
        "created_at",
        "cors_origins",
    ]
    readonly_fields: ClassVar = [name for name in fields if name not in ("name", "cors_origins")]
    formfield_overrides: ClassVar = {ArrayField: {"widget": UnfoldAdminTextInputWidget}}
    inlines: ClassVar = [MembershipInline, TenantLimitsInline, DomainInline, AliasInline]
    actions_detail: ClassVar = ["suspend", "resume", "try_again", "discard"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tenant]:
        """Return the rows with the counts that the list shows."""
        return super().get_queryset(request).exclude(schema_name=get_public_schema_name())

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: `discard` removes an incomplete tenant, and no complete one is removed here."""
        return False

    def has_create_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user can add objects; used by actions."""
        return self.has_add_permission(request)

    @display(description=_("schema"))
    def schema(self, tenant: Tenant) -> str:
        """Return the name of the tenant's schema; the library's label of the field has no translation."""
        return tenant.schema_name

    @display(description=_("state"), ordering="state")
    def state_label(self, tenant: Tenant) -> SafeString:
        """Return the state as a label."""
        return coloured(tenant.get_state_display(), STATE_COLOURS[Tenant.State(tenant.state)])

    @display(description=_("address"))
    def address(self, tenant: Tenant) -> SafeString:
        """Return the address of the tenant, as a link while it is active."""
        path = f"{reverse('home')}t/{tenant.slug}/"
        if tenant.state != Tenant.State.ACTIVE:
            return format_html("{}", path)
        return format_html('<a class="gw-link" href="{}">{}</a>', path, path)

    @display(description=_("quarantine"))
    def quarantine(self, tenant: Tenant) -> SafeString | str:
        """Return a link to the tenant's quarantine, or a dash."""
        if tenant.state != Tenant.State.ACTIVE:
            return "–"
        path = f"{reverse('home')}t/{tenant.slug}/admin/telemetry/quarantined/"
        return format_html('<a class="gw-link" href="{}">{}</a>', path, _("To the tenant's quarantine"))

    def save_model(self, request: HttpRequest, obj: Tenant, form: forms.ModelForm, change: bool) -> None:
        """Save the changed fields."""
        # Only the changed columns: another request may have changed the state.
        Tenant.objects.filter(pk=obj.pk).update(name=obj.name, cors_origins=obj.cors_origins)

    def save_formset(self, request: HttpRequest, form: forms.ModelForm, formset: Any, change: bool) -> None:
        """Save the inlines, and publish changed limits."""
        super().save_formset(request, form, formset, change)
        if formset.model is TenantLimits and formset.has_changed():
            limits.publish_changes([form.instance.schema_name])

    # --- creation ---------------------------------------------------------------------------------------

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Create a tenant outside a transaction, so that the state of a failed creation is stored."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = CreateTenantForm(request.POST or None)
        if form.is_valid():
            answer = self._create(request, form, slug=form.cleaned_data["slug"], name=form.cleaned_data["name"])
            if answer is not None:
                return answer
        return form_page(
            self,
            request,
            form,
            title=_("Add a tenant"),
            lead=_("Creates a schema with all tables for the tenant. This takes a few seconds."),
            submit=_("Create"),
            back=self._list_url(),
        )

    def _create(self, request: HttpRequest, form: OwnerAndHostForm, *, slug: str, name: str) -> HttpResponse | None:
        """Create the tenant and redirect to its page, also after a failure; return None where the form has an error."""
        values = form.cleaned_data
        try:
            tenant = lifecycle.create_tenant(slug=slug, name=name, domain=values["domain"], owner=values["owner"])
        except ValidationError as error:
            add_errors(form, error)
            return None
        except Exception as error:  # noqa: BLE001 (of any kind; the service has logged and recorded it)
            return self._creation_failed(request, form, slug, error)
        self.log_addition(request, tenant, "Created.")
        messages.success(request, _t("The tenant %(name)s is ready.") % {"name": tenant.name})
        return redirect(self._page_url(tenant))

    def _creation_failed(
        self, request: HttpRequest, form: OwnerAndHostForm, slug: str, error: Exception
    ) -> HttpResponse | None:
        tenant = Tenant.objects.filter(slug=slug).first()
        text = _t("The tenant could not be created: %(error)s") % {"error": f"{error}"[:300]}
        if tenant is None:
            form.add_error(None, text)
            return None
        messages.error(request, text + " " + _t("Its creation is incomplete: try again, or discard it."))
        return redirect(self._page_url(tenant))

    # --- actions -----------------------------------------------------------------------------------

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Return the actions that the object's state allows."""
        state = Tenant.objects.filter(pk=object_id).values_list("state", flat=True).first()
        allowed = {f"tenants_tenant_{name}" for name in ACTIONS.get(Tenant.State(state), set())} if state else set()
        return [item for item in super().get_actions_detail(request, object_id) if item.action_name in allowed]

    @action(description=_("Suspend"), icon="pause", permissions=["change"])
    def suspend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Suspend a tenant, with a reason."""
        tenant = self._tenant(request, object_id)
        form = SuspendTenantForm(request.POST or None)
        if form.is_valid():
            reason = form.cleaned_data["reason"]
            done = lifecycle.suspend_tenant(tenant, reason=reason)
            return self._done(request, tenant, done, f"Suspended: {reason}", _t("The tenant is suspended."))
        return self._ask(
            request,
            tenant,
            form,
            title=_("Suspend %(tenant)s"),
            lead=_("Until it is resumed, its addresses are closed and messages of its devices are quarantined."),
            submit=_("Suspend"),
            danger=True,
        )

    @action(description=_("Resume"), icon="play_arrow", permissions=["change"], variant=ActionVariant.PRIMARY)
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Resume a suspended tenant, after a confirmation."""
        tenant = self._tenant(request, object_id)
        if request.method == "POST":
            done = lifecycle.resume_tenant(tenant)
            return self._done(request, tenant, done, "Resumed.", _t("The tenant is active again."))
        return self._ask(request, tenant, None, title=_("Resume %(tenant)s"), submit=_("Resume"))

    @action(description=_("Try again"), icon="refresh", permissions=["create"], variant=ActionVariant.PRIMARY)
    def try_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Retry an incomplete creation."""
        tenant = self._tenant(request, object_id)
        form = OwnerAndHostForm(request.POST or None, initial={"slug": tenant.slug})
        if request.method == "POST" and form.is_valid():
            answer = self._create(request, form, slug=tenant.slug, name=tenant.name)
            if answer is not None:
                return answer
        return self._ask(
            request,
            tenant,
            form,
            title=_("Retry the creation of %(tenant)s"),
            lead=_("Continues the creation at the step where it stopped."),
            submit=_("Try again"),
        )

    @action(description=_("Discard"), icon="delete", permissions=["create"], variant=ActionVariant.DANGER)
    def discard(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Remove an incomplete tenant, after a confirmation."""
        tenant = self._tenant(request, object_id)
        if request.method == "POST":
            return self._run_discard(request, tenant)
        return self._ask(
            request,
            tenant,
            None,
            title=_("Discard %(tenant)s"),
            lead=_("Removes the incomplete tenant and its schema. It contains no data."),
            submit=_("Discard"),
            danger=True,
        )

    def _run_discard(self, request: HttpRequest, tenant: Tenant) -> HttpResponse:
        name = str(tenant)
        try:
            lifecycle.discard_incomplete_tenant(tenant)
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return redirect(self._page_url(tenant))
        self.log_deletions(request, [tenant])
        messages.success(request, _t("%(tenant)s is discarded.") % {"tenant": name})
        return redirect(self._list_url())

    def _tenant(self, request: HttpRequest, object_id: str) -> Tenant:
        tenant = self.get_object(request, object_id)
        if tenant is None:
            raise Http404
        return tenant

    def _done(self, request: HttpRequest, tenant: Tenant, done: bool, log: str, text: str) -> HttpResponse:
        if done:
            self.log_change(request, tenant, log)
            messages.success(request, text)
        else:
            messages.warning(request, _t("The state was not changed, because it had already changed in the meantime."))
        return redirect(self._page_url(tenant))

    def _ask(
        self, request: HttpRequest, tenant: Tenant, form: forms.Form | None, *, title: Any, **options: Any
    ) -> HttpResponse:
        title = title % {"tenant": tenant}
        return form_page(self, request, form, title=title, obj=tenant, back=self._page_url(tenant), **options)

    def _page_url(self, tenant: Tenant) -> str:
        return reverse("admin:tenants_tenant_change", args=[tenant.pk])

    def _list_url(self) -> str:
        return reverse("admin:tenants_tenant_changelist")


_NAVIGATION = hooks.NavigationGroup(
    _("Tenants"),
    (
        (Tenant, "domain"),
        (Plan, "speed"),
    ),
)
hooks.console_navigation.register(_NAVIGATION, order=10)
