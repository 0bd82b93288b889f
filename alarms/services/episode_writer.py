"""Writes what an evaluation found: episodes, and transitions with their evidence.

All functions use the current schema, in the transaction of the evaluation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import F
from django.db.models.functions import Coalesce

from alarms.domain.evaluation import OPEN_STATES, EpisodeChange, EpisodeState, Sample
from alarms.domain.revision import Advance, EpisodeRevision, RevisedChange
from alarms.models import AlarmEpisode, AlarmTransition

from .rule_set import WatchedSeries
from .storms import AlarmBudget

_EVIDENCE = """
SELECT time, received_at, fingerprint, topic FROM telemetry_message WHERE device_id = %s AND time = ANY(%s)
ORDER BY time, received_at DESC, fingerprint
"""
_CONFIRM = """
UPDATE alarms_alarmepisode e SET late = false FROM alarms_alarmseries s
WHERE s.id = ANY(%s) AND e.rule_id = s.rule_id AND e.device_id = s.device_id AND e.component = s.component
    AND e.late AND e.ended_at IS NULL AND e.retracted_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class ActingUser:
    """The user whose request caused a change, and the note."""

    label: str = ""
    note: str = ""


NO_USER = ActingUser()


def write_advance(
    watched: WatchedSeries, result: Advance, now: datetime, budget: AlarmBudget, user: ActingUser = NO_USER
) -> int:
    """Write the revisions of a series; return the number of transitions that were added."""
    AlarmTransition.objects.filter(pk__in=result.superseded).update(superseded_at=now)
    AlarmEpisode.objects.filter(pk__in=result.retracted).update(
        retracted_at=now, late=True, state=AlarmEpisode.State.ENDED, ended_at=Coalesce("ended_at", F("started_at"))
    )
    added = [one.change for revision in result.revisions for one in revision.changes if one.id is None]
    evidence = _evidence(watched, added)
    for revision in result.revisions:
        _write_revision(watched, revision, evidence, budget, user)
    return len(added)


def confirm(series: Iterable[int]) -> None:
    """Mark the open episodes of these as not of the past: a reading that arrived in time found them open."""
    numbers = list(series)
    if numbers:
        with connection.cursor() as cursor:
            cursor.execute(_CONFIRM, [numbers])


def _write_revision(
    watched: WatchedSeries,
    revision: EpisodeRevision,
    evidence: Mapping[Sample, tuple[Any, ...]],
    budget: AlarmBudget,
    user: ActingUser,
) -> None:
    first = revision.changes[0].change
    episode = revision.episode
    if episode is None:
        # An episode that was not recorded, because the tenant had too many: neither are its later changes.
        if first.from_state in OPEN_STATES or not budget.may_open(watched.rule, is_open=revision.is_open):
            return
        episode = _create(watched, revision, budget)
    else:
        _update(watched, episode, revision)
    new = [one for one in revision.changes if one.id is None]
    AlarmTransition.objects.bulk_create([_row(watched, episode, one, evidence, user) for one in new])
    for one in revision.changes:
        if one.id is not None:
            fields = {"since": one.change.since, "after": one.change.after.stored(), "rule_version": one.change.version}
            AlarmTransition.objects.filter(pk=one.id).update(episode=episode, **fields)


def _create(watched: WatchedSeries, revision: EpisodeRevision, budget: AlarmBudget) -> int:
    first = revision.changes[0].change
    fields = _episode_fields(revision, has_value=bool(watched.rule.metric))
    suppressed = "" if revision.late else budget.suppression(watched.rule, watched.device, fields["severity"])
    episode = AlarmEpisode.objects.create(
        rule_id=watched.rule.pk,
        rule_version=first.version,
        device_id=watched.device,
        component=watched.component,
        metric=watched.rule.metric,
        unit=watched.rule.unit,
        started_at=first.position.at,
        late=revision.late,
        suppressed_by=suppressed,
        **fields,
    )
    return episode.pk


def _update(watched: WatchedSeries, episode: int, revision: EpisodeRevision) -> None:
    first = revision.changes[0].change
    fields = _episode_fields(revision, has_value=bool(watched.rule.metric))
    if first.from_state not in OPEN_STATES:
        fields |= {"started_at": first.position.at, "rule_version": first.version}
    if revision.late:
        fields["late"] = True
    AlarmEpisode.objects.filter(pk=episode).update(**fields)


def _episode_fields(revision: EpisodeRevision, *, has_value: bool) -> dict[str, Any]:
    """Return the fields that follow from the changes; `value` only where a severity changed."""
    changes = [one.change for one in revision.changes]
    last = changes[-1]
    is_over = last.to_state is EpisodeState.ENDED
    fields: dict[str, Any] = {
        "state": str(last.to_state),
        "severity": last.from_severity if is_over else last.severity,
        "ended_at": last.position.at if is_over else None,
    }
    for change in changes:
        if has_value and change.severity not in ("", change.from_severity) and change.sample is not None:
            fields["value"] = change.sample.value
    return fields


def _row(
    watched: WatchedSeries,
    episode: int,
    one: RevisedChange,
    evidence: Mapping[Sample, tuple[Any, ...]],
    user: ActingUser,
) -> AlarmTransition:
    change = one.change
    received_at, fingerprint = evidence.get(change.sample, (None, None)) if change.sample else (None, None)
    return AlarmTransition(
        episode_id=episode,
        series_id=watched.pk,
        at=change.position.at,
        rank=change.position.rank,
        rank_value=change.position.value,
        from_state=str(change.from_state),
        to_state=str(change.to_state),
        from_severity=change.from_severity,
        severity=change.severity,
        cause=str(change.cause),
        rule_version=change.version,
        since=change.since,
        # Silence has readings as evidence, but no value: it is of all metrics together.
        value=change.sample.value if change.sample and watched.rule.metric else None,
        unit=watched.rule.unit,
        reading_at=change.sample.at if change.sample else None,
        received_at=received_at,
        fingerprint=fingerprint,
        user_label=user.label,
        note=user.note,
        late=one.late,
        after=change.after.stored(),
    )


def _evidence(watched: WatchedSeries, changes: Iterable[EpisodeChange]) -> dict[Sample, tuple[Any, ...]]:
    """Return when the readings were received, and the fingerprints of their messages."""
    samples = {change.sample for change in changes if change.sample is not None}
    if not samples:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_EVIDENCE, [watched.device, [one.at for one in samples]])
        rows = cursor.fetchall()
    by_time = {time: (received, mark) for time, received, mark, topic in rows if watched.component in topic.split("/")}
    return {one: by_time[one.at] for one in samples if one.at in by_time}
