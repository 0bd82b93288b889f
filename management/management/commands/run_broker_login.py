"""`manage.py run_broker_login`: serves EMQX' authentication requests."""

from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from devices.api.emqx_auth import SHORTEST_KEY


class Command(BaseCommand):
    help = "Authenticates clients for EMQX. Listens on the loopback address by default."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
        parser.add_argument("--port", type=int, default=8081, help="the port (8081)")
        parser.add_argument("--workers", type=int, default=1, help="processes that share the port (1)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        if not settings.BROKER_KEYS or min(map(len, settings.BROKER_KEYS)) < SHORTEST_KEY:
            raise CommandError(
                f"BROKER_KEYS is not set to random text of at least {SHORTEST_KEY} characters, for example what"
                " `openssl rand -hex 32` prints; EMQX must show the same."
            )
        uvicorn.run(
            "config.asgi_broker:application",
            host=options["host"],
            port=options["port"],
            workers=options["workers"],
            access_log=False,  # it would log every connection of every device
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=3,
            log_config=None,
        )
