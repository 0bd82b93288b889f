from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from tenants.infrastructure import hooks, renamed_paths


class TenantsConfig(AppConfig):
    name = "tenants"
    verbose_name = _("Tenants")

    def ready(self) -> None:
        """Make the former dotted paths of tasks importable, and register the metrics of failing tenants."""
        from tenants.services import failing_tenants

        renamed_paths.install()
        hooks.metric_collectors.register(failing_tenants.collect)
