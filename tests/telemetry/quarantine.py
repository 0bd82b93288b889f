"""A tenant for tests of the quarantine, messages for it, and its rows."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from tests.factories import Registered, make_tenant, remove_tenant

VALUE = {"temp": 21.5, "humidity": 44}
Send = Callable[..., Any]


@pytest.fixture(name="ingest")
def ingest_fixture(live_db: None) -> Iterator[Any]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    made = build_pipeline()
    yield made
    made.close()


@pytest.fixture(name="send")
def send_fixture(ingest: Any) -> Send:
    """`send((topic, payload), …)`: one batch; its result."""
    from telemetry.services.pipeline.results import Incoming

    def process(*messages: tuple[str, bytes], received_at: datetime | None = None) -> Any:
        result = ingest.process([Incoming(t, p, received_at or datetime.now(UTC)) for t, p in messages])
        ingest.tick(last=True)
        return result

    return process


@pytest.fixture(name="_tenant", scope="module")
def tenant_fixture(django_db_setup: None, django_db_blocker: Any) -> Iterator[Any]:
    with django_db_blocker.unblock():
        tenant = make_tenant(f"q{uuid4().hex[:8]}")
        yield tenant
        remove_tenant(tenant)


@pytest.fixture(name="own")
def own_fixture(live_db: None, _tenant: Any) -> Any:
    """A tenant of the tests' own, so that its totals and its whole quarantine are the test's."""
    tables = ("quarantined", "quarantineflood", "replay", "ingesttotals", "message", "reading")
    with schema_context(_tenant.schema_name), connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(f'telemetry_{table}' for table in tables)}")
    return _tenant


def kept(tenant: Any) -> dict[str, int]:
    """Rows of the quarantine by reason."""
    from telemetry.models import Quarantined

    found: dict[str, int] = {}
    with schema_context(tenant.schema_name):
        for reason in Quarantined.objects.values_list("reason", flat=True):
            found[reason] = found.get(reason, 0) + 1
    return found


def counted(tenant: Any) -> dict[tuple[str, Any, str], int]:
    """What was counted instead of kept, by reason, device and source."""
    from telemetry.models import SuppressedMessages

    with schema_context(tenant.schema_name):
        return {
            (row.reason, row.device_id, row.source): row.count for row in SuppressedMessages.objects.order_by("source")
        }


def totals(tenant: Any) -> dict[str, int]:
    from telemetry.models import IngestTotals

    names = ("received", "stored", "duplicates", "quarantined", "rate_limited", "replayed")
    with schema_context(tenant.schema_name):
        rows = list(IngestTotals.objects.values(*names))
    return {name: sum(row[name] for row in rows) for name in names if any(row[name] for row in rows)}


def readings(device: Registered) -> list[tuple[str, float | None]]:
    from telemetry.models import Reading

    with schema_context(device.tenant.schema_name):
        rows = Reading.objects.filter(series__device=device.device).order_by("series__metric", "time", "value")
        return [(row.series.metric, row.value) for row in rows.select_related("series")]


def begin(tenant: Any, **selection: Any) -> Any:
    """A replay that no worker hears of."""
    from telemetry.services.quarantine import replays

    with schema_context(tenant.schema_name):
        return replays.begin(replays.ReplaySelection(**selection), queue=False)


def step(tenant: Any, replay: Any) -> Any:
    """A step of it; the replay afterwards."""
    from telemetry.services.quarantine import replays

    with schema_context(tenant.schema_name):
        replays.step(replay.pk, queue=False)
        replay.refresh_from_db()
    return replay


def attach(device: Registered, key: str = "dht22") -> None:
    """Mend the registration."""
    from devices.models import Component, ComponentType

    with schema_context(device.tenant.schema_name):
        kind = ComponentType.objects.get(key="dht22")
        Component.objects.create(device=device.device, key=key, component_type=kind)


def quarantined_of(device: Registered) -> int:
    from telemetry.models import Quarantined

    with schema_context(device.tenant.schema_name):
        return Quarantined.objects.filter(device=device.device).count()
