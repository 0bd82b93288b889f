"""Boards on the console: made known one by one and by a table; codes that are shown once."""

import base64
import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django_tenants.utils import schema_context

from tenants.models import PreregisteredDevice, User
from tenants.services import claim_codes
from tests.factories import make_user

from .client import PASSWORD, Pages, overflow, sign_in
from .test_imports import board, claim

CONSOLE = "/admin/"
LIST = "tenants/preregistereddevice/"


@pytest.fixture
def console(db: None, settings: Any) -> Pages:
    settings.MQTT_ADMIN_URL = ""
    return Pages(CONSOLE, make_user("root", is_superuser=True, is_staff=True))


def issued_in(page: str) -> list[dict[str, str]]:
    (encoded,) = re.findall(r"data:text/csv;base64,([A-Za-z0-9+/=]+)", page)
    return list(csv.DictReader(io.StringIO(base64.b64decode(encoded).decode("utf-8-sig"))))


def upload(console: Pages, *lines: str, heading: str = "serial,hardware_model,cpu_serial,name,components") -> str:
    content = "\n".join([heading, *lines]).encode()
    answer = console.post(f"{LIST}import-table/", {"file": SimpleUploadedFile("devices.csv", content)})
    return str(answer.content.decode())


def confirm(console: Pages, preview: str) -> str:
    (kept,) = re.findall(r'name="kept" value="([^"]+)"', preview)
    return str(console.post(f"{LIST}import-table/", {"kept": kept}, follow=True).content.decode())


def test_the_encoding_of_a_table_is_kept_for_the_confirmation(console: Pages) -> None:
    lines = "serial,hardware_model,name\nGB-CYR-1,GreenBox 1.2,Офис 1\n".encode("cp1251")
    file = SimpleUploadedFile("devices.csv", lines)
    refused = console.post(f"{LIST}import-table/", {"file": file}).content.decode()
    assert "its encoding must be given" in refused
    file = SimpleUploadedFile("devices.csv", lines)
    page = console.post(f"{LIST}import-table/", {"file": file, "encoding": "cp1251"}).content.decode()
    assert "read as CP1251" in page
    (kept,) = re.findall(r'name="kept" value="([^"]+)"', page)
    console.post(f"{LIST}import-table/", {"kept": kept, "encoding": "cp1251"}, follow=True)
    assert PreregisteredDevice.objects.get(serial="GB-CYR-1").name == "Офис 1"


def test_damaged_serials_are_named(console: Pages) -> None:
    page = upload(console, "1E+15,GreenBox 1.2,,,", "GB-OK-1,GreenBox 1.2,1.5E+11,,")
    assert page.count("has shortened") == 2


def test_one_board(console: Pages) -> None:
    form = {"serial": " gb-1001 ", "hardware_model": "GreenBox  1.2", "components": "dht22; second : dht22"}
    page = console.post(f"{LIST}add/", form)
    text = page.content.decode()
    (row,) = issued_in(text)
    kept = PreregisteredDevice.objects.get(serial="GB-1001")
    assert kept.claim_digest == claim_codes.digest(claim_codes.read_claim_code(row["claim_code"]) or "")
    assert claim_codes.matches(kept.fetch_digest, row["fetch_token"])
    assert (kept.components, kept.hardware, kept.created_by_label) == ("dht22;second:dht22", "GreenBox 1.2", "root")
    assert row["claim_code"] in text
    assert "/api/v1/provisioning/credentials/" in text
    shown = console.get(f"{LIST}{kept.pk}/change/").content.decode()
    assert row["claim_code"] not in shown
    assert row["fetch_token"] not in shown
    assert "already preregistered" in console.post(f"{LIST}add/", form).content.decode()


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"serial": "x", "hardware_model": "GreenBox 1.2"}, "A serial number must have 3 to 64"),
        ({"serial": "GB-1", "hardware_model": "GreenBox"}, "name and version"),
        ({"serial": "GB-1", "hardware_model": "GreenBox 1.2", "components": "a b"}, "is not a valid component"),
        ({"serial": "GB-1", "hardware_model": "GreenBox 1.2", "components": "a;a:b"}, "same key"),
    ],
)
def test_what_a_form_says(console: Pages, form: dict[str, str], said: str) -> None:
    assert said in console.post(f"{LIST}add/", form).content.decode()
    assert not PreregisteredDevice.objects.exists()


def test_a_table_with_errors_preregisters_nothing(console: Pages) -> None:
    page = upload(console, "GB-1,GreenBox 1.2,,,", "GB-1,GreenBox 1.2,,,", ",GreenBox 1.2,,,", "GB-3,GreenBox,,,a b")
    assert "Row 2 has the same serial number" in page
    assert "No device is preregistered while a row has an error" in page
    assert 'name="kept"' not in page
    assert "The column hardware_model is missing" in upload(console, "GB-1", heading="serial")
    assert not PreregisteredDevice.objects.exists()


def test_a_table_twice(console: Pages) -> None:
    lines = [f"GB-{n},GreenBox 1.2,,,dht22" for n in range(100, 103)]
    page = confirm(console, upload(console, *lines))
    rows = issued_in(page)
    assert [row["serial"] for row in rows] == ["GB-100", "GB-101", "GB-102"]
    assert len({row["claim_code"] for row in rows}) == 3
    preview = upload(console, *lines, "GB-103,GreenBox 1.2,,,dht22")
    assert "Preregister 1 device" in preview
    assert [row["serial"] for row in issued_in(confirm(console, preview))] == ["GB-103"]
    changed = upload(console, "GB-100,GreenBox 1.3,,,dht22")
    assert "already preregistered with other values" in changed


def test_a_free_board_is_changed_and_one_that_was_claimed_meanwhile_is_not(console: Pages, tenant_a: Any) -> None:
    issued = board()
    page = f"{LIST}{issued.device.pk}/change/"
    form = {"hardware_name": "GreenBox", "hardware_version": "1.3", "cpu_serial": "", "name": "", "components": "dht22"}
    console.post(page, form)
    assert PreregisteredDevice.objects.get(pk=issued.device.pk).hardware == "GreenBox 1.3"
    assert "is not a valid component" in console.post(page, form | {"components": "a b"}).content.decode()
    claim(tenant_a, issued)
    console.post(page, form | {"hardware_version": "1.4"})
    kept = PreregisteredDevice.objects.get(pk=issued.device.pk)
    assert (kept.hardware, kept.tenant) == ("GreenBox 1.3", tenant_a)


def test_new_codes_and_a_release(console: Pages, tenant_a: Any) -> None:
    from devices.models import AuditEntry, Device

    issued = board()
    (row,) = issued_in(console.post(f"{LIST}{issued.device.pk}/new-codes/").content.decode())
    assert row["claim_code"] != issued.claim_code
    renewed = preregistration_codes(issued, row)
    device = claim(tenant_a, renewed)
    refused = console.post(f"{LIST}{issued.device.pk}/new-codes/", follow=True).content.decode()
    assert "Release it first" in refused
    assert "The device is removed from its tenant" in console.get(f"{LIST}{issued.device.pk}/release/").content.decode()
    console.post(f"{LIST}{issued.device.pk}/release/")
    assert PreregisteredDevice.objects.get(pk=issued.device.pk).tenant is None
    with schema_context(tenant_a.schema_name):
        assert not Device.objects.filter(pk=device.pk).exists()
        assert AuditEntry.objects.filter(action="release", user_label="root").exists()
    claim(tenant_a, renewed)


def preregistration_codes(issued: Any, row: dict[str, str]) -> Any:
    from tenants.services.enrollment import IssuedCodes

    return IssuedCodes(issued.device, row["claim_code"], row["fetch_token"])


def test_a_claimed_board_is_neither_changed_nor_deleted(console: Pages, tenant_a: Any) -> None:
    free, taken = board(), board()
    claim(tenant_a, taken)
    for chosen, left in (((free, taken), 2), ((free,), 1)):
        form = {"action": "delete_selected", "_selected_action": [one.device.pk for one in chosen], "post": "yes"}
        console.post(LIST, form)
        assert PreregisteredDevice.objects.count() == left
    assert console.get(f"{LIST}{taken.device.pk}/delete/").status_code == 403
    assert 'name="components"' not in console.get(f"{LIST}{taken.device.pk}/change/").content.decode()


def test_who_may(db: None, tenant_a: Any) -> None:
    clerk = Pages(CONSOLE, make_user("clerk", is_staff=True))
    owner = Pages(CONSOLE, make_user("owner", tenant_a, "admin"))
    for path in (LIST, f"{LIST}add/", f"{LIST}import-table/"):
        assert clerk.get(path).status_code == 403, path
        assert owner.get(path).status_code == 302, path


@pytest.mark.parametrize("width", [390, 1280])
def test_the_pages_fit(live_db: None, visit: Callable[..., Any], tmp_path: Path, width: int) -> None:
    name = f"staff-{uuid4().hex[:8]}"
    User.objects.create_superuser(username=name, password=PASSWORD)
    serial = f"GB-{uuid4().hex[:8]}".upper()
    table = tmp_path / "devices.csv"
    rows = [f"{serial}-{n},GreenBox 1.2,,,dht22" for n in range(6)]

    def script(page: Any) -> dict[str, int]:
        widths = {}

        def shoot(name: str) -> None:
            page.screenshot(path=tmp_path / f"board-{name}-{width}.png", full_page=True)
            widths[name] = overflow(page)

        sign_in(page, "/admin/login/", name)
        page.goto(f"{CONSOLE}{LIST}add/")
        shoot("form")
        page.fill("#id_serial", serial)
        page.fill("#id_hardware_model", "GreenBox 1.2")
        page.click("button:has-text('Preregister')")
        page.wait_for_selector("text=For the labels")
        shoot("codes")
        page.goto(f"{CONSOLE}{LIST}import-table/")
        shoot("upload")
        for content, shown in ((["bad,GreenBox,,,a b", *rows], "errors"), (rows, "preview")):
            table.write_text("\n".join(["serial,hardware_model,cpu_serial,name,components", *content]))
            page.set_input_files("input[type=file]", str(table))
            page.click("button:has-text('Preview')")
            page.wait_for_selector("#preview")
            shoot(shown)
            if shown == "errors":
                page.click("text=Choose another file")
        page.click("button:has-text('Preregister 6 devices')")
        page.wait_for_selector("text=For the labels")
        shoot("many")
        page.goto(f"{CONSOLE}{LIST}")
        shoot("list")
        page.click(f"a:has-text('{serial}-3')")
        shoot("page")
        return widths

    widths = visit(script, width=width)
    PreregisteredDevice.objects.filter(serial__startswith=serial).delete()
    assert set(widths.values()) == {0}, widths


def test_templates(console: Pages) -> None:
    content = console.get(f"{LIST}template.csv").content.decode("utf-8-sig")
    assert "Preregister 2 devices" in upload(console, *content.splitlines()[1:])
    assert console.get(f"{LIST}template.pdf").status_code == 404
