"""Users, their roles in tenants, and groups of staff, on the console."""

from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group as PermissionGroup
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from tenants.infrastructure import hooks
from tenants.models import Membership, User
from tenants.services import user_sessions

from .base import QuotaErrors
from .site import console


class AddUserForm(UserCreationForm):
    class Meta(UserCreationForm.Meta):
        model = User


class ChangeUserForm(UserChangeForm):
    class Meta(UserChangeForm.Meta):
        model = User


class UserMembershipInline(TabularInline):
    """The tenants of a user, with the role in each."""

    model = Membership
    fields: ClassVar = ["tenant", "role"]
    autocomplete_fields: ClassVar = ["tenant"]
    extra = 0
    hide_title = True


@admin.register(User, site=console)
class UserAdmin(QuotaErrors, DjangoUserAdmin, ModelAdmin):
    """User accounts. Only superusers change who is staff and the permissions on the console."""

    form = ChangeUserForm
    add_form = AddUserForm
    change_password_form = AdminPasswordChangeForm
    inlines: ClassVar = [UserMembershipInline]
    list_display = ("username", "email", "is_active", "is_staff", "is_superuser", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser")
    filter_horizontal = ()
    autocomplete_fields: ClassVar = ["groups"]
    fieldsets: ClassVar = [
        (None, {"fields": ["username", "password"]}),
        (_("Person"), {"fields": [("first_name", "last_name"), "email"]}),
        (_("Staff"), {"fields": ["is_active", "is_staff", "is_superuser", "groups"]}),
        (_("Dates"), {"fields": [("last_login", "date_joined")]}),
    ]
    readonly_fields = ("last_login", "date_joined")
    actions = ("sign_out_everywhere",)

    @admin.action(description=_("Sign out everywhere"), permissions=["change"])
    def sign_out_everywhere(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """End all sessions of the selected users, except for users whom the request cannot change."""
        users = [user for user in queryset if self._may_touch(request, user)]
        ended = sum(user_sessions.end_all(user) for user in users)
        text = ngettext("%(number)d session was ended.", "%(number)d sessions were ended.", ended)
        self.message_user(request, text % {"number": ended})

    def get_inlines(self, request: HttpRequest, obj: Model | None) -> list[Any]:
        """Return the inlines; none before the user is saved."""
        return self.inlines if obj else []

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        """Return the fields that the request cannot change on this object."""
        powers = [] if request.user.is_superuser else ["is_staff", "is_superuser", "groups"]
        return [*super().get_readonly_fields(request, obj), *powers]

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return whether the user can change the object."""
        return super().has_change_permission(request, obj) and self._may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return whether the user can delete the object."""
        return super().has_delete_permission(request, obj) and self._may_touch(request, obj)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save the user; one who is no longer active loses all sessions."""
        super().save_model(request, obj, form, change)
        if change and not obj.is_active:
            user_sessions.end_all(obj)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        """Set a user's password; a changed one ends the user's sessions."""
        response = super().user_change_password(request, id, form_url)
        user = self.get_object(request, unquote(id))
        if request.method == "POST" and isinstance(response, HttpResponseRedirect) and isinstance(user, User):
            own = request.session.session_key if user == request.user else None
            user_sessions.end_all(user, except_key=own)
        return response

    def _may_touch(self, request: HttpRequest, obj: Model | None) -> bool:
        # A user who can set a superuser's password can become one.
        return request.user.is_superuser or not (isinstance(obj, User) and (obj.is_superuser or obj.is_staff))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Return the list's actions that the user can run."""
        actions = super().get_actions(request)
        if not request.user.is_superuser:
            actions.pop("delete_selected", None)  # it does not check the permission of each object
        return actions


@admin.register(PermissionGroup, site=console)
class PermissionGroupAdmin(DjangoGroupAdmin, ModelAdmin):
    """Permission groups of staff. Only superusers change them: other staff could extend their own permissions."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return whether the user can add objects."""
        return bool(request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return whether the user can change the object."""
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return whether the user can delete the object."""
        return bool(request.user.is_superuser)


_NAVIGATION = hooks.NavigationGroup(
    _("People"),
    (
        (User, "person"),
        (PermissionGroup, "group"),
    ),
)
hooks.console_navigation.register(_NAVIGATION, order=15)
