"""Texts about concurrency limits, for the API and for pages."""

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from tenants.infrastructure.concurrency import LimitReached, Operation, Scope

_OPERATIONS: dict[Operation, Promise] = {
    Operation.EVENT_STREAM: gettext_lazy("event streams"),
    Operation.EXPORT: gettext_lazy("exports"),
    Operation.QUERY: gettext_lazy("expensive queries"),
}
_OWNERS: dict[Scope, Promise] = {
    Scope.KEY: gettext_lazy("this API key"),
    Scope.PERSON: gettext_lazy("this person"),
    Scope.TENANT: gettext_lazy("this tenant"),
    Scope.PROCESS: gettext_lazy("this server"),
}


def limit_reached_text(error: LimitReached) -> str:
    """Return what is limited, to how many, and what to do."""
    text = _(
        "At most %(limit)d at a time of %(owner)s: %(operation)s. End one that is no longer needed, or try again in"
        " %(seconds)d seconds."
    )
    return text % {
        "limit": error.share.limit,
        "owner": _OWNERS[error.share.scope],
        "operation": _OPERATIONS[error.operation],
        "seconds": error.retry_seconds,
    }
