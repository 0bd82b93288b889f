"""Devices by tables: dry runs, errors per row, all or nothing, twice the same, workers, credentials once."""

import io
import json
import zipfile
from typing import Any

import openpyxl
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django_tenants.utils import schema_context

from tests.factories import issue_key, make_device, make_user
from tests.processes import run_at_once

from .client import Api, problems

HEADING = "name,hardware_model,cpu_serial,timeout_seconds,components"


@pytest.fixture(autouse=True)
def no_broker(settings: Any) -> None:
    settings.MQTT_ADMIN_URL = ""


def table(*lines: str, heading: str = HEADING) -> bytes:
    return "\n".join([heading, *lines]).encode()


def upload(api: Api, content: bytes, **fields: Any) -> Any:
    file = SimpleUploadedFile("devices.csv", content)
    return api._client.post(f"{api.root}devices/import/", {"file": file, **fields})


def names(tenant: Any) -> list[str]:
    from devices.models import Device

    with schema_context(tenant.schema_name):
        return sorted(Device.objects.values_list("name", flat=True))


@pytest.fixture
def model(tenant_a: Any, db: None) -> str:
    from devices.models import HardwareModel

    with schema_context(tenant_a.schema_name):
        return str(HardwareModel.objects.get_or_create(name="Testboard", version="3")[0])


def test_a_dry_run_says_what_would_become_of_each_row(api: Api, tenant_a: Any, model: str) -> None:
    make_device(tenant_a, "known", dht22="dht22")
    before = names(tenant_a)
    answer = upload(
        api,
        table(f"north,{model},S1,90,dht22;dht22-2:dht22", "known,,,120,dht22", "known two,,,,", "x,nothing 9,,a,pump?"),
        dry_run="true",
    )
    assert answer.status_code == 200, answer.content
    document = answer.json()
    assert document["counts"] == {"new": 2, "updated": 1, "unchanged": 0, "error": 1}
    assert document["dry_run"] is True
    assert document["credentials"] == []
    rows = document["results"]
    assert [(row["row"], row["outcome"]) for row in rows] == [(2, "new"), (3, "updated"), (4, "new"), (5, "error")]
    assert rows[1]["changes"] == ["timeout_seconds"]
    errors = {error["column"]: error["detail"] for error in rows[3]["errors"]}
    assert set(errors) == {"hardware_model", "timeout_seconds", "components"}
    assert "Testboard 3" in errors["hardware_model"]
    assert names(tenant_a) == before


def test_nothing_is_written_while_a_row_has_an_error_unless_asked_for(api: Api, tenant_a: Any) -> None:
    before = names(tenant_a)
    content = table("north,,,,dht22", "south,,,,nothing")
    answer = upload(api, content)
    assert answer.status_code == 400
    assert "There is no component type nothing" in problems(answer)["file"]
    assert names(tenant_a) == before
    answer = upload(api, content, skip_errors="true")
    assert answer.status_code == 200, answer.content
    assert answer.json()["counts"] == {"new": 1, "updated": 0, "unchanged": 0, "error": 1}
    assert names(tenant_a) == sorted([*before, "north"])


def test_the_same_file_twice_changes_nothing(api: Api, tenant_a: Any, model: str) -> None:
    from devices.models import AuditEntry, Device
    from devices.services.vault.secret_store import provisioner

    content = table(f"north,{model},S1,90,dht22;dht22-2:dht22", "south,,,,")
    first = upload(api, content).json()
    assert first["counts"]["new"] == 2
    assert len(first["credentials"]) == 2
    again = upload(api, content).json()
    assert again["counts"] == {"new": 0, "updated": 0, "unchanged": 2, "error": 0}
    assert again["credentials"] == []
    with schema_context(tenant_a.schema_name):
        device = Device.objects.get(name="north")
        assert (str(device.hardware_model), device.cpu_serial, device.timeout_seconds) == (model, "S1", 90)
        kinds = dict(device.components.values_list("key", "component_type__key"))
        assert kinds == {"dht22": "dht22", "dht22-2": "dht22"}
        assert AuditEntry.objects.filter(action="register", object_label="north").count() == 1
        (given,) = [one for one in first["credentials"] if one["uuid"] == str(device.uuid)]
        assert provisioner().read(tenant_a.schema_name, device.uuid).secret == given["secret"]
        assert given["secret"] not in json.dumps(list(AuditEntry.objects.values_list("detail", flat=True)))


def test_what_a_row_may_change(api: Api, tenant_a: Any) -> None:
    from devices.models import AuditEntry, Device

    device = make_device(tenant_a, "known", dht22="dht22")
    heading = "uuid,name,cpu_serial,active,components"
    rows = table(f"{device.uuid},renamed,S9,no,dht22;relay", heading=heading)
    assert upload(api, rows).json()["results"][0]["changes"] == ["name", "cpu_serial", "active", "components"]
    with schema_context(tenant_a.schema_name):
        device = Device.objects.get(pk=device.pk)
        assert (device.name, device.cpu_serial, device.active) == ("renamed", "S9", False)
        assert device.components.count() == 2
        assert AuditEntry.objects.filter(action="change", object_id=str(device.pk)).exists()
    other = upload(api, table(f"{device.uuid},,,,dht22:relay", heading=heading))
    assert "cannot be changed to relay" in problems(other)["file"]
    empty = upload(api, table(f"{device.uuid},,,,", heading=heading)).json()
    assert empty["counts"]["unchanged"] == 1, "an empty cell leaves what is there"


def test_rows_that_cannot_be_told_apart(api: Api, tenant_a: Any, tenant_b: Any) -> None:
    make_device(tenant_a, "twin")
    make_device(tenant_a, "twin")
    foreign = make_device(tenant_b, "foreign-device")
    answer = upload(
        api,
        table(",twin,", ",a,S1", ",b,S1", f"{foreign.uuid},c,", "nonsense,d,", ",,", heading="uuid,name,cpu_serial"),
        dry_run="1",
    ).json()
    found = {row["row"]: row["errors"][0] for row in answer["results"] if row["errors"]}
    assert found[2] == {"column": "name", "detail": "2 devices have this value: give the UUID instead."}
    assert found[4]["detail"] == "Row 3 describes the same device: remove one of the two rows."
    assert "is already registered" in found[5]["detail"]
    assert "foreign-device" not in json.dumps(answer)
    assert found[6]["column"] == "uuid"
    assert 7 not in found, "a row without any cell is none"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16"])
def test_encodings_of_spreadsheets(api: Api, tenant_a: Any, encoding: str) -> None:
    content = "name;components\n온실 북쪽;dht22\n".encode(encoding)
    answer = upload(api, content)
    assert answer.json()["results"][0]["name"] == "온실 북쪽"


def test_the_answer_names_the_encoding_and_nothing_is_read_in_another_script(api: Api, tenant_a: Any) -> None:
    content = "name\nОфис 1\n".encode("cp1251")
    before = names(tenant_a)
    answer = upload(api, content)
    assert answer.status_code == 400
    assert "its encoding must be given" in " ".join(problems(answer).values())
    assert names(tenant_a) == before
    answer = upload(api, content, encoding="cp1251", dry_run="true")
    assert (answer.json()["encoding"], answer.json()["results"][0]["name"]) == ("cp1251", "Офис 1")
    answer = upload(api, content, encoding="cp1251")
    assert (answer.status_code, answer.json()["encoding"]) == (200, "cp1251")
    assert api.get(f"device-imports/{answer.json()['id']}/").json()["encoding"] == "cp1251"
    assert "Офис 1" in names(tenant_a)
    assert upload(api, "name\n온실\n".encode("cp949"), dry_run="true").json()["encoding"] == "cp949"
    assert upload(api, xlsx(["name"], ["a"]), dry_run="true").json()["encoding"] == ""


@pytest.mark.parametrize(
    ("fields", "member", "words"),
    [
        ({"encoding": "klingon"}, "encoding", "must be one of"),
        ({"encoding": "cp1251", "rows": [{"name": "x"}]}, "encoding", "applies to a file"),
    ],
)
def test_an_encoding_that_does_not_apply(api: Api, fields: dict[str, Any], member: str, words: str) -> None:
    answer = api.post("devices/import/", fields) if "rows" in fields else upload(api, b"name\nx\n", **fields)
    assert answer.status_code == 400
    assert words in problems(answer)[member]


def test_damaged_serials_are_refused_by_name(api: Api, tenant_a: Any) -> None:
    before = names(tenant_a)
    lines = ("north,,1E+15,,", 'south,,"=""0000000099999999""",,', "east,,10000000e1234567,,", "1E+05,,,,")
    document = upload(api, table(*lines), dry_run="true").json()
    errors = {row["name"]: row["errors"] for row in document["results"]}
    assert [(one["column"], "shortened" in one["detail"]) for one in errors["north"]] == [("cpu_serial", True)]
    assert [(one["column"], "a formula" in one["detail"]) for one in errors["south"]] == [("cpu_serial", True)]
    assert errors["east"] == []
    assert document["counts"]["error"] == 3
    assert upload(api, table(*lines)).status_code == 400
    answer = api.post("devices/import/", {"rows": [{"name": "x", "cpu_serial": "1E+15"}], "dry_run": True})
    assert answer.json()["counts"]["error"] == 1
    number = upload(api, xlsx(["name", "cpu_serial"], ["x", 1e300]), dry_run="true").json()
    assert "shortened" in number["results"][0]["errors"][0]["detail"]
    assert names(tenant_a) == before


def test_the_separator_of_an_export(api: Api, settings: Any) -> None:
    api.post("devices/", {"name": "one; two, three"})
    for separator, sign in (("comma", ","), ("semicolon", ";"), ("tab", "\t")):
        content = api.get("devices/export/", separator=separator).content.decode("utf-8-sig")
        assert content.startswith(f"uuid{sign}name{sign}")
        assert upload(api, content.encode(), dry_run="true").json()["counts"]["error"] == 0
    answer = api.get("devices/export/", format="xlsx", separator="tab")
    assert (answer.status_code, "applies to CSV only" in problems(answer)["separator"]) == (400, True)
    assert "must be one of" in problems(api.get("devices/export/", separator="|"))["separator"]
    settings.CSV_BYTE_ORDER_MARK = False
    assert api.get("devices/export/").content.startswith(b"uuid,")


def xlsx(*rows: list[Any]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    to = io.BytesIO()
    book.save(to)
    return to.getvalue()


def test_xlsx_with_numbers_and_gaps(api: Api) -> None:
    content = xlsx(["Name", "CPU serial", "Timeout seconds", None], ["north", 12345678, 90.0], [None], ["south"])
    answer = upload(api, content)
    assert answer.status_code == 200, answer.content
    assert [(row["row"], row["outcome"]) for row in answer.json()["results"]] == [(2, "new"), (4, "new")]


def bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * 150_000_000)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"serial\nx\n", "The column name is missing"),
        (b"name,colour\nx,red\n", "colour is not a valid column"),
        (b"name,name\nx,y\n", "more than once"),
        (b"name\n", "no other rows"),
        (b"name\nx,y\n", "Row 2 must not have more cells"),
        (b'name\n"x\n', "is not valid CSV"),
        (b"name\n\xff\xfe\xfd\x81\n", "must be UTF-8 or CP949"),
        (b"PK\x03\x04 no zip", "is not a valid XLSX file"),
        (b"name\n" + b"x\n" * 11, "must not have more than 10 rows"),
        (b"name\n" + b"x" * 5000 + b"\n", "more than 4000 characters"),
        pytest.param("bomb", "unpacked", id="bomb"),
    ],
)
def test_files_that_are_none(api: Api, settings: Any, content: Any, said: str) -> None:
    settings.IMPORT_MAX_ROWS = 10
    answer = upload(api, bomb() if content == "bomb" else content, dry_run="true")
    assert answer.status_code == 400, answer.content
    assert said in " ".join(problems(answer).values())


def test_a_file_that_is_too_large(api: Api, settings: Any) -> None:
    settings.IMPORT_MAX_BYTES = 100
    assert "larger than 100 bytes" in problems(upload(api, b"name\n" + b"x" * 100))["file"]


def test_rows_come_as_json_too(api: Api, tenant_a: Any) -> None:
    answer = api.post("devices/import/", {"rows": [{"name": "north", "timeout_seconds": 90, "active": False}]})
    assert answer.status_code == 200, answer.content
    assert answer.json()["counts"]["new"] == 1
    both = api.post("devices/import/", {})
    assert "Send either 'file' or 'rows'" in problems(both)[None]
    unknown = api.post("devices/import/", {"rows": [{"colour": "red"}]})
    assert "colour" in " ".join(problems(unknown).values())


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_what_is_exported_is_read_back_as_it_was(api: Api, tenant_a: Any, model: str, form: str) -> None:
    upload(api, table(f"=1+1,{model},S1,90,dht22;dht22-2:dht22", "-x,,@S2,,"))
    content = api.get("devices/export/", format=form).content
    if form == "csv":
        assert b"'=1+1," in content
        assert b"'@S2" in content
    else:
        cells = [cell for row in openpyxl.load_workbook(io.BytesIO(content)).active.rows for cell in row]
        assert all(cell.data_type != "f" for cell in cells)
        assert "'=1+1" in [cell.value for cell in cells]
    again = upload(api, content, dry_run="true").json()
    assert again["counts"]["unchanged"] == len(again["results"]) >= 2


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_the_template_can_be_imported(api: Api, form: str) -> None:
    answer = api.get("devices/import-template/", format=form)
    assert f"devices-template.{form}" in answer["Content-Disposition"]
    assert upload(api, answer.content, dry_run="true").json()["counts"]["new"] == 2
    assert api.get("devices/import-template/", format="pdf").status_code == 400


def test_many_rows_are_done_by_a_worker(api: Api, tenant_a: Any, settings: Any, monkeypatch: Any) -> None:
    from devices.models import Device, DeviceImport
    from devices.services.provisioning import import_jobs
    from devices.services.vault.secret_store import provisioner

    settings.IMPORT_AT_ONCE = 2
    monkeypatch.setattr(import_jobs, "_BATCH", 2)
    answer = upload(api, table(*(f"bulk {n},,,,dht22" for n in range(5))))
    assert answer.status_code == 202, answer.content
    started = answer.json()
    assert (started["state"], started["processed"], started["total"]) == ("waiting", 0, 5)
    path = f"device-imports/{started['id']}/"
    with schema_context(tenant_a.schema_name):
        # Killed half-way: the second batch is rolled back as a whole, and done again.
        calls = []

        def killed(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return register(*args, **kwargs)

        from devices.services.provisioning import registration

        register = registration.register_device
        monkeypatch.setattr("devices.services.provisioning.registration.register_device", killed)
        with pytest.raises(KeyboardInterrupt):
            import_jobs.step(started["id"], queue=False)
        assert Device.objects.filter(name__startswith="bulk").count() == 2
        assert DeviceImport.objects.get(pk=started["id"]).position == 2
        assert import_jobs.step(started["id"], queue=False) == "5 of 5"
        assert import_jobs.step(started["id"], queue=False) == "nothing to do"
        assert Device.objects.filter(name__startswith="bulk").count() == 5
    ended = api.get(path).json()
    assert (ended["state"], ended["counts"]["new"], ended["credentials_remaining"]) == ("done", 5, 5)

    refused = problems(api.post(path + "credentials/", {"devices": ["bulk-1"]}))
    assert "'devices' is not a known member" in str(refused["devices"])
    assert api.get(path).json()["credentials_remaining"] == 5

    monkeypatch.setattr(import_jobs, "HANDED_AT_ONCE", 3)
    first, second = api.post(path + "credentials/").json(), api.post(path + "credentials/").json()
    assert (first["credentials_remaining"], second["credentials_remaining"]) == (2, 0)
    given = first["credentials"] + second["credentials"]
    assert len({one["uuid"] for one in given}) == 5
    for one in given:
        assert provisioner().read(tenant_a.schema_name, one["uuid"]).secret == one["secret"]
    assert api.post(path + "credentials/").json() == {"credentials_remaining": 0, "credentials": []}


def test_a_row_that_somebody_took_meanwhile_is_said(api: Api, tenant_a: Any, tenant_b: Any, settings: Any) -> None:
    from devices.services.provisioning import import_jobs

    settings.IMPORT_AT_ONCE = 1
    taken = "6d1f6a3e-5f0e-4c53-9d68-0a6f0c8a1f11"
    started = upload(api, table(f"{taken},first", ",second", heading="uuid,name")).json()
    from tenants.models import DeviceRoute

    DeviceRoute.objects.create(device_uuid=taken, tenant=tenant_b)
    with schema_context(tenant_a.schema_name):
        import_jobs.step(started["id"], queue=False)
    ended = api.get(f"device-imports/{started['id']}/").json()
    assert ended["counts"] == {"new": 1, "updated": 0, "unchanged": 0, "error": 1}
    assert ended["errors"][0]["row"] == 2
    assert "already registered" in ended["errors"][0]["errors"][0]["detail"]


def test_the_same_table_twice_at_once(live_db: None, tenant_a: Any, settings: Any) -> None:
    from devices.models import Device, DeviceImport
    from devices.services.provisioning import import_jobs
    from devices.services.provisioning.registration import remove_device
    from tenants.infrastructure.spreadsheets import TableRow

    rows = [TableRow(number, {"name": f"twice at once {number}"}) for number in range(2, 12)]

    def run() -> int:
        with schema_context(tenant_a.schema_name):
            done = import_jobs.import_rows(rows)[1]
            return len(done.issued) if done else 0

    try:
        assert sorted(run_at_once([run, run, run])) == [0, 0, 10]
    finally:
        with schema_context(tenant_a.schema_name):
            found = list(Device.objects.filter(name__startswith="twice at once"))
            for device in found:
                remove_device(device)
            DeviceImport.objects.all().delete()
    assert len(found) == 10


def test_vault_away(api: Api, tenant_a: Any, settings: Any, monkeypatch: Any) -> None:
    from devices.models import DeviceImport
    from devices.services.provisioning import import_jobs
    from devices.services.vault.secret_store import SecretsUnavailable

    def away(*args: Any, **kwargs: Any) -> None:
        raise SecretsUnavailable("away")

    before = names(tenant_a)
    with monkeypatch.context() as outage:
        outage.setattr("devices.services.vault.secret_store.SecretStore.write", away)
        assert upload(api, table("north,,,,")).status_code == 503
        settings.IMPORT_AT_ONCE = 0
        started = upload(api, table("north,,,,")).json()
        with schema_context(tenant_a.schema_name):
            assert import_jobs.step(started["id"], queue=False) == "0 of 1"
            assert DeviceImport.objects.get(pk=started["id"]).note == "Vault"
    assert names(tenant_a) == before
    with schema_context(tenant_a.schema_name):
        assert import_jobs.step(started["id"], queue=False) == "1 of 1"


def test_who_may(api: Api, tenant_a: Any) -> None:
    viewer = Api(tenant_a.slug, user=make_user("looker", tenant_a, "viewer"))
    assert upload(viewer, table("x,,,,")).status_code == 403
    reader = Api(tenant_a.slug, key=issue_key(tenant_a, "read"))
    assert upload(reader, table("x,,,,")).status_code == 403
    assert reader.get("devices/export/").status_code == 200
