"""Rows 1 to 4: what happens to listeners. And the controls: a listener without one of its ingredients."""

import signal
import time

from tests.processes import Process

from .rows import row
from .scenario import Scene

_KILLS = 10
_EXIT_SECONDS = 10.0
_RECOVERY_SECONDS = 10.0


@row("1", "listener killed (`kill -9`) ten times")
def killed(scene: Scene) -> None:
    play_kills(scene)


def play_kills(scene: Scene, *options: str, kills: int = _KILLS) -> None:
    """Kill the listener and start it again, at load: each time when it has caught up, so that each recovery is seen."""
    listener, recoveries, caught_up = scene.listen(*options), [], []
    with scene.load():
        for _ in range(kills):
            scene.spend(0.8 / kills)
            listener.kill()
            died = time.time()
            listener = scene.listen(*options)
            recoveries.append(scene.await_progress(died))
            caught_up.append(scene.await_caught_up(died))
        scene.spend(0.2)
    result = scene.settle()
    scene.measure(
        f"storing again after {max(recoveries):.1f} s at most, caught up after {max(caught_up):.1f} s at most"
    )
    late = result.lag(0.99)
    scene.require(late < _RECOVERY_SECONDS, f"p99 of the lag is {late:.1f} s, more than {_RECOVERY_SECONDS:.0f} s")


@row("2", "listener stopped (SIGTERM), and started again")
def told_to_stop(scene: Scene) -> None:
    listener, took = scene.listen(), []
    with scene.load():
        for _ in range(3):
            scene.spend(0.25)
            asked = time.monotonic()
            code = listener.stop(2 * _EXIT_SECONDS)
            took.append(time.monotonic() - asked)
            scene.require(code == 0, f"exit code {code}")
            listener = scene.listen()
        scene.spend(0.25)
    scene.measure(f"exit code 0 within {max(took):.1f} s")
    scene.require(max(took) < _EXIT_SECONDS, f"it took {max(took):.1f} s to stop")


@row("3", "listener stopped for half of the time (SIGSTOP), and continued")
def frozen(scene: Scene) -> None:
    listener = scene.listen()
    with scene.load():
        scene.spend(0.2)
        listener.signal(signal.SIGSTOP)
        scene.spend(0.5)
        listener.signal(signal.SIGCONT)
        woke = time.time()
        scene.spend(0.3)
    result = scene.settle()
    caught_up = max((at + lag for at, lag, _ in result.lags if at < woke), default=woke) - woke
    scene.measure(f"{0.5 * scene.seconds:.0f} s of messages stored {caught_up:.1f} s after it went on")


@row("4", "two listeners with one client id")
def same_client_id(scene: Scene) -> None:
    listeners = [scene.listen(), scene.listen()]
    with scene.load():
        scene.spend(0.7)
        connected = sum(listener.occurrences("Connected to the broker") for listener in listeners)
        told = sum(listener.occurrences("taken over") for listener in listeners)
        listeners[1].stop()
        scene.spend(0.3)
    scene.measure(f"{connected} connects by turns, of which the log warns {told} times")
    scene.require(told, "no listener says that its session is taken over")


@row("4-share", "two listeners share the subscription; one dies and comes back later")
def dead_member(scene: Scene) -> None:
    one, two = (_member(scene, number) for number in (1, 2))
    with scene.load():
        scene.spend(0.3)
        two.kill()
        died = time.time()
        scene.spend(0.4)
        waiting = _waiting(scene, died)
        scene.spend(0.2)
        _member(scene, 2)
        back = time.time()
        scene.spend(0.1)
    result = scene.settle()
    queued = [lag for at, lag, _ in result.lags if died <= at < back and at + lag >= back]
    share = len(queued) / max(1, sum(died <= at < back for at, _, _ in result.lags))
    scene.measure(
        f"{100 * share:.0f} % of the messages waited for the dead member ({waiting} after "
        f"{0.4 * scene.seconds:.0f} s), and were stored when it came back"
    )
    scene.require(one.is_running, "the member that lived has ended")


def _member(scene: Scene, number: int) -> Process:
    return scene.listen("--share", "ingest", client_id=f"{scene.client_id}-{number}")


def _waiting(scene: Scene, since: float) -> int:
    """Messages acknowledged since then, up to a second ago, that are not stored."""
    stored = scene.found().stored
    newest = time.time() - 1.0
    return sum(
        since <= (entry.acked_at or 0.0) < newest and entry.name not in stored for entry in scene.ledger.acknowledged()
    )


# --- controls: the ledger must show what each ingredient is good for ------------------------------------------


@row("control-ack", "control: automatic acknowledgement, under row 1", control=True)
def automatic_acknowledgement(scene: Scene) -> None:
    _away_and_killed(scene, "--without-manual-ack")


@row("control-session", "control: a session that is not persistent, under row 1", control=True)
def forgotten_session(scene: Scene) -> None:
    _away_and_killed(scene, "--without-session")


def _away_and_killed(scene: Scene, *options: str) -> None:
    """The database away, then the listener killed: what it had read and not stored must come again."""
    listener = scene.listen(*options)
    with scene.load():
        scene.spend(0.4)
        scene.stack.stop_server("postgres")
        scene.spend(0.2)
        listener.kill()
        scene.stack.start_server("postgres")
        scene.listen(*options)
        scene.spend(0.2)
