"""Places of devices."""

from devices.api import filters
from devices.api.serializers.places import PlaceSerializer
from devices.models import Place
from tenants.services.roles import Role

from .base import TenantModelViewSet


class PlaceViewSet(TenantModelViewSet):
    """Places, such as farms, houses and zones: a tree, in which each place has a key."""

    role_to_write = Role.OPERATOR
    lookup_value_converter = "str"
    lookup_field = lookup_url_kwarg = "key"
    queryset = Place.objects.select_related("parent")
    serializer_class = PlaceSerializer
    filterset_class = filters.PlaceFilter
