"""Addresses of alarms, below `api/v1/`."""

from rest_framework.routers import SimpleRouter

from .views import AlarmRuleViewSet, AlarmViewSet

router = SimpleRouter(use_regex_path=False)
router.register("alarm-rules", AlarmRuleViewSet, "alarm-rule")
router.register("alarms", AlarmViewSet, "alarm")

urlpatterns = router.urls
