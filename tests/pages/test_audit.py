"""The page of the audit: what was changed, and the download of what the filters select."""

import csv
import io
import re
from typing import Any

from django_tenants.utils import schema_context

from devices.models import AuditEntry

from .client import Pages, device_form, device_page


def test_a_change_in_a_form_has_before_and_after(pages: Pages, device: Any, tenant_a: Any) -> None:
    answer = pages.post(device_page(device), device_form(name="renamed", timeout_seconds="90"))
    assert answer.status_code == 302, answer.content
    with schema_context(tenant_a.schema_name):
        entry = AuditEntry.objects.get(action="change", object_id=str(device.pk))
    assert entry.changes == {
        "name": {"before": "greenhouse", "after": "renamed"},
        "timeout_seconds": {"before": None, "after": 90},
    }
    page = pages.get(f"devices/auditentry/{entry.pk}/change/").content.decode()
    assert "name: greenhouse → renamed<br>timeout_seconds: – → 90" in page
    assert entry.request_id in page


def test_objects_have_the_names_of_their_models_in_the_readers_language(pages: Pages, device: Any) -> None:
    pages.post(device_page(device), device_form(name="renamed"))
    listed = pages.client.get(f"{pages.root}devices/auditentry/", HTTP_ACCEPT_LANGUAGE="ko").content.decode()
    texts = re.sub(r"<[^>]*>", " ", listed)
    assert "장치" in texts
    assert "devices.device" not in texts


def test_a_name_in_a_change_is_no_markup(pages: Pages, device: Any, tenant_a: Any) -> None:
    pages.post(device_page(device), device_form(name="<script>x</script>"))
    with schema_context(tenant_a.schema_name):
        entry = AuditEntry.objects.get(action="change", object_id=str(device.pk))
    assert "<script>x" not in pages.get(f"devices/auditentry/{entry.pk}/change/").content.decode()


def test_the_download_has_what_the_filters_select(pages: Pages, device: Any) -> None:
    pages.post(device_page(device), device_form(name="renamed"))
    pages.post(device_page(device, "deactivate"))
    listed = pages.get("devices/auditentry/?action__exact=change").content.decode()
    assert "as-csv/?action__exact=change" in listed
    answer = pages.get("devices/auditentry/as-csv/?action__exact=change")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    table = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert {row["action"] for row in table} == {"change"}
    assert '"after": "renamed"' in table[0]["changes"]
