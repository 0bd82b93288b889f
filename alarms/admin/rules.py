"""The rules of alarms: a list, and a form that saves by the services, with a new version for each change."""

import json
from collections.abc import Iterable
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminTextareaWidget

from alarms.models import AlarmRule
from alarms.services import rules
from alarms.services.levels import check_levels
from devices.admin import tenant_admin
from devices.admin.base import TenantModelAdmin
from devices.admin.roles import person
from tenants.services.roles import Role

_EXAMPLE = [{"severity": "warning", "raise": 30, "clear": 29, "raise_after_seconds": 0, "clear_after_seconds": 0}]
_SAVED = ("name", "description", "kind", "component_type", "metric", "levels", "max_gap_seconds", "enabled")
_FIXED = ("kind", "component_type", "metric")


class AlarmRuleForm(forms.ModelForm):
    """A rule; the levels as JSON, in the form of the API."""

    levels = forms.JSONField(
        label=_("Levels"),
        widget=UnfoldAdminTextareaWidget,
        help_text=_(
            "A list of one to five levels. 'raise' is the limit, 'clear' the limit at which the alarm ends; of a band"
            " both are lists of two numbers. 'direction' is above or below. A level of 'no data for too long' has only"
            " 'severity' and either 'raise_after_seconds' or 'raise_after_intervals'."
        ),
    )

    class Meta:
        model = AlarmRule
        fields: ClassVar = list(_SAVED)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "levels" in self.fields:
            self.initial["levels"] = self.instance.levels if self.instance.pk else _EXAMPLE
            self.fields["levels"].widget.attrs["rows"] = 12
            self.fields["levels"].encoder = _Indented  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """Validate the fields together."""
        values = super().clean() or {}
        metric = values.get("metric", getattr(self.instance, "metric", None) if self.instance.pk else None)
        rule_kind = values.get("kind") or self.instance.kind
        if not self.instance.pk and rule_kind and (metric is None) != (rule_kind == AlarmRule.Kind.NO_DATA):
            self.add_error("metric", _t("Choose a metric, or none for the kind 'no data for too long'."))
        if rule_kind == AlarmRule.Kind.NO_DATA and values.get("max_gap_seconds") is not None:
            self.add_error("max_gap_seconds", _t("Leave it empty for the kind 'no data for too long'."))
        kind = values.get("component_type")
        if metric is not None and kind is not None and metric.component_type_id != kind.pk:
            self.add_error("metric", _t("The metric must be one of the component type."))
        if "levels" in values:
            try:
                check_levels(rule_kind, values["levels"])
            except ValidationError as error:
                self.add_error(None, error)
        return values


class _Indented(json.JSONEncoder):
    """Writes JSON over several lines, for a text field."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "indent": 2})


@admin.register(AlarmRule, site=tenant_admin)
class AlarmRuleAdmin(TenantModelAdmin):
    """The rules that are not removed. Operators change them."""

    form = AlarmRuleForm
    changed_by: ClassVar = Role.OPERATOR
    list_display: ClassVar = ["name", "kind", "component_type", "metric", "enabled", "version", "updated_at"]
    list_filter: ClassVar = ["enabled", "component_type"]
    list_select_related: ClassVar = ["component_type", "metric"]
    search_fields: ClassVar = ["name"]
    actions: ClassVar = None
    fields: ClassVar = list(_SAVED)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlarmRule]:
        """Return the rules that are not removed."""
        return super().get_queryset(request).filter(removed_at=None)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields that are set at creation only."""
        return _FIXED if obj is not None else ()

    def save_model(self, request: HttpRequest, obj: AlarmRule, form: Any, change: bool) -> None:
        """Save the rule by its service, which writes the version and the audit entry."""
        given = {name: form.cleaned_data[name] for name in _SAVED if name in form.cleaned_data}
        if change:
            if form.changed_data:
                rules.change_rule(AlarmRule.objects.get(pk=obj.pk), person(request), **given)
            return
        obj.pk = rules.add_rule(person(request), **given).pk

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Remove the rule by its service; its alarms stay."""
        rules.remove_rule(obj, person(request))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Return what the page of the removal lists: the rule alone, because its alarms stay."""
        return [str(obj) for obj in objs], {}, set(), []

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """Write nothing: the service has written the audit entry."""

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """Write nothing: the service has written the audit entry."""

    def log_deletions(self, request: HttpRequest, queryset: Iterable[Model]) -> None:
        """Write nothing: the service has written the audit entry."""
