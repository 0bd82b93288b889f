"""The ASGI entry point for EMQX's logins: `manage.py run_broker_login` serves it on a port of its own."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from django.conf import settings  # noqa: E402 (what follows needs the settings)

from devices.api.emqx_auth import EmqxAuthApp  # noqa: E402
from devices.services.broker.auth_batcher import AuthBatcher  # noqa: E402
from devices.services.broker.auth_throttle import AuthThrottle  # noqa: E402
from devices.services.broker.authentication import authenticate  # noqa: E402

application = EmqxAuthApp(
    settings.BROKER_KEYS, AuthBatcher(authenticate), AuthThrottle(settings.BROKER_FAILURES_PER_MINUTE)
)
