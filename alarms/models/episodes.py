"""Alarm episodes with their transitions, the state of each evaluated series, and ends by hand."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from alarms.domain.rules import SEVERITIES
from devices.models import Device

from .rules import AlarmRule

SEVERITY_CHOICES = (
    ("info", _("info")),
    ("warning", _("warning")),
    ("minor", _("minor")),
    ("major", _("major")),
    ("critical", _("critical")),
)
assert tuple(value for value, _label in SEVERITY_CHOICES) == SEVERITIES  # noqa: S101 (a table that must agree)


class AlarmSeries(models.Model):
    """The state of a rule for a component of a device, after the last evaluated reading."""

    rule = models.ForeignKey(AlarmRule, on_delete=models.CASCADE, related_name="+", db_index=False)
    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="+")
    component = models.CharField(_("component"), max_length=63)
    # As `SeriesState.stored` returned it; null: nothing was evaluated.
    state = models.JSONField(null=True)
    # Of the kind no_data: when the silence is long enough for the next level, at the earliest.
    due_at = models.DateTimeField(null=True)

    class Meta:
        indexes: ClassVar = [
            # The silences to look at; a pass without any reads no row.
            models.Index(fields=["due_at"], name="alarm_series_due", condition=Q(due_at__isnull=False)),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["rule", "device", "component"], name="alarm_series_once"),
        ]

    def __str__(self) -> str:
        return f"{self.rule_id} {self.device_id} {self.component}"


class AlarmEpisode(models.Model):
    """An alarm of a component's metric, from its begin to its end; or a storm of a rule, without a device.

    Of the kind no_data, an alarm of a component has no metric, and one of a device neither metric nor component.
    """

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", _("active")
        RECOVERING = "RECOVERING", _("recovering")
        ENDED = "ENDED", _("ended")

    class AlarmSuppression(models.TextChoices):
        """Why people are not notified of an episode."""

        MAINTENANCE = "maintenance", _("in a maintenance window")
        SHELVED = "shelved", _("shelved")
        STORM = "storm", _("part of a storm")
        PARENT_OFFLINE = "parent_offline", _("its device is not online")

    id = models.BigAutoField(primary_key=True)
    rule = models.ForeignKey(AlarmRule, on_delete=models.CASCADE, related_name="episodes", verbose_name=_("rule"))
    rule_version = models.PositiveIntegerField(_("version of the rule"))
    device = models.ForeignKey(
        Device, on_delete=models.CASCADE, null=True, related_name="alarm_episodes", verbose_name=_("device")
    )
    component = models.CharField(_("component"), max_length=63, blank=True)
    metric = models.CharField(_("metric"), max_length=63, blank=True)
    state = models.CharField(_("state"), max_length=10, choices=State.choices)
    severity = models.CharField(_("severity"), max_length=8, choices=SEVERITY_CHOICES)
    started_at = models.DateTimeField(_("started"))
    ended_at = models.DateTimeField(_("ended"), null=True)
    # Of the last reading that changed the severity.
    value = models.FloatField(_("value"), null=True)
    unit = models.CharField(_("unit"), max_length=24, blank=True)
    # Found or changed in the past by late data.
    late = models.BooleanField(_("late"), default=False)
    # Late data showed that it never was.
    retracted_at = models.DateTimeField(_("retracted"), null=True)
    suppressed_by = models.CharField(_("suppressed by"), max_length=16, choices=AlarmSuppression.choices, blank=True)
    acknowledged_at = models.DateTimeField(_("acknowledged"), null=True)
    acknowledged_by = models.CharField(_("acknowledged by"), max_length=150, blank=True)
    note = models.CharField(_("note"), max_length=1000, blank=True)
    shelved_until = models.DateTimeField(_("shelved until"), null=True)
    # Of a storm: the episodes in it.
    count = models.PositiveIntegerField(_("count"), default=1)
    recorded_at = models.DateTimeField(_("recorded"), auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-started_at", "-id"]
        indexes: ClassVar = [
            # Lists, newest first: of all devices, and of one.
            models.Index(fields=["-started_at", "-id"], name="alarm_episode_list"),
            models.Index(fields=["device", "-started_at"], name="alarm_episode_device"),
            # The new episodes of a rule within a minute.
            models.Index(fields=["rule", "recorded_at"], name="alarm_episode_recent"),
        ]
        constraints: ClassVar = [
            # A series has one open episode of a rule.
            models.UniqueConstraint(
                fields=["rule", "device", "component", "metric"],
                condition=Q(ended_at__isnull=True, retracted_at__isnull=True),
                name="alarm_episode_open_once",
            ),
            models.UniqueConstraint(
                fields=["rule"],
                condition=Q(ended_at__isnull=True, device__isnull=True),
                name="alarm_storm_open_once",
            ),
            models.CheckConstraint(
                condition=Q(state="ENDED", ended_at__isnull=False)
                | (~Q(state="ENDED") & Q(ended_at__isnull=True))
                | Q(retracted_at__isnull=False),
                name="alarm_episode_ended_has_end",
            ),
        ]
        verbose_name = _("alarm")
        verbose_name_plural = _("alarms")

    def __str__(self) -> str:
        return f"{self.component}.{self.metric} {self.severity}"


class AlarmTransition(models.Model):
    """A change of an episode with its evidence. Rows are only added; late data marks some as superseded."""

    class Cause(models.TextChoices):
        READING = "reading", _("a reading")
        RULE_CHANGED = "rule_changed", _("the rule was changed")
        ENDED_BY_USER = "ended_by_user", _("ended by a user")
        STILL_RAISED = "still_raised", _("the condition still holds")
        ACKNOWLEDGED = "acknowledged", _("acknowledged")
        SHELVED = "shelved", _("shelved")
        UNSHELVED = "unshelved", _("no longer shelved")
        STORM = "storm", _("too many new alarms of the rule")
        SILENCE = "silence", _("no data")
        PARENT_OFFLINE = "parent_offline", _("the device is not online")

    id = models.BigAutoField(primary_key=True)
    episode = models.ForeignKey(
        AlarmEpisode, on_delete=models.CASCADE, related_name="transitions", verbose_name=_("alarm")
    )
    series = models.ForeignKey(AlarmSeries, on_delete=models.CASCADE, null=True, related_name="+", db_index=False)
    at = models.DateTimeField(_("time"))
    # The order of the changes of one instant.
    rank = models.PositiveSmallIntegerField(default=0)
    rank_value = models.FloatField(default=0)
    recorded_at = models.DateTimeField(_("recorded"), auto_now_add=True)
    from_state = models.CharField(_("from"), max_length=10)
    to_state = models.CharField(_("to"), max_length=10)
    from_severity = models.CharField(max_length=8, blank=True)
    severity = models.CharField(_("severity"), max_length=8, blank=True)
    cause = models.CharField(_("cause"), max_length=16, choices=Cause.choices)
    rule_version = models.PositiveIntegerField(_("version of the rule"))
    # The begin of the delay that passed.
    since = models.DateTimeField(_("since"), null=True)
    # The reading: its value, its own time, when it was received, and its message.
    value = models.FloatField(_("value"), null=True)
    unit = models.CharField(_("unit"), max_length=24, blank=True)
    reading_at = models.DateTimeField(null=True)
    received_at = models.DateTimeField(_("received"), null=True)
    fingerprint = models.UUIDField(null=True)
    user_label = models.CharField(_("user"), max_length=150, blank=True)
    note = models.CharField(_("note"), max_length=1000, blank=True)
    # Of a shelving.
    shelved_until = models.DateTimeField(_("shelved until"), null=True)
    late = models.BooleanField(_("late"), default=False)
    superseded_at = models.DateTimeField(_("superseded"), null=True)
    # The state after it, from which late data is evaluated; null: the change is not of the evaluation.
    after = models.JSONField(null=True)

    class Meta:
        ordering: ClassVar = ["episode", "at", "rank", "rank_value", "id"]
        indexes: ClassVar = [
            # The changes of a series that are true: the last before an event, and those after it.
            models.Index(
                fields=["series", "at", "rank", "rank_value"],
                name="alarm_transition_series",
                condition=Q(superseded_at__isnull=True, after__isnull=False),
            ),
        ]
        verbose_name = _("alarm transition")
        verbose_name_plural = _("alarm transitions")

    def __str__(self) -> str:
        return f"{self.from_state} → {self.to_state}"


class EpisodeEnd(models.Model):
    """An end by a user, or of a component that left the rule: an event that late data is evaluated with."""

    series = models.ForeignKey(AlarmSeries, on_delete=models.CASCADE, related_name="ends")
    at = models.DateTimeField(_("time"))
    # Whether the condition may raise the alarm again at once.
    is_final = models.BooleanField(default=False)
    user_id = models.BigIntegerField(null=True)
    user_label = models.CharField(_("user"), max_length=150, blank=True)
    note = models.CharField(_("note"), max_length=1000, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["series", "at"], name="alarm_end_once"),
        ]

    def __str__(self) -> str:
        return f"{self.series_id} {self.at}"
