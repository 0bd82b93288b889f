"""Playing rows one after the other and evaluating them. A row that fails or hangs does not stop the others."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Importing them adds their rows.
from . import brokers, caches, clocks, databases, fleets, keys, listeners, messages, mirrors, stale  # noqa: F401
from .bounds import most_seconds
from .invariants import LedgerComparison
from .rows import ROWS, Row, Skipped
from .scenario import Scenario, Setup
from .setup import restore

# A row's time besides its load: starts of listeners and servers, storing what was queued.
_ROW_SECONDS = 420.0
_LOADS = 5
_CLOSING_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row's comparison and evaluation; `passed` is None where it could not be played."""

    row: Row
    result: LedgerComparison | None
    measured: str
    failures: list[str]
    passed: bool | None
    seconds: float


def play(setup: Setup, row: Row) -> RowResult:
    """Play the row and evaluate it. An error while it runs is a failure of the row."""
    began = time.monotonic()
    failures: list[str] = []
    result: LedgerComparison | None
    try:
        with most_seconds(_CLOSING_SECONDS):
            scenario = Scenario(setup, row.name)
    except Exception as error:  # noqa: BLE001 - the other rows run all the same
        return RowResult(row, None, "", [_describe(error)], False, time.monotonic() - began)
    try:
        with most_seconds(_ROW_SECONDS + _LOADS * setup.seconds):
            row.play(scenario)
            result = scenario.result or scenario.settle()
    except Skipped as why:
        return RowResult(row, None, str(why), [], None, time.monotonic() - began)
    except Exception as error:  # noqa: BLE001 - a row that breaks must not end the others
        failures.append(_describe(error))
        _bounded(lambda: restore(setup.stack), failures)
        result = scenario.result or _last_look(scenario)
    finally:
        # For the next one: nothing of this row runs, and every server serves again.
        _bounded(scenario.close, failures)
        _bounded(lambda: restore(setup.stack), failures)
    failures += scenario.failures + (result.failures() if result else [])
    return _evaluate(row, result, "; ".join(scenario.measured), failures, time.monotonic() - began)


def _bounded(work: Callable[[], None], failures: list[str]) -> None:
    try:
        with most_seconds(_CLOSING_SECONDS):
            work()
    except Exception as error:  # noqa: BLE001 - the other rows are to be played all the same
        failures.append(f"afterwards {_describe(error)}")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}"


def _last_look(scenario: Scenario) -> LedgerComparison | None:
    try:
        with most_seconds(_CLOSING_SECONDS):
            return scenario.settle()
    except Exception:  # noqa: BLE001 - the row has failed already, and says why
        return None


def _evaluate(
    row: Row, result: LedgerComparison | None, measured: str, failures: list[str], seconds: float
) -> RowResult:
    if not row.control:
        return RowResult(row, result, measured, failures, not failures, seconds)
    # Of a control only the loss counts: without it the ledger would notice nothing.
    if result is not None and result.lost:
        return RowResult(row, result, measured or "lost messages, as it must", [], True, seconds)
    return RowResult(
        row, result, measured, ["the control lost nothing: the harness would not notice a loss"], False, seconds
    )


def play_all(
    setup: Setup,
    names: Sequence[str],
    say: Callable[[str], None],
    note: Callable[[Sequence[RowResult]], None] = lambda _: None,
) -> list[RowResult]:
    """Play the rows of these names (all without names) in the matrix's order, and return their results.

    `note` receives the results so far after each row, so that a run that is interrupted leaves them.
    """
    chosen = [ROWS[name] for name in names] if names else list(ROWS.values())
    outcomes: list[RowResult] = []
    for row in sorted(chosen, key=lambda one: one.order):
        say(f"{row.name}: {row.title}")
        outcomes.append(outcome := play(setup, row))
        say("   " + describe(outcome))
        note(outcomes)
    return outcomes


def describe(outcome: RowResult) -> str:
    """Return the result in one line."""
    if outcome.passed is None:
        return f"skipped: {outcome.measured}"
    counts = "no result"
    if result := outcome.result:
        counts = ", ".join(
            [f"{result.acknowledged} acknowledged", *(f"{n} {name}" for name, n in result.counts.items())]
        )
        counts += f"; lag p50 {result.lag(0.5):.3f} s, p99 {result.lag(0.99):.3f} s"
    evaluation = "passed" if outcome.passed else f"FAILED: {'; '.join(outcome.failures)}"
    return f"{counts}; {outcome.measured}; {outcome.seconds:.0f} s; {evaluation}"
