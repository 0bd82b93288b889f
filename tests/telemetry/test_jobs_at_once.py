"""Requests at the same time begin only so many jobs of a tenant as it may have under way."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django_tenants.utils import schema_context

from tests.processes import run_at_once


@pytest.fixture(autouse=True)
def no_jobs(live_db: None, tenant_a: Any) -> Iterator[None]:
    from django_q.models import OrmQ

    from devices.models import DeviceImport
    from telemetry.models import Replay

    yield
    with schema_context(tenant_a.schema_name):
        DeviceImport.objects.all().delete()
        Replay.objects.all().delete()
    OrmQ.objects.all().delete()


def begun(tenant: Any, begin: Callable[[], Any]) -> int:
    """How many of ten requests at the same time begin a job."""

    def attempt() -> bool:
        with schema_context(tenant.schema_name):
            try:
                begin()
            except ValidationError:
                return False
        return True

    return sum(run_at_once([attempt] * 10))


def test_imports(tenant_a: Any, settings: Any) -> None:
    from devices.services.provisioning import import_jobs
    from tenants.infrastructure.spreadsheets import TableRow

    settings.IMPORT_AT_ONCE = 0
    rows = [TableRow(2, {"name": "one of many imports"})]
    assert begun(tenant_a, lambda: import_jobs.import_rows(rows)) == import_jobs.MOST_AT_ONCE


def test_replays(tenant_a: Any) -> None:
    from telemetry.services.quarantine import replays

    assert begun(tenant_a, lambda: replays.begin(replays.ReplaySelection())) == replays.MOST_AT_ONCE
