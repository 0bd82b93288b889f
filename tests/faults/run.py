"""Plays rows one after the other and judges them. One that fails or hangs keeps no other from being played."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Importing them adds their rows.
from . import brokers, caches, clocks, databases, fleets, keys, listeners, messages, stale  # noqa: F401
from .bounds import most_seconds
from .invariants import Result
from .rows import ROWS, Row, Skipped
from .scenario import Scene, Stage
from .setup import restore

# What a row takes beside its load: listeners that start, servers that come back, what waited being stored.
_ROW_SECONDS = 420.0
_LOADS = 5
_CLOSING_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row's result and the verdict: `passed` None where it could not be played."""

    row: Row
    result: Result | None
    measured: str
    failures: list[str]
    passed: bool | None
    seconds: float


def play(stage: Stage, row: Row) -> Outcome:
    """Play the row and judge it. What goes wrong in playing it is a failure of the row."""
    began = time.monotonic()
    failures: list[str] = []
    result: Result | None
    try:
        with most_seconds(_CLOSING_SECONDS):
            scene = Scene(stage, row.name)
    except Exception as error:  # noqa: BLE001 - nor may one that cannot begin
        return Outcome(row, None, "", [_words(error)], False, time.monotonic() - began)
    try:
        with most_seconds(_ROW_SECONDS + _LOADS * stage.seconds):
            row.play(scene)
            result = scene.result or scene.settle()
    except Skipped as why:
        return Outcome(row, None, str(why), [], None, time.monotonic() - began)
    except Exception as error:  # noqa: BLE001 - a row that breaks must not end the others
        failures.append(_words(error))
        _bounded(lambda: restore(stage.stack), failures)
        result = scene.result or _last_look(scene)
    finally:
        # For the next one: nothing of this row runs, and every server serves again.
        _bounded(scene.close, failures)
        _bounded(lambda: restore(stage.stack), failures)
    failures += scene.failures + (result.failures() if result else [])
    return _judge(row, result, "; ".join(scene.measured), failures, time.monotonic() - began)


def _bounded(work: Callable[[], None], failures: list[str]) -> None:
    try:
        with most_seconds(_CLOSING_SECONDS):
            work()
    except Exception as error:  # noqa: BLE001 - the other rows are to be played all the same
        failures.append(f"afterwards {_words(error)}")


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}"


def _last_look(scene: Scene) -> Result | None:
    try:
        with most_seconds(_CLOSING_SECONDS):
            return scene.settle()
    except Exception:  # noqa: BLE001 - the row has failed already, and says why
        return None


def _judge(row: Row, result: Result | None, measured: str, failures: list[str], seconds: float) -> Outcome:
    if not row.control:
        return Outcome(row, result, measured, failures, not failures, seconds)
    # Of a control only the loss counts: without it the ledger would notice nothing.
    if result is not None and result.lost:
        return Outcome(row, result, measured or "lost messages, as it must", [], True, seconds)
    return Outcome(
        row, result, measured, ["the control lost nothing: the harness would not notice a loss"], False, seconds
    )


def play_all(
    stage: Stage,
    names: Sequence[str],
    say: Callable[[str], None],
    note: Callable[[Sequence[Outcome]], None] = lambda _: None,
) -> list[Outcome]:
    """The rows of these names, in the matrix's order (all of them without names).

    `note` is told after each row what there is so far: who is ended half-way leaves that.
    """
    chosen = [ROWS[name] for name in names] if names else list(ROWS.values())
    outcomes: list[Outcome] = []
    for row in sorted(chosen, key=lambda one: one.order):
        say(f"{row.name}: {row.title}")
        outcomes.append(outcome := play(stage, row))
        say("   " + words_of(outcome))
        note(outcomes)
    return outcomes


def words_of(outcome: Outcome) -> str:
    """The outcome in a line."""
    if outcome.passed is None:
        return f"skipped: {outcome.measured}"
    counts = "no result"
    if result := outcome.result:
        counts = ", ".join(
            [f"{result.acknowledged} acknowledged", *(f"{n} {name}" for name, n in result.counts.items())]
        )
        counts += f"; lag p50 {result.lag(0.5):.3f} s, p99 {result.lag(0.99):.3f} s"
    verdict = "passed" if outcome.passed else f"FAILED: {'; '.join(outcome.failures)}"
    return f"{counts}; {outcome.measured}; {outcome.seconds:.0f} s; {verdict}"
