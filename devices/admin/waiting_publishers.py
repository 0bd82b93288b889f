"""Publishers that wait at a gateway, in the tenant's admin: registered with one click."""

import json
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.decorators import display

from devices.models import WaitingPublisher
from devices.services.provisioning import waiting_publishers
from tenants.services.roles import Role

from .base import TenantModelAdmin
from .keys import NOT_AVAILABLE, unavailable_text
from .roles import person
from .site import tenant_admin


@admin.register(WaitingPublisher, site=tenant_admin)
class WaitingPublisherAdmin(TenantModelAdmin):
    """The list, with an action that registers the selected publishers."""

    changed_by: ClassVar = Role.OPERATOR
    list_display: ClassVar = ["publisher", "gateway", "proposed", "message_count", "last_seen_at"]
    list_filter: ClassVar = ["gateway"]
    list_select_related: ClassVar = ["gateway"]
    search_fields: ClassVar = ["publisher"]
    fields: ClassVar = ["publisher", "gateway", "message_count", "first_seen_at", "last_seen_at", "proposed", "values"]
    readonly_fields: ClassVar = fields
    actions: ClassVar = ["register_selected"]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may add: gateways do."""
        return False

    def has_register_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may register devices."""
        return self._may_change(request)

    @admin.action(description=_("Register the selected publishers as devices"), permissions=["register"])
    def register_selected(self, request: HttpRequest, chosen: QuerySet[WaitingPublisher]) -> None:
        """Register the publishers one by one; those that cannot be registered stay, each with the reason."""
        done = 0
        for waiting in chosen:
            try:
                done += waiting_publishers.register(waiting, acting_user=person(request)) is not None
            except ValidationError as error:
                messages.error(request, f"{waiting}: {' '.join(error.messages)}")
            except NOT_AVAILABLE as error:
                messages.error(request, unavailable_text(error))
                break
        text = ngettext("%(count)d device was registered.", "%(count)d devices were registered.", done)
        messages.success(request, text % {"count": done})

    @display(description=_("proposed metrics"))
    def proposed(self, waiting: WaitingPublisher) -> str:
        """Return the proposed metrics with their units."""
        metrics = waiting.contract["metrics"]
        return ", ".join(f"{each['key']} {each.get('unit', '')}".strip() for each in metrics) or _t("none")

    @display(description=_("example"))
    def values(self, waiting: WaitingPublisher) -> SafeString:
        """Return the example as JSON."""
        return format_html("<pre>{}</pre>", json.dumps(waiting.example, indent=2, ensure_ascii=False))
