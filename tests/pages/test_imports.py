"""Tables of devices in the tenant's admin, and boards that are claimed there."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone
from django_redis import get_redis_connection
from django_tenants.utils import schema_context

from tenants.infrastructure.spreadsheets import TableRow
from tenants.models import PreregisteredDevice
from tenants.services import enrollment
from tests.factories import make_device, make_user
from tests.pages.client import ADMIN, Pages, device_page, overflow, sign_in

LIST = "devices/deviceimport/"
CLAIM = "devices/device/claim/"


@pytest.fixture(autouse=True)
def quick(settings: Any) -> Iterator[None]:
    settings.MQTT_ADMIN_URL = ""
    yield
    redis = get_redis_connection("default")
    for key in redis.scan_iter("gwanje:count:claims:*"):
        redis.delete(key)


def upload(pages: Pages, *lines: str) -> Any:
    content = "\n".join(["name,hardware_model,cpu_serial,components", *lines]).encode()
    return pages.post(f"{LIST}add/", {"file": SimpleUploadedFile("fleet.csv", content)}, follow=True)


def newest(tenant: Any) -> Any:
    from devices.models import DeviceImport

    with schema_context(tenant.schema_name):
        return DeviceImport.objects.first()


def board(**cells: str) -> Any:
    given = {"serial": f"GB-{uuid4().hex[:8]}", "hardware_model": "GreenBox 1.2", "components": "dht22", **cells}
    return enrollment.preregister([TableRow(2, given)])[0]


def claim(tenant: Any, issued: Any) -> Any:
    from devices.services.provisioning import claims

    with schema_context(tenant.schema_name):
        return claims.claim(issued.device.serial, issued.claim_code).device


def test_a_table_is_looked_through_then_imported_and_its_credentials_downloaded_once(
    pages: Pages, tenant_a: Any
) -> None:
    from devices.models import Device

    shown = upload(pages, "north,,S1,dht22", "south,,,dht22;second:dht22").content.decode()
    assert "Result for each row" in shown
    assert "Import 2 rows" in shown
    kept = newest(tenant_a)
    with schema_context(tenant_a.schema_name):
        assert not Device.objects.filter(name="north").exists()
    answer = pages.post(f"{LIST}{kept.pk}/begin/", follow=True).content.decode()
    assert "The credentials of 2 devices can be downloaded once" in answer
    download = pages.post(f"{LIST}{kept.pk}/credentials/")
    assert "no-store" in download["Cache-Control"]
    archive = zipfile.ZipFile(io.BytesIO(download.content))
    configs = [json.loads(archive.read(name)) for name in archive.namelist()]
    assert {len(config["components"]) for config in configs} == {1, 2}
    assert all(config["secret"] and config["mqtt_password"] for config in configs)
    again = pages.post(f"{LIST}{kept.pk}/credentials/", follow=True).content.decode()
    assert "already been downloaded" in again
    assert configs[0]["secret"] not in again
    assert "begun already" in pages.post(f"{LIST}{kept.pk}/begin/", follow=True).content.decode()


def test_the_encoding_of_a_table_is_shown_and_can_be_chosen(pages: Pages, tenant_a: Any) -> None:
    def page(text: str, codec: str, **fields: str) -> str:
        file = SimpleUploadedFile("fleet.csv", f"name\n{text}\n".encode(codec))
        return str(pages.post(f"{LIST}add/", {"file": file, **fields}, follow=True).content.decode())

    assert "its encoding must be given" in page("Офис 1", "cp1251")
    shown = page("Офис 1", "cp1251", encoding="cp1251")
    assert "Офис 1" in shown
    assert "CP1251" in shown
    assert newest(tenant_a).encoding == "cp1251"
    assert "CP949" in page("온실 1동", "cp949")


def test_rows_with_errors_are_shown_and_left_out_only_when_it_is_asked_for(pages: Pages, tenant_a: Any) -> None:
    from devices.models import Device

    shown = upload(pages, "north,,,dht22", "south,,,nothing").content.decode()
    assert "There is no component type nothing" in shown
    assert "1 row has an error" in shown
    kept = newest(tenant_a)
    refused = pages.post(f"{LIST}{kept.pk}/begin/", follow=True).content.decode()
    assert "Some rows have errors: nothing was registered" in refused
    pages.post(f"{LIST}{kept.pk}/begin/", {"skip_errors": "1"})
    with schema_context(tenant_a.schema_name):
        assert list(Device.objects.filter(name__in=["north", "south"]).values_list("name", flat=True)) == ["north"]
    assert ">Reason<" in pages.get(f"{LIST}{kept.pk}/change/").content.decode()


def test_a_file_that_is_none_is_said_at_the_form(pages: Pages) -> None:
    answer = pages.post(f"{LIST}add/", {"file": SimpleUploadedFile("x.csv", b"colour\nred\n")})
    assert "The column name is missing" in answer.content.decode()
    assert pages.post(f"{LIST}add/").status_code == 200


def test_who_imports(db: None, tenant_a: Any, tenant_b: Any, pages: Pages) -> None:
    upload(pages, "north,,,")
    kept = newest(tenant_a)
    viewer = Pages(ADMIN, make_user("looker", tenant_a, "viewer"))
    assert viewer.get(f"{LIST}{kept.pk}/change/").status_code == 200
    for path in (f"{LIST}{kept.pk}/begin/", f"{LIST}{kept.pk}/credentials/", f"{LIST}add/", CLAIM):
        assert viewer.post(path).status_code == 403, path
    other = Pages("/t/beta-farm/admin/", make_user("foreign-admin", tenant_b, "admin"))
    for path in (f"{LIST}{kept.pk}/begin/", f"{LIST}{kept.pk}/credentials/"):
        assert other.post(path).status_code == 404, path


def test_files_to_download(pages: Pages, tenant_a: Any) -> None:
    make_device(tenant_a, "=1+1", dht22="dht22")
    content = pages.get(f"{LIST}devices.csv").content
    assert b"'=1+1" in content
    assert pages.get(f"{LIST}devices.xlsx").content.startswith(b"PK")
    assert pages.get(f"{LIST}template.csv").content.startswith(b"\xef\xbb\xbfuuid,name")
    assert pages.get(f"{LIST}template.pdf").status_code == 404


def test_a_board_is_claimed_and_released(pages: Pages, tenant_a: Any) -> None:
    from devices.models import Device

    issued = board()
    wrong = pages.post(CLAIM, {"serial": issued.device.serial, "code": board().claim_code}).content.decode()
    assert "No device with this serial number and this claim code" in wrong
    assert "mistyped" in pages.post(CLAIM, {"serial": "GB-1", "code": "abc"}).content.decode()
    page = pages.post(CLAIM, {"serial": issued.device.serial, "code": issued.claim_code}, follow=True).content.decode()
    assert "not fetched yet" in page
    again = pages.post(CLAIM, {"serial": issued.device.serial, "code": issued.claim_code}, follow=True).content.decode()
    assert "has already claimed" in again
    with schema_context(tenant_a.schema_name):
        device = Device.objects.get(name=issued.device.serial)
    assert (
        "become invalid now"
        in pages.get(device_page(device, "reset-credentials").replace("/change/", "/")).content.decode()
    )
    PreregisteredDevice.objects.filter(pk=issued.device.pk).update(
        fetched_at=timezone.now(),
        repeated_requests=3,
        repeated_request_at=timezone.now(),
        repeated_request_from="192.0.2.7",
    )
    assert "requested 3 more times" in pages.get(device_page(device)).content.decode()
    path = f"devices/device/{device.pk}/"
    pages.post(f"{path}reset-credentials/")
    assert "not fetched yet" in pages.get(device_page(device)).content.decode()
    pages.post(f"{path}release/")
    assert PreregisteredDevice.objects.get(pk=issued.device.pk).tenant is None
    with schema_context(tenant_a.schema_name):
        assert not Device.objects.filter(pk=device.pk).exists()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_pages_fit(live_db: None, visit: Callable[..., Any], tenant_a: Any, tmp_path: Path, width: int) -> None:
    from devices.services.provisioning.registration import remove_device

    name = f"greenhouse {uuid4().hex[:6]}"
    table = tmp_path / "fleet.csv"
    rows = [f"{name} {n},,,dht22;second:dht22" for n in range(4)] + [f"{name} x,GreenBox 9,,dht22;pump:nothing"]
    table.write_text("\n".join(["name,hardware_model,cpu_serial,components", *rows]))
    issued = board()
    device = claim(tenant_a, issued)
    PreregisteredDevice.objects.filter(pk=issued.device.pk).update(
        fetched_at=timezone.now(),
        repeated_requests=3,
        repeated_request_at=timezone.now(),
        repeated_request_from="192.0.2.7",
    )

    def script(page: Any) -> dict[str, int]:
        widths = {}

        def shoot(name: str) -> None:
            page.screenshot(path=tmp_path / f"{name}-{width}.png", full_page=True)
            widths[name] = overflow(page)

        sign_in(page, ADMIN, "owner-alpha")
        for shown, path in {"list": "devices/device/", "claim": CLAIM, "device": device_page(device)}.items():
            page.goto(ADMIN + path)
            shoot(shown)
        page.goto(f"{ADMIN}{LIST}add/")
        shoot("upload")
        page.set_input_files("input[type=file]", str(table))
        page.click("button:has-text('Check')")
        page.wait_for_selector("#preview")
        shoot("preview")
        page.click("button:has-text('Import 4 rows')")
        page.wait_for_selector("text=Download credentials")
        shoot("done")
        return widths

    widths = visit(script, width=width)
    with schema_context(tenant_a.schema_name):
        from devices.models import Device, DeviceImport

        DeviceImport.objects.all().delete()
        for one in Device.objects.filter(name__startswith=name):
            remove_device(one)
        remove_device(device)
    PreregisteredDevice.objects.filter(pk=issued.device.pk).delete()
    assert set(widths.values()) == {0}, widths
