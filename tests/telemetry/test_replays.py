"""Replays of the quarantine: corrected messages are stored, once, also after a stop; others stay."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django_tenants.utils import schema_context

from tests.payloads import topic, v1, v2
from tests.processes import wait_until

from .quarantine import (  # noqa: F401 (fixtures)
    VALUE,
    Send,
    attach,
    begin,
    ingest_fixture,
    kept,
    own_fixture,
    readings,
    send_fixture,
    step,
    tenant_fixture,
    totals,
)


def test_refused_mended_replayed(own: Any, register: Any, send: Send, tenant_b: Any) -> None:
    from devices.models import AuditEntry
    from telemetry.services.queries import readings as queries

    device = register(tenant=own, components={})
    stranger = register(tenant=tenant_b, components={})
    send(*[(topic(device, "air"), v1(device, {"temp": number})) for number in range(3)], (topic(device), b"{"))
    send((topic(stranger), v1(stranger, VALUE)))
    theirs = kept(tenant_b)
    assert kept(own) == {"unknown_component": 3, "malformed": 1}
    attach(device, "air")
    attach(stranger)

    replay = step(own, begin(own))
    assert (replay.state, replay.total, replay.stored, replay.refused, replay.percent) == (
        "done", 4, 3, {"malformed": 1}, 100,
    )  # fmt: skip
    assert readings(device) == [("temperature", 0.0), ("temperature", 1.0), ("temperature", 2.0)]
    assert kept(own) == {"malformed": 1}
    assert totals(own) == {"received": 4, "stored": 3, "quarantined": 1, "replayed": 3}
    with schema_context(own.schema_name):
        assert [value.value for value in queries.latest_values(device.device)] == [2.0]
        assert AuditEntry.objects.filter(action="replay", object_id=str(replay.pk)).count() == 1
    assert kept(tenant_b) == theirs, "another tenant's are not touched"
    assert readings(stranger) == []

    again = step(own, begin(own))
    assert (again.total, again.stored, again.refused) == (1, 0, {"malformed": 1})
    assert totals(own)["received"] == 4


def test_a_bad_signature_is_never_replayed(own: Any, register: Any, send: Send) -> None:
    from telemetry.models import Quarantined

    device = register(tenant=own)
    send((topic(device), v1(device, VALUE, secret="another secret")))
    assert kept(own) == {"bad_signature": 1}
    with pytest.raises(ValidationError, match="never be replayed"):
        begin(own, reason="bad_signature")
    with schema_context(own.schema_name):
        chosen = (Quarantined.objects.get().pk,)
    for selection in ({}, {"chosen": chosen}, {"device": device.device}):
        replay = step(own, begin(own, **selection))
        assert (replay.state, replay.total, replay.settled) == ("done", 0, 0)
    assert kept(own) == {"bad_signature": 1}


def test_what_is_refused_for_another_reason_now_moves(own: Any, register: Any, send: Send) -> None:
    from devices.models import Metric

    device = register(tenant=own, components={})
    send((topic(device), v1(device, {"temp": 999})))
    attach(device)
    with schema_context(own.schema_name):
        metric = Metric.objects.get(component_type__key="dht22", key="temperature")
        metric.maximum = 80
        metric.save()
    replay = step(own, begin(own))
    with schema_context(own.schema_name):
        Metric.objects.filter(pk=metric.pk).update(maximum=None)
    assert replay.refused == {"out_of_range": 1}
    assert kept(own) == {"out_of_range": 1}
    assert totals(own) == {"received": 1, "quarantined": 1}


def test_a_replay_is_narrowed(own: Any, register: Any, send: Send) -> None:
    first, second = register(tenant=own, components={}), register(tenant=own, components={})
    now = datetime.now(UTC)
    send((topic(first), v1(first, {"temp": 1})), received_at=now - timedelta(minutes=2))
    send((topic(first), v1(first, {"temp": 2})), (topic(first), b"["))
    send((topic(second), v1(second, {"temp": 3})))

    def count(**selection: Any) -> int:
        return int(begin(own, **selection).total)

    from telemetry.services.quarantine import replays

    found = []
    for selection in (
        {"device": first.device},
        {"device": first.device, "reason": "component_not_attached"},
        {"start": now - timedelta(minutes=1)},
        {"stop": now - timedelta(minutes=1)},
        {"topic": second.uuid[:13].upper()},
    ):
        replay = begin(own, **selection)
        found.append(replay.total)
        with schema_context(own.schema_name):
            assert replays.cancel(replay)
    assert found == [3, 2, 3, 1, 1]
    for device in (first, second):
        attach(device)
    assert step(own, begin(own, device=second.device)).stored == 1
    assert (readings(first), readings(second)) == ([], [("temperature", 3.0)])


def test_killed_half_way_it_goes_on(own: Any, register: Any, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    from telemetry.models import Replay
    from telemetry.services.quarantine import replays

    device = register(tenant=own, components={})
    send(*[(topic(device), v1(device, {"temp": number})) for number in range(25)], (topic(device), b"{"))
    attach(device)
    monkeypatch.setattr(replays, "_BATCH", 10)
    replay = begin(own)

    class Killed(BaseException):
        pass

    settle = replays.replay_page

    def killed_before(*args: Any, **kwargs: Any) -> Any:
        """As a process that ends within the transaction of the second batch, when all but the commit is done."""
        note = kwargs["record_progress"]

        def noted(*given: Any) -> Any:
            after_commit = note(*given)
            if given[1][0].pk > first:
                raise Killed
            return after_commit

        return settle(*args, **{**kwargs, "record_progress": noted})

    with schema_context(own.schema_name):
        first = replay.until_id - 26 + 1
        monkeypatch.setattr(replays, "replay_page", killed_before)
        with pytest.raises(Killed):
            replays.step(replay.pk, queue=False)
        monkeypatch.setattr(replays, "replay_page", settle)
        replay.refresh_from_db()
        assert (replay.state, replay.settled, replay.percent) == ("running", 10, 38)
        assert len(readings(device)) == replay.stored
        # A process that dies keeps its lease: until its end, no other process resumes the replay.
        Replay.objects.update(claimed_until=datetime.now(UTC) + timedelta(seconds=60))
        assert replays.step(replay.pk, queue=False) == "nothing to do"
        assert replays.resume() == 0
        Replay.objects.update(claimed_until=datetime.now(UTC) - timedelta(seconds=60))
    step(own, replay)
    assert (replay.state, replay.total, replay.stored, replay.refused) == ("done", 26, 25, {"malformed": 1})
    assert len(readings(device)) == 25
    assert totals(own) == {"received": 26, "stored": 25, "quarantined": 1, "replayed": 25}


def test_two_at_once_do_no_harm(own: Any, register: Any, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    from telemetry.services.quarantine import replays

    device = register(tenant=own, components={})
    send(*[(topic(device), v1(device, {"temp": number})) for number in range(60)])
    attach(device)
    monkeypatch.setattr(replays, "_BATCH", 7)
    both = [begin(own), begin(own)]
    failures: list[BaseException] = []

    def work(replay: Any) -> None:
        try:
            step(own, replay)
        except BaseException as error:  # noqa: BLE001 (of any kind: the test's thread tells)
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=[replay]) for replay in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert [replay.state for replay in both] == ["done", "done"]
    assert sum(replay.stored for replay in both) == 60
    assert sum(replay.gone for replay in both) == 60
    assert [replay.duplicates for replay in both] == [0, 0]
    assert len(readings(device)) == 60
    assert totals(own) == {"received": 60, "stored": 60, "replayed": 60}


def test_a_cancelled_replay_stops_after_its_batch(
    own: Any, register: Any, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telemetry.models import Replay
    from telemetry.services.quarantine import replays

    device = register(tenant=own, components={})
    send(*[(topic(device), v1(device, {"temp": number})) for number in range(9)])
    attach(device)
    monkeypatch.setattr(replays, "_BATCH", 3)
    replay = begin(own)
    with schema_context(own.schema_name):

        def cancel(_: Replay) -> None:
            assert replays.cancel(Replay.objects.get(pk=replay.pk))

        said = replays.step(replay.pk, report=cancel, queue=False)
        replay.refresh_from_db()
        assert not replays.cancel(replay), "it has ended"
    assert "cancelled" in said
    assert (replay.state, replay.stored) == ("cancelled", 3)
    assert kept(own) == {"component_not_attached": 6}


@pytest.mark.parametrize("has_partition", [True, False])
def test_locked_tables_are_waited_for_and_said(
    own: Any, register: Any, send: Send, monkeypatch: pytest.MonkeyPatch, has_partition: bool
) -> None:
    """Also where the month's partition is still to be made, which locks more than a row does."""
    from telemetry.services.quarantine import replays
    from tenants.infrastructure.database import conninfo

    device, good = register(tenant=own, components={}), register(tenant=own)
    ago = 0.0
    if has_partition:
        send((topic(good), v1(good, VALUE)))
    else:
        ago = _unheard_of(own)
    send((topic(device), v1(device, VALUE, ago=ago)))
    attach(device)
    replay = begin(own)
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr(replays, "_SECONDS", 1.0)
    with psycopg.connect(conninfo()) as other:
        other.execute(f'LOCK TABLE "{own.schema_name}".telemetry_message IN ACCESS EXCLUSIVE MODE')
        with schema_context(own.schema_name):
            replays.step(replay.pk, report=lambda now: seen.append((now.note, now.stored)), queue=False)
    assert set(seen) == {("Waits: the tenant's tables are locked.", 0)}
    with schema_context(own.schema_name):
        replay.refresh_from_db()
        assert replay.note.startswith("Waits")
        assert replays.resume() == 1, "a worker looks after it"
    assert step(own, replay).stored == 1
    assert replay.note == ""


def _unheard_of(tenant: Any) -> float:
    """Seconds back to a month that has no partition."""
    from telemetry.services.rollups import partitions

    month = partitions.month_before(datetime.now(UTC), 3)
    with schema_context(tenant.schema_name), connection.cursor() as cursor:
        for table in partitions.INGEST_TABLES:
            cursor.execute(f"DROP TABLE IF EXISTS {partitions.partition_name(table, month)}")
    return (datetime.now(UTC) - partitions.month_bounds(month)[0]).total_seconds() - 3600.0


def test_vault_away_is_waited_for(
    own: Any, register: Any, send: Send, stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telemetry.services.quarantine import replays

    device = register(tenant=own, components={})
    send((topic(device), v1(device, VALUE)))
    attach(device)
    replay = begin(own)
    monkeypatch.setattr(replays, "_SECONDS", 1.0)
    stack.stop_server("openbao")
    try:
        step(own, replay)
    finally:
        stack.start_server("openbao")
        stack.wait_ready("openbao", 20)
    assert (replay.state, replay.settled) == ("running", 0)
    assert "Vault" in replay.note
    assert kept(own) == {"component_not_attached": 1}, "it keeps its reason"
    monkeypatch.setattr(replays, "_SECONDS", 20.0)
    assert step(own, replay).stored == 1


def test_a_worker_replays_what_a_person_began(own: Any, register: Any, send: Send, start: Any) -> None:
    from telemetry.models import Replay
    from telemetry.services.quarantine import replays

    device = register(tenant=own, components={})
    send((topic(device), v2(device, VALUE, seq=1)))
    attach(device)
    with schema_context(own.schema_name):
        replay = replays.begin(replays.ReplaySelection())
        worker = start("manage.py", "qcluster")
        wait_until(lambda: Replay.objects.get(pk=replay.pk).state == "done", 180, worker.log.read_text)
        assert Replay.objects.get(pk=replay.pk).stored == 1
    assert len(readings(device)) == 2


def test_only_so_many_at_once(own: Any) -> None:
    from telemetry.services.quarantine import replays

    for _ in range(replays.MOST_AT_ONCE):
        begin(own)
    with pytest.raises(ValidationError, match="At most 5 replays can run at a time"):
        begin(own)


def test_the_round_finds_replays_without_a_worker(own: Any, tenant_b: Any) -> None:
    from django_q.models import OrmQ

    from telemetry.models import Replay
    from telemetry.services import periodic_tasks

    replay = begin(own)
    assert periodic_tasks.resume_replays() == 0, "its own task is on the way"
    with schema_context(own.schema_name):
        Replay.objects.filter(pk=replay.pk).update(claimed_until=datetime.now(UTC) - timedelta(minutes=2))
    assert periodic_tasks.resume_replays() == 1
    OrmQ.objects.all().delete()
