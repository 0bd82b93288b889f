"""Acknowledged messages are stored exactly once, whichever process is killed: the short form of `make faults`.

Each row for some seconds, on this run's servers. The negative controls leave out one ingredient and must lose
messages, so that we know that the count can fail.
"""

import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from management.embedded.stack import EmbeddedStack
from tenants.infrastructure.database import conninfo
from tests.faults import report, run
from tests.faults.fleet import Fleet
from tests.faults.invariants import compare
from tests.faults.ledger import Entry, Ledger
from tests.faults.rows import ROWS, Row
from tests.faults.scenario import Scenario, Setup
from tests.faults.stale import MESSAGES
from tests.faults.stored_rows import TableContents

RATE, SECONDS = 200.0, 3.0


@pytest.fixture
def setup(live_db: None, stack: EmbeddedStack, tenant_a: Any, tenant_b: Any, tmp_path: Path) -> Setup:
    fleet = Fleet([tenant_a, tenant_b], 4)
    return Setup(stack, fleet, RATE, SECONDS, tmp_path, quiet_seconds=2.5, is_timed=False)


def played(setup: Setup, row: Row) -> run.RowResult:
    outcome = run.play(setup, row)
    assert outcome.result is not None, outcome.failures
    # The rows of stale acknowledgements send a number of messages instead of a rate for a time.
    sent = 2 * MESSAGES if "stale" in row.name else RATE * SECONDS
    assert outcome.result.acknowledged > 0.5 * sent, "the load was too small to show anything"
    return outcome


def many_faults(scenario: Scenario) -> None:
    """The listener killed and stopped, PostgreSQL killed and stopped, the broker restarted, Valkey killed."""
    stack, listener = scenario.stack, scenario.listen()
    with scenario.load():
        scenario.spend(0.3)
        listener.kill()
        listener = scenario.listen()
        scenario.spend(0.3)
        stack.kill("postgres")
        stack.wait_ready("postgres", 15)
        scenario.spend(0.3)
        listener.signal(signal.SIGSTOP)
        scenario.spend(0.5)
        listener.signal(signal.SIGCONT)
        stack.restart("mosquitto", 15)
        scenario.spend(0.3)
        stack.kill("valkey")
        stack.wait_ready("valkey", 15)
        stack.stop_server("postgres")
        scenario.spend(0.3)
        listener.kill()
        stack.start_server("postgres")
        listener = scenario.listen()
        scenario.spend(0.3)
    scenario.settle()
    scenario.require(listener.stop() == 0, "SIGTERM does not end the listener cleanly")


def test_every_acknowledged_message_is_stored_exactly_once(setup: Setup) -> None:
    outcome = played(setup, Row("many", "many faults", many_faults))
    assert outcome.passed, run.describe(outcome)


@pytest.mark.parametrize("name", ["1-tls", "6", "6-stale", "19"])
def test_a_row_of_the_matrix(setup: Setup, name: str) -> None:
    outcome = played(setup, ROWS[name])
    assert outcome.passed, run.describe(outcome)


@pytest.mark.parametrize("name", ["control-ack", "control-session", "control-stale-ack"])
def test_a_control_loses_messages(setup: Setup, name: str) -> None:
    outcome = played(setup, ROWS[name])
    assert outcome.passed, run.describe(outcome)
    assert outcome.result is not None
    assert outcome.result.lost


def test_a_control_that_loses_nothing_fails(setup: Setup) -> None:
    harmless = Row("harmless", "nothing is left out", _nothing, control=True)
    assert run.play(setup, harmless).passed is False


def _nothing(scenario: Scenario) -> None:
    scenario.listen()
    with scenario.load():
        scenario.spend(0.3)


# --- the ledger itself ----------------------------------------------------------------------------------------


def book(*entries: Entry) -> Ledger:
    message_ledger = Ledger()
    for entry in entries:
        message_ledger.add(entry)
    return message_ledger


def entry(number: int, *, acked: bool = True, **members: object) -> Entry:
    made = Entry("t_a", number, f"telemetry/a/{number}/dht22", b"%d" % number, None, **members)  # type: ignore[arg-type]
    made.acked_at = time.time() if acked else None
    return made


def test_the_comparison_counts_what_is_wrong() -> None:
    good, lost, unsent, doubled, moved = (entry(number) for number in range(5))
    unsent.acked_at = None
    phantom = entry(9)
    now = time.time()
    found = TableContents(
        stored={
            good.name: [("t_a", 0, now)],
            doubled.name: [("t_a", 3, now), ("t_a", 3, now)],
            moved.name: [("t_b", 4, now)],
            phantom.name: [("t_a", 9, now)],
        },
        readings=10,
    )
    result = compare(book(good, lost, unsent, doubled, moved), found)
    assert result.lost == [lost]
    assert result.counts == {"lost": 1, "doubled": 1, "phantom": 1, "wrong schema": 1}


def test_what_a_limit_refused_is_not_lost_and_what_must_be_stored_is() -> None:
    limited, good = entry(1, fate="either"), entry(2)
    found = TableContents()
    found.totals["t_a"]["rate_limited"] = 2
    found.totals["t_a"]["received"] = 2
    assert compare(book(limited, good), found).lost == [good]


def test_a_good_message_that_was_refused_and_a_bad_one_that_was_stored_are_told() -> None:
    good, bad = entry(1), entry(2, fate="refused")
    found = TableContents(
        stored={bad.name: [("t_a", 2, time.time())]}, refused={good.name: [("t_a", "bad_signature")]}, readings=2
    )
    assert compare(book(good, bad), found).broken[:2] == [
        "1 good messages refused: bad_signature",
        "1 bad messages stored",
    ]


def test_totals_that_do_not_add_up_are_told() -> None:
    found = TableContents()
    found.totals["t_a"].update(received=3, stored=1, duplicates=1)
    assert compare(book(), found).failures() == [
        "t_a: 3 received, 2 accounted for",
        "the totals say 1 stored, the archive holds 0",
    ]


def test_the_report_goes_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    document = tmp_path / "reliability.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write("| new |", document)
    assert document.read_text() == f"before\n{report.BEGIN}\n| new |\n{report.END}\nafter\n"
    document.write_text("no place\n")
    with pytest.raises(ValueError, match="no place for the table"):
        report.write("| new |", document)


def outcome(name: str, *failures: str) -> run.RowResult:
    return run.RowResult(ROWS[name], None, f"measured {name}", list(failures), not failures, 1.0)


def test_rows_that_were_played_again_replace_the_earlier_ones() -> None:
    before = report.table(
        [outcome("1"), outcome("2", "slow"), outcome("3", "lost")], rate=9, seconds=60, tenants=1, devices=2
    )
    assert "\n1 of 3 rows passed.\n" in before
    after = report.replace_rows(before, [outcome("2")], seconds=30)
    assert after.splitlines()[0] == before.splitlines()[0]
    assert re.search(r"\nPlayed again on .* UTC, 30 s a row: 2\.\n2 of 3 rows passed\.\n\n\| row", after)
    assert next(line for line in after.splitlines() if line.startswith("| 2 ")).endswith("| passed |")
    assert "| **FAILED**: lost |" in after
    again = report.replace_rows(after, [outcome("3")], seconds=60)
    assert again.count("Played again on") == 2
    assert "\n3 of 3 rows passed.\n" in again
    with pytest.raises(ValueError, match="no row 4"):
        report.replace_rows(again, [outcome("4")], seconds=60)


def test_every_row_of_the_matrix_that_concerns_ingest_is_there() -> None:
    numbers = {int(row.name.split("-")[0]) for row in ROWS.values() if not row.control}
    assert numbers == {*range(1, 21), *range(26, 31)}
    assert {row.name for row in ROWS.values() if row.control} >= {"control-ack", "control-session", "control-commit"}


# --- unattended -----------------------------------------------------------------------------------------------


def test_a_row_that_hangs_or_breaks_does_not_keep_the_next_from_being_played(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a database that is frozen, for ever; the next finds every server as it was."""
    monkeypatch.setattr(run, "_ROW_SECONDS", 3.0)
    monkeypatch.setattr(run, "_LOADS", 0)
    rows = {name: Row(name, name, play) for name, play in (("1", _hang), ("2", _break), ("3", _nothing))}
    monkeypatch.setattr(run, "ROWS", rows)
    noted: list[int] = []

    def note(so_far: Sequence[run.RowResult]) -> None:
        noted.append(len(so_far))
        monkeypatch.setattr(run, "_ROW_SECONDS", 90.0)

    outcomes = run.play_all(setup, [], lambda _: None, note)
    assert [outcome.passed for outcome in outcomes] == [False, False, True], list(map(run.describe, outcomes))
    assert "TookTooLong" in outcomes[0].failures[0]
    assert "away with it" in outcomes[1].failures[0]
    assert noted == [1, 2, 3]


def _hang(scenario: Scenario) -> None:
    scenario.stack.stop_server("valkey")
    with psycopg.connect(conninfo()) as connection:
        scenario.stack.signal("postgres", signal.SIGSTOP)
        connection.execute("SELECT 1")


def _break(scenario: Scenario) -> None:
    scenario.stack.stop_server("mosquitto")
    raise ValueError("away with it")
