"""Retention of the quarantine: the largest sources', the oldest and too old messages go."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django_tenants.utils import schema_context

from .quarantine import (  # noqa: F401 (fixtures)
    ingest_fixture,
    kept,
    own_fixture,
    quarantined_of,
    send_fixture,
    tenant_fixture,
)


def test_a_quarantine_that_is_too_large_loses_the_largest_sources_rows(
    own: Any, register: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telemetry.services.retention import quarantine as quarantine_retention

    monkeypatch.setattr(quarantine_retention, "_ROWS", 2)
    settings.QUARANTINE_MEGABYTES = 1
    first, second, honest = (register(tenant=own) for _ in range(3))
    quarantine(own, 20, days=9, size=1000, device=honest.device)
    quarantine(own, 3, days=5, size=2**17, device=second.device)
    quarantine(own, 9, days=1, size=2**17, device=first.device)
    with schema_context(own.schema_name):
        deleted = quarantine_retention.apply_retention()["too much"]
    assert quarantined_of(honest) == 20, "the oldest, of the smallest source"
    assert (quarantined_of(first), quarantined_of(second), deleted) == (4, 3, 5)
    quarantine(own, 2, size=2**17, device=second.device)
    with schema_context(own.schema_name):
        quarantine_retention.apply_retention()
    assert (quarantined_of(first), quarantined_of(second)) in ((3, 4), (4, 3)), "the two share what is left"
    assert quarantined_of(honest) == 20


def test_staff_lose_the_largest_sources_rows_first(live_db: None, settings: Any) -> None:
    from telemetry.services.retention import quarantine as quarantine_retention
    from tenants.models import UnroutedMessage

    UnroutedMessage.objects.all().delete()
    settings.QUARANTINE_MEGABYTES = 1
    now = datetime.now(UTC)
    for source, count, days in (("flood", 12, 1), ("other", 2, 5)):
        for number in range(count):
            at = now - timedelta(days=days, seconds=-number)
            UnroutedMessage.objects.create(
                fingerprint=uuid4(), reason="malformed", detail="", topic=f"telemetry/{source}/x/{number}",
                payload=os.urandom(2**17), first_received_at=at, last_received_at=at,
            )  # fmt: skip
    quarantine_retention.apply_unrouted_retention()
    assert UnroutedMessage.objects.filter(topic__contains="other").count() == 2
    assert UnroutedMessage.objects.filter(topic__contains="flood").count() == 5
    UnroutedMessage.objects.all().delete()


def quarantine(
    tenant: Any, count: int, *, days: float = 0.0, reason: str = "malformed", size: int = 10, device: Any = None
) -> None:
    from telemetry.models import Quarantined

    now = datetime.now(UTC)
    with schema_context(tenant.schema_name):
        Quarantined.objects.bulk_create(
            Quarantined(
                fingerprint=uuid4(), reason=reason, detail="", topic="t", payload=os.urandom(size), device=device,
                first_received_at=now - timedelta(days=days), last_received_at=now - timedelta(days=days, seconds=-n),
            )
            for n in range(count)
        )  # fmt: skip


def test_what_is_too_old_goes(own: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from telemetry.models import SuppressedMessages
    from telemetry.services.retention import quarantine as quarantine_retention

    monkeypatch.setattr(quarantine_retention, "_ROWS", 3)
    settings.QUARANTINE_DAYS = 30
    now = datetime.now(UTC)
    quarantine(own, 7, days=31)
    quarantine(own, 2, days=31, reason="key_unavailable")
    quarantine(own, 4, days=29)
    with schema_context(own.schema_name):
        for days in (29, 31):
            day = (now - timedelta(days=days)).date()
            SuppressedMessages.objects.create(day=day, reason="malformed", count=1, last_received_at=now)
        assert quarantine_retention.apply_retention() == {"old": 7, "too much": 0}
        assert SuppressedMessages.objects.count() == 1
        assert quarantine_retention.apply_retention() == {"old": 0, "too much": 0}
    assert kept(own) == {"malformed": 4, "key_unavailable": 2}


def test_what_is_too_much_goes_oldest_first(own: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from django_q.models import OrmQ

    from telemetry.models import Quarantined
    from telemetry.services import periodic_tasks
    from telemetry.services.retention import quarantine as quarantine_retention

    monkeypatch.setattr(quarantine_retention, "_ROWS", 3)
    settings.QUARANTINE_MEGABYTES = 1
    size = 2**20 // 8
    quarantine(own, 3, days=5, reason="quota_exceeded", size=size)
    quarantine(own, 5, days=4, size=size)
    quarantine(own, 3, days=3, size=size)
    assert periodic_tasks.apply_quarantine_retention() >= 1
    OrmQ.objects.all().delete()
    with schema_context(own.schema_name):
        assert quarantine_retention.apply_retention() == {"old": 0, "too much": 4}
        assert Quarantined.objects.filter(reason="malformed").order_by("id").count() == 4
        assert Quarantined.objects.filter(reason="quota_exceeded").count() == 3
        newest = datetime.now(UTC) - timedelta(days=3.5)
        assert Quarantined.objects.filter(last_received_at__gt=newest).count() == 3
        Quarantined.objects.filter(reason="malformed").update(reason="key_unavailable")
        quarantine(own, 3, size=size)
        assert quarantine_retention.apply_retention() == {"old": 0, "too much": 3}
    assert kept(own) == {"key_unavailable": 4, "quota_exceeded": 3}


def test_unknowns_messages_go_too(live_db: None, settings: Any) -> None:
    from telemetry.services.retention import quarantine as quarantine_retention
    from tenants.models import UnroutedMessage

    settings.QUARANTINE_DAYS = 30
    old = datetime.now(UTC) - timedelta(days=31)
    mark = uuid4()
    UnroutedMessage.objects.create(
        fingerprint=mark,
        reason="malformed",
        detail="",
        topic="t",
        payload=b"",
        first_received_at=old,
        last_received_at=old,
    )
    assert quarantine_retention.apply_unrouted_retention()["old"] >= 1
    assert not UnroutedMessage.objects.filter(fingerprint=mark).exists()
