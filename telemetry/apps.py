from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TelemetryConfig(AppConfig):
    name = "telemetry"
    verbose_name = _("Telemetry")

    def ready(self) -> None:
        from devices.services import freshness
        from telemetry.services.figures import TENANT_FIGURES
        from telemetry.services.freshness import newest_readings
        from tenants import metrics

        freshness.provide(newest_readings)
        metrics.provide(TENANT_FIGURES.collect)
