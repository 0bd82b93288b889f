"""API keys: `Authorization: Bearer <key>`."""

import re
from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from devices.models import ApiKey
from devices.services.api_keys import find_api_key

_KEY = re.compile(rb"^[A-Za-z0-9_-]{1,200}$")


class ApiKeyAuthentication(BaseAuthentication):
    """Finds the key in the request's tenant: a key of another tenant is as unknown as one made up."""

    keyword = "Bearer"

    def authenticate(self, request: Request) -> tuple[ApiKey, ApiKey] | None:
        scheme, _space, text = get_authorization_header(request).partition(b" ")
        if scheme.lower() != self.keyword.lower().encode() or getattr(request, "tenant", None) is None:
            return None
        text = text.strip()
        if not _KEY.match(text):
            raise AuthenticationFailed(_("The header must hold the key exactly as issued: Authorization: Bearer gwj_…"))
        key = find_api_key(text.decode("ascii"))
        if key is None:
            raise AuthenticationFailed(
                _(
                    "This API key is not valid in this tenant: unknown, expired or revoked. "
                    "An administrator of the tenant can issue a new one."
                )
            )
        return key, key

    def authenticate_header(self, request: Request) -> str:
        """Return the scheme for the WWW-Authenticate header."""
        return f'{self.keyword} realm="api"'


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """The key in the OpenAPI document."""

    target_class = "devices.api.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API key of the tenant."}
