"""Alarms of silence: what readings end, what time raises, and how the state of each component is kept.

Time raises nothing while no listener hears devices, while the tenant's messages wait, or before all stored readings
are evaluated. All functions use the current schema, in the transaction of the evaluation.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import orjson
from django.db import connection

from alarms.domain.evaluation import EventPosition, EventRank
from alarms.domain.revision import Advance
from alarms.domain.silence import (
    Outage,
    SilenceArrivals,
    SilenceRule,
    SilenceState,
    advance_by_readings,
    advance_by_time,
    next_look,
)
from alarms.models import AlarmSeries, EpisodeEnd
from devices import hooks
from telemetry.services.queries.changes import ChangedItem

from . import episode_writer
from .hearing import Hearing
from .rule_set import RuleSet, WatchedSeries
from .series_record import ReadingsRemoved
from .silence_record import SilenceDatabaseRecord
from .storms import AlarmBudget

# A reading of the last moment may be on its way from the device to the table.
GRACE = timedelta(seconds=5)
_DUE_AT_ONCE = 1000
_LONG_AGO = timedelta(days=36500)
_INSTANT = timedelta(microseconds=1)
# More than a device's clock may be ahead.
_AHEAD = timedelta(days=1)
_WRITE = """
UPDATE alarms_alarmseries s SET state = v.state::jsonb, due_at = v.due_at
FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[]) AS v(id, state, due_at) WHERE s.id = v.id
"""


@dataclass(slots=True)
class SilenceBatch:
    """The times of readings of a page, by the component of a rule that they are of."""

    times: dict[int, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    delayed: dict[int, set[EventPosition]] = field(default_factory=lambda: defaultdict(set))
    stored_at: dict[int, datetime] = field(default_factory=dict)


def collect(rule_set: RuleSet, items: Iterable[ChangedItem], late: timedelta) -> SilenceBatch:
    """Return the times of the readings of watched components; `late`: readings that arrived so much later."""
    batch = SilenceBatch()
    for item in items:
        series, at, *_ = item.columns
        for watched in rule_set.silences_by_series.get(series, ()):
            batch.times[watched.pk].append(at)
            batch.stored_at[watched.pk] = max(item.stored_at, batch.stored_at.get(watched.pk, item.stored_at))
            if item.stored_at - at > late:
                batch.delayed[watched.pk].add(EventPosition(at, EventRank.SAMPLE))
    return batch


def advance_readings(rule_set: RuleSet, batch: SilenceBatch, hearing: Hearing, now: datetime) -> int:
    """Evaluate the readings of a page; return the number of transitions that were added."""
    if not batch.times:
        return 0
    outages, budget = hearing.outages(), AlarmBudget(now)
    written: dict[int, tuple[SilenceState, datetime | None]] = {}
    transitions = 0
    for pk, state in _states(batch.times).items():
        watched = rule_set.silences[pk]
        rule = _rule(watched, outages)
        times = batch.times[pk]
        arrivals = SilenceArrivals(times, batch.stored_at[pk], batch.delayed.get(pk, frozenset()))
        known = state or SilenceState(min(times), arrivals.stored_at)
        after, result = _advance(watched, rule, known, arrivals)
        if result is not None:
            transitions += _write_advance(watched, result, now, budget)
        written[pk] = after, next_look(rule, after, None, GRACE)
    budget.write_storms()
    _write_states(written)
    return transitions


def advance_time(rule_set: RuleSet, hearing: Hearing, now: datetime) -> int:
    """Raise the levels whose delay has passed, after all stored readings; return the number of transitions."""
    due = AlarmSeries.objects.filter(due_at__lte=hearing.now).order_by("due_at")
    numbers = list(due.values_list("pk", flat=True)[:_DUE_AT_ONCE])
    unwatched = [pk for pk in numbers if pk not in rule_set.silences]
    if unwatched:
        AlarmSeries.objects.filter(pk__in=unwatched).update(due_at=None)
    numbers = [pk for pk in numbers if pk in rule_set.silences]
    if not numbers:
        return 0
    outages, budget = hearing.outages(), AlarmBudget(now)
    written: dict[int, tuple[SilenceState, datetime | None]] = {}
    transitions = 0
    for pk, state in _states(numbers).items():
        if state is None:
            continue
        watched = rule_set.silences[pk]
        rule = _rule(watched, outages)
        # Levels whose delay has passed since data last arrived: a device may send old data at this moment.
        longest = hearing.now - state.arrived - GRACE
        record = SilenceDatabaseRecord(watched)
        after, result = advance_by_time(rule, state, hearing.now, record, longest=longest)
        transitions += _write_advance(watched, result, now, budget)
        written[pk] = after, next_look(rule, after, hearing.now, GRACE)
    budget.write_storms()
    _write_states(written)
    return transitions


def prepare(rule_set: RuleSet, now: datetime) -> None:
    """Begin the evaluation of components that have none yet, and look again at those whose rule was changed."""
    rules = [one.pk for one in rule_set.rules.values() if one.silence]
    if not rules:
        return
    rows = AlarmSeries.objects.filter(rule__in=rules).values_list("pk", "state")
    states = {pk: SilenceState.from_stored(state) if state else None for pk, state in rows if pk in rule_set.silences}
    missing = [rule_set.silences[pk] for pk, state in states.items() if state is None]
    newest = hooks.newest_readings.first()({one.device for one in missing}) if missing else {}
    written: dict[int, tuple[SilenceState, datetime | None]] = {}
    for watched in missing:
        last = newest.get((watched.device, watched.component))
        if last is not None:
            written[watched.pk] = SilenceState(last, last, version=watched.rule.number), now
    for pk, state in states.items():
        if state is not None and state.version != rule_set.silences[pk].rule.number:
            written[pk] = replace(state, version=rule_set.silences[pk].rule.number), now
    _write_states(written)


def end_silence(
    watched: WatchedSeries, row: AlarmSeries, now: datetime, *, is_final: bool, user_id: int | None, user: Any
) -> None:
    """End the open episode of a component; unless it is final, the silence raises the alarm again at once."""
    if row.state is None:
        return
    state = SilenceState.from_stored(row.state)
    # After the newest reading: a device's clock may be ahead.
    at = max(now, state.last + _INSTANT)
    EpisodeEnd.objects.create(
        series=row, at=at, is_final=is_final, user_id=user_id, user_label=user.label, note=user.note
    )
    rule = _rule(watched, Hearing(now, is_heard=True).outages())
    after, result = advance_by_time(rule, state, at, SilenceDatabaseRecord(watched), longest=_LONG_AGO)
    budget = AlarmBudget(now)
    episode_writer.write_advance(watched, result, now, budget, user)
    budget.write_storms()
    _write_states({row.pk: (after, row.due_at)})


def missed(rule_set: RuleSet, now: datetime) -> SilenceBatch:
    """Return the stored readings after each state: the order of storing is lost."""
    batch = SilenceBatch()
    for pk, state in _states(rule_set.silences).items():
        if state is not None:
            begin = state.last + _INSTANT
            times = SilenceDatabaseRecord(rule_set.silences[pk]).reading_times(begin, now + _AHEAD)
            if times:
                batch.times[pk], batch.stored_at[pk] = times, now
                batch.delayed[pk] = {EventPosition(at, EventRank.SAMPLE) for at in times}
    return batch


def _advance(
    watched: WatchedSeries, rule: SilenceRule, state: SilenceState, arrivals: SilenceArrivals
) -> tuple[SilenceState, Advance | None]:
    record = SilenceDatabaseRecord(watched)
    try:
        return advance_by_readings(rule, state, arrivals, record)
    except ReadingsRemoved:
        # The past stays as it is recorded.
        newer = replace(arrivals, times=[at for at in arrivals.times if at > state.last])
        return advance_by_readings(rule, state, newer, record)


def _rule(watched: WatchedSeries, outages: list[Outage]) -> SilenceRule:
    return SilenceRule(watched.rule.silence, watched.interval, outages)


def _write_advance(watched: WatchedSeries, result: Advance, now: datetime, budget: AlarmBudget) -> int:
    if not (result.revisions or result.superseded or result.retracted):
        return 0
    return episode_writer.write_advance(watched, result, now, budget)


def _states(numbers: Iterable[int]) -> dict[int, SilenceState | None]:
    stored = AlarmSeries.objects.filter(pk__in=list(numbers)).values_list("pk", "state")
    return {pk: SilenceState.from_stored(state) if state else None for pk, state in stored}


def _write_states(written: Mapping[int, tuple[SilenceState, datetime | None]]) -> None:
    if written:
        texts = [orjson.dumps(state.stored()).decode() for state, _ in written.values()]
        with connection.cursor() as cursor:
            cursor.execute(_WRITE, [list(written), texts, [due for _, due in written.values()]])
