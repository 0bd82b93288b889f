"""Rows 5 to 7 and 29: faults of the broker and of the connection to it."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import urlsplit

from django_tenants.utils import schema_context

from telemetry.services.queries import missing_sequences
from tests.lossy_proxy import LossyProxy
from tests.processes import wait_until

from .ledger import Entry
from .rows import row
from .scenario import CHANGES, READY, Scenario

Counter = tuple[str, int, int, int]  # schema, device id, boot, seq


@row("5", "broker restarted (SIGTERM) twice")
def restarted(scenario: Scenario) -> None:
    listener, recoveries = scenario.listen(), []
    with scenario.load():
        for _ in range(2):
            scenario.spend(0.3)
            began = time.time()
            scenario.stack.restart("mosquitto")
            recoveries.append(scenario.await_progress(began))
        scenario.spend(0.4)
    scenario.measure(f"storing again after {max(recoveries):.1f} s at most")
    scenario.require(listener.occurrences(READY) >= 3, "the listener did not connect again")


@row("6", "broker killed (`kill -9`) while messages wait in it")
def killed(scenario: Scenario) -> None:
    """The broker loses what it had not saved; every lost number must be reported as missing."""
    listener = scenario.listen()
    with scenario.load():
        scenario.spend(0.3)
        listener.signal(signal.SIGSTOP)
        scenario.spend(0.1)
        scenario.stack.kill("mosquitto")
        scenario.stack.wait_ready("mosquitto")
        listener.signal(signal.SIGCONT)
        scenario.spend(0.3)
        # Nothing is queued now: only the messages of the last moments are lost.
        scenario.stack.kill("mosquitto")
        scenario.stack.wait_ready("mosquitto")
        scenario.spend(0.3)
    result = scenario.settle()
    numbered = _numbers(result.lost)
    reported = _reported(scenario)
    scenario.measure(
        f"{len(result.lost)} lost with the broker's memory; {len(numbered)} of them numbered, "
        f"{len(reported)} reported as missing"
    )
    scenario.require(numbered == reported, f"{len(numbered ^ reported)} numbers are lost or reported, and not both")
    result.is_brokers_loss = True


def _numbers(lost: Iterable[Entry]) -> set[Counter]:
    return {(e.schema, e.device_id, *e.counter) for e in lost if e.counter is not None}


def _reported(scenario: Scenario) -> set[Counter]:
    """Return the numbers that the platform reports as missing in the row's boots."""
    reported: set[Counter] = set()
    boots = defaultdict(set)
    for sender in scenario.fleet.senders:
        boots[sender.schema].add((sender.device_id, sender.boot))
    for schema, devices in boots.items():
        with schema_context(schema):
            found = missing_sequences.find_missing_sequences([device_id for device_id, _ in devices])
        for gap in found:
            if (gap.device_id, gap.boot) in devices:
                reported |= {(schema, gap.device_id, gap.boot, seq) for seq in range(gap.first, gap.last + 1)}
    return reported


@row("7", "broker stopped for 10 s (SIGSTOP), and continued")
def frozen(scenario: Scenario) -> None:
    scenario.listen()
    checker = scenario.start("manage.py", "check_device_health")
    with scenario.load():
        scenario.spend(0.3)
        before = scenario.count_in_tenants(CHANGES)
        scenario.stack.signal("mosquitto", signal.SIGSTOP)
        time.sleep(min(10.0, 0.4 * scenario.seconds))
        scenario.stack.signal("mosquitto", signal.SIGCONT)
        scenario.spend(0.3)
        changes = scenario.count_in_tenants(CHANGES) - before
    scenario.measure(f"{changes} changes of status")
    scenario.require(changes == 0, f"{changes} devices changed their status")
    scenario.require(checker.is_running, "the health checker has ended")


@row("29", "half-open connection: everything to and from the broker vanishes")
def half_open(scenario: Scenario) -> None:
    url = urlsplit(os.environ["MQTT_URL"])
    keepalive = float(os.environ.get("MQTT_KEEPALIVE_SECONDS", "60"))
    proxy = LossyProxy(url.port or 1883)
    through = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{proxy.port}").geturl()
    try:
        listener = scenario.listen(env={"MQTT_URL": through})
        with scenario.load():
            scenario.spend(0.2)
            proxy.freeze()
            began = time.time()
            # Only the existing connection is dead: a new one works.
            wait_until(lambda: listener.occurrences(READY) >= 2, 3 * keepalive, "the listener does not connect again")
            noticed = time.time() - began
            scenario.spend(0.2)
        scenario.measure(f"noticed after {noticed:.0f} s, with a keep-alive of {keepalive:.0f} s")
        scenario.require_in_time(
            noticed <= 1.5 * keepalive + 2, f"it took {noticed:.0f} s, more than 1.5 × the keep-alive"
        )
        scenario.settle()
    finally:
        proxy.close()
