"""The form to sign in of both admin sites and the first page, and the answer to its attempts."""

from typing import Any, ClassVar

from django import forms
from django.contrib.auth.forms import PasswordChangeForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.functional import Promise
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from tenants.infrastructure.password_hashing import HashingBusy
from tenants.models import User
from tenants.services import sign_in, user_sessions
from tenants.services.sign_in_throttle import TooManyAttempts


class SignInForm(forms.Form):
    """Mixin of a form with user name and password: one error for every reason, so that it confirms nothing."""

    place: ClassVar[str] = ""
    error: ClassVar[str | Promise] = _("The user name or the password is not correct. Both are case-sensitive.")
    request: HttpRequest | None
    user_cache: User | None
    rejection: TooManyAttempts | HashingBusy | None = None

    def may_enter(self, user: User) -> bool:
        """Return whether the account may enter where this form is; the user may not exist."""
        return True

    def clean(self) -> dict[str, Any]:
        """Check the password. Raises ValidationError."""
        username, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if username is not None and password:
            self.user_cache = self._authenticate(username, password)
            if self.user_cache is None:
                raise ValidationError(str(self.error), code="invalid_login")
        return self.cleaned_data

    def _authenticate(self, username: str, password: str) -> User | None:
        try:
            return sign_in.authenticate(self.request, username, password, place=self.place, may_enter=self.may_enter)
        except (TooManyAttempts, HashingBusy) as error:
            self.rejection = error
            raise ValidationError(rejection_text(error), code="throttled") from error


class ThrottledSignIn:
    """Mixin of an admin site: the answers to its sign-in form."""

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the form, or sign in."""
        return answer_of(request, super().login(request, extra_context))  # type: ignore[misc]

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Redirect to the page of the user's own account."""
        return redirect("account-password")


class OwnPasswordChangeForm(PasswordChangeForm):
    """A new password, after the old one: it is checked with the limits of a sign-in."""

    rejection: TooManyAttempts | HashingBusy | None = None

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        self.request = request
        super().__init__(*args, **kwargs)

    def clean_old_password(self) -> str:
        """Return the old password. Raises ValidationError."""
        password = self.cleaned_data["old_password"]
        try:
            if sign_in.check_own_password(self.request, self.user, password):
                return password
        except (TooManyAttempts, HashingBusy) as error:
            self.rejection = error
            raise ValidationError(rejection_text(error), code="throttled") from error
        raise ValidationError(self.error_messages["password_incorrect"], code="password_incorrect")


def rejection_text(error: TooManyAttempts | HashingBusy) -> str:
    """Return the reason of a rejected attempt, and when to try again."""
    if isinstance(error, HashingBusy):
        return _t("Too many people sign in at the moment. Try again in a few seconds.")
    text = ngettext(
        "Too many failed attempts to sign in. Try again in %(seconds)d second.",
        "Too many failed attempts to sign in. Try again in %(seconds)d seconds.",
        error.wait,
    )
    return text % {"seconds": error.wait}


def answer_of(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Return the answer to a sign-in form: with a cookie after a success, with 429 or 503 after a rejection."""
    form = (getattr(response, "context_data", None) or {}).get("form")
    if request.method == "POST" and form is None and isinstance(request.user, User):
        user_sessions.note_sign_in(request)
        user_sessions.end_oldest(request.user)
        sign_in.remember_browser(request, response, request.user)
    return answer_of_form(response, form)


def answer_of_form(response: HttpResponse, form: Any) -> HttpResponse:
    """Return the page of a form with a password, with 429 or 503 where its attempt was rejected."""
    rejection = getattr(form, "rejection", None)
    if rejection is not None:
        response.status_code = rejection.status
        response["Retry-After"] = str(rejection.wait)
    return response
