"""The chain of a tenant's audit entries: each holds the hash of the one before, so that a change is found.

An entry is chained right after its transaction: chained inside it, the lock of the chain would last as long as the
longest import. What a process that died, or a listener, left unchained, a periodic task chains.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, timedelta

from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django_tenants.utils import schema_context

from devices.models import AuditEntry
from tenants.infrastructure.database import current_schema
from tenants.services.active_tenants import sum_over_active

# The hash before the first entry.
START = "0" * 64
# Entries that one transaction chains, and that `verify` reads at a time.
_AT_ONCE = 1000
# An entry that is older and not chained was added by something that does not chain, or the task does not run.
UNCHAINED_AFTER = timedelta(minutes=10)

_HASHED = (
    "id", "at", "user_id", "user_label", "key_id", "request_id", "address", "action", "object_type", "object_id",
    "object_label", "detail", "changes",
)  # fmt: skip
_UPDATE = """
UPDATE devices_auditentry AS a SET position = n.position, previous_hash = n.previous_hash, hash = n.hash
FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[]) AS n(id, position, previous_hash, hash)
WHERE a.id = n.id
"""
_waiting = threading.local()


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a chain."""

    position: int
    hash: str

    def __str__(self) -> str:
        return f"{self.position}:{self.hash}"


class BrokenChain(Exception):
    """An entry was changed, removed or inserted afterwards."""

    def __init__(self, position: int, entry_id: int | None, problem: str) -> None:
        name = f"position {position}" + (f" (entry {entry_id})" if entry_id is not None else "")
        super().__init__(f"{name}: {problem}")
        self.position, self.entry_id = position, entry_id


def chain_after_commit() -> None:
    """Chain the entries of the current transaction when it has been committed; once for all of them."""
    schema = current_schema()
    schemas: set[str] = _waiting.__dict__.setdefault("schemas", set())
    schemas.add(schema)

    def run() -> None:
        if schema in schemas:
            schemas.discard(schema)
            # The transaction may have been another tenant's, or of the public schema.
            with nullcontext() if current_schema() == schema else schema_context(schema):
                chain_all()

    # A failure is logged: the change itself has been made.
    transaction.on_commit(run, robust=True)


def chain_all() -> int:
    """Chain the current tenant's entries that are not chained yet; return how many."""
    count = chained = chain_some()
    while chained == _AT_ONCE:
        count += (chained := chain_some())
    return count


def chain_every_tenant() -> int:
    """Chain what is left unchained in every active tenant; return how many entries."""
    return sum_over_active("audit_chain", lambda: chain_all() if _unchained().exists() else 0)


def chain_some() -> int:
    """Chain up to 1,000 entries in one short transaction; return how many. Others wait for it."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"audit_chain:{current_schema()}"])
        entries = _unchained().order_by("id")[:_AT_ONCE]
        links = list(_links(list(entries), _last()))
        if links:
            cursor.execute(_UPDATE, [list(column) for column in zip(*links, strict=True)])
    return len(links)


def verify(expected: Head | None = None) -> Head:
    """Return the head of the current tenant's chain. Raises BrokenChain at the first entry that does not fit.

    `expected` is a head that was noted earlier, which must still be there: a chain without its newest entries fits by
    itself.
    """
    head, found = Head(0, START), expected is None or expected.position == 0
    for entry in _entries():
        _check(entry, head)
        head = Head(head.position + 1, entry.hash)
        found = found or head == expected
    if not found:
        raise BrokenChain(expected.position if expected else 0, None, "the noted entry is not in the chain.")
    return head


def unchained() -> int:
    """Return how many entries of the current tenant are not chained, although they should be."""
    return _unchained().filter(at__lt=timezone.now() - UNCHAINED_AFTER).count()


def entry_hash(entry: AuditEntry, position: int, previous_hash: str) -> str:
    """Return the SHA-256 of the entry's content, its position and the hash before it, in hexadecimal digits."""
    values = [position, previous_hash, *(getattr(entry, name) for name in _HASHED)]
    values[3] = entry.at.astimezone(UTC).isoformat(timespec="microseconds")
    text = json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _links(entries: Sequence[AuditEntry], head: Head) -> Iterator[tuple[int, int, str, str]]:
    for entry in entries:
        following = Head(head.position + 1, entry_hash(entry, head.position + 1, head.hash))
        yield entry.pk, following.position, head.hash, following.hash
        head = following


def _unchained() -> QuerySet[AuditEntry]:
    return AuditEntry.objects.filter(position=None)


def _last() -> Head:
    last = AuditEntry.objects.exclude(position=None).order_by("-position").only("position", "hash").first()
    return Head(last.position or 0, last.hash) if last else Head(0, START)


def _entries() -> Iterator[AuditEntry]:
    """Yield the chained entries in their order; each part is a query of its own."""
    position = 0
    while entries := list(AuditEntry.objects.filter(position__gt=position).order_by("position")[:_AT_ONCE]):
        yield from entries
        position = entries[-1].position or 0


def _check(entry: AuditEntry, before: Head) -> None:
    position = entry.position or 0
    if position != before.position + 1:
        raise BrokenChain(before.position + 1, None, f"entries are missing before position {position}.")
    if entry.previous_hash != before.hash:
        raise BrokenChain(position, entry.pk, "it does not hold the hash of the entry before.")
    if entry.hash != entry_hash(entry, position, before.hash):
        raise BrokenChain(position, entry.pk, "its content is not the one that was hashed.")
