"""Authentication at the platform's own address: HTTP Basic with the limits of every sign-in, and service keys."""

import re
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _
from drf_spectacular.authentication import BasicScheme
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, BasicAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.password_hashing import HashingBusy
from tenants.infrastructure.throttling import SecretThrottle
from tenants.models import ServiceKey, User
from tenants.services import service_keys, sign_in
from tenants.services.sign_in_throttle import TooManyAttempts

from .errors import Unavailable

_KEY = re.compile(rb"^[A-Za-z0-9_-]{1,200}$")
_BLOCKED_SECONDS = 60
service_key_throttle = SecretThrottle(settings.API_KEY_FAILURES_PER_MINUTE)


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


class ServiceKeyAuthentication(BaseAuthentication):
    """A service key: the request is that of the superuser who issued it, limited to the key's scopes."""

    def authenticate(self, request: Request) -> tuple[User, ServiceKey] | None:
        """Return the issuer and the key; None without a key. Raises AuthenticationFailed and Throttled."""
        scheme, _space, text = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        text = text.strip()
        if not _KEY.match(text):
            raise AuthenticationFailed(_("The header must hold the key exactly as issued: Authorization: Bearer gws_…"))
        address, secret = request.META.get("REMOTE_ADDR", ""), text.decode("ascii")
        if service_key_throttle.blocks(address, secret):
            raise Throttled(_BLOCKED_SECONDS, _("Too many invalid service keys from this address. Try again later."))
        key = service_keys.find_service_key(secret)
        service_key_throttle.record(address, secret, key is not None)
        if key is None:
            raise AuthenticationFailed(
                _("This service key is not valid: unknown, ended, or its issuer is no longer a superuser.")
            )
        return key.issued_by, key


class ServiceKeyScheme(OpenApiAuthenticationExtension):
    """The key in the OpenAPI document."""

    target_class = "tenants.api.authentication.ServiceKeyAuthentication"
    name = "serviceKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "A service key of the platform's staff."}
