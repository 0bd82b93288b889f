"""`manage.py install_schedules`: installs the schedules of periodic tasks."""

from typing import Any

from django.core.management.base import BaseCommand

from management.schedules import install_schedules


class Command(BaseCommand):
    help = "Installs the workers' schedules. Run it after every upgrade; it may run any number of times."

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        self.stdout.write(f"{install_schedules()} schedules are installed.")
