from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TelemetryConfig(AppConfig):
    name = "telemetry"
    verbose_name = _("Telemetry")

    def ready(self) -> None:
        """Register the providers of the hooks of lower apps."""
        from devices.hooks import newest_readings
        from telemetry.services.latest import values
        from telemetry.services.metrics_collector import TENANT_METRICS
        from tenants.infrastructure import hooks

        newest_readings.register(values.component_reading_times)
        hooks.new_tenant.register(values.forget_new_tenant)
        hooks.metric_collectors.register(TENANT_METRICS.collect)
