"""The sidebar of both admin sites: groups of models, limited to those that the user may view or change."""

from collections.abc import Iterable
from typing import Any

from django.contrib.admin import AdminSite, ModelAdmin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from tenants.infrastructure.hooks import NavigationGroup


def sidebar(site: AdminSite, registered: Iterable[NavigationGroup], request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar's groups in the form of unfold's templates, without groups that would be empty."""
    index = reverse("admin:index")
    home = _item(_("Overview"), "dashboard", index, request.path == index)
    groups: list[dict[str, Any]] = [{"title": "", "items": [home]}]
    for group in registered:
        admins = [(site.get_model_admin(model), icon) for model, icon in group.models]
        items = [_model_item(a, icon, request) for a, icon in admins if a.has_view_or_change_permission(request)]
        groups.append({"title": group.title, "items": items})
    return [group for group in groups if group["items"]]


def _model_item(model_admin: ModelAdmin, icon: str, request: HttpRequest) -> dict[str, Any]:
    opts = model_admin.opts
    link = reverse(f"admin:{opts.app_label}_{opts.model_name}_changelist")
    return _item(str(capfirst(opts.verbose_name_plural)), icon, link, request.path.startswith(link))


def _item(title: str, icon: str, link: str, active: bool) -> dict[str, Any]:
    return {"title": title, "icon": icon, "link": link, "active": active, "has_permission": True}
