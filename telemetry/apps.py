from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TelemetryConfig(AppConfig):
    name = "telemetry"
    verbose_name = _("Telemetry")

    def ready(self) -> None:
        from devices.services.presence import freshness
        from telemetry.services.latest.component_freshness import newest_readings
        from telemetry.services.metrics_collector import TENANT_FIGURES
        from tenants.infrastructure import metrics

        freshness.provide(newest_readings)
        metrics.provide(TENANT_FIGURES.collect)
