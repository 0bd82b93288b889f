"""Addresses of telemetry, below `api/v1/`."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from .views.aggregates import AggregatesView
from .views.changes import MessageChangesView, QuarantineChangesView, ReadingChangesView, StatusChangesView
from .views.charts import ChartView
from .views.exports import ReadingsExportView, TenantExportView
from .views.group_aggregates import GroupAggregatesView
from .views.http_ingest import DeviceMessagesView
from .views.latest import FleetLatestView, LatestView
from .views.limits import LimitHitViewSet, LimitsView, UsageView
from .views.messages import MessagesView, MissingSequencesView, TotalsViewSet
from .views.metric_mapping import MetricMappingView, MetricProposalView, UnmatchedMetricsView
from .views.quarantine import QuarantineView, ReplayViewSet, SuppressedMessagesViewSet
from .views.readings import ReadingsView, SeriesReadingsView
from .views.stream import ReadingsStreamView

router = SimpleRouter(use_regex_path=False)
router.register("totals", TotalsViewSet, "totals")
router.register("quarantine/replays", ReplayViewSet, "replay")
router.register("quarantine/suppressed", SuppressedMessagesViewSet, "suppressed-messages")
router.register("limits/refusals", LimitHitViewSet, "limit-refusals")

urlpatterns = [
    path("devices/<uuid:uuid>/latest/", LatestView.as_view(), name="device-latest"),
    path("devices/<uuid:uuid>/messages/", DeviceMessagesView.as_view(), name="device-messages"),
    path("devices/<uuid:uuid>/missing-sequences/", MissingSequencesView.as_view(), name="device-missing-sequences"),
    path("export/", TenantExportView.as_view(), name="tenant-export"),
    path("latest/", FleetLatestView.as_view(), name="latest-list"),
    path("readings/", ReadingsView.as_view(), name="reading-list"),
    path("readings/aggregates/", AggregatesView.as_view(), name="reading-aggregates"),
    path("readings/group-aggregates/", GroupAggregatesView.as_view(), name="reading-group-aggregates"),
    path("readings/chart/", ChartView.as_view(), name="reading-chart"),
    path("readings/export/", ReadingsExportView.as_view(), name="reading-export"),
    path("readings/changes/", ReadingChangesView.as_view(), name="reading-changes"),
    path("readings/series/", SeriesReadingsView.as_view(), name="reading-series"),
    path("readings/stream/", ReadingsStreamView.as_view(), name="reading-stream"),
    path("messages/", MessagesView.as_view(), name="message-list"),
    path("messages/changes/", MessageChangesView.as_view(), name="message-changes"),
    path("status-changes/", StatusChangesView.as_view(), name="status-change-list"),
    path("quarantine/changes/", QuarantineChangesView.as_view(), name="quarantine-changes"),
    path("quarantine/", QuarantineView.as_view(), name="quarantine-list"),
    path("usage/", UsageView.as_view(), name="usage"),
    path("limits/", LimitsView.as_view(), name="limit-list"),
    path(
        "component-types/<int:id>/metric-mapping/proposal/",
        MetricProposalView.as_view(),
        name="metric-mapping-proposal",
    ),
    path(
        "component-types/<int:id>/metric-mapping/unmatched/",
        UnmatchedMetricsView.as_view(),
        name="metric-mapping-unmatched",
    ),
    path("component-types/<int:id>/metric-mapping/apply/", MetricMappingView.as_view(), name="metric-mapping-apply"),
    *router.urls,
]
