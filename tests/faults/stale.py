"""Row 6-stale: acknowledgements of an older connection, which mean other messages by now. And its control."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tenants.infrastructure.database import conninfo
from tests.processes import wait_until

from .rows import row
from .scenario import READY, Scene

# Of each of two tenants; fewer than a listener holds of both before it puts some aside.
MESSAGES = 100
# A listener looks every quarter of a second whether a tenant's tables are free.
_HELD_SECONDS = 2.0


@row("6-stale", "broker killed (`kill -9`) and without memory, while the listener holds what it had sent")
def stale(scene: Scene) -> None:
    """What the broker took after its restart is stored, whatever the listener held from before."""
    restarted_at = _play(scene)
    result = scene.settle()
    after = [entry for entry in result.lost if (entry.acked_at or 0.0) >= restarted_at]
    scene.measure(f"{len(result.lost)} lost with the broker's memory, {len(after)} of what it took after its restart")
    scene.require(not after, f"{len(after)} messages were acknowledged in others' place")
    result.is_brokers_loss = True


@row("control-stale-ack", "control: acknowledgements of an older connection, under row 6-stale", control=True)
def acknowledged_late(scene: Scene) -> None:
    restarted_at = _play(scene, "--without-connections")
    result = scene.settle()
    after = [entry for entry in result.lost if (entry.acked_at or 0.0) >= restarted_at]
    scene.measure(f"{len(after)} messages acknowledged in others' place and lost")
    # What the broker forgot is no sign that the control works.
    result.lost = after


def _play(scene: Scene, *options: str) -> float:
    """Play the fault; returns when the broker had no memory any more (Unix time).

    The listener holds the first tenant's messages, numbered by a broker that then forgets all; the second tenant's
    get the same numbers, and are held too. The first tenant's tables are freed: what is acknowledged now? The
    listener is killed before it can store the second tenant's.
    """
    first, second = scene.fleet.schemas[:2]
    listener = scene.listen(*options)
    with _locked(second):
        with _locked(first):
            _send(scene, first)
            _forget_everything(scene)
            restarted_at = time.time()
            wait_until(lambda: listener.occurrences(READY) >= 2, 30.0, "the listener does not connect again")
            # Without a subscription the broker would throw away what comes.
            time.sleep(1.0)
            _send(scene, second)
        time.sleep(_HELD_SECONDS)
        listener.kill()
    scene.listen()
    return restarted_at


def _send(scene: Scene, schema: str) -> None:
    """Messages of the tenant, until the broker has acknowledged them and the listener has read them."""
    with scene.load(senders=scene.fleet.of(schema)):
        time.sleep(MESSAGES / scene.rate)
    time.sleep(1.0)


def _forget_everything(scene: Scene) -> None:
    """What the broker had saved is gone as well."""
    (scene.stack.var / "mosquitto" / "mosquitto.db").unlink(missing_ok=True)
    scene.stack.kill("mosquitto")
    scene.stack.wait_ready("mosquitto")


@contextmanager
def _locked(schema: str) -> Iterator[None]:
    with psycopg.connect(conninfo(), connect_timeout=5) as holder:
        holder.execute(f'LOCK TABLE "{schema}".telemetry_message IN ACCESS EXCLUSIVE MODE')
        yield
        holder.rollback()
