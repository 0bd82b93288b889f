"""HTTP Basic for the platform's own address, with the limits of every sign-in."""

from django.utils.translation import gettext as _
from drf_spectacular.authentication import BasicScheme
from rest_framework.authentication import BasicAuthentication
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.password_hashing import HashingBusy
from tenants.models import User
from tenants.services import sign_in
from tenants.services.sign_in_throttle import TooManyAttempts

from .errors import Unavailable


class ThrottledBasicAuthentication(BasicAuthentication):
    """Username and password; `tenants.services.sign_in` counts the wrong ones."""

    def authenticate_credentials(self, userid: str, password: str, request: Request | None = None) -> tuple[User, None]:
        """Return the user of the credentials; raises AuthenticationFailed, Throttled or Unavailable."""
        sent = request._request if request is not None else None
        try:
            user = sign_in.authenticate(sent, userid, password, place="api", may_enter=lambda _user: True)
        except TooManyAttempts as error:
            raise Throttled(error.wait, _("Too many wrong passwords. Try again later.")) from error
        except HashingBusy as error:
            text = _("Too many passwords are being checked. Try again in a few seconds.")
            raise Unavailable(text, ErrorCode.BUSY) from error
        if user is None:
            raise AuthenticationFailed(_("Invalid username/password."))
        return user, None


class ThrottledBasicScheme(BasicScheme):
    """The same in the OpenAPI document as REST framework's own."""

    target_class = "tenants.api.authentication.ThrottledBasicAuthentication"
