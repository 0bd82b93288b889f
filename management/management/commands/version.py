"""`manage.py version`: the platform's version."""

from typing import Any

from django.core.management.base import BaseCommand

from config.version import read_version


class Command(BaseCommand):
    help = "Print the platform's version."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        self.stdout.write(f"Gwanje {read_version()}")
