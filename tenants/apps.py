from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from tenants.infrastructure import hooks, renamed_paths


class TenantsConfig(AppConfig):
    name = "tenants"
    verbose_name = _("Tenants")

    def ready(self) -> None:
        """Make the former dotted paths of tasks importable, and register checks, metrics and quotas."""
        from tenants.infrastructure import lock_table  # noqa: F401 (its check registers itself)
        from tenants.models import Membership
        from tenants.services import failing_tenants, quotas

        renamed_paths.install()
        hooks.metric_collectors.register(failing_tenants.collect)
        hooks.quota_check.register(quotas.check)
        hooks.counted_models.register(Membership)
