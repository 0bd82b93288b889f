"""Members of the tenant in its admin: people with their role and device selector."""

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextInputWidget

from devices.services import members
from tenants.admin.base import form_page
from tenants.infrastructure.database import current_schema
from tenants.models import Membership, User
from tenants.services.roles import Role

from .base import TenantModelAdmin
from .roles import may, person
from .selector_forms import FIELDS, SelectorForm, selector_values
from .site import tenant_admin

_REFUSALS = (ValidationError, members.RoleNotGrantable, members.TooManyUnknownNames)


class MemberForm(SelectorForm, forms.ModelForm):
    """The role and the selector of a member."""

    class Meta:
        model = Membership
        fields = ("role",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            self.initial.update(selector_values(self.instance.selector))


class NewMemberForm(MemberForm):
    """A person who becomes a member."""

    account = forms.CharField(
        label=_("Account"),
        max_length=254,
        help_text=_("The user name or the e-mail address of an account. The platform's staff create accounts."),
        widget=UnfoldAdminTextInputWidget,
    )

    def clean_account(self) -> User:
        """Return the account. Raises ValidationError."""
        text = self.cleaned_data["account"].strip()
        try:
            return members.find_user(email=text) if "@" in text else members.find_user(username=text)
        except ValidationError as error:
            raise ValidationError(error.messages) from error
        except members.TooManyUnknownNames as error:
            raise ValidationError(str(error)) from error


@admin.register(Membership, site=tenant_admin)
class MemberAdmin(TenantModelAdmin):
    """The people of the tenant, for its administrators. `devices.services.members` changes them."""

    form = MemberForm
    list_display: ClassVar = ["username", "email", "role", "limited"]
    list_filter: ClassVar = ["role"]
    search_fields: ClassVar = ["user__username", "user__email"]
    ordering: ClassVar = ["user__username"]
    fields: ClassVar = ["username", "email", "role", *FIELDS]
    add_fieldsets: ClassVar = [(None, {"fields": ["account", "role", *FIELDS]})]
    readonly_fields: ClassVar = ["username", "email"]
    actions_detail: ClassVar = ["remove"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        """Return the members of the request's tenant."""
        return super().get_queryset(request).filter(tenant__schema_name=current_schema()).select_related("user")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user is an administrator: the list has e-mail addresses."""
        return super().has_view_permission(request, obj) and may(request, Role.ADMIN)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: the action `remove` removes a member."""
        return False

    def has_remove_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user can remove members; used by the action."""
        return self.has_change_permission(request)

    @display(description=_("username"), ordering="user__username")
    def username(self, member: Membership) -> str:
        """Return the user name."""
        return member.user.get_username()

    @display(description=_("e-mail address"), ordering="user__email")
    def email(self, member: Membership) -> str:
        """Return the e-mail address, or a dash."""
        return member.user.email or "–"

    @display(description=_("all devices"), boolean=True)
    def limited(self, member: Membership) -> bool:
        """Return whether the member sees all devices."""
        return not member.selector

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Return the form for a new member or for a present one."""
        return super().get_form(request, obj, change, **({} if change else {"form": NewMemberForm}) | kwargs)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return the form, with a message where the change is refused; nothing is changed then."""
        try:
            return super().changeform_view(request, *args, **kwargs)
        except _REFUSALS as error:
            messages.error(request, _text_of(error))
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: Membership, form: Any, change: bool) -> None:
        """Add or change the member by the service, which records it."""
        values = {"role": form.cleaned_data["role"], "acting_user": person(request)}
        if not change:
            member = members.add_member(form.cleaned_data["account"], selector=form.selector, **values)
            obj.__dict__.update(member.__dict__)
        elif form.has_changed():
            # A selector of removed places shows none: saved unchanged, it must not become one of all devices.
            is_edited = not set(FIELDS).isdisjoint(form.changed_data)
            members.change_member(obj, selector=form.selector if is_edited else None, **values)

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """Do nothing: the service has recorded it."""

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """Do nothing: the service has recorded it."""

    @action(description=_("Remove"), icon="person_remove", permissions=["remove"], variant=ActionVariant.DANGER)
    def remove(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Remove a member, after a confirmation."""
        member = self.get_object(request, object_id)
        if member is None:
            raise Http404
        page = reverse("admin:tenants_membership_change", args=[member.pk])
        if request.method != "POST":
            title, lead = _t("Remove %(user)s from the tenant") % {"user": member.user}, _("The account itself stays.")
            return form_page(
                self, request, None, title=title, lead=lead, submit=_("Remove"), danger=True, back=page, obj=member
            )
        try:
            members.remove_member(member, acting_user=person(request))
        except _REFUSALS as error:
            messages.error(request, _text_of(error))
            return redirect(page)
        messages.success(request, _t("%(user)s is not a member any more.") % {"user": member.user})
        return redirect("admin:tenants_membership_changelist")


def _text_of(error: Exception) -> str:
    return " ".join(error.messages) if isinstance(error, ValidationError) else str(error)
