"""`manage.py sync_broker`: synchronizes the broker's accounts with the registered devices and API keys."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from devices.services.broker.accounts import BrokerUnavailable
from devices.services.broker.synchronization import sync_broker
from devices.services.vault.secret_store import SecretsUnavailable


class Command(BaseCommand):
    help = "Makes the broker accounts that devices lack, removes those of devices and API keys that are gone."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--states",
            action="store_true",
            help="also remove retained telemetry and states of removed devices",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        try:
            changes = sync_broker(states=options["states"])
        except (BrokerUnavailable, SecretsUnavailable) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"{changes.granted} accounts made, {changes.revoked} removed, "
            f"{changes.switched} let in or kept out, {changes.without_secret} devices without a secret; "
            f"{changes.apps} accounts of API keys changed; {changes.passwords} passwords made checkable; "
            f"{changes.states} states of devices that are gone removed; {changes.closed} sessions closed; "
            f"{changes.strays} other retained messages removed."
        )
