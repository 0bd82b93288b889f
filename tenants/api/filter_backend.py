"""The filters of lists, with errors in the project's words."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError as ModelError
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework.exceptions import ErrorDetail
from rest_framework.request import Request

from tenants.api.errors import InvalidParameters
from tenants.infrastructure.error_codes import ErrorCode
from tenants.infrastructure.error_values import shown


class StrictFilterBackend(DjangoFilterBackend):
    """Filters a list; an invalid value is rejected, and its error states what is allowed."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        """Return the rows that the parameters select. Raises InvalidParameters."""
        filterset = self.get_filterset(request, queryset, view)
        if filterset is None:
            return queryset
        if not filterset.is_valid():
            raise InvalidParameters(_form_errors(filterset.form))
        return filterset.qs


def _form_errors(form: forms.Form) -> dict[str, list[ErrorDetail]]:
    return {name: [_explained(form, name, error) for error in errors] for name, errors in form.errors.as_data().items()}


def _explained(form: forms.Form, name: str, error: ModelError) -> ErrorDetail:
    field = form.fields.get(name)
    if isinstance(field, forms.ModelChoiceField) and error.code == "invalid_choice":
        return ErrorDetail(" ".join(error.messages), ErrorCode.DOES_NOT_EXIST)
    is_own = field is None or error.code not in field.error_messages or _is_own(field, str(error.code))
    if is_own or field is None:
        return ErrorDetail(" ".join(error.messages), error.code or ErrorCode.INVALID)
    # Of several values the error names the wrong one.
    wrong = (error.params or {}).get("value", form.data.get(name))
    values = {"name": name, "value": shown(wrong)}
    if isinstance(field, forms.ModelChoiceField) or not hasattr(field, "choices"):
        return ErrorDetail(_of_type(field) % values, ErrorCode.INVALID_FORMAT)
    choices = ", ".join(str(value) for value, _label in field.choices if value != "")
    text = _("%(name)r must be one of %(choices)s, not %(value)s.")
    return ErrorDetail(text % {**values, "choices": choices}, ErrorCode.INVALID_CHOICE)


def _is_own(field: forms.Field, code: str) -> bool:
    """Return whether the filter has a text of its own for the error."""
    defaults = [getattr(kind, "default_error_messages", {}).get(code) for kind in type(field).__mro__]
    return field.error_messages[code] not in defaults


def _of_type(field: forms.Field) -> str:
    if isinstance(field, forms.UUIDField):
        return _("%(name)r must be a UUID, not %(value)s.")
    if isinstance(field, forms.DateField):
        return _("%(name)r must be a day such as 2026-11-22, not %(value)s.")
    return _("%(name)r cannot be %(value)s.")
