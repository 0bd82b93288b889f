"""Row 16: clocks that are wrong, the devices' and the listener's."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from tests.processes import wait_until

from .fleet import Sender
from .ledger import Entry, Fate
from .rows import row
from .scenario import CHANGES, DEVICES, READY, Scene

_HOUR = 3600.0
_SETTLING_SECONDS = 1.0
_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib")


@row("16", "clocks: devices an hour off, the listener 10 min off either way and set back by an hour")
def wrong(scene: Scene) -> None:
    library = _faketime()
    shift = scene.stage.logs / "faketime"
    shift.write_text("+0")
    listener = scene.listen(env=_environment(library, shift) if library else None)
    checker = scene.start("manage.py", "check_device_health")
    traffic = _Traffic()
    with scene.load(traffic=traffic):
        scene.spend(0.2)
        # Under the library the first look at all keys takes its time.
        known = len(scene.fleet.senders)
        wait_until(
            lambda: scene.count_in_tenants(DEVICES, "status = 'ONLINE'") == known,
            60,
            "not all devices have become ONLINE",
        )
        before = scene.count_in_tenants(CHANGES)
        if library:
            traffic.fate = "either"  # what is live for the device may be the future for the listener
            scene.await_caught_up(time.time())  # what is on its way is of before
        for offset in ("-600", "+600", "+0", "-3600") if library else ():
            shift.write_text(offset)
            scene.spend(0.15)
        shift.write_text("+0")
        time.sleep(_SETTLING_SECONDS)
        traffic.fate = "stored"
        scene.spend(0.2)
        changes = scene.count_in_tenants(CHANGES) - before
    result = scene.settle()
    reasons = sorted({reason for places in result.found.refused.values() for _, reason in places})
    scene.measure(f"{result.found.late} stored as late; refused: {', '.join(reasons)}; {changes} changes of status")
    if not library:
        scene.measure("the listener's clock was left alone: libfaketime is not installed")
    scene.require(changes == 0, f"{changes} devices changed their status")
    scene.require(reasons == ["future_timestamp"], f"refused for {reasons}")
    scene.require(result.found.late >= traffic.behind, f"{result.found.late} late, {traffic.behind} sent an hour old")
    scene.require(listener.is_running and listener.occurrences(READY) == 1, "the listener lost its connection or ended")
    scene.require(checker.is_running, "the health checker has ended")


class _Traffic:
    """Every eleventh message is of a clock an hour ahead, and must be refused; every eleventh of one an hour behind.

    Devices speak in turn, and their number is no multiple of eleven: so each device's clock is wrong now and then.
    """

    def __init__(self) -> None:
        self.fate: Fate = "stored"
        self.behind = 0
        self._number = 0

    def __call__(self, sender: Sender) -> Iterable[Entry]:
        self._number += 1
        kind = self._number % 11
        if kind == 3:
            return [sender.next(ahead=_HOUR, fate="refused" if self.fate == "stored" else "either")]
        if kind == 7 and self.fate == "stored":
            self.behind += 1
            return [sender.next(ahead=-_HOUR)]
        return [sender.next(fate=self.fate)]


def _faketime() -> str:
    """The library of the package libfaketime; empty where it is not installed."""
    for directory in _LIBRARIES:
        path = Path(directory) / "faketime" / "libfaketime.so.1"
        if path.exists():
            return str(path)
    return ""


def _environment(library: str, shift: Path) -> dict[str, str]:
    """The clock of the day is shifted by what the file says at each moment; the others run on.

    Under this library `sleep` fails in Python's threads, so the watchdog ends early: nothing of this row needs it.
    """
    preload = " ".join(filter(None, (library, os.environ.get("LD_PRELOAD", ""))))
    return {
        "LD_PRELOAD": preload,
        "FAKETIME_TIMESTAMP_FILE": str(shift),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
