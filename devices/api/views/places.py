"""Places of devices."""

from typing import ClassVar

from django.db.models import QuerySet

from devices.api import filters
from devices.api.object_changes import MirroredObjects, MirroredPage
from devices.api.serializers.places import PlaceSerializer
from devices.api.visibility import selector_of
from devices.models import Place
from devices.services.visibility import visible_places
from tenants.api.views.base import DeviceScope
from tenants.services.roles import Role

from .base import TenantModelViewSet


class PlaceViewSet(MirroredObjects, TenantModelViewSet):
    """Places, such as farms, houses and zones: a tree, in which each place has a key."""

    kind = "places"
    orderings: ClassVar = {"path": "path", "key": "key", "name": "name"}
    pagination_class = MirroredPage
    resource = "devices"
    device_scope = DeviceScope.SHARED
    role_to_write = Role.OPERATOR
    lookup_value_converter = "str"
    lookup_field = lookup_url_kwarg = "key"
    queryset = Place.objects.select_related("parent")
    serializer_class = PlaceSerializer
    filterset_class = filters.PlaceFilter

    def get_queryset(self) -> QuerySet[Place]:
        """Return the places that the client can see."""
        return visible_places(selector_of(self.request)).select_related("parent")
