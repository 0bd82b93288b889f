from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from tenants.infrastructure import renamed_paths


class TenantsConfig(AppConfig):
    name = "tenants"
    verbose_name = _("Tenants")

    def ready(self) -> None:
        """Make the former dotted paths of tasks importable."""
        renamed_paths.install()
