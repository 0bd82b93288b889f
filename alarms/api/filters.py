"""Filters of the lists of rules and alarms. An invalid value is rejected, never ignored."""

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema_field

from alarms.models import AlarmEpisode, AlarmRule
from alarms.models.episodes import SEVERITY_CHOICES
from devices.api.filters import OfDevice, TrueOrFalseFilter, by_object
from devices.models import ComponentType

_STATES: dict[str, dict[str, Any]] = {
    "active": {"ended_at": None, "acknowledged_at": None},
    "recovering": {"ended_at": None, "acknowledged_at": None, "state": AlarmEpisode.State.RECOVERING},
    "acknowledged": {"ended_at": None, "acknowledged_at__isnull": False},
    "ended": {"ended_at__isnull": False},
}


class AlarmRuleFilter(filters.FilterSet):
    component_type = by_object(
        ComponentType,
        _("There is no component type with this key. component-types/ lists the component types."),
        to_field_name="key",
        label="A component type's key.",
    )
    enabled = TrueOrFalseFilter(field_name="enabled")

    class Meta:
        model = AlarmRule
        fields: tuple[str, ...] = ()


class AlarmFilter(OfDevice):
    state = filters.ChoiceFilter(
        method="in_state",
        choices=[(name, name) for name in _STATES],
        label="active: open and not acknowledged; recovering: those of them that are clear and wait to end.",
    )
    rule = by_object(AlarmRule, _("There is no alarm rule with this id."), label="A rule's id.")
    severity = filters.ChoiceFilter(choices=SEVERITY_CHOICES)
    late = TrueOrFalseFilter(field_name="late")

    class Meta:
        model = AlarmEpisode
        fields: tuple[str, ...] = ()

    @extend_schema_field({"type": "string", "enum": list(_STATES)})
    def in_state(self, queryset: QuerySet[AlarmEpisode], _name: str, state: str) -> QuerySet[AlarmEpisode]:
        return queryset.filter(**_STATES[state])
