"""Alarm rules, the versions by which readings are evaluated, and the position up to which they are."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from devices.models import ComponentType, Metric


class AlarmRule(models.Model):
    """A rule as it is now. Written by `alarms.services.rules` only, which adds a version for each change.

    A removed rule stays for the episodes that it raised.
    """

    class Kind(models.TextChoices):
        THRESHOLD = "threshold", _("above or below a limit")
        OUTSIDE = "outside", _("outside a band")
        NO_DATA = "no_data", _("no data for too long")

    name = models.CharField(_("name"), max_length=120)
    description = models.TextField(_("description"), blank=True, max_length=2000)
    kind = models.CharField(_("kind"), max_length=12, choices=Kind.choices)
    component_type = models.ForeignKey(
        ComponentType, on_delete=models.PROTECT, related_name="alarm_rules", verbose_name=_("component type")
    )
    # Null: of the kind no_data, which evaluates all metrics of a component together.
    metric = models.ForeignKey(
        Metric, on_delete=models.PROTECT, null=True, blank=True, related_name="alarm_rules", verbose_name=_("metric")
    )
    # A stored device selector; empty: all devices.
    selector = models.JSONField(default=dict, db_default={})
    # As the API has them; see `alarms.domain.rule_levels`.
    levels = models.JSONField(_("levels"))
    max_gap_seconds = models.PositiveIntegerField(_("longest gap in seconds"), null=True, blank=True)
    enabled = models.BooleanField(_("enabled"), default=True)
    version = models.PositiveIntegerField(_("version"), default=1)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)
    removed_at = models.DateTimeField(_("removed"), null=True, editable=False)

    class Meta:
        ordering: ClassVar = ["name", "id"]
        constraints: ClassVar = [
            # Messages and lists name a rule by its name.
            models.UniqueConstraint(fields=["name"], condition=Q(removed_at__isnull=True), name="alarm_rule_name_once"),
            models.CheckConstraint(
                condition=Q(kind="no_data", metric__isnull=True) | (~Q(kind="no_data") & Q(metric__isnull=False)),
                name="alarm_rule_has_metric",
            ),
        ]
        verbose_name = _("alarm rule")
        verbose_name_plural = _("alarm rules")

    def __str__(self) -> str:
        return self.name


class AlarmRuleVersion(models.Model):
    """A version of a rule; it evaluates readings of its effective time and later. Rows are only added."""

    rule = models.ForeignKey(AlarmRule, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(_("version"))
    effective_at = models.DateTimeField(_("effective from"))
    # Empty: disabled or removed.
    levels = models.JSONField(_("levels"))
    user_id = models.BigIntegerField(null=True)
    user_label = models.CharField(_("user"), max_length=150, blank=True)

    class Meta:
        ordering: ClassVar = ["rule", "number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["rule", "number"], name="alarm_rule_version_once"),
            # The versions of a rule are ordered by their times.
            models.UniqueConstraint(fields=["rule", "effective_at"], name="alarm_rule_version_time_once"),
        ]

    def __str__(self) -> str:
        return f"{self.rule_id} v{self.number}"


class AlarmProgress(models.Model):
    """The position up to which the tenant's readings are evaluated: one row, locked by each evaluation.

    The position and what follows from the readings before it are written in one transaction.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    # A token of `telemetry.services.queries.changes`.
    position = models.JSONField(null=True)
    # Counts the changes of rules: a process that has read the rules of this number need not read them again.
    rules_number = models.BigIntegerField(default=0)
    evaluated_at = models.DateTimeField(null=True)
    # The newest sign of a listener, by Redis' clock. Null: silence was not evaluated yet.
    listener_seen_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(id=1), name="one_row_of_alarm_progress"),
        ]

    def __str__(self) -> str:
        return str(self.position)


class ListenerOutage(models.Model):
    """A time in which the tenant's messages could not be received or stored: no silence counts in it."""

    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["starts_at", "id"]
        indexes: ClassVar = [
            # The newest one, which is extended, and those after the begin of a silence.
            models.Index(fields=["ends_at"], name="listener_outage_end"),
        ]

    def __str__(self) -> str:
        return f"{self.starts_at} – {self.ends_at}"
