"""HTTP Basic for the public side, with a brake on guessing."""

from django.utils.translation import gettext as _
from drf_spectacular.authentication import BasicScheme
from rest_framework.authentication import BasicAuthentication
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from tenants.infrastructure import window_counts
from tenants.models import User

_FAILURES = 10
_WINDOW_SECONDS = 60


class CarefulBasicAuthentication(BasicAuthentication):
    """Username and password; after ten wrong ones in a minute, an account is not asked for from that address."""

    def authenticate_credentials(self, userid: str, password: str, request: Request | None = None) -> tuple[User, None]:
        """Return the user of the credentials; raises AuthenticationFailed."""
        address = request.META.get("REMOTE_ADDR", "") if request is not None else ""
        key = f"public:basic:{address}:{userid}"
        failures, wait = window_counts.count(key, seconds=_WINDOW_SECONDS, add=0)
        if failures >= _FAILURES:
            raise Throttled(wait, _("Too many wrong passwords. Try again later."))
        try:
            return super().authenticate_credentials(userid, password, request)
        except AuthenticationFailed:
            window_counts.count(key, seconds=_WINDOW_SECONDS)
            raise


class CarefulBasicScheme(BasicScheme):
    """The same in the OpenAPI document as REST framework's own."""

    target_class = "tenants.api.authentication.CarefulBasicAuthentication"
