"""Rows 1 to 4: faults of listeners. And the controls: a listener without one of its safeguards."""

import signal
import time
from collections.abc import Mapping

from tests.processes import Process

from .rows import row
from .scenario import Scenario

_KILLS = 10
_EXIT_SECONDS = 10.0
_RECOVERY_SECONDS = 10.0


@row("1", "listener killed (`kill -9`) ten times")
def killed(scenario: Scenario) -> None:
    play_kills(scenario)


def play_kills(scenario: Scenario, *options: str, kills: int = _KILLS, env: Mapping[str, str] | None = None) -> None:
    """Kill the listener and start it again, at load, each time once it has caught up."""
    listener, recoveries, caught_up = scenario.listen(*options, env=env), [], []
    with scenario.load():
        for _ in range(kills):
            scenario.spend(0.8 / kills)
            listener.kill()
            died = time.time()
            listener = scenario.listen(*options, env=env)
            recoveries.append(scenario.await_progress(died))
            caught_up.append(scenario.await_caught_up(died))
        scenario.spend(0.2)
    result = scenario.settle()
    scenario.measure(
        f"storing again after {max(recoveries):.1f} s at most, caught up after {max(caught_up):.1f} s at most"
    )
    late = result.lag(0.99)
    scenario.require_in_time(
        late < _RECOVERY_SECONDS, f"p99 of the lag is {late:.1f} s, more than {_RECOVERY_SECONDS:.0f} s"
    )


@row("1-tls", "listener that reaches the broker over TLS killed (`kill -9`) three times")
def killed_over_tls(scenario: Scenario) -> None:
    play_kills(scenario, kills=3, env=scenario.tls())


@row("2", "listener stopped (SIGTERM), and started again")
def terminated(scenario: Scenario) -> None:
    listener, took = scenario.listen(), []
    with scenario.load():
        for _ in range(3):
            scenario.spend(0.25)
            asked = time.monotonic()
            code = listener.stop(2 * _EXIT_SECONDS)
            took.append(time.monotonic() - asked)
            scenario.require(code == 0, f"exit code {code}")
            listener = scenario.listen()
        scenario.spend(0.25)
    scenario.measure(f"exit code 0 within {max(took):.1f} s")
    scenario.require_in_time(max(took) < _EXIT_SECONDS, f"it took {max(took):.1f} s to stop")


@row("3", "listener stopped for half of the time (SIGSTOP), and continued")
def frozen(scenario: Scenario) -> None:
    listener = scenario.listen()
    with scenario.load():
        scenario.spend(0.2)
        listener.signal(signal.SIGSTOP)
        scenario.spend(0.5)
        listener.signal(signal.SIGCONT)
        woke = time.time()
        scenario.spend(0.3)
    result = scenario.settle()
    caught_up = max((at + lag for at, lag, _ in result.lags if at < woke), default=woke) - woke
    scenario.measure(f"{0.5 * scenario.seconds:.0f} s of messages stored {caught_up:.1f} s after it went on")


@row("4", "two listeners with one client id")
def same_client_id(scenario: Scenario) -> None:
    listeners = [scenario.listen(), scenario.listen()]
    with scenario.load():
        scenario.spend(0.7)
        connected = sum(listener.occurrences("Connected to the broker") for listener in listeners)
        warnings = sum(listener.occurrences("taken over") for listener in listeners)
        listeners[1].stop()
        scenario.spend(0.3)
    scenario.measure(f"{connected} connects by turns, of which the log warns {warnings} times")
    scenario.require(warnings, "no listener logs that its session is taken over")


@row("4-share", "two listeners share the subscription; one dies and comes back later")
def dead_member(scenario: Scenario) -> None:
    one, two = (_member(scenario, number) for number in (1, 2))
    with scenario.load():
        scenario.spend(0.3)
        two.kill()
        died = time.time()
        scenario.spend(0.4)
        waiting = _waiting(scenario, died)
        scenario.spend(0.2)
        _member(scenario, 2)
        back = time.time()
        scenario.spend(0.1)
    result = scenario.settle()
    queued = [lag for at, lag, _ in result.lags if died <= at < back and at + lag >= back]
    share = len(queued) / max(1, sum(died <= at < back for at, _, _ in result.lags))
    scenario.measure(
        f"{100 * share:.0f} % of the messages waited for the dead member ({waiting} after "
        f"{0.4 * scenario.seconds:.0f} s), and were stored when it came back"
    )
    scenario.require(one.is_running, "the member that lived has ended")


def _member(scenario: Scenario, number: int) -> Process:
    return scenario.listen("--share", "ingest", client_id=f"{scenario.client_id}-{number}")


def _waiting(scenario: Scenario, since: float) -> int:
    """Return how many messages acknowledged since then, up to a second ago, are not stored."""
    stored = scenario.found().stored
    newest = time.time() - 1.0
    return sum(
        since <= (entry.acked_at or 0.0) < newest and entry.name not in stored
        for entry in scenario.message_ledger.acknowledged()
    )


# --- controls: without a safeguard the ledger must show losses ------------------------------------------------


@row("control-ack", "control: automatic acknowledgement, under row 1", control=True)
def automatic_acknowledgement(scenario: Scenario) -> None:
    _kill_without_database(scenario, "--without-manual-ack")


@row("control-session", "control: a session that is not persistent, under row 1", control=True)
def forgotten_session(scenario: Scenario) -> None:
    _kill_without_database(scenario, "--without-session")


def _kill_without_database(scenario: Scenario, *options: str) -> None:
    """Stop the database, then kill the listener: its unstored messages must be delivered again."""
    listener = scenario.listen(*options)
    with scenario.load():
        scenario.spend(0.4)
        scenario.stack.stop_server("postgres")
        scenario.spend(0.2)
        listener.kill()
        scenario.stack.start_server("postgres")
        scenario.listen(*options)
        scenario.spend(0.2)
