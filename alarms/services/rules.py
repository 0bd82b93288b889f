"""Changes of alarm rules: each adds a version, by which readings from its effective time on are evaluated."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from alarms.models import AlarmProgress, AlarmRule, AlarmRuleVersion
from devices.models import Metric
from devices.services import audit, audit_changes
from telemetry.services.queries.changes import ChangeKind, ChangeSelection, changes_page
from tenants.infrastructure.error_codes import ErrorCode

from .levels import check_levels


def add_rule(acting_user: audit.Actor, **fields: Any) -> AlarmRule:
    """Create a rule with its first version, effective from now on. Raises ValidationError."""
    with transaction.atomic():
        progress = lock_progress()
        active = AlarmRule.objects.filter(removed_at=None)
        if active.count() >= settings.ALARM_RULES:
            text = _("A tenant can have at most %(most)d alarm rules. Remove one first.")
            raise ValidationError(text % {"most": settings.ALARM_RULES}, ErrorCode.QUOTA_EXCEEDED)
        if not active.filter(enabled=True).exists():
            # Nothing was evaluated until now: all stored readings are of the past.
            progress.position = changes_page(ChangeSelection(ChangeKind.READINGS), newest=True, limit=1).end
        rule = AlarmRule(**fields)
        _check(rule)
        rule.save()
        _add_version(rule, acting_user)
        _announce(progress)
        audit.record(acting_user, "add", rule, changes=audit_changes.added(rule))
    return rule


def change_rule(rule: AlarmRule, acting_user: audit.Actor, **fields: Any) -> AlarmRule:
    """Change a rule; a new version becomes effective. Raises ValidationError."""
    with transaction.atomic():
        progress = lock_progress()
        rule = AlarmRule.objects.select_for_update().get(pk=rule.pk)
        before = audit_changes.snapshot(rule)
        for name, value in fields.items():
            setattr(rule, name, value)
        _check(rule)
        rule.version += 1
        rule.save()
        _add_version(rule, acting_user)
        _announce(progress)
        changes = audit_changes.difference(before, audit_changes.snapshot(rule))
        audit.record(acting_user, "change", rule, ", ".join(sorted(fields)), changes=changes)
    return rule


def remove_rule(rule: AlarmRule, acting_user: audit.Actor) -> None:
    """Remove a rule: its open episodes end, and all of its episodes stay."""
    with transaction.atomic():
        progress = lock_progress()
        rule = AlarmRule.objects.select_for_update().get(pk=rule.pk)
        rule.version += 1
        rule.enabled = False
        rule.removed_at = datetime.now(UTC)
        rule.save()
        _add_version(rule, acting_user)
        _announce(progress)
        audit.record(acting_user, "remove", rule, changes=audit_changes.removed(rule))


def lock_progress() -> AlarmProgress:
    """Lock the tenant's evaluation until the end of the transaction, and return its progress."""
    AlarmProgress.objects.get_or_create(pk=1)
    return AlarmProgress.objects.select_for_update().get(pk=1)


def _check(rule: AlarmRule) -> None:
    _check_metric(rule)
    check_levels(rule.kind, rule.levels)
    named = AlarmRule.objects.filter(name=rule.name, removed_at=None).exclude(pk=rule.pk)
    if named.exists():
        text = _("There is already an alarm rule with the name %(name)s.")
        raise ValidationError({"name": ValidationError(text % {"name": rule.name}, ErrorCode.EXISTS)})


def _check_metric(rule: AlarmRule) -> None:
    if rule.kind == AlarmRule.Kind.NO_DATA:
        if rule.metric is not None:
            text = _("A rule of the kind no_data evaluates all metrics of a component together: leave out 'metric'.")
            raise ValidationError({"metric": text})
        if rule.max_gap_seconds is not None:
            text = _("A rule of the kind no_data has no longest gap: leave out 'max_gap_seconds'.")
            raise ValidationError({"max_gap_seconds": text})
        return
    if rule.metric is None:
        raise ValidationError({"metric": _("A rule of this kind needs a metric.")})
    if rule.metric.component_type_id != rule.component_type_id:
        text = _("The metric %(metric)s is not one of the component type %(type)s.")
        raise ValidationError({"metric": text % {"metric": rule.metric.key, "type": rule.component_type.key}})
    if rule.metric.value_type == Metric.ValueType.TEXT:
        raise ValidationError({"metric": _("A rule cannot compare texts: choose a metric of numbers or booleans.")})


def _add_version(rule: AlarmRule, acting_user: audit.Actor) -> None:
    actor = audit.named(acting_user)
    # Many devices send times of whole seconds: a reading of this second belongs to the version.
    now = datetime.now(UTC).replace(microsecond=0)
    last = AlarmRuleVersion.objects.filter(rule=rule).order_by("-number").first()
    AlarmRuleVersion.objects.create(
        rule=rule,
        number=rule.version,
        # Two changes of one microsecond have an order, too.
        effective_at=max(now, last.effective_at + timedelta(microseconds=1)) if last else now,
        levels=rule.levels if rule.enabled and rule.removed_at is None else [],
        user_id=actor.user_id,
        user_label=actor.user_label,
    )


def _announce(progress: AlarmProgress) -> None:
    progress.rules_number += 1
    progress.save(update_fields=["rules_number", "position"])
