"""Rounds over tenants go on where one tenant's tables are locked or missing, and name that tenant."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django_redis import get_redis_connection
from django_tenants.utils import schema_context
from psycopg import sql

from tenants.infrastructure.database import conninfo, current_schema
from tenants.infrastructure.tenant_failures import current_failures
from tenants.services import tenant_rounds
from tenants.services.active_tenants import sum_over_active
from tenants.services.tenant_rounds import visit_each
from tests.processes import ROOT


@pytest.fixture(autouse=True)
def _no_failures(live_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tenant_rounds, "_LOCK_TIMEOUT", "50ms")
    keys = "gwanje:tenant_failures", "gwanje:tenant_failures:details"
    get_redis_connection("default").delete(*keys)
    yield
    get_redis_connection("default").delete(*keys)


@contextmanager
def missing(tenant: Any, table: str) -> Iterator[None]:
    """The table has another name within the block."""
    schema = tenant.schema_name
    with psycopg.connect(conninfo(), autocommit=True) as own:
        own.execute(sql.SQL("ALTER TABLE {} RENAME TO gone").format(sql.Identifier(schema, table)))
        try:
            yield
        finally:
            gone = sql.Identifier(schema, "gone")
            own.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(gone, sql.Identifier(table)))


@contextmanager
def locked(tenant: Any, table: str) -> Iterator[None]:
    with psycopg.connect(conninfo()) as own:
        own.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(tenant.schema_name, table)))
        yield


def failing() -> set[tuple[str, str]]:
    return {(failure.work, failure.schema) for failure in current_failures()}


def count_devices() -> int:
    from devices.models import Device

    return Device.objects.count()


@pytest.mark.parametrize("trouble", [missing, locked])
def test_a_round_goes_on_and_names_the_tenant(tenant_a: Any, tenant_b: Any, trouble: Any) -> None:
    schemas = [tenant_a.schema_name, tenant_b.schema_name]
    with trouble(tenant_a, "devices_device"):
        done = visit_each("counting", schemas, count_devices)
        assert list(done.results) == [tenant_b.schema_name]
        assert list(done.failures) == [tenant_a.schema_name]
        assert failing() == {("counting", tenant_a.schema_name)}
        assert sum_over_active("counting", lambda: count_devices() * 0 + 1) >= 1
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("0",)
    assert current_schema() == "public"
    assert list(visit_each("counting", schemas, count_devices).results) == schemas
    assert failing() == set()


def test_a_lost_database_ends_the_round(tenant_a: Any) -> None:
    def lose() -> None:
        raise psycopg.OperationalError("the server closed the connection")

    with pytest.raises(psycopg.OperationalError):
        visit_each("counting", [tenant_a.schema_name], lose)
    assert failing() == set()


def test_periodic_tasks_are_queued_for_the_others(
    tenant_a: Any, tenant_b: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telemetry.services import periodic_tasks

    queued: list[str] = []
    monkeypatch.setattr(periodic_tasks, "enqueue", lambda _path: queued.append(current_schema()))
    for schema in (tenant_a.schema_name, tenant_b.schema_name):
        with schema_context(schema), connection.cursor() as cursor:
            cursor.execute("UPDATE telemetry_rollupstate SET rolled_until = NULL, marked_until = NULL")
    with missing(tenant_a, "telemetry_latehour"):
        periodic_tasks.roll_up()
        assert tenant_b.schema_name in queued
        assert tenant_a.schema_name not in queued
        assert failing() == {("roll_up", tenant_a.schema_name)}
        with schema_context(tenant_a.schema_name), pytest.raises(Exception, match="telemetry_latehour"):
            periodic_tasks.roll_up_tenant()
    with schema_context(tenant_a.schema_name):
        periodic_tasks.roll_up_tenant()
    assert failing() == set()


def test_the_checker_goes_on_and_keeps_the_leases(tenant_a: Any, tenant_b: Any) -> None:
    from devices.models import Device, DeviceStatus
    from devices.services.presence import activity, health_checker
    from devices.services.presence import redis_scripts as scripts
    from devices.services.presence.activity import PresenceEvent, PresenceRecorder

    redis = get_redis_connection("default")
    redis.delete("", *redis.keys("device_*"))
    redis.set(scripts.MARKER, 1)
    recorder, members, devices = PresenceRecorder(grace_seconds=2), [], []
    for tenant in (tenant_a, tenant_b):
        with schema_context(tenant.schema_name):
            device = Device.objects.create(uuid=uuid4(), name=f"round {uuid4().hex[:8]}")
            DeviceStatus.objects.create(device=device)
        event = PresenceEvent("telemetry", tenant.schema_name, device.pk, device.uuid, datetime.now(UTC), 60.0)
        recorder.record([event])
        members.append(f"{tenant.schema_name}:{device.uuid}")
        devices.append((tenant.schema_name, device))

    def status(number: int) -> str:
        schema, device = devices[number]
        with schema_context(schema):
            return DeviceStatus.objects.get(device=device).status

    activity.record_listener_heartbeat()
    redis.hset(scripts.LISTENING, "since", 1)
    redis.zadd(scripts.DEADLINE, dict.fromkeys(members, 1))
    with missing(tenant_a, "devices_devicestatus"):
        assert health_checker.check().timed_out == 1
        assert failing() == {("presence", tenant_a.schema_name)}
        assert redis.zscore(scripts.EXPIRING, members[0]) is not None, "its lease ends by itself, and it is taken again"
        assert health_checker.reconcile() >= 0
    assert (status(0), status(1)) == ("ONLINE", "TIMEOUT")
    redis.zadd(scripts.EXPIRING, {members[0]: 1})
    health_checker.check()
    assert status(0) == "TIMEOUT"
    assert ("presence", tenant_a.schema_name) not in failing()


def test_the_wills_of_a_faulty_tenant_are_decided_later(tenant_a: Any, tenant_b: Any) -> None:
    from devices.models import Device, DeviceStatus
    from devices.services.presence import health_checker
    from devices.services.presence import redis_scripts as scripts

    redis = get_redis_connection("default")
    redis.delete(scripts.PENDING_WILLS)
    now = datetime.now(UTC).timestamp()
    for tenant in (tenant_a, tenant_b):
        with schema_context(tenant.schema_name):
            device = Device.objects.create(uuid=uuid4(), name=f"will {uuid4().hex[:8]}")
            DeviceStatus.objects.create(device=device)
        member = f"{tenant.schema_name}:{device.uuid}:{device.pk}:{now - 5:.6f}"
        redis.zadd(scripts.PENDING_WILLS, {member: now - 3})
    with missing(tenant_a, "devices_devicestatus"):
        assert health_checker.decide_pending_wills(10) == 1
    ((member, decide_at),) = redis.zrange(scripts.PENDING_WILLS, 0, -1, withscores=True)
    assert member.decode().startswith(tenant_a.schema_name)
    assert decide_at > now
    redis.zadd(scripts.PENDING_WILLS, {member: now})
    assert health_checker.decide_pending_wills(10) == 1


def test_accounts_of_an_unreadable_tenant_stay(tenant_a: Any, tenant_b: Any, register: Any) -> None:
    from devices.services.broker import synchronization

    device = register(tenant=tenant_a)
    with missing(tenant_a, "devices_device"):
        registered = synchronization._registered()
    assert device.device.uuid in registered.unreadable
    assert tenant_b.schema_name in {owned.schema for owned in registered.devices.values()} or not registered.devices
    assert device.device.uuid in synchronization._registered().devices


@contextmanager
def unmigratable(tenant: Any) -> Iterator[None]:
    """Within the block no migration can be recorded in the tenant's schema."""
    names = {"schema": sql.Identifier(tenant.schema_name)}
    with psycopg.connect(conninfo(), autocommit=True) as own:
        own.execute(
            sql.SQL(
                "CREATE FUNCTION {schema}.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;"
                " CREATE TRIGGER fail BEFORE INSERT ON {schema}.django_migrations"
                " FOR EACH ROW EXECUTE FUNCTION {schema}.fail()"
            ).format(**names)
        )
        try:
            yield
        finally:
            own.execute(sql.SQL("DROP FUNCTION {schema}.fail CASCADE").format(**names))


def test_a_failed_migration_does_not_stop_those_of_the_others(tenant_a: Any, tenant_b: Any) -> None:
    *_, before, newest = sorted(path.stem for path in (ROOT / "telemetry/migrations").glob("0*.py"))
    schemas = [tenant_a.schema_name, tenant_b.schema_name]

    def unapplied() -> list[str]:
        with connection.cursor() as cursor:
            found = []
            for schema in schemas:
                cursor.execute(f"SELECT 1 FROM {schema}.django_migrations WHERE name = %s", [newest])  # noqa: S608
                found += [] if cursor.fetchone() else [schema]
        return found

    for schema in schemas:
        call_command("migrate_schemas", "telemetry", before, schema_name=schema, interactive=False, verbosity=0)
    assert unapplied() == schemas
    with unmigratable(tenant_a):
        with pytest.raises(CommandError) as raised:
            call_command("migrate_schemas", "--tenant", interactive=False, verbosity=0)
        assert "1 of" in str(raised.value)
        assert f"{tenant_a.schema_name}  ProgrammingError: broken" in str(raised.value)
        assert failing() == {("migrations", tenant_a.schema_name)}
        assert unapplied() == [tenant_a.schema_name]
    call_command("migrate_schemas", "--tenant", interactive=False, verbosity=0)
    assert (unapplied(), failing()) == ([], set())
    assert current_schema() == "public"
