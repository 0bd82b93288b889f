"""The page that maps metrics of a component type from a sample message: select it, edit the proposal, apply."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.forms.models import model_to_dict
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from devices import hooks
from devices.admin import tenant_admin
from devices.admin.metadata import keep_blanks
from devices.admin.roles import person
from devices.domain.paths import CLAIMS, PROTOCOL_MEMBERS
from devices.models import ComponentType, Metric, Unit
from telemetry.services.mapping import application, proposal, sample_messages, unmatched_metrics
from tenants.admin.base import render_page

from .device_panels import in_words

_TEMPLATE = "telemetry/admin/metric_mapping.html"


class SampleMessageForm(forms.Form):
    """The form of a pasted message."""

    example = forms.CharField(
        label=_("Message"),
        max_length=128 * 1024,
        help_text=_(
            "The JSON object that a device sends, or a complete signed message. The signature is not verified."
        ),
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 6}),
    )


class ProposedMetricForm(forms.ModelForm):
    """The form of a proposed metric; only selected metrics are validated."""

    taken = forms.BooleanField(
        label=_("Add this metric"), required=False, initial=True, widget=UnfoldBooleanSwitchWidget
    )

    class Meta:
        model = Metric
        fields = (
            "key", "path", "value_type", "unit", "sent_unit", "unit_path", "minimum", "maximum", "true_value",
            "false_value", "number_format", "sentinels", "sentinel_treatment", "numbers_as_text", "name",
        )  # fmt: skip
        _text, _number, _select = UnfoldAdminTextInputWidget, UnfoldAdminDecimalFieldWidget, UnfoldAdminSelectWidget
        widgets: ClassVar = {
            "key": _text,
            "path": _text,
            "value_type": _select,
            "unit": _select,
            "sent_unit": _select,
            "unit_path": _text,
            "minimum": _number,
            "maximum": _number,
            "true_value": _text,
            "false_value": _text,
            "number_format": _select,
            "sentinels": _text,
            "sentinel_treatment": _select,
            "numbers_as_text": UnfoldBooleanSwitchWidget,
            "name": forms.HiddenInput,
        }

    def __init__(self, *args: Any, units: list[tuple[Any, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("unit", "sent_unit"):
            self.fields[name].widget.choices = units  # read once for all rows
        for name in ("path", "unit_path"):
            keep_blanks(self.fields[name])

    @property
    def is_taken(self) -> bool:
        return bool(self["taken"].value())

    @property
    def usual(self) -> list[forms.BoundField]:
        """Return the fields that nearly every metric needs."""
        names = ["key", "value_type", "unit"] if self["value_type"].value() == "number" else ["key", "value_type"]
        return [self[name] for name in names]

    @property
    def further(self) -> list[forms.BoundField]:
        """Return the fields that the page folds."""
        shown = {field.name for field in self.usual} | {"taken", "name"}
        return [field for field in self if field.name not in shown]

    @property
    def has_further_errors(self) -> bool:
        return any(field.errors for field in self.further)


_MetricForms = forms.formset_factory(
    ProposedMetricForm, extra=0, max_num=proposal.MAX_METRICS, absolute_max=proposal.MAX_METRICS
)


@dataclass(slots=True)
class _MappingPage:
    """The proposed metrics with their results: the reading by metric key, or the refusal."""

    rows: Any
    summary: str
    readings: dict[str, str]
    left: list[str]
    refusal: str = ""
    errors: tuple[str, ...] = ()


@hooks.metric_mapping_page.provider()
def metric_mapping(request: HttpRequest, component_type: ComponentType) -> HttpResponse:
    """Render the steps of the mapping; each step sends the sample message along, and only 'accept' writes."""
    form = SampleMessageForm(request.POST or None)
    taught = None
    if request.method == "POST" and form.is_valid():
        try:
            message = proposal.parse_message(form.cleaned_data["example"])
            if "metrics-TOTAL_FORMS" not in request.POST:
                taught = _proposed_page(component_type, message)
            else:
                rows = _MetricForms(request.POST, prefix="metrics", form_kwargs=_form_options())
                taught = _changed_page(component_type, message, rows)
                if "accept" in request.POST and not taught.errors:
                    return _apply(request, component_type, _selected_metrics(rows))
        except ValidationError as error:
            form.add_error("example", error)
    found = [] if taught else [_choice(example) for example in sample_messages.sample_messages(component_type)]
    unmatched = None if taught else unmatched_metrics.find_unmatched(component_type)
    return render_page(
        tenant_admin.get_model_admin(ComponentType),
        request,
        _TEMPLATE,
        title=_t("Map metrics of %(type)s from an example") % {"type": component_type},
        obj=component_type,
        form=form,
        taught=taught,
        found=found,
        unmatched=unmatched,
        example=form["example"].value() or "",
        back=reverse("admin:devices_componenttype_change", args=[component_type.pk]),
    )


def _choice(example: sample_messages.SampleMessage) -> dict[str, Any]:
    text = json.dumps(example.message, ensure_ascii=False, indent=1)
    return {"example": example, "text": text, "values": _values(example.message)}


def _values(message: dict[str, Any]) -> str:
    """Return the measured members of the message on one line."""
    return json.dumps({k: v for k, v in message.items() if k not in PROTOCOL_MEMBERS | CLAIMS}, ensure_ascii=False)


def _proposed_page(component_type: ComponentType, message: dict[str, Any]) -> _MappingPage:
    metrics = proposal.propose_metrics(component_type, message)
    initial = [model_to_dict(metric) for metric in metrics]
    rows = _MetricForms(prefix="metrics", initial=initial, form_kwargs=_form_options())
    return _with_preview(component_type, message, metrics, rows)


def _changed_page(component_type: ComponentType, message: dict[str, Any], rows: Any) -> _MappingPage:
    if not rows.management_form.is_valid():
        raise ValidationError(_("The form is incomplete. Start again."))
    taken = [form for form in rows.forms if form.is_taken]
    valid = [form.is_valid() for form in taken]  # of each, so that each shows its errors
    if not all(valid):
        return _MappingPage(rows, _values(message), {}, [], errors=(_t("Correct the marked fields."),))
    return _with_preview(component_type, message, _selected_metrics(rows), rows)


def _form_options() -> dict[str, Any]:
    return {"units": [("", "–"), *((unit.pk, unit.symbol) for unit in Unit.objects.all())]}


def _selected_metrics(rows: Any) -> list[Metric]:
    return [form.instance for form in rows.forms if form.is_taken]


def _with_preview(
    component_type: ComponentType, message: dict[str, Any], metrics: list[Metric], rows: Any
) -> _MappingPage:
    try:
        seen = proposal.preview_mapping(component_type, metrics, message)
    except ValidationError as error:
        return _MappingPage(rows, _values(message), {}, [], errors=tuple(error.messages))
    readings = {value.metric: f"{in_words(value.value)} {value.unit}".strip() for value in seen.readings}
    left = [f"{value.metric} = {in_words(value.value)}" for value in seen.unmapped]
    for form in rows.forms:
        form.reading = readings.get(str(form["key"].value()), "") if form.is_taken else ""
    return _MappingPage(rows, _values(message), readings, left, refusal=seen.refusal.detail if seen.refusal else "")


def _apply(request: HttpRequest, component_type: ComponentType, metrics: list[Metric]) -> HttpResponse:
    done = application.apply_mapping(component_type, metrics, acting_user=person(request))
    assigned, unassigned = (
        sum(one.series for one in done.assignments),
        sum(one.unassigned_series for one in done.assignments),
    )
    text = _t("Metrics added: %(metrics)d. Existing series assigned to them: %(series)d.")
    messages.success(request, text % {"metrics": len(done.metrics), "series": assigned})
    if unassigned:
        text = _t("Series that were not assigned, because their unit or value type differs: %(series)d.")
        messages.warning(request, text % {"series": unassigned})
    return redirect("admin:devices_componenttype_change", component_type.pk)
