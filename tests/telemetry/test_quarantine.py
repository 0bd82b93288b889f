"""The quarantine: floods are counted, what is too old or too much goes, and what was mended is replayed."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django_tenants.utils import schema_context

from tests.factories import Registered, add_quarantined, make_tenant, remove_tenant
from tests.payloads import topic, v1, v2
from tests.processes import wait_until

VALUE = {"temp": 21.5, "humidity": 44}
Send = Callable[..., Any]


@pytest.fixture
def ingest(live_db: None) -> Iterator[Any]:
    from telemetry.services.ingest.batch_pipeline import build_pipeline

    made = build_pipeline()
    yield made
    made.close()


@pytest.fixture
def send(ingest: Any) -> Send:
    """`send((topic, payload), …)`: one batch; its result."""
    from telemetry.services.pipeline.results import Incoming

    def process(*messages: tuple[str, bytes], received_at: datetime | None = None) -> Any:
        result = ingest.process([Incoming(t, p, received_at or datetime.now(UTC)) for t, p in messages])
        ingest.tick(last=True)
        return result

    return process


@pytest.fixture(scope="module")
def _tenant(django_db_setup: None, django_db_blocker: Any) -> Iterator[Any]:
    with django_db_blocker.unblock():
        tenant = make_tenant(f"q{uuid4().hex[:8]}")
        yield tenant
        remove_tenant(tenant)


@pytest.fixture
def own(live_db: None, _tenant: Any) -> Any:
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


# --- Replay ------------------------------------------------------------------------------------------------------


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
        wait_until(lambda: Replay.objects.get(pk=replay.pk).state == "done", 60, worker.log.read_text)
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


# --- The command -------------------------------------------------------------------------------------------------


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("replay_quarantine", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_needs_no_worker(own: Any, register: Any, send: Send) -> None:
    device = register(tenant=own, components={})
    send((topic(device), v1(device, VALUE)), (topic(device), b"{"))
    attach(device)
    said = command("--tenant", own.slug, "--reason", "component_not_attached", "--device", device.uuid)
    assert "1 of 1: 1 stored, 0 duplicates, 0 refused again" in said
    assert said.endswith("Done.\n")
    assert kept(own) == {"malformed": 1}
    assert "0 of 0" in command("--tenant", own.slug, "--to", "2020-01-01T00:00:00Z")
    assert "1 refused again (1 malformed)" in command("--tenant", own.slug, "--from", "2020-01-01T00:00:00Z")


def test_the_command_says_what_is_wrong(own: Any) -> None:
    for arguments, words in (
        (("--tenant", "unknown"), "no tenant"),
        (("--tenant", own.slug, "--device", str(uuid4())), "no device"),
        (("--tenant", own.slug, "--reason", "bad_signature"), "never be replayed"),
        (("--tenant", own.slug, "--from", "yesterday"), "write it like"),
        (("--unrouted", "--reason", "malformed"), "leave out"),
        ((), "required"),
    ):
        with pytest.raises(CommandError, match=words):
            command(*arguments)


def test_messages_of_no_tenant_move_to_the_tenant_of_their_device(own: Any, register: Any, send: Send) -> None:
    from tenants.models import DeviceRoute, TenantAlias, UnroutedMessage

    device = register(tenant=own)
    address, unknown = f"{uuid4().hex}@example.com", str(uuid4())
    good = topic(device, segment=address)
    DeviceRoute.objects.get(device_uuid=device.uuid).delete()
    send((good, v1(device, VALUE)), (good, v1(device, VALUE, secret="x")), (f"telemetry/{address}/{unknown}/x", b"{}"))
    assert UnroutedMessage.objects.filter(topic__contains=address).count() == 3
    DeviceRoute.objects.create(device_uuid=device.uuid, tenant=own)
    TenantAlias.objects.create(tenant=own, address=address)
    said = command("--unrouted")
    assert "1 stored" in said
    assert len(readings(device)) == 2
    assert kept(own) == {"bad_signature": 1}
    assert UnroutedMessage.objects.get(topic__contains=address).topic.split("/")[2] == unknown
    assert totals(own) == {"received": 2, "stored": 1, "quarantined": 1}


@contextmanager
def rejected(tenant: Any, value: float) -> Iterator[None]:
    """PostgreSQL rejects readings of this value."""
    with connection.cursor() as cursor:
        schema = connection.ops.quote_name(tenant.schema_name)
        cursor.execute(
            f"CREATE FUNCTION {schema}.reject() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'data_exception'; END $$"
        )
        cursor.execute(
            f"CREATE TRIGGER reject BEFORE INSERT ON {schema}.telemetry_reading FOR EACH ROW"
            f" WHEN (NEW.value = {value}) EXECUTE FUNCTION {schema}.reject()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP FUNCTION {schema}.reject() CASCADE")


@pytest.mark.parametrize("count", [1, 3])
def test_a_message_that_cannot_be_stored_does_not_stop_the_others(
    own: Any, register: Any, send: Send, count: int
) -> None:
    device = register(tenant=own, components={})
    send(*[(topic(device), v1(device, {"temp": number})) for number in range(count)])
    attach(device)
    with rejected(own, 0):
        replay = step(own, begin(own))
    assert (replay.state, replay.stored, replay.refused) == ("done", count - 1, {"component_not_attached": 1})
    assert len(readings(device)) == count - 1
    assert kept(own) == {"component_not_attached": 1}
    assert step(own, begin(own)).stored == 1, "it is stored once its cause is corrected"


def test_a_message_of_no_tenant_that_cannot_be_stored_stays(own: Any, register: Any, send: Send) -> None:
    from tenants.models import DeviceRoute, TenantAlias, UnroutedMessage

    device = register(tenant=own)
    address = f"{uuid4().hex}@example.com"
    DeviceRoute.objects.get(device_uuid=device.uuid).delete()
    send(*[(topic(device, segment=address), v1(device, {"temp": number})) for number in range(3)])
    DeviceRoute.objects.create(device_uuid=device.uuid, tenant=own)
    TenantAlias.objects.create(tenant=own, address=address)
    with rejected(own, 1):
        assert "2 stored" in command("--unrouted")
    assert [value for _metric, value in readings(device)] == [0.0, 2.0]
    assert UnroutedMessage.objects.filter(topic__contains=device.uuid).count() == 1
    command("--unrouted")
    assert len(readings(device)) == 3
    assert not UnroutedMessage.objects.filter(topic__contains=device.uuid).exists()


# --- Floods and room ---------------------------------------------------------------------------------------------


def malformed_messages(device: Registered, count: int, first: int = 0) -> list[tuple[str, bytes]]:
    return [(topic(device), b"{%d" % number) for number in range(first, first + count)]


def test_a_flood_is_counted(own: Any, register: Any, send: Send, settings: Any) -> None:
    settings.QUARANTINE_SOURCE_MESSAGES = 200
    device, other = register(tenant=own), register(tenant=own)
    for first in range(0, 10_000, 500):
        send(*malformed_messages(device, 500, first))
    assert kept(own) == {"malformed": 200}
    assert counted(own) == {("malformed", device.device.pk, ""): 9800}
    assert totals(own) == {"received": 10_000, "quarantined": 10_000}
    # Another reason, another device, and messages that are kept already do not count.
    send(
        (topic(device), v1(device, VALUE, secret="x")),
        *malformed_messages(other, 1),
        *malformed_messages(device, 1),
        *malformed_messages(device, 1, 20_000),
    )
    assert kept(own) == {"malformed": 201, "bad_signature": 1}
    assert counted(own) == {("malformed", device.device.pk, ""): 9801}
    assert totals(own) == {"received": 10_004, "quarantined": 10_004}


def test_a_listener_that_starts_anew_knows_what_is_full(own: Any, register: Any, send: Send, settings: Any) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    settings.QUARANTINE_SOURCE_MESSAGES = 5
    device = register(tenant=own)
    send(*malformed_messages(device, 6))
    another = build_pipeline()
    try:
        another.process([Incoming(t, p, datetime.now(UTC)) for t, p in malformed_messages(device, 3, 100)])
    finally:
        another.close()
    assert kept(own) == {"malformed": 5}
    assert counted(own) == {("malformed", device.device.pk, ""): 4}


def test_a_batch_that_could_not_be_stored_uses_nothing_up(own: Any, register: Any, send: Send, settings: Any) -> None:
    settings.QUARANTINE_SOURCE_MESSAGES = 6
    device = register(tenant=own)
    payload = v1(device, VALUE)
    send((topic(device), payload))
    # The duplicate sends each batch a second way.
    for first in (0, 2, 4, 6):
        send((topic(device), payload), *malformed_messages(device, 2, first))
    assert kept(own) == {"malformed": 6}
    assert counted(own) == {("malformed", device.device.pk, ""): 2}


def test_invented_devices_share_one_number_for_staff_and_reach_no_tenant(own: Any, send: Send, settings: Any) -> None:
    from tenants.models import SuppressedUnroutedMessages, UnroutedMessage

    UnroutedMessage.objects.all().delete()
    SuppressedUnroutedMessages.objects.all().delete()
    settings.QUARANTINE_SOURCE_MESSAGES = 3
    named = str(uuid4())
    send(*[(f"telemetry/{own.slug}/{named}/dht22", b"%d" % number) for number in range(5)])
    send(*[(f"telemetry/{own.slug}/{uuid4()}/dht22", b"{}") for _ in range(50)])
    assert UnroutedMessage.objects.filter(topic__contains=own.slug).count() == 30
    assert dict(SuppressedUnroutedMessages.objects.values_list("source", "count")) == {
        "": 23,
        f"{own.slug}/{named}": 2,
    }
    assert (kept(own), counted(own), totals(own)) == ({}, {}, {})


def test_a_replay_takes_nothing_from_another_tenant(own: Any, register: Any, send: Send, tenant_b: Any) -> None:
    """A row from before, of a device that another tenant has registered since."""
    from telemetry.models import Quarantined

    device = register(tenant=tenant_b)
    forms = [topic(device, segment=own.slug), f"telemetry/{own.slug}/{device.uuid}/a/b", topic(device)]
    for number, text in enumerate(forms):
        add_quarantined(
            own, datetime.now(UTC), "unknown_device", topic=text, payload=v1(device, {"temp": number}), device=None
        )
    replay = step(own, begin(own))
    assert replay.refused == {"wrong_tenant": 3}
    with schema_context(own.schema_name):
        rows = list(Quarantined.objects.values_list("device", "detail"))
    assert rows == [(None, "The device belongs to another tenant.")] * 3
    assert readings(device) == []


def test_parked_messages_are_never_thrown_away(own: Any, register: Any, send: Send, settings: Any, stack: Any) -> None:
    settings.QUARANTINE_SOURCE_MESSAGES = 2
    settings.QUARANTINE_MEGABYTES = 1
    device = register(tenant=own)
    stack.stop_server("openbao")
    try:
        send(*[(topic(device), v1(device, {"temp": number})) for number in range(9)])
    finally:
        stack.start_server("openbao")
        stack.wait_ready("openbao", 20)
    assert kept(own) == {"key_unavailable": 9}
    from telemetry.services.retention import quarantine as quarantine_retention

    with schema_context(own.schema_name):
        quarantine_retention.apply_retention(now=datetime.now(UTC) + timedelta(days=1000))
    assert kept(own) == {"key_unavailable": 9}


def test_one_source_may_not_fill_the_room(own: Any, register: Any, send: Send, settings: Any) -> None:
    settings.QUARANTINE_MEGABYTES = 1
    device = register(tenant=own)
    large = [(topic(device), b"{%d" % number + b"x" * 30_000) for number in range(10)]
    send(*large)
    assert kept(own) == {"malformed": 3}
    assert counted(own) == {("malformed", device.device.pk, ""): 7}


def test_a_flood_of_unknowns_messages_is_counted(live_db: None, send: Send, settings: Any) -> None:
    from tenants.models import SuppressedUnroutedMessages, UnroutedMessage

    SuppressedUnroutedMessages.objects.all().delete()
    settings.QUARANTINE_SOURCE_MESSAGES = 4
    segment = uuid4().hex
    uuid = uuid4()
    messages = [(f"telemetry/{segment}/{uuid}/x", b"%d" % number) for number in range(10)]
    assert send(*messages).unrouted == 10
    assert UnroutedMessage.objects.filter(topic__contains=segment).count() == 4
    assert SuppressedUnroutedMessages.objects.get(source=f"{segment}/{uuid}").count == 6


def large_messages(device: Registered, count: int, size: int = 30_000, first: int = 0) -> list[tuple[str, bytes]]:
    return [(topic(device), b"{%d" % number + b"x" * size) for number in range(first, first + count)]


def test_no_number_of_devices_uses_up_the_room_of_another(own: Any, register: Any, send: Send, settings: Any) -> None:
    settings.QUARANTINE_MEGABYTES = 1
    hostile, honest = [register(tenant=own) for _ in range(12)], register(tenant=own)
    for device in hostile:
        send(*large_messages(device, 5))
    for device in hostile:
        send(*malformed_messages(device, 20))
    assert 0 < quarantined_of(hostile[-1]) < 20, "half of the day's bytes are used up"
    for number in range(2):
        send((topic(honest), b"{%d" % number))
    assert quarantined_of(honest) == 2
    assert totals(own) == {"received": 302, "quarantined": 302}
    assert sum(counted(own).values()) == 302 - kept(own)["malformed"]
    with schema_context(own.schema_name), connection.cursor() as cursor:
        cursor.execute("SELECT sum(octet_length(payload)) FROM telemetry_quarantined")
        assert cursor.fetchone()[0] < 2**19


def test_a_source_has_one_room_for_all_reasons(own: Any, register: Any, send: Send, settings: Any) -> None:
    settings.QUARANTINE_MEGABYTES = 1
    device = register(tenant=own)
    forms = [
        f"telemetry/{own.slug}/{{}}/a/b",
        f"telemetry/{own.slug}/{{}}/a",
        f"telemetry/{own.slug}/{{}}/toaster",
        f"telemetry/{own.slug}/{{}}/",
    ]
    for number, form in enumerate(forms):
        payload = v1(device, {"temp": number}, padding="x" * 45_000)
        send((form.format(device.uuid), payload), (form.format(device.uuid), payload.replace(b"xx", b"yy", 1)))
    assert sum(kept(own).values()) == 2
    assert totals(own) == {"received": 8, "quarantined": 8}


def test_a_listener_that_starts_anew_knows_the_room_that_is_used(
    own: Any, register: Any, send: Send, settings: Any
) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    settings.QUARANTINE_MEGABYTES = 1
    device = register(tenant=own)
    send(*large_messages(device, 3))
    assert (kept(own), counted(own)) == ({"malformed": 3}, {})
    another = build_pipeline()
    try:
        another.process([Incoming(t, p, datetime.now(UTC)) for t, p in large_messages(device, 2, first=10)])
    finally:
        another.close()
    assert kept(own) == {"malformed": 3}
    assert counted(own) == {("malformed", device.device.pk, ""): 2}


def test_a_listener_that_starts_anew_knows_what_staff_have(live_db: None, send: Send, settings: Any) -> None:
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming
    from tenants.models import SuppressedUnroutedMessages, UnroutedMessage

    UnroutedMessage.objects.all().delete()
    SuppressedUnroutedMessages.objects.all().delete()
    settings.QUARANTINE_SOURCE_MESSAGES = 3
    forms = ["device", "a/b", "telemetry/x/{}/y/z", "//"]
    uuid = uuid4()
    messages = [(form.format(uuid), b"%d" % number) for form in forms for number in range(3)]
    send(*messages)
    assert UnroutedMessage.objects.count() == len(messages)
    another = build_pipeline()
    try:
        another.process([Incoming(t, p + b"again", datetime.now(UTC)) for t, p in messages])
    finally:
        another.close()
    assert UnroutedMessage.objects.count() == len(messages)
    assert {row.source: row.count for row in SuppressedUnroutedMessages.objects.all()} == {
        "-": 3, "b": 3, f"x/{uuid}": 3, "/": 3,
    }  # fmt: skip


def quarantined_of(device: Registered) -> int:
    from telemetry.models import Quarantined

    with schema_context(device.tenant.schema_name):
        return Quarantined.objects.filter(device=device.device).count()


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
