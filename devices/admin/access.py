"""API keys and audit entries in the tenant's admin."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar

from django import forms
from django.apps import apps
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.filters import AllValuesFieldListFilter
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from devices import hooks
from devices.domain import networks
from devices.domain.scopes import SCOPES
from devices.models import ApiKey, AuditEntry, RotationCampaign
from devices.models.access import ACTIONS
from devices.services import audit_search
from devices.services.api_keys import OVERLAP, default_end, issue_api_key, revoke_api_key, rotate_api_key
from tenants.admin.base import ReadOnly, coloured, form_page, render_page
from tenants.infrastructure.hooks import NavigationGroup
from tenants.models import Membership
from tenants.services.roles import Role

from . import selector_forms
from .base import TenantModelAdmin
from .roles import may, person
from .selector_forms import SelectorForm
from .site import tenant_admin


class ApiKeyForm(SelectorForm, forms.ModelForm):
    """The form of a new key."""

    scopes = forms.MultipleChoiceField(
        label=_("Scopes"),
        choices=[(scope, scope) for scope in SCOPES],
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )

    class Meta:
        model = ApiKey
        fields = ("name", "description", "scope", "scopes", "addresses", "expires_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.setdefault("expires_at", default_end())

    def clean(self) -> dict[str, Any]:
        """Validate that scopes are listed for the scope `custom`, and for no other; raises ValidationError."""
        values: dict[str, Any] = super().clean() or {}
        if bool(values.get("scopes")) != (values.get("scope") == ApiKey.Scope.CUSTOM):
            self.add_error("scopes", _("List scopes for the scope “the listed scopes” only."))
        return values

    def clean_addresses(self) -> list[str]:
        """Return the networks as CIDR; the field's validator has checked them."""
        return networks.normalize(self.cleaned_data["addresses"] or [])

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now():
            raise ValidationError(_("The time must be in the future."))
        return expires_at


@admin.register(ApiKey, site=tenant_admin)
class ApiKeyAdmin(TenantModelAdmin):
    """API keys. Their text is shown once, when they are issued; after that they can only be revoked."""

    form = ApiKeyForm
    list_display: ClassVar = ["name", "prefix", "scope", "state", "created_by_label", "expires_at", "last_used_at"]
    list_filter: ClassVar = ["scope"]
    search_fields: ClassVar = ["name", "prefix"]
    add_fieldsets: ClassVar = [
        (None, {"fields": ["name", "description", "scope", "scopes", "addresses", "expires_at"]}),
        (_("Devices"), {"fields": selector_forms.FIELDS}),
    ]
    fields: ClassVar = [
        ("name", "prefix"),
        "description",
        ("scope", "state"),
        "granted_scopes",
        ("addresses", "selector"),
        ("created_at", "created_by_label"),
        ("expires_at", "last_used_at"),
    ]
    readonly_fields: ClassVar = [
        "prefix",
        "state",
        "granted_scopes",
        "selector",
        "created_at",
        "created_by_label",
        "last_used_at",
    ]
    actions_detail: ClassVar = ["rotate", "revoke"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may change."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may delete."""
        return False

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request, Role.ADMIN)

    @display(description=_("state"))
    def state(self, key: ApiKey) -> SafeString:
        if key.revoked_at is not None:
            return coloured(_("revoked"), "danger")
        if key.ends_soon:
            return coloured(_("ends soon"), "warning")
        return coloured(_("valid"), "success") if key.is_valid() else coloured(_("expired"), "warning")

    @display(description=_("scopes"))
    def granted_scopes(self, key: ApiKey) -> str:
        """Return the scopes, those of a set included."""
        return ", ".join(sorted(key.granted))

    def save_model(self, request: HttpRequest, obj: ApiKey, form: forms.ModelForm, change: bool) -> None:
        """Save the row by its service, with an audit entry."""
        values = form.cleaned_data
        key, text = issue_api_key(
            **{name: values[name] for name in ApiKeyForm.Meta.fields},
            selector=form.selector,  # type: ignore[attr-defined]
            acting_user=person(request),
        )
        obj.__dict__.update(key.__dict__)
        request.issued_api_key = text  # type: ignore[attr-defined]

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """Do nothing: the service that issues the key has recorded it."""

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """Return the page that follows the creation."""
        return render_page(
            self,
            request,
            "devices/admin/api_key_issued.html",
            title=_("API key %(name)s") % {"name": obj.name},
            obj=obj,
            text=request.issued_api_key,  # type: ignore[attr-defined]
            api_url=request.build_absolute_uri(reverse("home") + "api/v1/"),
            back=self._page_url(obj),
        )

    @action(description=_("Revoke"), icon="block", permissions=["revoke"], variant=ActionVariant.DANGER)
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.get_object(request, object_id)
        if key is None:
            raise Http404
        if request.method == "POST":
            if revoke_api_key(key, acting_user=person(request)):
                messages.success(request, _t("The key has been revoked."))
            else:
                messages.warning(request, _t("The key had already been revoked."))
            return redirect(self._page_url(key))
        return form_page(
            self,
            request,
            None,
            title=_t("Revoke %(key)s") % {"key": key},
            lead=_("Requests with this key are rejected from now on. This cannot be undone."),
            submit=_("Revoke"),
            danger=True,
            back=self._page_url(key),
            obj=key,
        )

    @action(description=_("Rotate"), icon="autorenew", permissions=["revoke"])
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Issue the successor of a key, and show its text."""
        key = self.get_object(request, object_id)
        if key is None:
            raise Http404
        if request.method != "POST":
            return form_page(
                self,
                request,
                None,
                title=_t("Rotate %(key)s") % {"key": key},
                lead=_t("A successor with the same rights is issued. The present key ends in %(days)d days.")
                % {"days": OVERLAP.days},
                submit=_("Rotate"),
                back=self._page_url(key),
                obj=key,
            )
        try:
            new, text = rotate_api_key(key, overlap=OVERLAP, acting_user=person(request))
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return redirect(self._page_url(key))
        request.issued_api_key = text  # type: ignore[attr-defined]
        return self.response_add(request, new)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """Return the actions of the object's page that the user may run."""
        key = self.get_object(request, object_id)
        return super().get_actions_detail(request, object_id) if key and key.revoked_at is None else []

    def _page_url(self, key: ApiKey) -> str:
        return reverse("admin:devices_apikey_change", args=[key.pk])


class ActionFilter(AllValuesFieldListFilter):
    """A filter by recorded action, in the reader's language."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        for choice in super().choices(changelist):
            recorded = str(choice["display"])
            yield {**choice, "display": ACTIONS.get(recorded, recorded)}


class ObjectTypeFilter(AllValuesFieldListFilter):
    """A filter by type of object, by the names of the models."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        for choice in super().choices(changelist):
            yield {**choice, "display": _model_name(str(choice["display"]))}


@admin.register(AuditEntry, site=tenant_admin)
class AuditEntryAdmin(ReadOnly, TenantModelAdmin):
    """Audit entries of this tenant."""

    list_display: ClassVar = ["at", "user_label", "done", "model", "object_label", "detail"]
    list_filter: ClassVar = [("at", RangeDateTimeFilter), ("action", ActionFilter), ("object_type", ObjectTypeFilter)]
    list_filter_submit = True
    search_fields: ClassVar = ["user_label", "object_label", "detail", "=request_id", "=address"]
    fields: ClassVar = [
        "at",
        "user_label",
        "address",
        "request_id",
        "done",
        "model",
        "object_label",
        "detail",
        "changed",
        "position",
        "hash",
    ]
    readonly_fields: ClassVar = fields
    actions_list: ClassVar = ["as_csv"]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Render the list; its download contains what the filters select."""
        answer = super().changelist_view(request, extra_context)
        for item in (getattr(answer, "context_data", None) and answer.context_data.get("actions_list")) or ():
            item["path"] = f"{item['path']}?{request.GET.urlencode()}"
        return answer

    @action(description=_("Download as CSV"), icon="download", permissions=["view"], url_path="as-csv")
    def as_csv(self, request: HttpRequest) -> HttpResponse:
        """Return the entries that the list shows under its filters."""
        chosen = self.get_changelist_instance(request).get_queryset(request)
        try:
            content = audit_search.as_csv(chosen.order_by("-at", "-id"))
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
            return redirect("admin:devices_auditentry_changelist")
        disposition = {"Content-Disposition": 'attachment; filename="audit.csv"', "Cache-Control": "no-store"}
        return HttpResponse(content, content_type="text/csv; charset=utf-8", headers=disposition)

    @display(description=_("changes"))
    def changed(self, entry: AuditEntry) -> SafeString | str:
        """Return the changed members, one a line, before and after."""
        lines = [(name, _shown(one["before"]), _shown(one["after"])) for name, one in (entry.changes or {}).items()]
        return format_html_join(SafeString("<br>"), "{}: {} → {}", lines) or "–"

    @display(description=_("action"), ordering="action")
    def done(self, entry: AuditEntry) -> str:
        return str(entry.done)

    @display(description=_("object type"), ordering="object_type")
    def model(self, entry: AuditEntry) -> str:
        return _model_name(entry.object_type)


def _model_name(label: str) -> str:
    """Return the name of the model for people; the label itself where there is no such model any more."""
    try:
        return str(apps.get_model(label)._meta.verbose_name)
    except (LookupError, ValueError):
        return label


def _shown(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@hooks.dashboard_panels.provider(5)
def keys_that_end_soon(request: HttpRequest) -> SafeString:
    """Render the API keys that end soon, for administrators."""
    if not may(request, Role.ADMIN):
        return SafeString("")
    soon = timezone.now() + timedelta(days=settings.API_KEY_WARNING_DAYS)
    keys = ApiKey.objects.filter(revoked_at=None, successor=None, expires_at__range=(timezone.now(), soon))
    return render_to_string("devices/admin/keys_that_end_soon.html", {"keys": keys.order_by("expires_at")}, request)


_NAVIGATION = NavigationGroup(
    _("Access"),
    (
        (Membership, "group"),
        (ApiKey, "key"),
        (RotationCampaign, "sync_lock"),
        (AuditEntry, "history"),
    ),
)
hooks.tenant_navigation.register(_NAVIGATION, order=40)
