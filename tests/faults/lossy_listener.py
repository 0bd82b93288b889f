"""The listener with switches that lose messages, for the controls of the fault matrix.

Run as `python -m tests.faults.lossy_listener --without-session`, with the options of `run_mqtt_listener` besides.
"""

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "platform"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("SERVES_PAGES", "0")

import django

django.setup()

from django.core.management.base import CommandParser  # noqa: E402

from management.management.commands import run_mqtt_listener  # noqa: E402
from telemetry.services.ingest.batch_pipeline import build_pipeline  # noqa: E402
from telemetry.services.ingest.listener import Listener  # noqa: E402


class Command(run_mqtt_listener.Command):
    """`run_mqtt_listener` with the switches."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--without-manual-ack", action="store_true")
        parser.add_argument("--without-session", action="store_true")
        parser.add_argument("--without-connections", action="store_true")

    def make_listener(self, options: dict[str, Any]) -> Listener:
        return Listener(
            build_pipeline(),
            client_id=options["client_id"],
            share=options["share"],
            manual_ack=not options["without_manual_ack"],
            persistent=not options["without_session"],
            by_connection=not options["without_connections"],
        )


if __name__ == "__main__":
    Command().run_from_argv(["manage.py", "lossy_listener", *sys.argv[1:]])
