"""`manage.py create_tenant demo "Demo greenhouse"`: creates a tenant, or resumes an incomplete creation."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from tenants.models import User
from tenants.services.lifecycle import create_tenant


class Command(BaseCommand):
    help = "Creates a tenant with its schema. Run again after a failure, it goes on where it stopped."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("slug")
        parser.add_argument("name")
        parser.add_argument("--domain", default="", help="a host name of the tenant's own")
        parser.add_argument("--owner", default="", help="the username of its owner")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        owner = User.objects.filter(username=options["owner"]).first()
        if options["owner"] and owner is None:
            raise CommandError(f"There is no user {options['owner']!r}.")
        try:
            tenant = create_tenant(slug=options["slug"], name=options["name"], domain=options["domain"], owner=owner)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from error
        self.stdout.write(f"Tenant {tenant.slug} is {tenant.state}, in schema {tenant.schema_name}.")
