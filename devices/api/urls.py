"""Addresses of devices and their metadata, below `api/v1/`."""

from rest_framework.routers import SimpleRouter

from .views.inventory import ComponentViewSet, DeviceViewSet
from .views.keys import ApiKeyViewSet
from .views.metadata import ComponentTypeViewSet, HardwareModelViewSet, MetricViewSet, UnitViewSet

router = SimpleRouter(use_regex_path=False)
router.register("devices", DeviceViewSet, "device")
router.register("components", ComponentViewSet, "component")
router.register("component-types", ComponentTypeViewSet, "component-type")
router.register("metrics", MetricViewSet, "metric")
router.register("units", UnitViewSet, "unit")
router.register("hardware-models", HardwareModelViewSet, "hardware-model")
router.register("api-keys", ApiKeyViewSet, "api-key")

urlpatterns = router.urls
