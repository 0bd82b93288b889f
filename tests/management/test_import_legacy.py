"""The old server's dump taken over: every field to its place, dry, twice, killed, and beside what is there already."""

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from django.db import connection
from django_tenants.utils import schema_context

from tests.processes import wait_until

from .legacy import Import, broker_names, counts, everything, messages, run_fixture, tenant_fixture, totals  # noqa: F401
from .legacy_dump import START, make_dump

# --- Every field to its place -----------------------------------------------------------------------------


def test_every_field_is_where_the_document_says(run: Import, tenant: Any, tmp_path: Path) -> None:
    from devices.models import AuditEntry, Component, Device, DeviceCredential
    from devices.services.vault.secret_store import SecretStore
    from tenants.models import DeviceRoute, Membership

    dump = make_dump(tmp_path / "dump", devices=2, messages=5)
    dump.tables["hardware_variants"][1].append([2, "Bare board", "0.9", ""])
    dump.rows("devices")[1][3] = "by the door"
    report = run(dump)
    assert report["failure"] == ""
    assert counts(report) == {
        "hardware_variants": 2, "supported_components": 2, "devices": 2, "attached_components": 4,
        "device_pin_configs": 2, "user_devices": 4, "telemetry_data": 10,
    }  # fmt: skip
    first, second = dump.devices
    with schema_context(tenant.schema_name):
        devices: Any = {str(d.uuid): d for d in Device.objects.select_related("hardware_model").order_by("id")}
        one = devices[first.uuid]
        assert (one.cpu_serial, one.name, one.active) == (first.cpu_serial, "house 1", True)
        assert devices[second.uuid].name == "by the door"
        assert (one.hardware_model.name, one.hardware_model.version) == (dump.rows("hardware_variants")[0][1], "1.4")
        assert {t.key for t in one.hardware_model.allowed_component_types.all()} == {"dht22", "pump"}
        parts = {c.key: c for c in Component.objects.filter(device=one).select_related("component_type")}
        assert {key: (c.component_type.key, c.pins) for key, c in parts.items()} == {
            "dht22": ("dht22", {"data": 4}),
            "drip-line": ("pump", {"relay": 17}),
        }
        key = DeviceCredential.objects.get(device=one)
        assert (key.rotate, key.not_after, key.revoked_at) == (True, None, None)
        kept = SecretStore("listener").read(tenant.schema_name, one.uuid, key.version)
        assert (kept.secret, kept.mqtt_password) == (first.secret, first.password)
        history = AuditEntry.objects.get(action="import", object_type="devices.device", object_id=str(one.pk))
        assert "'my house 1' by viewer-" in history.detail
        assert first.owner in history.detail
    assert DeviceRoute.objects.get(device_uuid=first.uuid).tenant_id == tenant.pk
    assert [alias.address for alias in tenant.aliases.all()] == [first.owner]
    members = {m.user.email: (m.role, m.user.has_usable_password()) for m in Membership.objects.filter(tenant=tenant)}
    assert {email.split("-")[0]: found for email, found in members.items()} == {
        "grower": ("operator", False),
        "viewer": ("viewer", False),
    }
    assert {first.uuid, second.uuid} <= broker_names()


def test_the_record_is_kept_as_it_was_and_its_readings_are_those_of_a_live_message(
    run: Import, tenant: Any, tmp_path: Path
) -> None:
    from devices.models import Device, DeviceStatus
    from telemetry.models import Reading

    dump = make_dump(tmp_path / "dump", devices=1, messages=3)
    run(dump)
    for message, row in zip(messages(tenant), dump.rows("telemetry_data"), strict=True):
        _, _, topic, payload, _, _ = row
        assert (message.topic, bytes(message.payload).decode()) == (topic, payload)
        assert message.time == datetime.fromisoformat(json.loads(payload)["timestamp"])
        assert message.received_at == message.time + timedelta(seconds=0.2)
        assert (message.late, message.signature, message.key_version, message.is_imported) == (True, 0, 0, True)
    with schema_context(tenant.schema_name):
        readings = Reading.objects.select_related("series").order_by("time", "series__metric")
        found = [(r.series.component, r.series.metric, r.series.unit, r.value) for r in readings]
        sent = [json.loads(row[3])["value"] for row in dump.rows("telemetry_data")]
        expected = [
            ("dht22", *pair)
            for v in sent
            for pair in (("humidity", "%", float(v["humidity"])), ("temperature", "°C", v["temp"]))
        ]
        assert found == expected
        status = DeviceStatus.objects.get(device=Device.objects.get(uuid=dump.devices[0].uuid))
        assert status.status == "UNKNOWN", "a late message is not activity"
    assert totals(tenant) == (3, 3, 0, 0, 0)


def test_the_newest_value_and_the_hourly_ones_are_right_afterwards(run: Import, tenant: Any, tmp_path: Path) -> None:
    from telemetry.models import ReadingHour, Series
    from telemetry.services.latest import values
    from telemetry.services.rollups import aggregation

    dump = make_dump(tmp_path / "dump", devices=1, messages=150)
    half = dump.rows("telemetry_data")[75:]
    del dump.rows("telemetry_data")[75:]
    run(dump)
    with schema_context(tenant.schema_name):
        aggregation.roll_up()
        assert sum(ReadingHour.objects.values_list("count", flat=True)) == 150
    dump.rows("telemetry_data").extend(half)
    report = run(dump)
    assert (report["telemetry_data"]["created"], report["telemetry_data"]["unchanged"]) == (75, 75)
    with schema_context(tenant.schema_name):
        series = Series.objects.get(metric="temperature")
        newest = values.newest_readings([series.pk])[series.pk]
        assert newest.value == json.loads(half[-1][3])["value"]["temp"]
        aggregation.roll_up()
        hours = ReadingHour.objects.filter(series_id=series.pk).order_by("hour")
        assert [(row.count, row.last) for row in hours] == [
            (count, json.loads(dump.rows("telemetry_data")[last][3])["value"]["temp"])
            for count, last in ((60, 59), (60, 119), (30, 149))
        ]


def test_months_of_long_ago_get_partitions_of_their_own(run: Import, tenant: Any, tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", devices=1, messages=0)
    (device,) = dump.devices
    for year in (2012, 1970):
        at = datetime(year, 5, 1, 12, tzinfo=UTC)
        dump.rows("telemetry_data").append(dump.message(device, {"temp": 1}, at))
    run(dump)
    with schema_context(tenant.schema_name), connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM telemetry_message ORDER BY time")
        assert [name.rsplit("_", 1)[1].strip('"') for (name,) in cursor.fetchall()] == ["default", "201205"]


def test_components_pins_and_names_in_all_their_forms(run: Import, tenant: Any, tmp_path: Path) -> None:
    from devices.models import Component

    dump = make_dump(tmp_path / "dump", devices=1, messages=0)
    dump.rows("supported_components").extend([[3, 1, "bme280"], [4, 1, "sht31"], [5, 1, "fan"]])
    dump.tables["attached_components"] = (
        ["component_id", "device", "type", "name", "gpio_pins", "is_attached"],
        [
            [1, 1, "dht22", "", "", "t"],
            [2, 1, "dht22", "", "", "t"],
            [3, 1, "bme280", "Roof sensor #1", '{"sda": 2, "scl": "GPIO3"}', "t"],
            [4, 1, "sht31", "", '{"SDA": "GPIO2", "SCL": 3}', "t"],
            [5, 1, "fan", "", "12, 13", "f"],
        ],
    )
    dump.tables["device_pin_configs"] = (
        ["id", "device_id", "gpio", "function", "component_id"],
        [[1, 1, 4, "dht22", 1], [2, 1, "GPIO5", "DATA", 2], [3, 1, 12, "PWM", ""], [4, 1, 26, "BUZZER", ""]],
    )
    report = run(dump)
    assert report["failure"] == ""
    assert report["device_pin_configs"]["created"] == 3
    assert sum(report["device_pin_configs"]["skipped"].values()) == 1
    assert "Roof sensor #1" in " ".join(report["attached_components"]["notes"])
    with schema_context(tenant.schema_name):
        found = {c.key: (c.name, c.attached, c.pins) for c in Component.objects.all()}
    assert found == {
        "dht22": ("", True, {"data": 4}),
        "dht22-2": ("", True, {"data": 5}),
        "Roof-sensor-1": ("Roof sensor #1", True, {"sda": 2, "scl": 3}),
        "sht31": ("", True, {"sda": 2, "scl": 3}),
        "fan": ("", False, {"pwm": 12, "data": 13}),
    }


def test_what_is_registered_already_stays_as_people_have_it(run: Import, tenant: Any, tmp_path: Path) -> None:
    from devices.models import Device, HardwareModel
    from tenants.models import Membership, User

    dump = make_dump(tmp_path / "dump", devices=1, messages=0)
    viewer = next(row[1] for row in dump.rows("user_devices") if row[3] == "viewer")
    (device,) = dump.devices
    known = User.objects.create_user(username=f"u{uuid4().hex[:8]}", email=device.owner.upper())
    Membership.objects.create(user=known, tenant=tenant, role="viewer")
    with schema_context(tenant.schema_name):
        model = HardwareModel.objects.create(name=dump.rows("hardware_variants")[0][1], version="1.4")
    report = run(dump)
    assert f"{device.owner} already has the role viewer" in " ".join(report["user_devices"]["notes"])
    assert Membership.objects.get(user=known, tenant=tenant).role == "viewer"
    assert User.objects.filter(email__iexact=device.owner).count() == 1
    assert not User.objects.get(email=viewer).has_usable_password()
    with schema_context(tenant.schema_name):
        assert not model.allowed_component_types.exists(), "it allowed everything, and goes on to do so"
        Device.objects.filter(uuid=device.uuid).update(name="renamed here")
    run(dump)
    with schema_context(tenant.schema_name):
        assert Device.objects.get(uuid=device.uuid).name == "renamed here"


# --- Dry, twice, killed -----------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(run: Import, tenant: Any, tmp_path: Path) -> None:
    from devices.services.vault.secret_store import SecretMissing, SecretStore

    dump = make_dump(tmp_path / "dump", devices=2, messages=4)
    dump.rows("telemetry_data").append(dump.message(dump.devices[0], {"temp": 900}, START + timedelta(days=1)))
    before, accounts = everything(tenant), broker_names()
    dry = run(dump, "--dry-run")
    assert everything(tenant) == before
    assert broker_names() == accounts
    with pytest.raises(SecretMissing):
        SecretStore("listener").read(tenant.schema_name, UUID(dump.devices[0].uuid))
    assert dry["telemetry_data"]["skipped"] == {"quarantined as out_of_range": 1}
    (example,) = dry["telemetry_data"]["examples"]["quarantined as out_of_range"]
    assert example.startswith("line 10: Metric temperature at value.temp: 900 °C is outside")
    real = run(dump)
    assert counts(real) == counts(dry)
    assert real["telemetry_data"]["skipped"] == dry["telemetry_data"]["skipped"]
    assert real["telemetry_data"]["examples"] == dry["telemetry_data"]["examples"]


def test_twice_changes_nothing(run: Import, tenant: Any, tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", devices=2, messages=4)
    dump.rows("telemetry_data").append(dump.message(dump.devices[0], {"temp": 900}, START + timedelta(days=1)))
    first = run(dump)
    before = everything(tenant)
    again = run(dump, with_secrets=False)
    assert everything(tenant) == before
    assert set(counts(again).values()) == {0}
    for table in counts(first):
        assert again[table]["read"] == first[table]["read"]
        assert again[table]["unchanged"] == first[table]["created"] + first[table]["unchanged"]
        assert again[table]["skipped"] == first[table]["skipped"]


def test_metadata_first_and_the_record_later(run: Import, tenant: Any, tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", devices=1, messages=2)
    assert "telemetry_data" not in run(dump, "--without-telemetry")
    assert totals(tenant) == (0, 0, 0, 0, 0)
    assert run(dump)["telemetry_data"]["created"] == 2


def test_another_file_of_the_same_name_is_read_from_its_beginning(run: Import, tenant: Any, tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", devices=1, messages=6)
    run(dump)
    moved = dump.rows("telemetry_data")[::-1]
    dump.tables["telemetry_data"] = (dump.tables["telemetry_data"][0], moved)
    report = run(dump)["telemetry_data"]
    assert (report["created"], report["unchanged"]) == (0, 6)
    assert totals(tenant) == (12, 6, 6, 0, 0)
    assert len(messages(tenant)) == 6


def test_killed_half_way_it_goes_on_and_ends_the_same(
    run: Import, tenant: Any, tmp_path: Path, start: Callable[..., Any]
) -> None:
    from telemetry.models import LegacyImport, Quarantined, Reading

    dump = make_dump(tmp_path / "dump", devices=4, messages=4000)
    dump.rows("telemetry_data")[7000] = dump.message(dump.devices[0], {"temp": "hot"}, START)
    command = ["manage.py", "import_legacy", str(dump.write()), "--tenant", tenant.slug, "--secrets", str(dump.secrets)]

    def read() -> int:
        with schema_context(tenant.schema_name):
            return next(iter(LegacyImport.objects.values_list("read", flat=True)), 0)

    for reached in (1, 9000):
        process = start(*command)
        wait_until(lambda: read() >= reached, 180, process.log.read_text)  # noqa: B023 (called in the loop)
        process.signal(signal.SIGKILL)
        process.popen.wait(60)
        assert read() < 16000, "it was not killed half-way"
    _lose_the_connection_once(start, command, read)
    report = run(dump)["telemetry_data"]
    assert report["read"] == 16000
    assert report["created"] + report["unchanged"] == 15999
    assert report["skipped"] == {"quarantined as wrong_type": 1}
    with schema_context(tenant.schema_name):
        assert LegacyImport.objects.count() == 1
        done = LegacyImport.objects.get()
        assert (done.stored, done.duplicates, done.refused) == (15999, 0, {"wrong_type": 1})
        assert done.finished_at is not None
        assert Reading.objects.count() == 2 * 15999
        (refused,) = Quarantined.objects.all()
        assert refused.count == 1
        assert refused.detail.startswith("From an old record, line 7002, received 2025-03-01T00:00:00.200000+00:00: ")
    assert totals(tenant) == (16000, 15999, 0, 1, 0)


def _lose_the_connection_once(start: Callable[..., Any], command: list[str], read: Callable[[], int]) -> None:
    """PostgreSQL throws the import out in the midst of it, which waits and goes on by itself."""
    from tenants.infrastructure.database import conninfo

    before = read()
    process = start(*command)
    wait_until(lambda: read() > before, 180, process.log.read_text)
    with psycopg.connect(conninfo(), autocommit=True) as own:
        own.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gwanje-ingest'")
    assert process.popen.wait(60) == 0, process.log.read_text()
    assert "PostgreSQL is unavailable: waiting" in process.log.read_text()


def test_a_second_import_at_the_same_time_is_refused(run: Import, tenant: Any, tmp_path: Path) -> None:
    from tenants.infrastructure.database import conninfo

    dump = make_dump(tmp_path / "dump", devices=1, messages=1)
    with psycopg.connect(conninfo(), autocommit=True) as own:
        own.execute("SELECT pg_advisory_lock(hashtext(%s))", [f"import_legacy:{tenant.schema_name}"])
        assert "is running" in run(dump)["failure"]
    assert run(dump)["failure"] == ""
