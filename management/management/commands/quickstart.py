"""`manage.py quickstart`: creates staff, the tenant `demo` and its devices, for development and first steps."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from management.quickstart.seed import seed


class Command(BaseCommand):
    help = "Makes staff, the tenant demo and its devices, and writes quickstart.json. For development only."

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        path = settings.VAR_DIR / "quickstart.json"
        content = seed(path)
        devices = sum(len(tenant["devices"]) for tenant in content["tenants"])
        self.stdout.write(f"{path}: {len(content['tenants'])} tenant, {devices} devices")
