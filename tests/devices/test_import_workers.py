"""A large table done by real workers, one of which is killed half-way: all of it is registered, nothing twice."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.utils import timezone
from django_tenants.utils import schema_context

from tests.processes import Process, wait_until


def test_a_killed_worker_loses_and_doubles_nothing(
    live_db: None, tenant_a: Any, start: Callable[..., Process], settings: Any
) -> None:
    from devices.models import Device, DeviceCredential, DeviceImport
    from devices.services.broker import accounts
    from devices.services.provisioning import import_jobs
    from devices.services.provisioning.registration import remove_device
    from tenants.infrastructure.spreadsheets import TableRow

    settings.IMPORT_AT_ONCE = 0
    rows = [TableRow(number, {"name": f"by a worker {number}"}) for number in range(2, 302)]
    with schema_context(tenant_a.schema_name):
        kept, done = import_jobs.import_rows(rows)
        assert done is None

        def position() -> int:
            return int(DeviceImport.objects.get(pk=kept.pk).position)

        first = start("manage.py", "qcluster")
        try:
            wait_until(lambda: position() >= 50, 180, first.log.read_text)
            for child in _children(first.popen.pid):
                _kill(child)
            first.popen.kill()
            first.popen.wait()
            assert position() < 300, "it was killed half-way"
            # A claim lasts two minutes, which is too long for a test: end the dead process' claim.
            DeviceImport.objects.filter(pk=kept.pk).update(claimed_until=timezone.now() - timedelta(seconds=1))
            assert import_jobs.resume_all() == 1
            second = start("manage.py", "qcluster")
            wait_until(lambda: DeviceImport.objects.get(pk=kept.pk).state == "done", 90, second.log.read_text)
            kept.refresh_from_db()
            assert (kept.added, kept.refused, len(set(kept.registered))) == (300, 0, 300)
            found = Device.objects.filter(name__startswith="by a worker")
            assert found.count() == 300
            assert DeviceCredential.objects.filter(device__in=found).count() == 300
            given = import_jobs.hand_over(kept)
            assert len({issued.secret for _device, issued in given}) == 300
        finally:
            with accounts.batch_grants():
                for device in Device.objects.filter(name__startswith="by a worker"):
                    remove_device(device)
            kept.delete()


def _children(pid: int) -> list[int]:
    """The processes below it, the deepest first."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [*_children(child), child]
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
