"""Row 16: clocks that are wrong, the devices' and the listener's."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from tests.processes import wait_until

from .fleet import Sender
from .ledger import Entry, Fate
from .rows import row
from .scenario import CHANGES, DEVICES, READY, Scenario

_HOUR = 3600.0
_SETTLING_SECONDS = 1.0
_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib")


@row("16", "clocks: devices an hour off, the listener 10 min off either way and set back by an hour")
def wrong(scenario: Scenario) -> None:
    library = _faketime()
    shift = scenario.setup.logs / "faketime"
    shift.write_text("+0")
    listener = scenario.listen(env=_environment(library, shift) if library else None)
    checker = scenario.start("manage.py", "check_device_health")
    traffic = _Traffic()
    with scenario.load(traffic=traffic):
        scenario.spend(0.2)
        # Under the library the first read of all keys takes its time.
        known = len(scenario.fleet.senders)
        wait_until(
            lambda: scenario.count_in_tenants(DEVICES, "status = 'ONLINE'") == known,
            60,
            "not all devices have become ONLINE",
        )
        before = scenario.count_in_tenants(CHANGES)
        if library:
            traffic.fate = "either"  # a message that is live for the device can be in the listener's future
            scenario.await_caught_up(time.time())  # messages in flight are of before
        for offset in ("-600", "+600", "+0", "-3600") if library else ():
            shift.write_text(offset)
            scenario.spend(0.15)
        shift.write_text("+0")
        time.sleep(_SETTLING_SECONDS)
        traffic.fate = "stored"
        scenario.spend(0.2)
        changes = scenario.count_in_tenants(CHANGES) - before
    result = scenario.settle()
    reasons = sorted({reason for places in result.tables.refused.values() for _, reason in places})
    scenario.measure(f"{result.tables.late} stored as late; refused: {', '.join(reasons)}; {changes} changes of status")
    if not library:
        scenario.measure("the listener's clock was left alone: libfaketime is not installed")
    scenario.require(changes == 0, f"{changes} devices changed their status")
    scenario.require(reasons == ["future_timestamp"], f"refused for {reasons}")
    scenario.require(
        result.tables.late >= traffic.behind, f"{result.tables.late} late, {traffic.behind} sent an hour old"
    )
    scenario.require(
        listener.is_running and listener.occurrences(READY) == 1, "the listener lost its connection or ended"
    )
    scenario.require(checker.is_running, "the health checker has ended")


class _Traffic:
    """Every eleventh message is of a clock an hour ahead, and must be refused; every eleventh of one an hour behind.

    Devices speak in turn, and eleven does not divide their number: so each device's clock is wrong now and then.
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
    """Return the path of the library libfaketime; empty where it is not installed."""
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
