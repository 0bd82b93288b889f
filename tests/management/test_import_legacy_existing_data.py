"""The old server's record beside what is there already, and what comes after the move."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from django.core.management import call_command
from django_tenants.utils import schema_context

from tests.processes import wait_until

from .legacy import Import, everything, messages, new_tenant, run_fixture, tenant_fixture, totals  # noqa: F401
from .legacy_dump import START, Dump, OldDevice, make_dump, sign_v1

# --- Beside what is there already -------------------------------------------------------------------------


def live(tenant: Any, device: OldDevice, message: dict[str, Any]) -> Any:
    """The message from the device itself, with its members in the order in which its firmware writes them."""
    from telemetry.services.ingest.batch_pipeline import build_pipeline
    from telemetry.services.pipeline.results import Incoming

    ingest = build_pipeline()
    topic = f"telemetry/{device.owner}/{device.uuid}/dht22"
    result = ingest.process([Incoming(topic, json.dumps(sign_v1(message, device.secret)).encode(), datetime.now(UTC))])
    ingest.tick(last=True)
    ingest.close()
    return result


def test_what_came_live_and_is_in_the_record_is_stored_once(run: Import, tenant: Any, tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", devices=1, messages=0)
    (device,) = dump.devices
    run(dump)
    values = [{"temp": 20.5 + n, "humidity": 50} for n in range(4)]
    at = [datetime.now(UTC) - timedelta(minutes=n) for n in range(4)]
    sent = [
        {"value": v, "timestamp": t.isoformat(), "cpu_serial": device.cpu_serial}
        for v, t in zip(values, at, strict=True)
    ]
    for message in sent[:2]:
        assert live(tenant, device, message).stored == 1
    dump.rows("telemetry_data").extend(dump.message(device, v, t) for v, t in zip(values, at, strict=True))
    report = run(dump)["telemetry_data"]
    assert (report["created"], report["unchanged"]) == (2, 2)
    # The other way about: the device delivers from its memory what the record had.
    for message in sent[2:]:
        assert live(tenant, device, message).duplicates == 1
    assert len(messages(tenant)) == 4
    assert totals(tenant) == (8, 4, 4, 0, 0)


def test_limits_are_not_used_up(run: Import, tenant: Any, tmp_path: Path) -> None:
    from tenants.models import TenantLimits

    TenantLimits.objects.create(tenant=tenant, daily_quota=1, device_backfill_rate=1, device_backfill_burst=1)
    dump = make_dump(tmp_path / "dump", devices=1, messages=20)
    assert run(dump)["telemetry_data"]["created"] == 20
    now = datetime.now(UTC).isoformat()
    (device,) = dump.devices
    message = {"timestamp": now, "cpu_serial": device.cpu_serial, "value": {"temp": 20}}
    assert live(tenant, device, message).stored == 1
    assert totals(tenant) == (21, 21, 0, 0, 0)


def test_a_device_of_another_tenant_is_refused_and_nothing_of_that_tenant_is_touched(
    run: Import, tenant: Any, tmp_path: Path
) -> None:
    other = new_tenant()
    theirs = make_dump(tmp_path / "other", devices=1, messages=1)
    run(theirs, to=other)
    theirs_before = everything(other)
    dump = make_dump(tmp_path / "dump", devices=1, messages=1)
    uuid = theirs.devices[0].uuid
    dump.rows("devices").append([9, uuid, "x", "", 1, dump.devices[0].owner, "ONLINE"])
    report = run(dump)
    assert report["failure"].startswith("Nothing was imported")
    (problem,) = report["devices"]["problems"]
    assert problem["line"] == 3
    assert problem["message"] == f"The device UUID {uuid} is already registered in another tenant; remove the row."
    assert other.slug not in json.dumps(report)
    assert messages(tenant) == []
    # In the record alone: to this tenant it is an unknown device.
    dump.rows("devices").pop()
    stranger = OldDevice(9, uuid, "x", dump.devices[0].owner, dump.devices[0].secret, "")
    row = dump.message(stranger, {"temp": 1}, START)
    row[1] = ""
    dump.rows("telemetry_data").append(row)
    report = run(dump)
    assert report["telemetry_data"]["skipped"] == {"quarantined as unknown_device": 1}
    assert other.slug not in json.dumps(report)
    after = everything(other)
    assert {k: v for k, v in after.items() if k.startswith(other.schema_name)} == {
        k: v for k, v in theirs_before.items() if k.startswith(other.schema_name)
    }


def test_what_does_not_fit_is_in_quarantine_and_the_sums_are_right(run: Import, tenant: Any, tmp_path: Path) -> None:
    from telemetry.models import Quarantined
    from telemetry.services.retention import quarantine

    dump = make_dump(tmp_path / "dump", devices=1, messages=1)
    (device,) = dump.devices
    at = START + timedelta(days=2)
    wrong = [
        dump.message(device, {"temp": 99}, at),
        dump.message(device, {"temp": 1}, at, component="camera"),
        dump.message(device, {"temp": 1}, at, cpu_serial="another"),
        [0, device.id, "client/state/x", "{}", "", "2025-03-01 00:00:00+00"],
        [0, device.id, f"telemetry/{device.owner}/{device.uuid}/dht22", "no json", "", "2025-03-01 00:00:00+00"],
        [0, device.id, f"telemetry/other@example.com/{device.uuid}/dht22", "{}", "", "2025-03-01 00:00:00+00"],
    ]
    dump.rows("telemetry_data").extend(wrong)
    # A birth and a will are in the record of everything, too.
    dump.rows("telemetry_data").append(
        [0, device.id, f"device/lwt/status/{device.uuid}", '{"status": "OFFLINE"}', "", "2025-03-01 00:00:00+00"]
    )
    report = run(dump)["telemetry_data"]
    assert report["created"] == 2
    assert report["skipped"] == {
        "quarantined as cpu_serial_mismatch": 1,
        "quarantined as malformed": 2,
        "quarantined as out_of_range": 1,
        "quarantined as unknown_component": 1,
        "quarantined as wrong_tenant": 1,
    }
    assert totals(tenant) == (8, 2, 0, 6, 0)
    with schema_context(tenant.schema_name):
        quarantine.apply_retention()
        assert Quarantined.objects.count() == 6, "a refused message is as old as its refusal"


def test_what_is_mended_is_stored_when_the_record_is_read_again(run: Import, tenant: Any, tmp_path: Path) -> None:
    from devices.models import Metric

    dump = make_dump(tmp_path / "dump", devices=1, messages=2)
    dump.rows("telemetry_data").append(dump.message(dump.devices[0], {"temp": 90}, START + timedelta(days=2)))
    assert run(dump)["telemetry_data"]["skipped"] == {"quarantined as out_of_range": 1}
    with schema_context(tenant.schema_name):
        Metric.objects.filter(key="temperature", component_type__key="dht22").update(maximum=100)
    report = run(dump, "--again")["telemetry_data"]
    assert (report["created"], report["unchanged"], report["skipped"]) == (1, 2, {})
    assert [m.received_at - m.time for m in messages(tenant)] == [timedelta(seconds=0.2)] * 3
    assert totals(tenant) == (6, 3, 2, 1, 0)


def test_one_row_that_cannot_be_stored_does_not_stop_the_others(run: Import, tenant: Any, tmp_path: Path) -> None:
    from telemetry.models import LegacyImport
    from telemetry.services.legacy_import import ImportBatch, ImportPosition, LegacyImportWriter, LegacyRow

    dump = make_dump(tmp_path / "dump", devices=1, messages=3)
    run(dump, "--without-telemetry")
    rows = [LegacyRow(n, row[2], row[3].encode(), None, START) for n, row in enumerate(dump.rows("telemetry_data"), 2)]
    rows[1].topic += "\x00"
    with schema_context(tenant.schema_name):
        made = LegacyImport.objects.create(file="x")
        writer = LegacyImportWriter(tenant.schema_name)
        settled = writer.settle(made, ImportBatch(rows, 3, 0, ImportPosition(9, "d", 4)))
        writer.close()
        made.refresh_from_db()
    assert (settled.stored, settled.refused) == (2, [])
    assert (made.position, made.read, made.stored, made.unreadable) == (9, 3, 2, 1)


def test_while_the_tenants_tables_are_locked_it_waits(
    run: Import, tenant: Any, tmp_path: Path, start: Callable[..., Any]
) -> None:
    from tenants.infrastructure.database import conninfo

    dump = make_dump(tmp_path / "dump", devices=2, messages=50)
    run(dump, "--without-telemetry")
    command = ["manage.py", "import_legacy", str(dump.write()), "--tenant", tenant.slug]
    with psycopg.connect(conninfo()) as own:
        own.execute(f'LOCK TABLE "{tenant.schema_name}".telemetry_reading IN ACCESS EXCLUSIVE MODE')
        process = start(*command)
        wait_until(lambda: _waits(tenant), 180, process.log.read_text)
        assert process.popen.poll() is None
    assert process.popen.wait(120) == 0, process.log.read_text()
    assert totals(tenant) == (100, 100, 0, 0, 0)


def _waits(tenant: Any) -> bool:
    from telemetry.models import LegacyImport

    with schema_context(tenant.schema_name):
        return LegacyImport.objects.exists()


# --- After it ---------------------------------------------------------------------------------------------


def test_old_firmware_speaks_to_the_new_server_and_a_rotation_takes_it(
    run: Import, tenant: Any, tmp_path: Path, start: Callable[..., Any]
) -> None:
    from devices.models import DeviceCredential
    from devices.services import api_keys
    from devices.services.rotation.selection import DeviceSelection, select
    from tests.api.client import Api
    from tests.mqtt import RawClient

    dump = make_dump(tmp_path / "dump", devices=2, messages=1)
    run(dump)
    listener = start("manage.py", "run_mqtt_listener", "--client-id", f"test-{uuid4().hex[:8]}")
    listener.wait_for("Connected to the broker")
    device = dump.devices[0]
    topic = f"telemetry/{device.owner}/{device.uuid}/dht22/status"
    now = datetime.now(UTC).isoformat()
    sent = sign_v1({"timestamp": now, "cpu_serial": device.cpu_serial, "value": {"temp": 23.25}}, device.secret)
    with RawClient(device.uuid, device.password) as client:
        assert client.refusal is None
        client.publish_acknowledged(topic, json.dumps(sent).encode())
    with schema_context(tenant.schema_name):
        _, key = api_keys.issue_api_key(name="test")
    api = Api(tenant.slug, key=key)

    def newest() -> Any:
        values = api.get(f"devices/{device.uuid}/latest/").json()["results"]
        return next((v["value"] for v in values if v["metric"] == "temperature" and v["value"] == 23.25), None)

    assert wait_until(newest, 60) == 23.25
    with schema_context(tenant.schema_name):
        # The listener writes the use of a key a little later; it must not fall between the two records of everything.
        used = DeviceCredential.objects.filter(device__uuid=device.uuid, in_use_since__isnull=False)
        wait_until(used.exists, 60, "the use of the key is not written")
        assert {str(d.uuid) for d in select(DeviceSelection(marked=True))} == {d.uuid for d in dump.devices}
    _rotate(tenant, dump)


def _rotate(tenant: Any, dump: Dump) -> None:
    """A campaign over what is marked: each device gets a key of its own, and the shared one ends."""
    from django.utils import timezone

    from devices.models import Device, DeviceCredential
    from devices.services.rotation import campaigns, steps
    from devices.services.rotation.selection import DeviceSelection
    from devices.services.vault.secret_store import SecretStore

    with schema_context(tenant.schema_name):
        campaign = campaigns.start(
            name="after the move", selection=DeviceSelection(marked=True), deadline=timezone.now() + timedelta(hours=1)
        )
        steps.step(campaign.pk)
        secrets = set()
        for device in Device.objects.all():
            newest = DeviceCredential.objects.filter(device=device).first()
            assert newest is not None
            assert (newest.version, newest.rotate) == (2, False)
            secrets.add(SecretStore("listener").read(tenant.schema_name, device.uuid, 2).secret)
        assert len(secrets | {dump.devices[0].secret}) == 3
        before = everything(tenant)
    dump.write()
    call_command("import_legacy", str(dump.directory), "--tenant", tenant.slug, "--secrets", str(dump.secrets))
    assert everything(tenant) == before, "a device that has moved on is not given the shared secret back"
