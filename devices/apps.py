from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DevicesConfig(AppConfig):
    name = "devices"
    verbose_name = _("Devices")

    def ready(self) -> None:
        """Register the providers of the tenants' hooks."""
        from devices import change_feeds
        from devices.models import ApiKey, Component, ComponentType, Device, HardwareModel, MaintenanceWindow, Metric
        from devices.services.broker.usage import BROKER_USAGE
        from devices.services.metadata.unit_catalogue import install_units
        from devices.services.notifications import stream_hub
        from tenants.infrastructure import hooks

        hooks.new_tenant.register(install_units)
        hooks.session_ended.register(lambda key: stream_hub.end_streams(session=key))
        for model in (ApiKey, Component, ComponentType, Device, HardwareModel, MaintenanceWindow, Metric):
            hooks.counted_models.register(model)
        hooks.tenant_changed.register(change_feeds.publish_spec_change)
        hooks.tenant_state_changed.register(_apply_tenant_state)
        hooks.metric_collectors.register(BROKER_USAGE.collect)


def _apply_tenant_state(schema: str) -> None:
    """End the event streams of a suspended tenant, and queue the change of its accounts at the broker."""
    from django_tenants.utils import schema_context

    # Imported here: a listener needs neither, and keeps its memory small.
    from devices.services.notifications.stream_hub import end_streams
    from tenants.infrastructure import tasks

    end_streams(schema)
    with schema_context(schema):
        tasks.enqueue("devices.services.broker.synchronization.sync_tenant")
