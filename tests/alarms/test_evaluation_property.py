"""Random histories against a simple model, and the deliberate defects that the comparison must find."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from alarms.domain import evaluation, revision
from alarms.domain.evaluation import EpisodeState, EventPosition, EventRank
from alarms.domain.revision import Arrivals
from alarms.domain.rules import Band
from tests.alarms import histories
from tests.alarms.histories import MAX_GAP, MemoryRecord, Script, play, random_script, recorded_changes
from tests.alarms.oracle import expected_changes

HISTORIES = 4000
DEFECT_HISTORIES = 1000


def mismatch(script: Script) -> str:
    """Return how the record differs from the model; empty: it does not."""
    record, state, versions = play(script)
    until = max(EventPosition(versions[-1].effective_at, EventRank.VERSION), state.position)
    expected = expected_changes(versions, record.events_stored, MAX_GAP, until=until)
    found = recorded_changes(record)
    if found != expected:
        return f"changes: {found} instead of {expected}"
    return chain_error(record)


def chain_error(record: MemoryRecord) -> str:
    """Return what is wrong with the episodes: each is a chain of changes from its begin, and one is open at most."""
    chains: dict[int, list[Any]] = {}
    for one in sorted(record.changes.values(), key=lambda one: one.change.position):
        chains.setdefault(one.episode, []).append(one.change)
    for episode, chain in chains.items():
        if record.episodes[episode].retracted:
            return f"episode {episode} is retracted and has changes"
        if chain[0].from_state not in ("NORMAL", "PENDING"):
            return f"episode {episode} begins with {chain[0].from_state}"
        for before, after in pairwise(chain):
            if before.to_state != after.from_state or before.severity != after.from_severity:
                return f"episode {episode} has a change that does not follow from the one before"
    missing = [number for number, one in record.episodes.items() if not one.retracted and number not in chains]
    if missing:
        return f"episodes {missing} have no changes and are not retracted"
    open_ones = [number for number, chain in chains.items() if chain[-1].to_state != EpisodeState.ENDED]
    return f"{open_ones} are open" if len(open_ones) > 1 else ""


@pytest.mark.parametrize("seed", range(4))
def test_the_record_is_that_of_the_model_whatever_the_order_of_arrival(seed: int) -> None:
    changes = 0
    for number in range(HISTORIES // 4):
        source = random.Random(f"{seed}/{number}")
        script = random_script(source)
        assert mismatch(script) == "", f"history {seed}/{number}"
        changes += len(script.samples)
    assert changes > HISTORIES


def test_data_in_order_is_never_late() -> None:
    for number in range(500):
        script = random_script(random.Random(number))
        ordered = sorted(script.samples, key=lambda one: one.position)
        record, _, _ = play(Script(script.versions[:1], ordered, [[one] for one in ordered]))
        assert not any(record.late.values())
        assert not any(one.retracted or one.late for one in record.episodes.values())


def test_an_episode_that_is_found_in_the_past_is_late() -> None:
    found = 0
    for number in range(500):
        script = random_script(random.Random(number))
        ordered = sorted(script.samples, key=lambda one: one.position)
        last = replace(ordered[-1], at=ordered[-1].at + timedelta(days=1), value=0.0)
        record, _, _ = play(Script(script.versions[:1], [*ordered, last], [[last], ordered]))
        assert all(record.late[one] for one in record.changes)
        assert all(one.late for one in record.episodes.values())
        found += len(record.episodes)
    assert found > 200


# --- deliberate defects -----------------------------------------------------------------------------------------


def _in_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    right = revision.advance

    def wrong(history: Any, state: Any, arrivals: Arrivals, record: Any, **options: Any) -> Any:
        events = [one for one in arrivals.events if one.position > state.position]
        return right(history, state, Arrivals(events), record, **options)

    monkeypatch.setattr(revision, "advance", wrong)


def _gap_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    right = revision.advance
    monkeypatch.setattr(
        revision, "advance", lambda *args, **options: right(*args, **{**options, "max_gap": timedelta(days=9)})
    )


def _gap_restarts_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    right = evaluation._sampled

    def wrong(version: Any, state: Any, sample: Any, max_gap: timedelta) -> Any:
        if state.last is not None and sample.at - state.last.at > max_gap:
            levels = tuple(evaluation.LevelState(one.is_raised) for one in state.levels)
            state = replace(state, levels=levels)
        return right(version, state, sample, max_gap)

    monkeypatch.setattr(evaluation, "_sampled", wrong)


def _restart_forgets_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(stored: dict[str, Any]) -> Any:
        state = right(stored)
        return replace(state, levels=tuple(evaluation.LevelState(one.is_raised) for one in state.levels))

    right = evaluation.SeriesState.from_stored
    monkeypatch.setattr(evaluation.SeriesState, "from_stored", staticmethod(wrong))


def _restart_raises_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(stored: dict[str, Any]) -> Any:
        state = right(stored)
        return replace(state, levels=(evaluation.LevelState(),) * len(state.levels))

    right = evaluation.SeriesState.from_stored
    monkeypatch.setattr(evaluation.SeriesState, "from_stored", staticmethod(wrong))


def _killed_step_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    right = revision.advance

    def wrong(history: Any, state: Any, arrivals: Arrivals, record: MemoryRecord, **options: Any) -> Any:
        result = right(history, state, arrivals, record, **options)
        if "until" not in options:  # the killed step of a script
            record.write(result)
        return result

    monkeypatch.setattr(revision, "advance", wrong)


def _superseded_changes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    right = revision.advance
    monkeypatch.setattr(revision, "advance", lambda *args, **options: replace(right(*args, **options), superseded=()))


def _no_hysteresis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alarms.domain.rules.Level.clears", lambda level, value: not level.raises(value))
    monkeypatch.setattr("tests.alarms.oracle.Level.clears", lambda level, value: not level.clear_band.is_outside(value))
    monkeypatch.setattr(
        evaluation,
        "_level_sampled",
        _with_clear_band(evaluation._level_sampled),
    )


def _with_clear_band(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda level, *rest: right(replace(level, clear_band=Band(high=level.raise_band.high)), *rest)


def _new_version_ends_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    right = evaluation._change_version

    def wrong(*args: Any) -> Any:
        state = right(*args)
        return replace(state, levels=(evaluation.LevelState(),) * len(state.levels))

    monkeypatch.setattr(evaluation, "_change_version", wrong)


def _late_episodes_start_new_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "_open_episode", lambda change: None)


def _still_raised_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    right = evaluation._end_by_user
    monkeypatch.setattr(
        evaluation,
        "_end_by_user",
        lambda changes, history, state, event: right(changes, history, replace(state, last=None), event),
    )


DEFECTS = (
    _in_order_of_arrival,
    _gap_counts,
    _gap_restarts_the_delay,
    _restart_forgets_delays,
    _restart_raises_again,
    _killed_step_is_recorded,
    _superseded_changes_stay,
    _no_hysteresis,
    _new_version_ends_episodes,
    _late_episodes_start_new_chains,
    _still_raised_is_forgotten,
)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda one: one.__name__.strip("_"))
def test_a_deliberate_defect_is_found(
    defect: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    for number in range(DEFECT_HISTORIES):
        try:
            if mismatch(random_script(random.Random(f"0/{number}"))):
                return
        except (AttributeError, IndexError, KeyError, StopIteration):
            return
    pytest.fail("no history shows the defect")


def test_the_scripts_have_all_kinds_of_steps() -> None:
    steps = [step for number in range(100) for step in random_script(random.Random(number)).steps]
    kinds = {type(step).__name__ for step in steps}
    assert kinds == {"list", "tuple", "RuleVersion", "str"}
    assert timedelta(seconds=600) > histories.MAX_GAP
