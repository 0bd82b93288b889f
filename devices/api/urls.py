"""Addresses of devices and their metadata, below `api/v1/`."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from .views.audit import AuditExportView, AuditView
from .views.events import EventsView
from .views.imports import DeviceExportView, DeviceImportViewSet, ImportTemplateView, ImportView
from .views.inventory import ComponentViewSet, DeviceViewSet
from .views.keys import ApiKeyViewSet
from .views.members import MemberViewSet
from .views.metadata import ComponentTypeViewSet, HardwareModelViewSet, MetricViewSet, UnitViewSet
from .views.places import PlaceViewSet
from .views.presence import (
    AvailabilityView,
    HistoryView,
    MaintenanceWindowViewSet,
    PresenceSettingsView,
    TimelineView,
)
from .views.provisioning import ClaimView, ReleaseView, ResetCredentialsView
from .views.rotation import RotationViewSet
from .views.waiting_publishers import AnnouncementView, WaitingPublisherViewSet
from .views.whoami import WhoAmIView

router = SimpleRouter(use_regex_path=False)
router.register("devices", DeviceViewSet, "device")
router.register("device-imports", DeviceImportViewSet, "device-import")
router.register("components", ComponentViewSet, "component")
router.register("component-types", ComponentTypeViewSet, "component-type")
router.register("metrics", MetricViewSet, "metric")
router.register("units", UnitViewSet, "unit")
router.register("hardware-models", HardwareModelViewSet, "hardware-model")
router.register("places", PlaceViewSet, "place")
router.register("api-keys", ApiKeyViewSet, "api-key")
router.register("members", MemberViewSet, "member")
router.register("key-rotations", RotationViewSet, "key-rotation")
router.register("waiting-publishers", WaitingPublisherViewSet, "waiting-publisher")
router.register("maintenance-windows", MaintenanceWindowViewSet, "maintenance-window")

urlpatterns = [
    *router.urls,
    path("audit/", AuditView.as_view(), name="audit-list"),
    path("audit/export/", AuditExportView.as_view(), name="audit-export"),
    path("claims/", ClaimView.as_view(), name="claims"),
    path("devices/<uuid:uuid>/release/", ReleaseView.as_view(), name="device-release"),
    path("devices/<uuid:uuid>/reset-credentials/", ResetCredentialsView.as_view(), name="device-reset-credentials"),
    path("devices/import/", ImportView.as_view(), name="devices-import"),
    path("devices/import-template/", ImportTemplateView.as_view(), name="devices-import-template"),
    path("devices/export/", DeviceExportView.as_view(), name="devices-export"),
    path("devices/<uuid:uuid>/waiting-publishers/", AnnouncementView.as_view(), name="device-waiting-publishers"),
    path("devices/<uuid:uuid>/history/", HistoryView.as_view(), name="device-history"),
    path("devices/<uuid:uuid>/timeline/", TimelineView.as_view(), name="device-timeline"),
    path("devices/<uuid:uuid>/availability/", AvailabilityView.as_view(), name="device-availability"),
    path("events/", EventsView.as_view(), name="events"),
    path("whoami/", WhoAmIView.as_view(), name="whoami"),
    path("presence-settings/", PresenceSettingsView.as_view(), name="presence-settings"),
]
