"""One row for everything that a person or a key changes in a tenant."""

from django.db.models import Model

from devices.models import ApiKey, AuditEntry
from tenants.models import User

Actor = User | ApiKey | None


def record(actor: Actor, action: str, obj: Model, detail: str = "") -> None:
    """Write who did what to which object; `actor` None is the platform itself (a command)."""
    AuditEntry.objects.create(
        user_id=actor.pk if isinstance(actor, User) else None,
        user_label=_label(actor),
        action=action,
        object_type=obj._meta.label_lower,
        object_id=str(obj.pk),
        object_label=str(obj)[:200],
        detail=detail,
    )


def _label(actor: Actor) -> str:
    if actor is None:
        return "gwanje"
    return f"API key {actor.prefix}" if isinstance(actor, ApiKey) else actor.get_username()
