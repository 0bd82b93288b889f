"""The ASGI entry point for EMQX's logins: `manage.py run_broker_login` serves it on a port of its own."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from django.conf import settings  # noqa: E402 (what follows needs the settings)

from devices.api.emqx_auth import EmqxAuthApp  # noqa: E402
from devices.services.broker.auth_batcher import LoginDesk  # noqa: E402
from devices.services.broker.auth_throttle import LoginGuard  # noqa: E402
from devices.services.broker.authentication import judge  # noqa: E402

application = EmqxAuthApp(settings.BROKER_KEYS, LoginDesk(judge), LoginGuard(settings.BROKER_FAILURES_PER_MINUTE))
