"""The export of a tenant as one ZIP: complete, of this tenant alone, without secrets, and invalid when cut short."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.db.models import Field
from django_tenants.utils import schema_context

from telemetry.services.export import tenant_archive, tenant_pieces
from telemetry.services.export.tenant_tables import EXCLUDED, TABLES, ExportedTable, tenant_models
from tests.api.client import Api
from tests.factories import add_message, add_quarantined, add_readings, add_series, issue_key, make_device, make_user

T0 = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
# A column that is called so holds a secret, or what one is checked with.
SECRETS = ("secret", "digest", "salt", "password", "hash", "token")


def opened(content: bytes) -> dict[str, bytes]:
    archive_ = zipfile.ZipFile(io.BytesIO(content))
    assert archive_.testzip() is None
    return {name: archive_.read(name) for name in archive_.namelist()}


def rows(files: dict[str, bytes], name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files[f"{name}.ndjson"].splitlines()]


def export(tenant: Any) -> dict[str, bytes]:
    return opened(b"".join(tenant_archive.archive_chunks(tenant)))


@pytest.fixture
def no_broker(settings: Any) -> None:
    settings.MQTT_ADMIN_URL = ""


@pytest.fixture
def filled(db: None, tenant_a: Any, tenant_b: Any, no_broker: None) -> dict[str, Any]:
    """Both tenants with one of each kind, the other's under a name that must not be seen."""
    made = {}
    for tenant in (tenant_a, tenant_b):
        from devices.services.provisioning.registration import register_device

        canary = f"canary of {tenant.slug}"
        device = make_device(tenant, canary, dht22="dht22")
        number = add_series(tenant, device, "dht22", "temperature", "°C")
        words = add_series(tenant, device, "dht22", "state", "", "text")
        add_readings(tenant, number, (T0, 20.5), (T0 + timedelta(hours=1), 21))
        add_readings(tenant, words, (T0, canary))
        add_message(tenant, device, T0, b"\xff\xfe")
        add_quarantined(tenant, T0, device=device, topic=canary, payload=b'{"a": 1}')
        key = issue_key(tenant)
        with schema_context(tenant.schema_name):
            issued = register_device(name=f"{canary} with a key")[1]
        make_user(f"canary-of-{tenant.slug}", tenant, "viewer")
        made[tenant.slug] = (device, key, issued)
    return made


def test_every_table_of_a_tenant_is_exported_or_left_out_with_a_reason() -> None:
    exported, left_out = {table.model for table in TABLES}, set(EXCLUDED)
    assert set(tenant_models()) == exported | left_out
    assert not exported & left_out
    assert all(len(reason) > 20 for reason in EXCLUDED.values())


def test_no_column_holds_a_secret() -> None:
    columns = [f"{table.name}.{one.column}" for table in TABLES for one in table.columns]
    # The audit's hashes are over entries that are exported beside them.
    chain = {"devices.auditentry.hash", "devices.auditentry.previous_hash"}
    assert {name for name in columns if any(word in name.rpartition(".")[2] for word in SECRETS)} == chain
    everything: list[Field[Any, Any]] = [f for m in tenant_models() for f in m._meta.concrete_fields if f.column]
    assert len(columns) > 150 < len(everything)


def test_it_holds_everything_with_counts_and_hashes(filled: dict[str, Any], tenant_a: Any) -> None:
    files = export(tenant_a)
    manifest = json.loads(files["manifest.json"])
    assert (manifest["tenant"], manifest["complete"]) == ("alpha", True)
    assert {file["name"] for file in manifest["files"]} | {"manifest.json"} == set(files)
    for file in manifest["files"]:
        content = files[file["name"]]
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["bytes"] == len(content)
        if file["name"].endswith(".ndjson"):
            assert file["rows"] == content.count(b"\n")
    device = filled["alpha"][0]
    for table in TABLES:
        with schema_context(tenant_a.schema_name):
            assert len(rows(files, table.name)) == table.model._default_manager.count(), table.name
    assert str(device.uuid) in {row["uuid"] for row in rows(files, "devices.device")}
    values = {(row["metric"], row["value"], row["unit"]) for row in rows(files, "telemetry.readings")}
    assert values >= {("temperature", 20.5, "°C"), ("temperature", 21.0, "°C"), ("state", "canary of alpha", None)}
    (message,) = rows(files, "telemetry.message")
    assert message["payload_base64"] == "//4="
    assert rows(files, "telemetry.quarantined")[0]["payload"] == '{"a": 1}'
    members = {one["username"]: one["role"] for one in json.loads(files["tenant.json"])["members"]}
    assert members.items() >= {"owner-alpha": "owner", "canary-of-alpha": "viewer"}.items()


def test_the_schema_describes_each_column(filled: dict[str, Any], tenant_a: Any) -> None:
    files = export(tenant_a)
    tables = json.loads(files["schema.json"])["tables"]
    assert set(tables) == {name for name in files if name.endswith(".ndjson")}
    for name, table in tables.items():
        described = {column["name"] for column in table["columns"]}
        for line in files[name].splitlines()[:1]:
            assert {key.removesuffix("_base64") for key in json.loads(line)} == described, name
    assert b"payload_base64" in files["README.txt"]


def test_nothing_of_another_tenant_and_no_secret_gets_in(filled: dict[str, Any], tenant_a: Any, tenant_b: Any) -> None:
    for tenant, other in ((tenant_a, tenant_b), (tenant_b, tenant_a)):
        everything = b"".join(export(tenant).values())
        device, key, _ = filled[other.slug]
        for canary in (f"canary of {other.slug}", f"canary-of-{other.slug}", str(device.uuid), key[:14]):
            assert canary.encode() not in everything, canary
        _, own_key, own = filled[tenant.slug]
        assert own_key[:14].encode() in everything, "the beginning names the key"
        for secret in (own_key, own.secret, own.mqtt_password, hashlib.sha256(own_key.encode()).hexdigest()):
            assert secret.encode() not in everything


def test_pages_lose_and_repeat_nothing(db: None, tenant_a: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from devices.models import Unit
    from telemetry.models import Message

    device = make_device(tenant_a, "many", dht22="dht22")
    series = add_series(tenant_a, device, "dht22", "temperature", "°C")
    add_readings(tenant_a, series, *((T0 + timedelta(seconds=n), n) for n in range(23)))
    for n in range(11):
        add_message(tenant_a, device, T0 + timedelta(seconds=n // 2))
    monkeypatch.setattr("telemetry.services.export.readings.READINGS_PER_CHUNK", 5)
    read = [
        json.loads(line)
        for piece, _ in tenant_pieces.reading_chunks(tenant_a.schema_name)
        for line in piece.splitlines()
    ]
    assert [row["value"] for row in read] == list(range(23))
    for model in (Unit, Message):
        small = ExportedTable(model, rows=3)
        lines = [
            line for piece, _ in tenant_pieces.table_chunks(tenant_a.schema_name, small) for line in piece.splitlines()
        ]
        with schema_context(tenant_a.schema_name):
            assert len(lines) == len(set(lines)) == model._default_manager.count()


def test_packed_days_are_in_it(live_db: None, tenant_a: Any) -> None:
    """Rows that were moved into arrays read as before."""
    from telemetry.models import PackedDay

    device = make_device(tenant_a, "packed", dht22="dht22")
    series = add_series(tenant_a, device, "dht22", "temperature", "°C")
    with schema_context(tenant_a.schema_name):
        PackedDay.objects.create(
            series_id=series, day=datetime(2026, 11, 1, tzinfo=UTC), count=2, offsets=[0, 60_000], numbers=[1.5, 2.5]
        )
    try:
        found = [
            json.loads(line)["value"]
            for piece, _ in tenant_pieces.reading_chunks(tenant_a.schema_name)
            for line in piece.splitlines()
            if json.loads(line)["device"] == str(device.uuid)
        ]
        assert found == [1.5, 2.5]
    finally:
        with schema_context(tenant_a.schema_name):
            PackedDay.objects.filter(series_id=series).delete()
            device.series.all().delete()
            device.delete()


def test_one_that_cannot_be_finished_is_no_zip(filled: dict[str, Any], tenant_a: Any, monkeypatch: Any) -> None:
    def away(schema: str) -> Any:
        yield b"{}\n", 1
        raise OperationalError("away")

    monkeypatch.setattr(tenant_pieces, "reading_chunks", away)
    got: list[bytes] = []
    with pytest.raises(tenant_archive.ExportAborted):
        got.extend(tenant_archive.archive_chunks(tenant_a))
    assert got
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(got)))


def test_the_command(filled: dict[str, Any], tenant_a: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from devices.models import AuditEntry

    output = tmp_path / "alpha.zip"
    call_command("export_tenant", "alpha", output=output)
    assert opened(output.read_bytes())["manifest.json"]
    assert output.stat().st_mode & 0o777 == 0o600
    with schema_context(tenant_a.schema_name):
        assert AuditEntry.objects.filter(action="export everything", user_label="gwanje").count() == 1
    with pytest.raises(CommandError, match="already exists"):
        call_command("export_tenant", "alpha", output=output)
    with pytest.raises(CommandError, match="no tenant"):
        call_command("export_tenant", "nobody", output=tmp_path / "x.zip")

    def away(schema: str) -> Any:
        raise OperationalError("away")
        yield

    monkeypatch.setattr(tenant_pieces, "reading_chunks", away)
    with pytest.raises(CommandError, match="nothing was written"):
        call_command("export_tenant", "alpha", output=tmp_path / "broken.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alpha.zip"]


def test_who_may_and_that_it_is_written_down(filled: dict[str, Any], tenant_a: Any) -> None:
    from devices.models import AuditEntry

    key = Api(tenant_a.slug, key=issue_key(tenant_a, "admin"))
    assert key.get("devices/").status_code == 200
    answer = key.get("export/")
    assert answer.status_code == 200, answer.content
    assert answer["Content-Disposition"].startswith('attachment; filename="alpha-')
    assert json.loads(opened(b"".join(answer.streaming_content))["manifest.json"])["complete"] is True
    refused = Api(tenant_a.slug, key=issue_key(tenant_a, "write")).get("export/")
    assert refused.status_code == 403
    assert "requires an API key with the scope export:read" in refused.json()["detail"]
    with schema_context(tenant_a.schema_name):
        assert AuditEntry.objects.filter(action="export everything").count() == 1
    assert key.post("api-keys/", {"name": "x"}).status_code == 403, "keys manage no keys"


def test_memory_stays_bounded(live_db: None, tenant_a: Any) -> None:
    """300,000 readings in a process of their own: some megabytes more than 1,000."""
    device = make_device(tenant_a, "large", dht22="dht22")
    series = add_series(tenant_a, device, "dht22", "temperature", "°C")
    insert = (
        "INSERT INTO telemetry_reading (series_id, time, value)"
        " SELECT %s, timestamptz '2026-11-01' + n * interval '1 second', n FROM generate_series(1, %s) AS n"
    )
    program = (
        "import django, resource, sys; django.setup()\n"
        "from tenants.models import Tenant\n"
        "from telemetry.services.export.tenant_archive import TenantArchive\n"
        "size = sum(len(chunk) for chunk in TenantArchive(Tenant.objects.get(slug='alpha')).chunks())\n"
        "print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )

    def run() -> tuple[int, int]:
        env = {**os.environ, "PYTHONPATH": "platform:.", "DJANGO_SETTINGS_MODULE": "config.settings"}
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        size, kilobytes = done.stdout.split()
        return int(size), int(kilobytes)

    try:
        with schema_context(tenant_a.schema_name), connection.cursor() as cursor:
            cursor.execute(insert, [series, 1_000])
            small = run()
            cursor.execute("DELETE FROM telemetry_reading WHERE series_id = %s", [series])
            cursor.execute(insert, [series, 300_000])
            large = run()
    finally:
        with schema_context(tenant_a.schema_name), connection.cursor() as cursor:
            cursor.execute("DELETE FROM telemetry_reading WHERE series_id = %s", [series])
            device.series.all().delete()
            device.delete()
    assert large[0] > small[0] + 1_000_000  # beside whatever else the tenant has
    assert large[1] - small[1] < 20_000, (small, large)
