"""The members of alarm rules, alarms and their transitions."""

from typing import Any, ClassVar

from django.utils import timezone
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from alarms.domain.rules import MAX_LEVELS, SEVERITIES
from alarms.domain.silence import MAX_INTERVALS, NO_DATA
from alarms.models import AlarmEpisode, AlarmRule, AlarmTransition
from alarms.services.descriptions import describe
from alarms.services.preview import MAX_DAYS
from devices.api.serializers.selectors import SelectorSerializer
from devices.models import ComponentType, Metric
from tenants.api.serializers.base import NamedObjectField, StoredTimestamp, StrictSerializer, Timestamp

_STATES = ("active", "recovering", "acknowledged", "ended")
TRANSITION_STATES = ("normal", "pending", "active", "recovering", "ended")
SUPPRESSIONS = ("", *AlarmEpisode.AlarmSuppression.values)
_LIMIT = {"oneOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}]}
_DELAY = {"type": "integer", "minimum": 0, "maximum": 7 * 86400, "default": 0}


@extend_schema_field(
    {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_LEVELS,
        "items": {
            "type": "object",
            "required": ["severity"],
            "additionalProperties": False,
            "properties": {
                "severity": {"type": "string", "enum": list(SEVERITIES)},
                "raise": {**_LIMIT, "description": "The limit; of the kind outside, the two limits of the band."},
                "clear": {**_LIMIT, "description": "The limit at which it is cleared, on the safe side of raise."},
                "raise_after_seconds": {**_DELAY, "description": "Of the kind no_data: the length of the silence."},
                "raise_after_intervals": {
                    "type": "number",
                    "minimum": 1,
                    "maximum": MAX_INTERVALS,
                    "description": "Of the kind no_data, instead of seconds: in expected intervals of the component.",
                },
                "clear_after_seconds": _DELAY,
                "direction": {"type": "string", "enum": ["above", "below"], "default": "above"},
            },
        },
    }
)
class LevelsField(serializers.JSONField):
    """The levels of a rule; `alarms.services.levels` checks them. Those of the kind no_data have no limits."""


class MetricKeyField(serializers.CharField):
    """A metric of the component type by its key."""

    def to_representation(self, value: Metric) -> str:  # type: ignore[override]  # of a metric, not of a text
        """Return the key."""
        return value.key


class AlarmRuleSerializer(StrictSerializer):
    """An alarm rule. `kind`, `component_type` and `metric` can be set at creation only."""

    id = serializers.IntegerField(read_only=True)
    name = serializers.CharField(max_length=120)
    description = serializers.CharField(max_length=2000, required=False, allow_blank=True)
    kind = serializers.ChoiceField(choices=AlarmRule.Kind.choices)
    component_type = NamedObjectField(
        slug_field="key",
        queryset=ComponentType.objects.all(),
        error_messages={"does_not_exist": _("There is no component type {value}. component-types/ lists them.")},
        help_text="The key of a component type.",
    )
    metric = MetricKeyField(
        max_length=63,
        required=False,
        allow_null=True,
        help_text="The key of one of its metrics; null of the kind no_data, and required of the others.",
    )
    levels = LevelsField(help_text="One to five levels, each with another severity.")
    selector = SelectorSerializer(required=False, help_text="The devices; without members all.")
    max_gap_seconds = serializers.IntegerField(
        min_value=1,
        max_value=7 * 86400,
        required=False,
        allow_null=True,
        help_text="The longest time between two readings that counts for a delay; null: two expected intervals.",
    )
    enabled = serializers.BooleanField(required=False)
    unit = serializers.SerializerMethodField(help_text="The unit of the limits: that of the metric.")
    version = serializers.IntegerField(read_only=True)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)

    fixed: ClassVar = ("kind", "component_type", "metric")

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields."""
        fields = super().get_fields()
        if isinstance(self.instance, AlarmRule):
            for name in self.fixed:
                fields[name].read_only = True
        return fields

    def get_unit(self, rule: AlarmRule) -> str:
        return rule.metric.unit.symbol if rule.metric and rule.metric.unit else ""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of the rule; raises ValidationError."""
        if "selector" in attrs:
            attrs["selector"] = attrs["selector"].stored()
        if attrs.get("metric") is not None:
            attrs["metric"] = _find_metric(attrs["component_type"], attrs["metric"])
        return attrs


def _find_metric(component_type: ComponentType, key: str) -> Metric:
    metric = Metric.objects.select_related("unit").filter(component_type=component_type, key=key).first()
    if metric is None:
        keys = Metric.objects.filter(component_type=component_type).order_by("key").values_list("key", flat=True)
        text = _t("There is no metric %(key)s of the component type %(type)s. Its metrics: %(known)s.")
        known = ", ".join(keys) or "–"
        raise serializers.ValidationError({"metric": text % {"key": key, "type": component_type.key, "known": known}})
    return metric


class PreviewRequestSerializer(AlarmRuleSerializer):
    """A rule as it would be saved, and the range: at most 366 days."""

    name = serializers.CharField(max_length=120, required=False)

    def get_fields(self) -> dict[str, serializers.Field]:
        """Return the serializer's fields; `from` is a keyword, which a class body cannot assign."""
        fields = super().get_fields()
        fields["from"] = Timestamp()
        fields["to"] = Timestamp(required=False, help_text="By default now.")
        return fields

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of the rule with the range; raises ValidationError."""
        attrs = super().validate(attrs)
        if attrs["kind"] == NO_DATA:
            raise serializers.ValidationError({"kind": _t("Rules of the kind no_data have no preview.")})
        if attrs.get("metric") is None:
            raise serializers.ValidationError({"metric": _t("A rule of this kind needs a metric.")})
        attrs.setdefault("to", timezone.now())
        if attrs["from"] >= attrs["to"]:
            raise serializers.ValidationError({"from": _t("'from' must be earlier than 'to'.")})
        if (attrs["to"] - attrs["from"]).total_seconds() > MAX_DAYS * 86400:
            text = _t("The range must not be longer than %(days)d days.")
            raise serializers.ValidationError({"from": text % {"days": MAX_DAYS}})
        return attrs


class PreviewEpisodeSerializer(serializers.Serializer):
    """An episode that the rule would have raised; `ended_at` null: open at the end of the range."""

    device = serializers.UUIDField(source="series.uuid")
    component = serializers.CharField(source="series.component")
    severity = serializers.CharField(help_text="The highest.")
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    value = serializers.FloatField(allow_null=True)


class PreviewAnswerSerializer(serializers.Serializer):
    """What a rule would have raised. `complete` is false where time ran out: later episodes may be missing."""

    series = serializers.IntegerField(help_text="The number of series that the rule would evaluate.")
    count = serializers.IntegerField(help_text="The number of episodes; `results` has the first 1000.")
    readings = serializers.IntegerField(help_text="The number of readings that were evaluated one by one.")
    complete = serializers.BooleanField()
    results = PreviewEpisodeSerializer(many=True, source="episodes")


class AlarmSerializer(serializers.ModelSerializer[AlarmEpisode]):
    """An alarm: an episode of one series; or a storm of a rule, without a device."""

    rule_name = serializers.CharField(source="rule.name")
    device = serializers.UUIDField(source="device.uuid", allow_null=True, default=None)
    state = serializers.SerializerMethodField()
    suppressed_by = serializers.SerializerMethodField()

    class Meta:
        model = AlarmEpisode
        fields: ClassVar = [
            *("id", "rule", "rule_name", "rule_version", "device", "component", "metric", "state", "severity"),
            *("started_at", "ended_at", "value", "unit", "late", "suppressed_by", "acknowledged_at", "acknowledged_by"),
            *("note", "shelved_until", "retracted_at", "count"),
        ]
        read_only_fields = fields

    @extend_schema_field({"type": "string", "enum": list(_STATES)})
    def get_state(self, episode: AlarmEpisode) -> str:
        if episode.ended_at is not None:
            return "ended"
        return "acknowledged" if episode.acknowledged_at is not None else episode.state.lower()

    @extend_schema_field({"type": "string", "enum": list(SUPPRESSIONS)})
    def get_suppressed_by(self, episode: AlarmEpisode) -> str:
        is_shelved = episode.shelved_until is not None and episode.shelved_until > timezone.now()
        return "shelved" if is_shelved else episode.suppressed_by


class AlarmTransitionSerializer(serializers.ModelSerializer[AlarmTransition]):
    """A change of an alarm with its evidence. `superseded_at`: late data has shown that it was not so."""

    from_state = serializers.SerializerMethodField()
    to_state = serializers.SerializerMethodField()
    user = serializers.CharField(source="user_label")
    description = serializers.SerializerMethodField()

    class Meta:
        model = AlarmTransition
        fields: ClassVar = [
            *("id", "at", "recorded_at", "from_state", "to_state", "from_severity", "severity", "cause"),
            *("rule_version", "since", "value", "unit", "reading_at", "received_at", "fingerprint", "user", "note"),
            *("shelved_until", "late", "superseded_at", "description"),
        ]
        read_only_fields = fields

    @extend_schema_field({"type": "string", "enum": list(TRANSITION_STATES)})
    def get_from_state(self, row: AlarmTransition) -> str:
        return row.from_state.lower()

    @extend_schema_field({"type": "string", "enum": list(TRANSITION_STATES)})
    def get_to_state(self, row: AlarmTransition) -> str:
        return row.to_state.lower()

    def get_description(self, row: AlarmTransition) -> str:
        return describe(row)


class AcknowledgeSerializer(StrictSerializer):
    note = serializers.CharField(max_length=1000, required=False, allow_blank=True, default="")


class ShelveSerializer(StrictSerializer):
    until = StoredTimestamp(allow_null=True, help_text="At most 7 days from now; null: no longer shelved.")
    reason = serializers.CharField(max_length=1000, required=False, allow_blank=True, default="")


class EndSerializer(StrictSerializer):
    reason = serializers.CharField(max_length=1000, required=False, allow_blank=True, default="")
