"""A dump that is wrong somewhere: nothing is written, and the report names the file, the line, and what to mend."""

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django_tenants.utils import schema_context

from management.legacy.tables import METADATA, ROLES, TELEMETRY_DATA
from tests.processes import ROOT

from .legacy import Import, everything, messages, new_tenant, run_fixture, tenant_fixture, totals  # noqa: F401
from .legacy_dump import Dump, make_dump

Change = Callable[[Dump], Any]


def _cell(table: str, row: int, column: int, value: Any) -> Change:
    def change(dump: Dump) -> None:
        dump.rows(table)[row][column] = value

    return change


def _column(table: str, place: int, name: str) -> Change:
    def change(dump: Dump) -> None:
        dump.tables[table][0][place] = name

    return change


def _row(table: str, *values: Any) -> Change:
    return lambda dump: dump.rows(table).append(list(values))


WRONG: dict[str, tuple[Change, str, int, str]] = {
    "a file is missing": (lambda d: d.tables.pop("user_devices"), "user_devices.csv", 0, "no such file"),
    "no header": (lambda d: d.tables.update(devices=([], [])), "devices.csv", 1, "has no header"),
    "a column is missing": (_column("devices", 2, "status"), "devices.csv", 1, "cpu_serial"),
    "a column is unknown": (_column("devices", 6, "colour"), "devices.csv", 1, "not known; expected are id"),
    "a column stands there twice": (_column("devices", 6, "nickname"), "devices.csv", 1, "Two columns are name"),
    "a secret in the dump": (_column("devices", 6, "hmac_secret"), "devices.csv", 1, "pass them with --secrets"),
    "a field too many": (lambda d: d.rows("devices")[0].append("x"), "devices.csv", 2, "8 fields; the header has 7"),
    "no UUID": (_cell("devices", 1, 1, "4711"), "devices.csv", 3, "'4711' cannot be taken; expected is a UUID"),
    "an empty UUID": (_cell("devices", 0, 1, ""), "devices.csv", 2, "It is empty; expected is a UUID"),
    "no e-mail address": (_cell("devices", 0, 5, "kim"), "devices.csv", 2, "expected is an e-mail address"),
    "a variant that is not there": (_cell("devices", 0, 4, 9), "devices.csv", 2, "'9' is not in hardware_variants.csv"),
    "a device twice": (lambda d: d.rows("devices").append(d.rows("devices")[0]), "devices.csv", 4, "twice"),
    "too long a name": (_cell("devices", 0, 3, "x" * 121), "devices.csv", 2, "name: Ensure this value has at most 120"),
    "a NUL": (_cell("devices", 0, 3, "a\x00b"), "devices.csv", 2, "contains a NUL"),
    "an alias with a slash": (_cell("devices", 0, 5, "a/b@example.com"), "devices.csv", 0, "must not contain /"),
    "an unknown device": (_cell("user_devices", 0, 2, 99), "user_devices.csv", 2, "'99' is not a device of"),
    "an unknown role": (_cell("user_devices", 0, 3, "king"), "user_devices.csv", 2, "expected is one of owner"),
    "a type that is not allowed": (
        _row("attached_components", 1, 1, "relay", "", ""), "attached_components.csv", 6, "cannot have a component",
    ),
    "a type that is not a key": (
        _row("supported_components", 1, 1, "no/type"), "supported_components.csv", 4, "cannot be a component type",
    ),
    "an unknown variant": (
        _row("supported_components", 1, 7, "dht22"), "supported_components.csv", 4, "'7' is not a row of hardware",
    ),
    "no pin": (_cell("attached_components", 0, 4, "[true]"), "attached_components.csv", 2, "'[true]' cannot be taken"),
    "a pin twice": (
        _row("attached_components", 1, 1, "dht22", "second", "4"), "attached_components.csv", 6, "used by dht22",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_and_nothing_is_written(run: Import, tenant: Any, tmp_path: Path, name: str) -> None:
    change, file, line, words = WRONG[name]
    dump = make_dump(tmp_path / "dump", devices=2, messages=1)
    change(dump)
    before = everything(tenant)
    report = run(dump)
    assert report["failure"] == "Nothing was imported: mend what is listed, and run it again."
    assert everything(tenant) == before
    # The problems of rows that depend on a row that is left out follow it.
    problem = next(p for table in report.values() if isinstance(table, dict) for p in table["problems"])
    assert (problem["file"], problem["line"]) == (file, line)
    assert words in f"{problem['column']} {problem['message']}"


def test_all_that_is_wrong_is_told_at_once(run: Import, tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", devices=3, messages=1)
    _cell("devices", 1, 4, 9)(dump)
    _cell("user_devices", 2, 3, "king")(dump)
    _cell("attached_components", 0, 4, "{}{")(dump)
    report = run(dump, "--dry-run")
    assert {
        t: [p["line"] for p in report[t]["problems"]] for t in ("devices", "user_devices", "attached_components")
    } == {
        "devices": [3],
        "user_devices": [4],
        "attached_components": [2],
    }
    assert "telemetry_data" not in report


def test_bytes_that_are_no_utf_8_and_broken_quotes(run: Import, tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", devices=2, messages=1)
    path = dump.write() / "user_devices.csv"
    path.write_bytes(
        path.read_bytes().replace(b"house 1", b"house \xff", 1).replace(b"owner,house 2", b'owner,"ho"x', 1)
    )
    with pytest.raises(CommandError):
        call_command("import_legacy", str(dump.directory), "--tenant", new_tenant().slug, "--new-keys")
    said = run_quietly(dump, "--new-keys")
    assert "user_devices.csv, line 2, nickname: It is not UTF-8" in said
    assert "user_devices.csv, line 4: It is not valid CSV" in said


def run_quietly(dump: Dump, *options: str) -> str:
    """What the command says on a terminal that is none."""
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("import_legacy", str(dump.directory), "--tenant", new_tenant().slug, *options, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("place", "value", "column", "words"),
    [
        (5, "", "received_time", "It is empty"),
        (5, "yesterday", "received_time", "'yesterday' is not a valid time"),
        (5, "9999-12-31 23:00:00+00", "received_time", "is in the future"),
        (4, "0001-01-01 00:00:00+09", "device_time", "is not a possible time"),
        (4, "2025-03-01 00:00:00", "device_time", "has no offset: give the zone"),
        (2, "", "topic", "It must not be empty"),
        (1, "77", "device_id", "'77' is not a device of devices.csv"),
    ],
)
def test_a_line_of_the_record_that_is_no_message_is_left_out_and_told(
    run: Import,
    tenant: Any,
    tmp_path: Path,
    place: int,
    value: str,
    column: str,
    words: str,
) -> None:
    dump = make_dump(tmp_path / "dump", devices=1, messages=3)
    dump.rows("telemetry_data")[1][place] = value
    for options in (["--dry-run"], []):
        report = run(dump, *options)
        found = report["telemetry_data"]
        assert (found["read"], found["created"], found["errors"]) == (3, 2, 1)
        (problem,) = found["problems"]
        assert (problem["file"], problem["line"], problem["column"]) == ("telemetry_data.csv", 3, column)
        assert words in problem["message"]
        assert report["failure"].startswith("Not everything")
    assert totals(tenant) == (2, 2, 0, 0, 0)


def test_times_without_an_offset_are_of_the_zone_that_is_said(run: Import, tenant: Any, tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", devices=1, messages=1)
    row = dump.rows("telemetry_data")[0]
    payload = json.loads(row[3])
    del payload["timestamp"]  # as a server keeps it that has taken it out
    row[3], row[4], row[5] = json.dumps(payload), "2025-03-01 09:00:00", "2025-03-01 09:00:01"
    assert run(dump, "--time-zone", "Asia/Seoul")["failure"] == ""
    (message,) = messages(tenant)
    assert (message.time.isoformat(), message.received_at.isoformat()) == (
        "2025-03-01T00:00:00+00:00", "2025-03-01T00:00:01+00:00",
    )  # fmt: skip
    assert "is not a time zone" in run(dump, "--time-zone", "Mars/Olympus")["failure"]


def test_a_compressed_record_is_read_and_a_damaged_one_named(run: Import, tenant: Any, tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", devices=1, messages=400)
    plain = dump.write() / "telemetry_data.csv"
    packed = gzip.compress(plain.read_bytes())
    plain.unlink()
    del dump.tables["telemetry_data"]
    file = dump.directory / "telemetry_data.csv.gz"
    file.write_bytes(packed[: len(packed) // 2])
    report = run(dump)
    assert "It cannot be read any further" in report["telemetry_data"]["problems"][0]["message"]
    file.write_bytes(packed)
    assert run(dump)["failure"] == ""
    assert run(dump)["telemetry_data"]["unchanged"] == 400
    assert len(messages(tenant)) == 400


# --- Secrets ----------------------------------------------------------------------------------------------


def test_without_a_secret_a_device_is_refused_or_gets_new_keys(run: Import, tenant: Any, tmp_path: Path) -> None:
    from devices.models import DeviceCredential

    dump = make_dump(tmp_path / "dump", devices=2, messages=1)
    report = run(dump, with_secrets=False)
    assert [p["line"] for p in report["devices"]["problems"]] == [2, 3]
    owner = dump.devices[0].owner
    assert report["devices"]["problems"][0]["message"] == (
        f"There is no secret of its owner {owner}; add a line to the file of --secrets, or use --new-keys."
    )
    assert run(dump, "--new-keys", with_secrets=False)["failure"] == ""
    with schema_context(tenant.schema_name):
        assert list(DeviceCredential.objects.values_list("rotate", flat=True)) == [False, False]


def test_secrets_by_the_standard_input_and_of_single_devices(tenant: Any, tmp_path: Path) -> None:
    from devices.services.vault.secret_store import SecretStore

    dump = make_dump(tmp_path / "dump", devices=2, messages=1)
    one, two = dump.devices
    text = f"owner_email,device_uuid,secret\n{one.owner.upper()},,{one.secret}\n,{two.uuid},of-the-second-alone\n"
    command = [
        sys.executable,
        "manage.py",
        "import_legacy",
        str(dump.write()),
        "--tenant",
        tenant.slug,
        "--secrets",
        "-",
    ]
    done = subprocess.run(command, input=text, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of-the-second-alone" not in done.stdout + done.stderr
    with schema_context(tenant.schema_name):
        store = SecretStore("listener")
        assert store.read(tenant.schema_name, UUID(one.uuid)).secret == one.secret
        assert store.read(tenant.schema_name, UUID(two.uuid)).secret == "of-the-second-alone"
        assert len(store.read(tenant.schema_name, UUID(two.uuid)).mqtt_password) == 32


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("owner_email,secret\na@example.com,short\n", 2, "A secret must have 8 to 512 printable characters"),
        ("owner_email,secret\na@example.com,\n", 2, "A secret must have 8 to 512 printable characters"),
        ("owner_email,secret\n,long-enough-secret\n", 2, "Give the owner's e-mail address, or the device's UUID"),
        ("owner_email\na@example.com\n", 1, "The column is missing"),
        ("owner_email,secret,mqtt_password\na@example.com,long-enough-secret,p\n", 2, "A secret must have 8 to 512"),
        ("", 1, "It has no header"),
    ],
)
def test_a_secrets_file_that_is_wrong_is_named_without_a_secret(
    tenant: Any,
    tmp_path: Path,
    text: str,
    line: int,
    words: str,
    capsys: Any,
) -> None:
    dump, file = make_dump(tmp_path / "dump", messages=0), tmp_path / "s.csv"
    file.write_text(text)
    before = everything(tenant)
    with pytest.raises(CommandError):
        call_command("import_legacy", str(dump.write()), "--tenant", tenant.slug, "--secrets", str(file), "--json")
    said = capsys.readouterr().out
    (problem,) = json.loads(said)[0]["problems"]
    assert (problem["file"], problem["line"]) == ("s.csv", line)
    assert words in problem["message"]
    assert "long-enough-secret" not in said
    assert everything(tenant) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nowhere", "--tenant", "alpha"], "There is no directory"), ([".", "--tenant", "nobody"], "There is no tenant")],
)
def test_what_is_not_there_is_named(live_db: None, arguments: list[str], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        call_command("import_legacy", *arguments)


def test_vault_away_nothing_is_half_registered(run: Import, tenant: Any, tmp_path: Path, settings: Any) -> None:
    from devices.models import Device
    from devices.services.vault import secret_store as vault

    dump = make_dump(tmp_path / "dump", devices=1, messages=1)
    real = settings.VAULT_ADDR
    settings.VAULT_ADDR = "http://127.0.0.1:1"
    vault.reset_provisioner()
    try:
        assert "run the command again when Vault answers" in run(dump)["failure"]
        with schema_context(tenant.schema_name):
            assert not Device.objects.exists()
    finally:
        settings.VAULT_ADDR = real
        vault.reset_provisioner()
    assert run(dump)["failure"] == ""


def test_the_document_has_every_column_and_role() -> None:
    from tests.documents import read, table

    documented = table(read("docs/legacy.md"), "file | imported columns (other names) | known and ignored")
    assert list(documented) == [f"{t.name}.csv" for t in (*METADATA, TELEMETRY_DATA)]
    for wanted in (*METADATA, TELEMETRY_DATA):
        taken, left_out = documented[f"{wanted.name}.csv"]
        names = []
        for column in wanted.columns:
            also = f" ({', '.join(column.aliases)})" if column.aliases else ""
            names.append(f"`{column.name}`{also}{'' if column.required else '?'}")
        assert taken == ", ".join(names)
        assert left_out == ", ".join(wanted.left_out)
    roles = table(read("docs/legacy.md"), "role there | role here")
    assert {name: cells[0].strip("`") for name, cells in roles.items()} == {name: str(r) for name, r in ROLES.items()}
