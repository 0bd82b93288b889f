"""Proposal of a metric mapping: metrics for a component type, inferred from a message of one of its components.

A person sees the proposal with the readings that it would give, and changes or applies it. This module writes
nothing; `application` does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from devices.domain import paths, specs, unit_spellings
from devices.models import ComponentType, Metric, Unit
from devices.models.base import validate_key
from devices.services.metadata.unit_inference import infer_metric, quantities, usual_unit
from devices.services.specs.loader import metric_spec
from telemetry.services.pipeline import entries, form, signature, unmapped_values
from telemetry.services.pipeline.normalization import normalize
from telemetry.services.pipeline.results import Measurement, Refusal

from . import text_forms

MAX_METRICS = unmapped_values.MAX_VALUES

_UNIT_NAMES = ("unit", "units", "uom", "단위")


@dataclass(frozen=True, slots=True)
class MappingPreview:
    """The result of metrics for a message: its readings or its refusal, and the values without a metric."""

    readings: list[Measurement]
    unmapped: list[Measurement]
    refusal: Refusal | None = None


def parse_message(payload: bytes | memoryview | str) -> dict[str, Any]:
    """Return the message in a payload of either signature version, or pasted as JSON; the signature is not verified.

    Raises ValidationError with the fault.
    """
    raw = payload.strip().encode("utf-8", "replace") if isinstance(payload, str) else bytes(payload).strip()
    try:
        if form.is_token(raw):
            raw = signature.unverified_payload(raw)
        return form.parse_object(raw)
    except (Refusal, signature.BadToken) as error:
        detail = error.detail if isinstance(error, Refusal) else str(error)
        raise ValidationError(_("The text is not a valid message: %(reason)s") % {"reason": detail}) from error


def propose_metrics(component_type: ComponentType, message: dict[str, Any]) -> list[Metric]:
    """Return unsaved metrics for the values in the message without a metric of the type, in the message's order."""
    message = _sample(component_type, message)
    own = _specs(component_type.metrics.select_related("unit"))
    known = specs.ComponentSpec("", "", True, True, own, entries=component_type.entries)
    leaves = [
        (path, value)
        for path, value in unmapped_values.leaves(message, known.layout.tree, ())
        if value is not unmapped_values.CUT and len(paths.format_path(path)) <= _PATH_LENGTH
    ][:MAX_METRICS]
    names_of_units = {path: value for path, value in leaves if _is_unit_name(path, value)}
    units = {unit.symbol: unit for unit in Unit.objects.all()}
    taken = set(component_type.metrics.values_list("key", flat=True))
    proposed = []
    for path, value in leaves:
        if path not in names_of_units:
            metric = _proposed_metric(component_type, path, value, units, taken)
            _find_unit_path(metric, path, names_of_units, units, _is_alone(path, value, leaves))
            taken.add(metric.key)
            proposed.append(metric)
    return proposed


def preview_mapping(
    component_type: ComponentType, metrics: Sequence[Metric], message: dict[str, Any]
) -> MappingPreview:
    """Return the result of the type's metrics together with these for the message.

    Raises ValidationError when a metric is invalid.
    """
    validate_metrics(component_type, metrics)
    every = [*component_type.metrics.select_related("unit"), *metrics]
    component = specs.ComponentSpec(
        component_type.key, component_type.key, True, True, _specs(every), entries=component_type.entries
    )
    message = _sample(component_type, message)
    try:
        values = normalize(message, component)
    except Refusal as refusal:
        return MappingPreview([], [], refusal)
    return MappingPreview(values.measurements, values.unmapped)


def _sample(component_type: ComponentType, message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with the values of its entries. Raises ValidationError for an invalid list."""
    try:
        return entries.sample(message, component_type.entries)
    except Refusal as refusal:
        raise ValidationError(
            _("The text is not a valid message: %(reason)s") % {"reason": refusal.detail}
        ) from refusal


def validate_metrics(component_type: ComponentType, metrics: Sequence[Metric]) -> None:
    """Raise ValidationError with the faults of each metric under its key."""
    faults: dict[str, list[str]] = {}
    seen = set(component_type.metrics.values_list("key", flat=True))
    if len(metrics) > MAX_METRICS:
        raise ValidationError(_("At most %(most)s metrics can be added at a time.") % {"most": MAX_METRICS})
    for metric in metrics:
        metric.component_type = component_type
        try:
            # The rows that it points to are given as such: looking for them would ask once for each metric.
            metric.full_clean(exclude={"component_type", "unit", "sent_unit"}, validate_constraints=False)
        except ValidationError as error:
            faults.setdefault(metric.key, []).extend(f"{k}: {' '.join(v)}" for k, v in error.message_dict.items())
        if metric.key in seen:
            faults.setdefault(metric.key, []).append(_("A metric with this key already exists."))
        seen.add(metric.key)
    if faults:
        raise ValidationError([f"{key}: {fault}" for key, listed in faults.items() for fault in listed])


_PATH_LENGTH = Metric._meta.get_field("path").max_length or 0


def _specs(metrics: Iterable[Metric]) -> tuple[specs.MetricSpec, ...]:
    return tuple(metric_spec(metric) for metric in metrics)


def _proposed_metric(
    component_type: ComponentType, path: paths.Path, value: Any, units: dict[str, Unit], taken: set[str]
) -> Metric:
    written = text_forms.read_value(path, value)
    guessed = infer_metric(path, value if written is None else written.number)
    metric = Metric(
        component_type=component_type,
        key=_free_key(guessed.key, taken),
        name=path[-1][:80] if not path[-1].isascii() and path[-1].isprintable() else "",
        path=paths.format_path(path),
    )
    if isinstance(value, bool):
        metric.value_type = Metric.ValueType.BOOLEAN
    elif isinstance(value, str) and written is None:
        metric.value_type = Metric.ValueType.BOOLEAN if text_forms.is_switch(value) else Metric.ValueType.TEXT
    else:
        metric.unit = units.get(guessed.unit)
        if written is not None:
            text_forms.set_form(metric, written, units)
    return metric


def _free_key(wanted: str, taken: set[str]) -> str:
    try:
        validate_key(wanted)
    except ValidationError:
        wanted = "value"
    key, number = wanted, 1
    while key in taken:
        number += 1
        key = f"{wanted[:58]}-{number}"
    return key


def _is_unit_name(path: paths.Path, value: Any) -> bool:
    name = path[-1].lower()
    return isinstance(value, str) and len(value) <= 24 and any(name.endswith(word) for word in _UNIT_NAMES)


def _find_unit_path(
    metric: Metric, path: paths.Path, names_of_units: dict[paths.Path, str], units: dict[str, Unit], is_alone: bool
) -> None:
    """Set the path of the unit's name: `TempUnit` belongs to what is called Temp…; `unit`, to the values beside it.

    Nothing is set where the value's name does not measure what the unit does. A name without meaning takes the unit
    beside it, and so does an unknown one without other numbers beside it.
    """
    if metric.value_type != Metric.ValueType.NUMBER:
        return
    inferred = metric.unit
    allowed = quantities(path)
    for unit_path, named in names_of_units.items():
        stem = _stem(unit_path[-1])
        is_beside = not stem and unit_path[:-1] == path[: len(unit_path) - 1]
        is_named = bool(stem) and (path[-1].lower().startswith(stem) or metric.key.startswith(stem))
        if not is_beside and not is_named:
            continue
        is_free = allowed is None or (not allowed and (path[-1].lower() == stem or (is_beside and is_alone)))
        for candidate in (inferred, units.get(usual_unit(path)), _unit_by_name(named)):
            if candidate is None or not (is_free or candidate.quantity in (allowed or ())):
                continue
            metric.unit, metric.unit_path = candidate, paths.format_path(unit_path)
            metric.work_out_conversion()
            if named.strip() in metric.conversions:
                return
        metric.unit, metric.unit_path = inferred, ""
        metric.work_out_conversion()


def _stem(name: str) -> str:
    """Return what a unit's name is called after: `temp` for `TempUnit`."""
    stem = name.lower()
    for word in _UNIT_NAMES:
        stem = stem.removesuffix(word)
    return stem.rstrip("_- ")


def _is_alone(path: paths.Path, value: Any, leaves: list[tuple[paths.Path, Any]]) -> bool:
    """Return whether the value is the only number in its object."""
    numbers = [at for at, other in leaves if at[:-1] == path[:-1] and isinstance(other, int | float)]
    return numbers == [path] and not isinstance(value, bool)


def _unit_by_name(name: str) -> Unit | None:
    """Return the tenant's unit with the name: a symbol, a UCUM code, or a usual spelling of one."""
    spelled = name.strip()
    named = Unit.objects.filter(symbol=spelled).first()
    return named or Unit.objects.filter(ucum=unit_spellings.usual_code(spelled)).first()
