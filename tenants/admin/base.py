"""What the pages of both admin sites share."""

from typing import Any

from django import forms
from django.contrib.admin import ModelAdmin as DjangoModelAdmin
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.utils.functional import Promise, cached_property
from django.utils.safestring import SafeString
from unfold.views import ChangeList

Text = str | Promise


class BoundedPaginator(Paginator):
    """Counts no further than a person turns pages: a list of millions opens as fast as a short one."""

    MOST = 10_000

    @cached_property
    def count(self) -> int:
        rows: QuerySet = self.object_list  # type: ignore[assignment]
        return int(rows.order_by()[: self.MOST].count())


class LongChangeList(ChangeList):
    """Counts once, and offers to show all only where a filter or a search hides some."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not self.query and not self.has_active_filters:
            self.full_result_count = self.result_count


class LongList:
    """For a ModelAdmin whose table may be long."""

    paginator = BoundedPaginator
    show_full_result_count = False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LongChangeList


class ReadOnly:
    """For a ModelAdmin or inline whose rows are only looked at."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def coloured(text: Text, colour: str) -> SafeString:
    """The word as a label: colour is success, info, warning, danger or neutral, and never says it alone."""
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
    """A page in the look of the site, below the model (and the object) that it is about."""
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
    """A form with one button and a way back; without a form a question to be answered with yes."""
    page = {"form": form, "submit": submit, "back": back, "lead": lead, "danger": danger, **context}
    return render_page(model_admin, request, page.pop("template", "gwanje/form.html"), title=title, **page)


def add_errors(form: forms.Form, error: ValidationError) -> None:
    """Show the error at the fields it names where the form has them, and above the form otherwise."""
    if not hasattr(error, "error_dict"):
        form.add_error(None, error)
        return
    for field, errors in error.error_dict.items():
        form.add_error(field if field in form.fields else None, errors)
