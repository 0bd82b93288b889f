"""Base of the views of the platform's staff, on the public side only."""

from collections.abc import Iterable
from typing import ClassVar, cast

from django.utils.translation import gettext_lazy as _
from rest_framework.authentication import SessionAuthentication
from rest_framework.generics import GenericAPIView

from tenants.api.authentication import ServiceKeyAuthentication, ThrottledBasicAuthentication
from tenants.api.permissions import StaffAccess
from tenants.models import User

from .base import StrictView


class StaffView(StrictView, GenericAPIView):
    """A view for superusers and, where it has a `resource`, for their service keys."""

    authentication_classes = (ThrottledBasicAuthentication, ServiceKeyAuthentication, SessionAuthentication)
    permission_classes = (StaffAccess,)
    throttle_classes = ()
    filter_backends = ()
    how_to_authenticate = _(
        "Send a service key (Authorization: Bearer <key>), or the username and password of a superuser (HTTP Basic),"
        " or log in."
    )
    resource: ClassVar[str] = ""

    def known_parameters(self) -> Iterable[str]:
        """Return the names of the accepted query parameters."""
        return getattr(self.paginator, "parameters", ()) if getattr(self, "action", "list") == "list" else ()

    @property
    def staff_user(self) -> User:
        """Return the superuser of the request; the permission lets nothing else past."""
        return cast("User", self.request.user)
