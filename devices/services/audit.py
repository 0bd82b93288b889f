"""One row for everything that a person or a key changes in a tenant."""

from typing import NamedTuple

from django.db.models import Model

from devices.models import ApiKey, AuditEntry
from tenants.models import User


class Named(NamedTuple):
    """Somebody who is known by what was kept of him: a worker goes on in the name of who began."""

    user_id: int | None
    user_label: str


Actor = User | ApiKey | Named | None


def record(actor: Actor, action: str, obj: Model, detail: str = "") -> None:
    """Write who did what to which object; `actor` None is the platform itself (a command)."""
    entry(actor, action, obj, detail).save()


def entry(actor: Actor, action: str, obj: Model, detail: str = "") -> AuditEntry:
    """What `record` writes, for who writes many at once."""
    return AuditEntry(
        user_id=named(actor).user_id,
        user_label=label(actor),
        action=action,
        object_type=obj._meta.label_lower,
        object_id=str(obj.pk),
        object_label=str(obj)[:200],
        detail=detail,
    )


def named(actor: Actor) -> Named:
    """What is kept of the actor."""
    if isinstance(actor, Named):
        return actor
    return Named(actor.pk if isinstance(actor, User) else None, label(actor))


def label(actor: Actor) -> str:
    """How the actor is named in what is kept."""
    if actor is None:
        return "gwanje"
    if isinstance(actor, Named):
        return actor.user_label
    return f"API key {actor.prefix}" if isinstance(actor, ApiKey) else actor.get_username()
