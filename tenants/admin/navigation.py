"""The sidebar of both admin sites: groups of models, of which a person sees those that the role allows."""

from dataclasses import dataclass
from typing import Any, Protocol

from django.contrib.admin import ModelAdmin
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext as _


@dataclass(frozen=True, slots=True)
class Group:
    """A heading of the sidebar with its models, each with the name of its icon (Material Symbols)."""

    order: int
    title: str | Promise
    models: tuple[tuple[type[Model], str], ...]


class GroupedSite(Protocol):
    """An admin site with a sidebar of groups."""

    groups: list[Group]

    def get_model_admin(self, model: type[Model]) -> ModelAdmin: ...


def sidebar(site: GroupedSite, request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar's groups in the form that unfold's templates take."""
    index = reverse("admin:index")
    home = _item(_("Overview"), "dashboard", index, request.path == index)
    groups: list[dict[str, Any]] = [{"title": "", "items": [home]}]
    for group in sorted(site.groups, key=lambda group: group.order):
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
