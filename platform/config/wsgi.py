"""WSGI entry point: `gunicorn config.wsgi:application` with `platform/` and the project's root on the path."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
# Processes with a public port get the narrowest role in Vault.
os.environ.setdefault("VAULT_ROLE", "web")

from tenants.request_ids import wsgi_with_request_id
from tenants.security_headers import wsgi_with_headers

application = wsgi_with_request_id(wsgi_with_headers(get_wsgi_application()))
