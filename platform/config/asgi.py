"""ASGI entry point: `uvicorn config.asgi:application` with `platform/` and the project's root on the path."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
# Processes with a public port get the narrowest role in Vault.
os.environ.setdefault("VAULT_ROLE", "web")

from tenants.security_headers import asgi_with_headers

application = asgi_with_headers(get_asgi_application())
