"""`python -m tests.benchmarks rotation`: a rotation campaign over many devices under load, as JSON.

It starts servers of its own, before the settings are read.
"""

import json
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from tests.benchmarks.servers import own_servers


class Command(BaseCommand):
    help = "Rotates the keys of devices that go on measuring, on servers of its own, and counts every message."
    requires_system_checks: list[str] = []  # noqa: RUF012 (as the base class has it); there is no database yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--devices", type=int, default=500)
        parser.add_argument("--rate", type=float, default=500, help="messages a second over all devices")
        parser.add_argument("--kill-vault", action="store_true", help="kill Vault while keys are being issued")
        parser.add_argument("--json", action="store_true", help="no progress")

    def handle(self, *args: Any, **options: Any) -> None:
        def say(text: str) -> None:
            if not options["json"]:
                self.stderr.write(text)

        with own_servers("postgres", "valkey", "openbao", "mosquitto", on_progress=say) as stack:
            from django_tenants.utils import schema_context

            from devices.services.provisioning.registration import register_device
            from management.quickstart.hardware import install_hardware
            from tenants.services.lifecycle import create_tenant
            from tests.benchmarks import rotation

            call_command("migrate_schemas", shared=True, verbosity=0)
            tenant = create_tenant(slug="rotation", name="Rotation")
            with schema_context(tenant.schema_name):
                _, types = install_hardware()
                named = [f"device {number}" for number in range(options["devices"])]
                issued = [register_device(name=name, components={"dht22": types["dht22"]})[1] for name in named]
            figures = rotation.run(
                tenant=tenant,
                issued=issued,
                rate=options["rate"],
                say=say,
                disturb=(lambda: stack.kill("openbao")) if options["kill_vault"] else lambda: None,
            )
        self.stdout.write(json.dumps(figures, indent=2))
        if figures["refused"] or figures["lost"] or figures["old_keys_refused"] != figures["devices"]:
            raise CommandError("A valid message was refused or lost, or an old key still signs.")
