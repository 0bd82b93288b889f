"""Addresses of telemetry, below `api/v1/`."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from .gaps import GapsView
from .limit_views import LimitHitViewSet, LimitsView
from .views import LatestView, MessagesView, QuarantineView, ReadingsView, TotalsViewSet

router = SimpleRouter(use_regex_path=False)
router.register("totals", TotalsViewSet, "totals")
router.register("limits/refusals", LimitHitViewSet, "limit-refusals")

urlpatterns = [
    path("devices/<uuid:uuid>/latest/", LatestView.as_view(), name="device-latest"),
    path("devices/<uuid:uuid>/gaps/", GapsView.as_view(), name="device-gaps"),
    path("readings/", ReadingsView.as_view(), name="reading-list"),
    path("messages/", MessagesView.as_view(), name="message-list"),
    path("quarantine/", QuarantineView.as_view(), name="quarantine-list"),
    path("limits/", LimitsView.as_view(), name="limit-list"),
    *router.urls,
]
