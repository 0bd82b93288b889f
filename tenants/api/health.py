"""Whether this process lives, and whether what it needs answers.

Open to everybody, so that no addresses and no versions are in it. Answered by `tenants.middleware`.
"""

import logging
from collections.abc import Callable
from typing import Any

import requests
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from tenants import metrics as figures

logger = logging.getLogger(__name__)

# What Vault answers at sys/health when it serves: active, standby, performance standby.
_VAULT_SERVES = (200, 429, 473)


@never_cache
@require_safe
def healthz(_request: HttpRequest) -> JsonResponse:
    """200 as long as the process answers; asks nobody else."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(_request: HttpRequest) -> JsonResponse:
    """Each part with `ok` and `needed`; 503 when one that is needed does not answer.

    Without Redis or Vault the API still reads and writes (Redis: requests are not counted; Vault: devices are not
    registered), so a load balancer has no reason to take the process out.
    """
    parts = {name: {"ok": _answers(name, ask), "needed": needed} for name, ask, needed in _parts()}
    ready = all(part["ok"] or not part["needed"] for part in parts.values())
    healthy = all(part["ok"] for part in parts.values())
    status = "ok" if healthy else "degraded" if ready else "not ready"
    return JsonResponse({"status": status, "parts": parts}, status=200 if ready else 503)


@never_cache
@require_safe
def metrics(_request: HttpRequest) -> HttpResponse:
    """The processes' figures in Prometheus' form: of the whole platform, naming no tenant. 503 without Redis."""
    try:
        return HttpResponse(figures.as_text(), content_type="text/plain; version=0.0.4; charset=utf-8")
    except RedisError:
        return HttpResponse("# Redis is away\n", content_type="text/plain; charset=utf-8", status=503)


def _parts() -> list[tuple[str, Callable[[], Any], bool]]:
    parts: list[tuple[str, Callable[[], Any], bool]] = [
        ("postgresql", _ask_postgresql, True),
        ("redis", _ask_redis, False),
    ]
    return [*parts, ("vault", _ask_vault, False)] if settings.VAULT_ADDR else parts


def _answers(name: str, ask: Callable[[], Any]) -> bool:
    try:
        ask()
    except (DatabaseError, RedisError, requests.RequestException) as error:
        logger.warning("%s does not answer: %s", name, error)
        return False
    return True


def _ask_postgresql() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _ask_redis() -> None:
    get_redis_connection("default").ping()


def _ask_vault() -> None:
    answer = requests.get(f"{settings.VAULT_ADDR}/v1/sys/health", timeout=settings.VAULT_TIMEOUT)
    if answer.status_code not in _VAULT_SERVES:
        raise requests.RequestException(f"Vault answers {answer.status_code}")
