"""Access to a tenant's API: authentication by API key, and permissions of members and keys."""

import logging
import math
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext as _
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied, Throttled
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request

from devices.api.visibility import selector_of
from devices.domain import networks
from devices.domain.scopes import SETS
from devices.domain.selector import Selector
from devices.models import ApiKey
from devices.services import api_keys
from devices.services.visibility import uuids_of
from tenants.api.permissions import ANY_KEY, MemberPermission
from tenants.infrastructure.database import current_schema
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.throttling import SecretThrottle
from tenants.models import Tenant, User
from tenants.services.roles import Role, access_of, reaches, role_of
from tenants.services.session_store import SessionStore

if TYPE_CHECKING:
    # REST framework loads this module from its settings, before its views are there.
    from rest_framework.views import APIView

logger = logging.getLogger(__name__)

_KEY = re.compile(rb"^[A-Za-z0-9_-]{1,200}$")
key_throttle = SecretThrottle(settings.API_KEY_FAILURES_PER_MINUTE)
_BLOCKED_SECONDS = 60


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
        key = _find(request, text.decode("ascii"))
        if key is None:
            raise AuthenticationFailed(
                _(
                    "This API key is not valid in this tenant: unknown, expired or revoked. "
                    "An administrator of the tenant can issue a new one."
                )
            )
        if key.addresses and not networks.contain(key.addresses, request.META.get("REMOTE_ADDR", "")):
            raise PermissionDenied(_("This API key cannot be used from this address."))
        return key, key

    def authenticate_header(self, request: Request) -> str:
        """Return the scheme for the WWW-Authenticate header."""
        return f'{self.keyword} realm="api"'


def _find(request: Request, text: str) -> ApiKey | None:
    """Return the tenant's valid key. Raises Throttled, without a query, for an address with many invalid keys."""
    address, secret = request.META.get("REMOTE_ADDR", ""), f"{current_schema()} {text}"
    if key_throttle.blocks(address, secret):
        raise Throttled(_BLOCKED_SECONDS, _("Too many invalid API keys from this address. Try again later."))
    key = api_keys.find_api_key(text)
    if key_throttle.record(address, secret, key is not None):
        logger.warning("Too many invalid API keys from %s: unknown ones are rejected for a minute", address)
    return key


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """The key in the OpenAPI document."""

    target_class = "devices.api.access.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API key of the tenant."}


class TenantAccess(MemberPermission):
    """Grant access to members by their role, and to API keys by their scope.

    A view can set `role_to_read` (default: viewer), `role_to_write` (administrator), and `resource`: a key needs the
    scope `resource:read` or `resource:write`; without a resource, all scopes of the set `read` or `write`.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Return whether the request is allowed."""
        reading = request.method in SAFE_METHODS
        if isinstance(request.auth, ApiKey):
            allowed = self._key_may(request.auth, reading, view)
        else:
            allowed = super().has_permission(request, view)
        return allowed and (self._is_open_to_selectors(reading, view) or not self._has_selector(request))

    def _is_open_to_selectors(self, reading: bool, view: "APIView") -> bool:
        scope = getattr(view, "device_scope", "tenant")
        return scope == "devices" or (scope == "shared" and reading)

    def _has_selector(self, request: Request) -> bool:
        self.message = _("This requires access to all devices of the tenant; yours is limited by a device selector.")
        self.code = ErrorCode.PERMISSION_DENIED
        return bool(selector_of(request))

    def _key_may(self, key: ApiKey, reading: bool, view: "APIView") -> bool:
        self.code = ErrorCode.SCOPE_REQUIRED
        needed: list[str] = view.needed_scope(reading).split() if hasattr(view, "needed_scope") else []
        if needed:
            lacking = [scope for scope in needed if scope != ANY_KEY and scope not in key.granted]
            self.message = _("This requires an API key with the scope %(scope)s.") % {"scope": ", ".join(lacking)}
            return not lacking
        name = "read" if reading else "write"
        self.message = _("This requires an API key with the scope %(scope)s.") % {"scope": name}
        return SETS[name] <= key.granted


def require_scope(request: Request, scope: str) -> None:
    """Raise PermissionDenied (403) for an API key without the scope; members have roles instead."""
    if isinstance(request.auth, ApiKey) and scope not in request.auth.granted:
        text = _("This requires an API key with the scope %(scope)s.")
        raise PermissionDenied(text % {"scope": scope}, ErrorCode.SCOPE_REQUIRED)


@dataclass(frozen=True, slots=True)
class StreamAccess:
    """The key or the session that opened a stream, to be checked again while it lasts."""

    tenant_id: int
    key_id: int = 0
    user_id: int = 0
    session: str = ""
    least: Role = Role.VIEWER  # that a person must have
    expires_at: datetime | None = None  # the key's end
    visible: frozenset[str] | None = None  # as the stream was opened

    def seconds_left(self) -> float:
        """Return the seconds until the key expires; infinite without an end."""
        return math.inf if self.expires_at is None else (self.expires_at - timezone.now()).total_seconds()

    def may_watch(self) -> bool:
        """Return whether the tenant is active and the key still valid, or the user logged in and with the role.

        Queries the database in the tenant's schema.
        """
        tenant = Tenant.objects.filter(pk=self.tenant_id, state=Tenant.State.ACTIVE).first()
        if tenant is None:
            return False
        if self.key_id:
            key = ApiKey.objects.filter(pk=self.key_id).first()
            return key is not None and key.is_valid()
        user = User.objects.filter(pk=self.user_id).first()
        return user is not None and self._is_logged_in(user) and reaches(role_of(user, tenant), self.least)

    def visible_uuids(self) -> frozenset[str] | None:
        """Return the UUIDs of the devices that the key or member can see; None: all. Queries the tenant's schema."""
        return uuids_of(self._selector())

    def _selector(self) -> Selector:
        if self.key_id:
            key = ApiKey.objects.filter(pk=self.key_id).first()
            return Selector.from_stored(key.selector if key else {})
        user, tenant = User.objects.filter(pk=self.user_id).first(), Tenant.objects.filter(pk=self.tenant_id).first()
        return Selector.from_stored(access_of(user, tenant).selector if user else {})

    def _is_logged_in(self, user: User) -> bool:
        session = SessionStore(self.session)
        # The hash is another one after a change of the password.
        unchanged = constant_time_compare(session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash())
        return unchanged and str(session.get(SESSION_KEY)) == str(self.user_id)


def stream_access(request: Request, least: Role = Role.VIEWER) -> StreamAccess:
    """Return the access of an authorized request."""
    if isinstance(request.auth, ApiKey):
        tenant = request._request.tenant  # type: ignore[attr-defined]
        access = StreamAccess(tenant.pk, key_id=request.auth.pk, expires_at=request.auth.expires_at)
    else:
        access = session_stream_access(request._request, least)
    return replace(access, visible=uuids_of(selector_of(request)))


def session_stream_access(request: Any, least: Role) -> StreamAccess:
    """Return the access of the user of a Django request."""
    session = request.session.session_key or ""
    return StreamAccess(request.tenant.pk, user_id=request.user.pk or 0, session=session, least=least)
