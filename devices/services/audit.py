"""Audit entries: one for each change by a user or an API key in a tenant. They are only ever added."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from django.db.models import Model

from devices.models import ApiKey, AuditEntry
from tenants.infrastructure import request_context
from tenants.models import User

from . import audit_chain, audit_changes


class Named(NamedTuple):
    """An actor known by stored id and label only: a worker acts in the name of the user who started a job."""

    user_id: int | None
    user_label: str


Actor = User | ApiKey | Named | None


def record(
    actor: Actor, action: str, obj: Model, detail: str = "", *, changes: audit_changes.Changes | None = None
) -> None:
    """Write an audit entry; `actor` None is the platform itself (a command)."""
    add([entry(actor, action, obj, detail, changes=changes)])


def add(entries: Iterable[AuditEntry]) -> None:
    """Write the entries; they are chained when the transaction has been committed."""
    AuditEntry.objects.bulk_create(entries)
    audit_chain.chain_after_commit()


@contextmanager
def changing(actor: Actor, action: str, obj: Model, detail: str = "") -> Iterator[None]:
    """Write an audit entry with what the block changes of the object. Must be in the transaction of the change."""
    before = audit_changes.snapshot(obj)
    yield
    record(actor, action, obj, detail, changes=audit_changes.difference(before, audit_changes.snapshot(obj)))


def entry(
    actor: Actor, action: str, obj: Model, detail: str = "", *, changes: audit_changes.Changes | None = None
) -> AuditEntry:
    """Return the entry that `record` writes, for `add`."""
    request = request_context.current.get()
    return AuditEntry(
        user_id=named(actor).user_id,
        user_label=label(actor),
        key_id=actor.pk if isinstance(actor, ApiKey) else None,
        request_id=request.request_id,
        address=request.address[:45],
        action=action,
        object_type=obj._meta.label_lower,
        object_id=str(obj.pk),
        object_label=str(obj)[:200],
        detail=detail,
        changes=changes,
    )


def named(actor: Actor) -> Named:
    """Return the stored id and label of the actor."""
    if isinstance(actor, Named):
        return actor
    return Named(actor.pk if isinstance(actor, User) else None, label(actor))


def label(actor: Actor) -> str:
    """Return the stored label of the actor."""
    if actor is None:
        return "gwanje"
    if isinstance(actor, Named):
        return actor.user_label
    return f"API key {actor.prefix}" if isinstance(actor, ApiKey) else actor.get_username()
