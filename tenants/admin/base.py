"""Parts of the pages of both admin sites: long lists, read-only rows, labels and form pages."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin as DjangoModelAdmin
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.utils.functional import Promise, cached_property
from django.utils.safestring import SafeString
from unfold.views import ChangeList

from tenants.services.quotas import QuotaExceeded

Text = str | Promise


class BoundedPaginator(Paginator):
    """Counts at most 10,000 rows, so that a list of millions opens as fast as a short one."""

    MOST = 10_000

    @cached_property
    def count(self) -> int:
        """Return the number of rows, at most MOST."""
        rows: QuerySet = self.object_list  # type: ignore[assignment]
        return int(rows.order_by()[: self.MOST].count())


class LongChangeList(ChangeList):
    """Counts once, and offers to show all only where a filter or a search is active."""

    def get_results(self, request: HttpRequest) -> None:
        """Query the rows of the page."""
        super().get_results(request)
        if not self.query and not self.has_active_filters:
            self.full_result_count = self.result_count


class LongList:
    """Mixin for a ModelAdmin of a long table."""

    paginator = BoundedPaginator
    show_full_result_count = False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the class of the list."""
        return LongChangeList


class ReadOnly:
    """Mixin for a ModelAdmin or inline whose rows can be viewed and not changed."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return False: the rows are read-only."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return False: the rows are read-only."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return False: the rows are read-only."""
        return False


class QuotaErrors:
    """An admin whose forms show a quota that does not allow another object, and save nothing then."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return the form, with the error where a quota was exceeded."""
        try:
            return super().changeform_view(request, *args, **kwargs)  # type: ignore[misc]
        except QuotaExceeded as error:
            messages.error(request, error.message)
            return HttpResponseRedirect(request.get_full_path())


def coloured(text: Text, colour: str) -> SafeString:
    """Return the text as a label; `colour` (success, info, warning, danger or neutral) must not be its only meaning."""
    return render_to_string("unfold/helpers/label.html", {"text": text, "type": colour})


def render_page(
    model_admin: DjangoModelAdmin,
    request: HttpRequest,
    template: str,
    *,
    title: Text,
    obj: Model | None = None,
    **context: Any,
) -> TemplateResponse:
    """Render a page of the admin site, below its model and, where given, its object."""
    request.current_app = model_admin.admin_site.name
    defaults: dict[str, Any] = {"title": title, "opts": model_admin.opts, "original": obj, "inline_admin_formsets": []}
    return TemplateResponse(request, template, {**model_admin.admin_site.each_context(request), **defaults, **context})


def form_page(
    model_admin: DjangoModelAdmin,
    request: HttpRequest,
    form: forms.Form | None,
    *,
    title: Text,
    submit: Text,
    back: str,
    lead: Text = "",
    danger: bool = False,
    **context: Any,
) -> TemplateResponse:
    """Render a form with one button and a link back; without a form, a question to confirm."""
    page = {"form": form, "submit": submit, "back": back, "lead": lead, "danger": danger, **context}
    return render_page(model_admin, request, page.pop("template", "gwanje/form.html"), title=title, **page)


def add_errors(form: forms.Form, error: ValidationError) -> None:
    """Add the error to the fields that it names, and to the form as a whole where it has no such field."""
    if not hasattr(error, "error_dict"):
        form.add_error(None, error)
        return
    for field, errors in error.error_dict.items():
        form.add_error(field if field in form.fields else None, errors)
