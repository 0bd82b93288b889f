from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TelemetryConfig(AppConfig):
    name = "telemetry"
    verbose_name = _("Telemetry")

    def ready(self) -> None:
        from devices.services import freshness
        from telemetry.services.freshness import newest_readings

        freshness.provide(newest_readings)
