"""Addresses of telemetry, below `api/v1/`."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from .views.aggregates import AggregatesView
from .views.charts import ChartView
from .views.exports import ExportView, WholeExportView
from .views.latest import FleetLatestView, LatestView
from .views.limits import LimitHitViewSet, LimitsView
from .views.messages import GapsView, MessagesView, TotalsViewSet
from .views.metric_mapping import AcceptView, ProposeView
from .views.quarantine import QuarantineFloodViewSet, QuarantineView, ReplayViewSet
from .views.readings import ReadingsView

router = SimpleRouter(use_regex_path=False)
router.register("totals", TotalsViewSet, "totals")
router.register("quarantine/replays", ReplayViewSet, "replay")
router.register("quarantine/floods", QuarantineFloodViewSet, "quarantine-flood")
router.register("limits/refusals", LimitHitViewSet, "limit-refusals")

urlpatterns = [
    path("devices/<uuid:uuid>/latest/", LatestView.as_view(), name="device-latest"),
    path("devices/<uuid:uuid>/gaps/", GapsView.as_view(), name="device-gaps"),
    path("export/", WholeExportView.as_view(), name="export-everything"),
    path("latest/", FleetLatestView.as_view(), name="latest-list"),
    path("readings/", ReadingsView.as_view(), name="reading-list"),
    path("readings/aggregates/", AggregatesView.as_view(), name="reading-aggregates"),
    path("readings/chart/", ChartView.as_view(), name="reading-chart"),
    path("readings/export/", ExportView.as_view(), name="reading-export"),
    path("messages/", MessagesView.as_view(), name="message-list"),
    path("quarantine/", QuarantineView.as_view(), name="quarantine-list"),
    path("limits/", LimitsView.as_view(), name="limit-list"),
    path("component-types/<int:id>/propose/", ProposeView.as_view(), name="component-type-propose"),
    path("component-types/<int:id>/accept/", AcceptView.as_view(), name="component-type-accept"),
    *router.urls,
]
