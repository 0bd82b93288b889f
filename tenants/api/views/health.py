"""Liveness, readiness and metrics of the process.

Liveness and readiness are public and hold no addresses or versions; metrics name tenants and need a token. Called by
`tenants.middleware`.
"""

import logging
import secrets
import time
from collections.abc import Callable
from functools import cache
from ipaddress import ip_address
from typing import Any

import psycopg
import requests
from django.conf import settings
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from tenants.infrastructure import metrics as figures
from tenants.infrastructure.database import conninfo

logger = logging.getLogger(__name__)

# Applied migrations stay applied: a process that is not restarted at a downgrade learns of it later.
_MIGRATED_SECONDS = 60.0
_migrated_until = 0.0

# What Vault answers at sys/health when it serves: active, standby, performance standby.
_VAULT_SERVES = (200, 429, 473)
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
_PLAIN = "text/plain; charset=utf-8"
_POSTGRESQL_SECONDS = 2  # libpq takes no less


class NotReady(Exception):
    """A part of the platform answers, and cannot serve requests."""


@never_cache
@require_safe
def healthz(_request: HttpRequest) -> JsonResponse:
    """200 as long as the process runs; uses no other server."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(_request: HttpRequest) -> JsonResponse:
    """Each part with `ok` and `needed`; 503 when one that is needed does not answer.

    Not ready: PostgreSQL does not answer, migrations of the schema public are missing, or as many requests wait for a
    pooled connection as there are. Without Redis or Vault the API still reads and writes (Redis: requests are not
    counted; Vault: devices are not registered), so a load balancer has no reason to take the process out.
    """
    parts = {name: {"ok": _answers(name, ask), "needed": needed} for name, ask, needed in _parts()}
    ready = all(part["ok"] or not part["needed"] for part in parts.values())
    healthy = all(part["ok"] for part in parts.values())
    status = "ok" if healthy else "degraded" if ready else "not ready"
    return JsonResponse({"status": status, "parts": parts}, status=200 if ready else 503)


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Return the metrics of processes and tenants in Prometheus' format, to clients with the token.

    Without a token they are for this machine alone: for requests that come from the loopback, and that no proxy has
    passed on, since the requests of all clients of a local proxy come from the loopback.
    """
    if settings.METRICS_TOKEN:
        expected = f"Bearer {settings.METRICS_TOKEN}".encode()
        if not secrets.compare_digest(request.headers.get("Authorization", "").encode(), expected):
            answer = HttpResponse("Send the token: Authorization: Bearer <METRICS_TOKEN>\n", _PLAIN, status=401)
            answer["WWW-Authenticate"] = "Bearer"
            return answer
    elif not _is_of_this_machine(request):
        return HttpResponse("Only for this machine, until METRICS_TOKEN is set.\n", _PLAIN, status=403)
    return HttpResponse(figures.as_text(), content_type="text/plain; version=0.0.4; charset=utf-8")


def _is_of_this_machine(request: HttpRequest) -> bool:
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


def _parts() -> list[tuple[str, Callable[[], Any], bool]]:
    parts: list[tuple[str, Callable[[], Any], bool]] = [
        ("postgresql", _ask_postgresql, True),
        ("connections", _ask_pool, True),
        ("migrations", _ask_migrations, True),
        ("redis", _ask_redis, False),
    ]
    return [*parts, ("vault", _ask_vault, False)] if settings.VAULT_ADDR else parts


def _answers(name: str, ask: Callable[[], Any]) -> bool:
    try:
        ask()
    except (psycopg.Error, RedisError, requests.RequestException, NotReady) as error:
        logger.warning("%s does not answer: %s", name, error)
        return False
    return True


def _ask_postgresql() -> None:
    """On a new connection: only connecting has a time limit that a frozen server does not escape."""
    with psycopg.connect(conninfo(connect_timeout=_POSTGRESQL_SECONDS)) as connection:
        connection.execute("SELECT 1")


def _ask_pool() -> None:
    pool = _pool()
    if pool is None:
        return
    stats = pool.get_stats()
    if not stats.get("pool_available") and stats.get("requests_waiting", 0) >= stats["pool_max"]:
        raise NotReady(f"{stats['requests_waiting']} requests wait for one of {stats['pool_max']} connections")


def _pool() -> Any:
    """Return the pool of this process's connections; None: it has none."""
    return connection.pool  # type: ignore[attr-defined]  # of Django's backend for PostgreSQL


def _ask_migrations() -> None:
    """Compare the schema public with the files; that all are applied is known for a while."""
    global _migrated_until
    if time.monotonic() < _migrated_until:
        return
    with psycopg.connect(conninfo(connect_timeout=_POSTGRESQL_SECONDS)) as own:
        applied = set(own.execute("SELECT app, name FROM public.django_migrations").fetchall())
    if missing := _migrations_on_disk() - applied:
        raise NotReady(f"{len(missing)} migrations of the schema public are not applied, {min(missing)} among them")
    _migrated_until = time.monotonic() + _MIGRATED_SECONDS


@cache
def _migrations_on_disk() -> frozenset[tuple[str, str]]:
    loader = MigrationLoader(None, ignore_no_migrations=True)
    return frozenset(key for key, migration in loader.disk_migrations.items() if not migration.replaces)


def _ask_redis() -> None:
    get_redis_connection("default").ping()


def _ask_vault() -> None:
    answer = requests.get(f"{settings.VAULT_ADDR}/v1/sys/health", timeout=settings.VAULT_TIMEOUT)
    if answer.status_code not in _VAULT_SERVES:
        raise requests.RequestException(f"Vault answers {answer.status_code}")
