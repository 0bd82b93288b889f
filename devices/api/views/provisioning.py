"""Claims and releases of preregistered devices, and the public view that issues their credentials."""

from typing import Any, NoReturn

from django.conf import settings
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.exceptions import NotFound, PermissionDenied, Throttled
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from devices.api.filters import device_by_uuid
from devices.api.serializers.inventory import DeviceSerializer
from devices.api.serializers.provisioning import ClaimSerializer, FetchedSerializer, FetchSerializer
from devices.services.provisioning import claims, credential_bootstrap
from tenants.api.errors import Conflict, ErrorSerializer
from tenants.api.serializers.base import refuse_body
from tenants.api.views.base import DeviceScope, StrictView
from tenants.infrastructure.client_address import address_group
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.throttling import WindowThrottle
from tenants.services.roles import Role

from .base import AuditedView


class ClaimView(AuditedView):
    """Claims of preregistered devices."""

    resource = "devices"
    role_to_read = role_to_write = Role.OPERATOR

    @extend_schema(
        request=ClaimSerializer,
        responses={201: DeviceSerializer, 404: ErrorSerializer, 409: ErrorSerializer, 503: ErrorSerializer},
    )
    def post(self, request: Request) -> Response:
        """Claim a preregistered device by its serial number and claim code. It then fetches its credentials.

        404: no device with this serial number and code can be claimed.
        """
        wanted = ClaimSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        try:
            claimed = claims.claim(**wanted.validated_data, acting_user=self.acting_user)
        except claims.ClaimRefused as error:
            raise NotFound(str(error)) from error
        except claims.AlreadyClaimed as error:
            raise Conflict(str(error), ErrorCode.ALREADY_CLAIMED) from error
        except claims.TooManyClaims as error:
            raise Throttled(error.wait, str(error)) from error
        device = device_by_uuid(request, claimed.device.uuid)
        return Response(DeviceSerializer(device).data, status.HTTP_201_CREATED)


class ReleaseView(AuditedView):
    """Releases of claimed devices, after which any tenant can claim them."""

    resource = "devices"
    device_scope = DeviceScope.DEVICES
    role_to_read = role_to_write = Role.OPERATOR

    @extend_schema(request=None, responses={204: None, 503: ErrorSerializer})
    def post(self, request: Request, uuid: Any) -> Response:
        """Release a claimed device. It is deleted; a device with readings is deactivated and loses its keys."""
        refuse_body(request)
        claims.release(device_by_uuid(request, uuid), acting_user=self.acting_user)
        return Response(status=status.HTTP_204_NO_CONTENT)


class ResetCredentialsView(AuditedView):
    """Resets of the credentials of claimed devices."""

    resource = "credentials"
    device_scope = DeviceScope.DEVICES
    role_to_read = role_to_write = Role.OPERATOR

    @extend_schema(request=None, responses={204: None, 503: ErrorSerializer})
    def post(self, request: Request, uuid: Any) -> Response:
        """Issue a new key and password for the device to fetch, and revoke the old ones at once."""
        refuse_body(request)
        claims.reset_credentials(device_by_uuid(request, uuid), acting_user=self.acting_user)
        return Response(status=status.HTTP_204_NO_CONTENT)


class CredentialRequestThrottle(WindowThrottle):
    """Limits requests by address: devices behind one router share a count."""

    policy = "address"

    def limit(self) -> int:
        """Return `FETCHES_PER_MINUTE`."""
        return settings.FETCHES_PER_MINUTE

    def key(self, request: Request) -> str:
        """Return the counter's key for the client's address."""
        return f"fetch:{address_group(request.META.get('REMOTE_ADDR', ''))}"


class CredentialsView(StrictView):
    """Credentials of preregistered devices."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    throttle_classes = (CredentialRequestThrottle,)

    @extend_schema(
        request=FetchSerializer,
        responses={
            200: FetchedSerializer,
            202: FetchedSerializer,
            403: ErrorSerializer,
            409: ErrorSerializer,
            503: ErrorSerializer,
        },
    )
    def post(self, request: Request) -> Response:
        """Return the device's credentials, once. 202 until a tenant claims the device; retry after Retry-After."""
        wanted = FetchSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        try:
            found = credential_bootstrap.fetch_credentials(
                **wanted.validated_data, address=request.META.get("REMOTE_ADDR", "")
            )
        except credential_bootstrap.UnknownBootstrapToken as error:
            raise PermissionDenied(str(error), ErrorCode.UNKNOWN_TOKEN) from error
        except credential_bootstrap.AlreadyBootstrapped as error:
            raise Conflict(str(error), code=ErrorCode.ALREADY_FETCHED) from error
        except credential_bootstrap.BootstrapPending as error:
            body = {"status": error.status, "retry_after": error.seconds}
            return Response(body, status.HTTP_202_ACCEPTED, headers={"Retry-After": str(error.seconds)})
        return Response({"status": "issued", "credentials": found})

    def throttled(self, request: Request, wait: float) -> NoReturn:
        text = _("This address sent more than %(most)d requests in a minute (fetches_per_minute).")
        raise Throttled(wait, text % {"most": settings.FETCHES_PER_MINUTE})
