"""Row 6-stale: acknowledgements of an older connection, which now belong to other messages. And its control."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tenants.infrastructure.database import conninfo
from tests.processes import wait_until

from .rows import row
from .scenario import READY, Scenario

# Of each of two tenants; fewer than a listener buffers of both before it moves some to the overflow.
MESSAGES = 100
# A listener checks every quarter of a second whether a tenant's tables are unlocked.
_HELD_SECONDS = 2.0


@row("6-stale", "broker killed (`kill -9`) and without memory, while the listener holds what it had sent")
def stale(scenario: Scenario) -> None:
    """What the broker acknowledged after its restart is stored, whatever the listener buffered before."""
    restarted_at = _play(scenario)
    result = scenario.settle()
    after = [entry for entry in result.lost if (entry.acked_at or 0.0) >= restarted_at]
    scenario.measure(
        f"{len(result.lost)} lost with the broker's memory, {len(after)} of what it took after its restart"
    )
    scenario.require(not after, f"{len(after)} messages were acknowledged in others' place")
    result.is_brokers_loss = True


@row("control-stale-ack", "control: acknowledgements of an older connection, under row 6-stale", control=True)
def acknowledged_late(scenario: Scenario) -> None:
    restarted_at = _play(scenario, "--without-connections")
    result = scenario.settle()
    after = [entry for entry in result.lost if (entry.acked_at or 0.0) >= restarted_at]
    scenario.measure(f"{len(after)} messages acknowledged in others' place and lost")
    # The broker's own loss does not show that the control works.
    result.lost = after


def _play(scenario: Scenario, *options: str) -> float:
    """Play the fault; return when the broker restarted without its memory (Unix time).

    The listener buffers the first tenant's messages, numbered by a broker that then loses its state; the second
    tenant's get the same numbers and are buffered too. The first tenant's tables are unlocked, and the listener is
    killed before it can store the second tenant's.
    """
    first, second = scenario.fleet.schemas[:2]
    listener = scenario.listen(*options)
    with _locked(second):
        with _locked(first):
            _send(scenario, first)
            _lose_broker_state(scenario)
            restarted_at = time.time()
            wait_until(lambda: listener.occurrences(READY) >= 2, 30.0, "the listener does not connect again")
            # Without a subscription the broker would throw away what comes.
            time.sleep(1.0)
            _send(scenario, second)
        time.sleep(_HELD_SECONDS)
        listener.kill()
    scenario.listen()
    return restarted_at


def _send(scenario: Scenario, schema: str) -> None:
    """Send messages of the tenant, until the broker has acknowledged them and the listener has read them."""
    with scenario.load(senders=scenario.fleet.senders_of(schema)):
        time.sleep(MESSAGES / scenario.rate)
    time.sleep(1.0)


def _lose_broker_state(scenario: Scenario) -> None:
    """Kill the broker, and remove what it had saved."""
    (scenario.stack.var / "mosquitto" / "mosquitto.db").unlink(missing_ok=True)
    scenario.stack.kill("mosquitto")
    scenario.stack.wait_ready("mosquitto")


@contextmanager
def _locked(schema: str) -> Iterator[None]:
    with psycopg.connect(conninfo(), connect_timeout=5) as holder:
        holder.execute(f'LOCK TABLE "{schema}".telemetry_message IN ACCESS EXCLUSIVE MODE')
        yield
        holder.rollback()
