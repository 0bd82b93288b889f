"""HTTP Basic for the platform's own address, with a limit on wrong passwords."""

from django.utils.translation import gettext as _
from drf_spectacular.authentication import BasicScheme
from rest_framework.authentication import BasicAuthentication
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from tenants.infrastructure.throttling import RedisCounter
from tenants.models import User

_FAILURES = 10
_failed_logins = RedisCounter(seconds=60)


class ThrottledBasicAuthentication(BasicAuthentication):
    """Username and password; after ten wrong ones in a minute, the address cannot log in to the account."""

    def authenticate_credentials(self, userid: str, password: str, request: Request | None = None) -> tuple[User, None]:
        """Return the user of the credentials; raises AuthenticationFailed."""
        address = request.META.get("REMOTE_ADDR", "") if request is not None else ""
        key = f"public:basic:{address}:{userid}"
        failures, wait = _failed_logins.read(key)
        if failures >= _FAILURES:
            raise Throttled(wait, _("Too many wrong passwords. Try again later."))
        try:
            return super().authenticate_credentials(userid, password, request)
        except AuthenticationFailed:
            _failed_logins.add(key)
            raise


class ThrottledBasicScheme(BasicScheme):
    """The same in the OpenAPI document as REST framework's own."""

    target_class = "tenants.api.authentication.ThrottledBasicAuthentication"
