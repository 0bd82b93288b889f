"""ASGI entry point: `uvicorn config.asgi:application` with `platform/` and the project's root on the path."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_asgi_application()
