"""Audit entries: one for each change by a user or an API key in a tenant."""

from typing import NamedTuple

from django.db.models import Model

from devices.models import ApiKey, AuditEntry
from tenants.infrastructure import request_context
from tenants.models import User


class Named(NamedTuple):
    """An actor known by stored id and label only: a worker acts in the name of the user who started a job."""

    user_id: int | None
    user_label: str


Actor = User | ApiKey | Named | None


def record(actor: Actor, action: str, obj: Model, detail: str = "") -> None:
    """Write an audit entry; `actor` None is the platform itself (a command)."""
    entry(actor, action, obj, detail).save()


def entry(actor: Actor, action: str, obj: Model, detail: str = "") -> AuditEntry:
    """Return the entry that `record` writes, for bulk creation."""
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
