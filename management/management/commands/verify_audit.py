"""`manage.py verify_audit --tenant demo`: checks the chain of a tenant's audit entries, or of all tenants'."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from devices.services.audit_verification import verify_audits


class Command(BaseCommand):
    help = "Checks that no audit entry was changed, removed or inserted afterwards; names the first one that was."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--tenant", default="", help="slug of one tenant; all without it")
        parser.add_argument("--expect", default="", help="POSITION:HASH, a head that an earlier run has written")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        if problem := verify_audits(self.stdout.write, options["tenant"], options["expect"]):
            raise CommandError(problem)
