"""ASGI entry point: `uvicorn config.asgi:application` with `platform/` and the project's root on the path."""

import json
import os
import re
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
# Processes with a public port get the narrowest role in Vault.
os.environ.setdefault("VAULT_ROLE", "web")

django.setup(set_prefix=False)

from django.conf import settings  # noqa: E402 (what follows needs the settings)
from django.urls import get_resolver  # noqa: E402
from django.utils import translation  # noqa: E402

from tenants.api.problems import CONTENT_TYPE, is_for_api, language_of, problem  # noqa: E402
from tenants.infrastructure.client_address import address_group, client_address  # noqa: E402
from tenants.infrastructure.memory import give_back_memory  # noqa: E402
from tenants.infrastructure.request_bodies import BodyLimits, BodyRefused, BoundedBodies, Scope  # noqa: E402
from tenants.request_ids import asgi_with_request_id  # noqa: E402
from tenants.security_headers import asgi_with_headers  # noqa: E402

from .threads import ThreadedHandler  # noqa: E402
from .web_processes import end_with_parent  # noqa: E402

end_with_parent()
# A request gives the interpreter away at each of its ten statements, and waits so long for another thread to return it.
sys.setswitchinterval(0.001)

# The pages and endpoints that take a file.
UPLOAD_PATHS = re.compile(
    r"/(api/v1/devices/import/|admin/devices/deviceimport/add/|admin/tenants/preregistereddevice/import-table/?)$"
)
# A form adds its other fields and the borders between them.
_FORM_BYTES = 64 * 1024


def _is_upload(path: str) -> bool:
    return UPLOAD_PATHS.search(path) is not None


def _has_credentials(scope: Scope) -> bool:
    """Return whether the request shows a key or a session; whether they are valid is checked later."""
    cookie = f"{settings.SESSION_COOKIE_NAME}=".encode()
    return any(name == b"authorization" or (name == b"cookie" and cookie in value) for name, value in scope["headers"])


def _address_of(scope: Scope) -> str:
    peer = scope["client"][0] if scope.get("client") else ""
    forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return address_group(client_address(peer, ",".join(forwarded), settings.TRUSTED_PROXIES))


def _refusal_body(scope: Scope, refused: BodyRefused) -> tuple[str, bytes]:
    accepted = (value.decode("latin-1") for name, value in scope["headers"] if name == b"accept-language")
    with translation.override(language_of(next(accepted, ""))):
        if is_for_api(scope["path"]):
            return CONTENT_TYPE, json.dumps(problem(refused.code, str(refused))).encode()
        return "text/plain; charset=utf-8", str(refused).encode()


_bounded = BoundedBodies(
    ThreadedHandler(),
    BodyLimits(
        form_bytes=settings.DATA_UPLOAD_MAX_MEMORY_SIZE + _FORM_BYTES,
        upload_bytes=settings.IMPORT_MAX_BYTES + _FORM_BYTES,
        large_per_address=settings.LARGE_REQUESTS_PER_ADDRESS,
        large_at_once=settings.LARGE_REQUESTS_AT_ONCE,
    ),
    is_upload=_is_upload,
    has_credentials=_has_credentials,
    address_of=_address_of,
    refusal_body=_refusal_body,
)
application = asgi_with_request_id(asgi_with_headers(_bounded))

# All pages and endpoints are loaded now, and not by the first request.
for _urls in (settings.ROOT_URLCONF, settings.PUBLIC_SCHEMA_URLCONF):
    get_resolver(_urls).url_patterns  # noqa: B018 (reading it loads them)
give_back_memory()
