"""Rows 5 to 7 and 29: what happens to the broker, and to the way to it."""

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
from .scenario import CHANGES, READY, Scene

Counter = tuple[str, int, int, int]  # schema, device id, boot, seq


@row("5", "broker restarted (SIGTERM) twice")
def restarted(scene: Scene) -> None:
    listener, recoveries = scene.listen(), []
    with scene.load():
        for _ in range(2):
            scene.spend(0.3)
            began = time.time()
            scene.stack.restart("mosquitto")
            recoveries.append(scene.await_progress(began))
        scene.spend(0.4)
    scene.measure(f"storing again after {max(recoveries):.1f} s at most")
    scene.require(listener.occurrences(READY) >= 3, "the listener did not connect again")


@row("6", "broker killed (`kill -9`) while messages wait in it")
def killed(scene: Scene) -> None:
    """What the broker had not saved is lost, and every lost number must be reported as a gap of its device."""
    listener = scene.listen()
    with scene.load():
        scene.spend(0.3)
        listener.signal(signal.SIGSTOP)
        scene.spend(0.1)
        scene.stack.kill("mosquitto")
        scene.stack.wait_ready("mosquitto")
        listener.signal(signal.SIGCONT)
        scene.spend(0.3)
        # Without warning, and nothing waits: what is lost now is what came within the last moments.
        scene.stack.kill("mosquitto")
        scene.stack.wait_ready("mosquitto")
        scene.spend(0.3)
    result = scene.settle()
    numbered = _numbers(result.lost)
    reported = _reported(scene)
    scene.measure(
        f"{len(result.lost)} lost with the broker's memory; {len(numbered)} of them numbered, "
        f"{len(reported)} reported as missing"
    )
    scene.require(numbered == reported, f"{len(numbered ^ reported)} numbers are lost or reported, and not both")
    result.is_brokers_loss = True


def _numbers(lost: Iterable[Entry]) -> set[Counter]:
    return {(e.schema, e.device_id, *e.counter) for e in lost if e.counter is not None}


def _reported(scene: Scene) -> set[Counter]:
    """The numbers that the platform says are missing of the row's boots."""
    reported: set[Counter] = set()
    boots = defaultdict(set)
    for sender in scene.fleet.senders:
        boots[sender.schema].add((sender.device_id, sender.boot))
    for schema, devices in boots.items():
        with schema_context(schema):
            found = missing_sequences.find_missing_sequences([device_id for device_id, _ in devices])
        for gap in found:
            if (gap.device_id, gap.boot) in devices:
                reported |= {(schema, gap.device_id, gap.boot, seq) for seq in range(gap.first, gap.last + 1)}
    return reported


@row("7", "broker stopped for 10 s (SIGSTOP), and continued")
def frozen(scene: Scene) -> None:
    scene.listen()
    checker = scene.start("manage.py", "check_device_health")
    with scene.load():
        scene.spend(0.3)
        before = scene.count_in_tenants(CHANGES)
        scene.stack.signal("mosquitto", signal.SIGSTOP)
        time.sleep(min(10.0, 0.4 * scene.seconds))
        scene.stack.signal("mosquitto", signal.SIGCONT)
        scene.spend(0.3)
        changes = scene.count_in_tenants(CHANGES) - before
    scene.measure(f"{changes} changes of status")
    scene.require(changes == 0, f"{changes} devices changed their status")
    scene.require(checker.is_running, "the health checker has ended")


@row("29", "half-open connection: everything to and from the broker vanishes")
def half_open(scene: Scene) -> None:
    url = urlsplit(os.environ["MQTT_URL"])
    keepalive = float(os.environ.get("MQTT_KEEPALIVE_SECONDS", "60"))
    proxy = LossyProxy(url.port or 1883)
    through = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{proxy.port}").geturl()
    try:
        listener = scene.listen(env={"MQTT_URL": through})
        with scene.load():
            scene.spend(0.2)
            proxy.freeze()
            began = time.time()
            # Only the connection that exists is dead: a new one gets through.
            wait_until(lambda: listener.occurrences(READY) >= 2, 3 * keepalive, "the listener does not connect again")
            noticed = time.time() - began
            scene.spend(0.2)
        scene.measure(f"noticed after {noticed:.0f} s, with a keep-alive of {keepalive:.0f} s")
        scene.require(noticed <= 1.5 * keepalive + 2, f"it took {noticed:.0f} s, more than 1.5 × the keep-alive")
        scene.settle()
    finally:
        proxy.close()
