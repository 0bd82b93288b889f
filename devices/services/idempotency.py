"""Requests with an `Idempotency-Key`: each is carried out once, and its answer is stored in the same transaction.

The lock of a request ends with its transaction: a process that dies leaves nothing, and the request can be repeated.
"""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from devices.models import StoredAnswer
from tenants.infrastructure.database import current_schema
from tenants.services.active_tenants import sum_over_active

KEPT = timedelta(hours=24)
# Rows removed by one statement: each is short, and waits for nothing.
_REMOVED_AT_ONCE = 10_000


class IdempotentRequest(NamedTuple):
    """Who sent the request, with which key, and a hash of its method, address and body."""

    caller: str
    key: str
    fingerprint: str


class Answer(NamedTuple):
    """Status and JSON of an answer; `body` is empty for an answer without one."""

    status: int
    body: str


class KeyReused(Exception):
    """The caller sent another request with the same key."""


class RequestInProgress(Exception):
    """The same request is being carried out."""


def find_or_run(request: IdempotentRequest, run: Callable[[], Answer]) -> Answer | None:
    """Return the stored answer; without one, run the request, store its answer, and return None.

    Run and storage are one transaction: an exception of `run` rolls back everything, and nothing is stored. Raises
    KeyReused and RequestInProgress.
    """
    with transaction.atomic():
        if not _lock(request):
            raise RequestInProgress
        stored = StoredAnswer.objects.filter(caller=request.caller, key=request.key).first()
        if stored is not None and stored.created_at > timezone.now() - KEPT:
            if stored.fingerprint != request.fingerprint:
                raise KeyReused
            return Answer(stored.status, stored.body)
        answer = run()
        if stored is not None:
            stored.delete()
        StoredAnswer.objects.create(**request._asdict(), **answer._asdict())
    return None


def remove_expired() -> int:
    """Remove the stored answers of more than 24 hours in the current tenant; return how many."""
    removed, count = _REMOVED_AT_ONCE, 0
    while removed == _REMOVED_AT_ONCE:
        expired = StoredAnswer.objects.filter(created_at__lte=timezone.now() - KEPT).order_by("created_at")
        removed = StoredAnswer.objects.filter(pk__in=expired.values("pk")[:_REMOVED_AT_ONCE]).delete()[0]
        count += removed
    return count


def remove_all_expired() -> int:
    """Remove the expired answers of every active tenant; return how many."""
    return sum_over_active("stored_answers", remove_expired)


def _lock(request: IdempotentRequest) -> bool:
    """Lock caller and key until the end of the transaction; return False where another request has them."""
    name = "\0".join(("idempotency", current_schema(), request.caller, request.key))
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
        return bool(cursor.fetchone()[0])
