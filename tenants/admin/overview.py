"""Cards and panels of the console's first page."""

from datetime import timedelta
from typing import Any

from django.db.models import Count, Min
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django_q.models import Failure, OrmQ

from tenants.infrastructure import hooks
from tenants.models import OverflowMessage, Tenant, UnroutedMessage
from tenants.services.failing_tenants import failing_tenants

STATE_COLOURS: dict[str, str] = {
    Tenant.State.CREATING: "info",
    Tenant.State.ACTIVE: "success",
    Tenant.State.SUSPENDED: "warning",
    Tenant.State.FAILED: "danger",
}
_UNROUTED_SHOWN = 8


def context(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the first page."""
    newest = UnroutedMessage.objects.all()[:_UNROUTED_SHOWN]
    return {
        "cards": cards(),
        "panels": [render(request) for render in hooks.console_panels],
        "unrouted": [{"message": one, "reason": reason_in_words(one)} for one in newest],
        "overflow": _overflow(),
        "failing": failing_tenants(),
    }


def _overflow() -> list[dict[str, Any]]:
    """Return the blocked tenants with overflow messages: how many, and since when."""
    waiting = OverflowMessage.objects.values("schema_name").order_by("schema_name")
    rows = list(waiting.annotate(messages=Count("pk"), since=Min("received_at")))
    slugs = dict(Tenant.objects.values_list("schema_name", "slug")) if rows else {}
    return [{**row, "tenant": slugs.get(row["schema_name"], row["schema_name"])} for row in rows]


def reason_in_words(message: UnroutedMessage) -> str:
    """Return the reason in the user's language, without underscores."""
    return _(message.reason.replace("_", " "))


def cards() -> list[dict[str, Any]]:
    """Return cards of tenants by state, unrouted messages of the last day, and background tasks."""
    return [*_tenants_by_state(), *_attention()]


def _tenants_by_state() -> list[dict[str, Any]]:
    counts = dict(Tenant.objects.values_list("state").annotate(n=Count("pk")).order_by())
    url = reverse("admin:tenants_tenant_changelist")
    return [
        {
            "title": _("Tenants: %(state)s") % {"state": label},
            "value": counts.get(state, 0),
            "colour": STATE_COLOURS[state] if counts.get(state) else "",
            "url": f"{url}?state__exact={state}",
        }
        for state, label in Tenant.State.choices
        if counts.get(state) or state == Tenant.State.ACTIVE
    ]


def _attention() -> list[dict[str, Any]]:
    yesterday = timezone.now() - timedelta(days=1)
    unrouted = UnroutedMessage.objects.filter(last_received_at__gte=yesterday).count()
    failed, waiting = Failure.objects.count(), OrmQ.objects.count()
    return [
        _card(_("unrouted messages, last 24 hours"), unrouted, "tenants_unroutedmessage", warn=bool(unrouted)),
        _card(_("failed background tasks"), failed, "django_q_failure", warn=bool(failed)),
        _card(_("waiting background tasks"), waiting, "django_q_ormq"),
    ]


def _card(title: str, value: int, model: str, *, warn: bool = False) -> dict[str, Any]:
    url = reverse(f"admin:{model}_changelist")
    return {"title": capfirst(title), "value": value, "colour": "warning" if warn else "", "url": url}
