"""One step of the evaluation of a tenant's stored readings: a page of them, in one transaction with its position.

The row of `AlarmProgress` is the lock: one process evaluates a tenant at a time, and one that dies leaves everything
as before its step. The position is in the order of storing, so nothing is evaluated twice or left out.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from django.conf import settings
from django.db import connection, transaction

from alarms.domain.evaluation import EndByUser, Event, EventPosition, EventRank, Sample, SeriesState, initial_state
from alarms.domain.revision import Advance, Arrivals, advance
from alarms.models import AlarmEpisode, AlarmProgress, AlarmRule, AlarmSeries, EpisodeEnd
from telemetry.services.queries.change_positions import PositionLost
from telemetry.services.queries.changes import ChangedItem, ChangeKind, ChangeSelection, changes_page
from telemetry.services.work_lock import work_state

from . import episode_writer, silences, storms
from .device_alarms import sync_devices
from .hearing import Hearing, observe
from .rule_set import RuleSet, WatchedSeries, load_rule_set, unwatched_open_series, watched_of
from .series_record import DatabaseRecord, ReadingsRemoved

logger = logging.getLogger(__name__)

_PAGE = 10_000
_RULES_SECONDS = 60.0
_SILENCE_SECONDS = 1.0
_FAR = EventPosition(datetime.max.replace(tzinfo=UTC) - timedelta(days=1), EventRank.SAMPLE)
_WRITE_STATES = """
UPDATE alarms_alarmseries s SET state = v.state::jsonb
FROM unnest(%s::bigint[], %s::text[]) AS v(id, state) WHERE s.id = v.id
"""


@dataclass(slots=True)
class StepOutcome:
    """The result of a step. `lags` are seconds from storing to the transition, of transitions that arrived in time."""

    readings: int = 0
    transitions: int = 0
    has_more: bool = False
    lags: list[float] = field(default_factory=list)


@dataclass(slots=True)
class RuleCache:
    """The rules of a tenant that this process has read, and when they are read again."""

    rule_set: RuleSet | None = None
    valid_until: float = 0.0
    # When silence is looked at again.
    silence_at: float = 0.0


@dataclass(slots=True)
class _Batch:
    """The events of a page, by the series of a rule that they are of."""

    events: dict[int, list[Event]] = field(default_factory=lambda: defaultdict(list))
    delayed: dict[int, set[EventPosition]] = field(default_factory=lambda: defaultdict(set))
    stored_at: dict[int, datetime] = field(default_factory=dict)


def evaluate_step(cache: RuleCache, monotonic: float) -> StepOutcome:
    """Evaluate the next page of the current tenant's stored readings. Another process that does so is not awaited."""
    try:
        with transaction.atomic():
            return _evaluate_locked(cache, monotonic)
    except Exception:
        # The cache may name rows that the transaction had added.
        cache.rule_set = None
        raise


def _evaluate_locked(cache: RuleCache, monotonic: float) -> StepOutcome:
    progress = AlarmProgress.objects.select_for_update(skip_locked=True).first()
    if progress is None:
        return StepOutcome()
    now = datetime.now(UTC)
    is_new = cache.rule_set is None or cache.rule_set.number != progress.rules_number
    if is_new or monotonic >= cache.valid_until:
        cache.rule_set = load_rule_set(progress.rules_number)
        cache.valid_until = monotonic + _RULES_SECONDS
        _apply_changed_rules(cache.rule_set, now)
        silences.prepare(cache.rule_set, now)
        cache.silence_at = 0.0
    return _evaluate_page(progress, cache, now, monotonic)


def _evaluate_page(progress: AlarmProgress, cache: RuleCache, now: datetime, monotonic: float) -> StepOutcome:
    selection = ChangeSelection(ChangeKind.READINGS)
    # Before the page is read: what is not in it was stored later.
    hearing = observe(progress) if cache.rule_set and cache.rule_set.silences else None
    try:
        page = changes_page(selection, after=progress.position, newest=progress.position is None, limit=_PAGE)
    except PositionLost as error:
        logger.warning("The position of the alarms is lost (%s): evaluating the stored readings from the states", error)
        page = changes_page(selection, newest=True, limit=_PAGE)
        outcome = _catch_up(cache, now, hearing)
    else:
        outcome = _evaluate_items(page.items, cache, now, hearing)
    if monotonic >= cache.silence_at:
        is_complete = not page.has_more and not page.behind_seconds
        outcome.transitions += _evaluate_silence(cache, hearing, now, is_complete=is_complete)
        cache.silence_at = monotonic + (_SILENCE_SECONDS if hearing else _RULES_SECONDS)
    storms.end_storms(now)
    if page.end != progress.position:
        progress.position = page.end
        progress.evaluated_at = now
        progress.save(update_fields=["position", "evaluated_at"])
    outcome.has_more = page.has_more
    return outcome


def _evaluate_silence(cache: RuleCache, hearing: Hearing | None, now: datetime, *, is_complete: bool) -> int:
    """Raise alarms of silence if it counts, and bring those of devices up to date; return the transitions."""
    rule_set = cache.rule_set
    assert rule_set is not None  # noqa: S101 (for the type checker)
    is_evidence = hearing is not None and hearing.is_heard and is_complete
    raised = silences.advance_time(rule_set, hearing, now) if hearing is not None and is_evidence else 0
    sync_devices(rule_set, now)
    return raised


def _evaluate_items(items: list[ChangedItem], cache: RuleCache, now: datetime, hearing: Hearing | None) -> StepOutcome:
    rule_set = cache.rule_set
    assert rule_set is not None  # noqa: S101 (for the type checker)
    unknown = {item.columns[0] for item in items} - rule_set.known
    if unknown and rule_set.rules:
        # New devices: their series are looked up once.
        rule_set = cache.rule_set = load_rule_set(rule_set.number)
        rule_set.known |= unknown
    batch = _Batch()
    late = timedelta(seconds=settings.ALARM_LATE_SECONDS)
    for item in items:
        series, at, value, _text = item.columns
        for watched in rule_set.by_series.get(series, ()) if value is not None else ():
            sample = Sample(at, value)
            batch.events[watched.pk].append(sample)
            batch.stored_at[watched.pk] = item.stored_at
            if item.stored_at - at > late:
                batch.delayed[watched.pk].add(sample.position)
    outcome = _advance_all(rule_set, batch, now)
    if rule_set.silences:
        found = silences.collect(rule_set, items, late)
        outcome.transitions += silences.advance_readings(rule_set, found, hearing or Hearing(now, is_heard=False), now)
    outcome.readings = len(items)
    return outcome


def _catch_up(cache: RuleCache, now: datetime, hearing: Hearing | None) -> StepOutcome:
    """Evaluate the stored readings after each state: the order of storing is lost, and with it only late readings."""
    rule_set = cache.rule_set
    assert rule_set is not None  # noqa: S101 (for the type checker)
    batch = _Batch()
    for pk, state in _states(rule_set, rule_set.watched).items():
        record = DatabaseRecord(rule_set.watched[pk])
        # Of a state that is older than the retention, the readings that are left.
        begin = max(state.position, EventPosition(work_state().readings_from or state.position.at, 0))
        batch.events[pk] = record.events(begin, _FAR)
        batch.delayed[pk] = {one.position for one in batch.events[pk]}
    outcome = _advance_all(rule_set, batch, now)
    if hearing is not None:
        outcome.transitions += silences.advance_readings(rule_set, silences.missed(rule_set, now), hearing, now)
    return outcome


def _advance_all(rule_set: RuleSet, batch: _Batch, now: datetime) -> StepOutcome:
    outcome, budget = StepOutcome(), storms.AlarmBudget(now)
    states = _states(rule_set, batch.events)
    changed: dict[int, SeriesState] = {}
    confirmed = []
    # A device that was removed meanwhile has no state.
    for pk, state in states.items():
        watched, events = rule_set.watched[pk], batch.events[pk]
        arrivals = Arrivals(events, batch.delayed.get(pk, frozenset()))
        result = _advance(watched, state, arrivals)
        changed[pk] = result.state
        added = episode_writer.write_advance(watched, result, now, budget) if _has_changes(result) else 0
        outcome.transitions += added
        if result.confirmed:
            confirmed.append(pk)
        if added and pk in batch.stored_at:
            outcome.lags.append((now - batch.stored_at[pk]).total_seconds())
    episode_writer.confirm(confirmed)
    budget.write_storms()
    _write_states(changed)
    return outcome


def _has_changes(result: Advance) -> bool:
    return bool(result.revisions or result.superseded or result.retracted)


def _advance(watched: WatchedSeries, state: SeriesState, arrivals: Arrivals, until: datetime | None = None) -> Advance:
    record, history = DatabaseRecord(watched), watched.rule.history
    try:
        return advance(history, state, arrivals, record, max_gap=watched.max_gap, until=until)
    except ReadingsRemoved:
        # The past stays as it is recorded: only what comes after the state is evaluated.
        newer = [event for event in arrivals.events if event.position > state.position]
        return advance(history, state, replace(arrivals, events=newer), record, max_gap=watched.max_gap, until=until)


def _states(rule_set: RuleSet, numbers: Any) -> dict[int, SeriesState]:
    stored = AlarmSeries.objects.filter(pk__in=list(numbers)).values_list("pk", "state")
    return {
        pk: SeriesState.from_stored(state) if state else initial_state(rule_set.watched[pk].rule.history)
        for pk, state in stored
    }


def _write_states(states: dict[int, SeriesState]) -> None:
    if states:
        texts = [orjson.dumps(state.stored()).decode() for state in states.values()]
        with connection.cursor() as cursor:
            cursor.execute(_WRITE_STATES, [list(states), texts])


def _apply_changed_rules(rule_set: RuleSet, now: datetime) -> None:
    """Make new versions effective for open episodes, and end those of series that no rule selects any more."""
    for row in unwatched_open_series(rule_set):
        end_series(row, now, is_final=True)
    open_ones = AlarmEpisode.objects.filter(ended_at=None, retracted_at=None, device__isnull=False)
    keys = set(open_ones.order_by().values_list("rule", "device", "component"))
    watched = [one for one in rule_set.watched.values() if (one.rule.pk, one.device, one.component) in keys]
    states = _states(rule_set, [one.pk for one in watched])
    changed: dict[int, SeriesState] = {}
    for one in watched:
        if states[one.pk].version != one.rule.number:
            result = _advance(one, states[one.pk], Arrivals(()), until=now)
            episode_writer.write_advance(one, result, now, storms.AlarmBudget(now))
            changed[one.pk] = result.state
    _write_states(changed)


def end_series(
    row: AlarmSeries, now: datetime, *, is_final: bool, user_id: int | None = None, user: Any = episode_writer.NO_USER
) -> None:
    """End the open episode of a series; unless it is final, the condition raises it again at once if it holds.

    The caller has locked the progress.
    """
    rule = AlarmRule.objects.select_related("metric__unit").get(pk=row.rule_id)
    watched = watched_of(rule, row)
    row.refresh_from_db()
    if watched.rule.silence:
        silences.end_silence(watched, row, now, is_final=is_final, user_id=user_id, user=user)
        return
    state = SeriesState.from_stored(row.state) if row.state else initial_state(watched.rule.history)
    # Behind everything that is evaluated: a device's clock may be ahead.
    at = max(now, state.position.at + timedelta(microseconds=1))
    EpisodeEnd.objects.create(
        series=row, at=at, is_final=is_final, user_id=user_id, user_label=user.label, note=user.note
    )
    result = _advance(watched, state, Arrivals([EndByUser(at, is_final)]))
    episode_writer.write_advance(watched, result, now, storms.AlarmBudget(now), user)
    _write_states({row.pk: result.state})
