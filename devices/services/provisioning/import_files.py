"""Files of imports and exports of devices: reading, writing, and the template."""

import io
import json
import zipfile
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from devices.models import ComponentType, Device, HardwareModel, Place
from devices.services.provisioning.device_config import device_config
from devices.services.provisioning.registration import IssuedCredentials
from tenants.infrastructure.spreadsheets import TableFile, TableRow, check_rows, read_file, write_table
from tenants.infrastructure.table_formats import DEFAULT, TableFormat

from .import_columns import join_parts
from .import_lookup import parts_of
from .import_resource import COLUMNS, DeviceResource

MOST_EXPORTED = 100_000
_CHUNK = 1000


def read(content: bytes) -> list[TableRow]:
    """Return the rows of a table in an encoding that can be recognized. Raises ValidationError."""
    return read_upload(content).rows


def read_upload(content: bytes, encoding: str = "") -> TableFile:
    """Return the rows of an uploaded table, and the encoding that was used. Raises ValidationError."""
    return read_file(content, COLUMNS, ("name",), encoding)


def check(rows: Iterable[dict[str, Any]]) -> list[TableRow]:
    """Return the rows of a table in JSON. Raises ValidationError."""
    return check_rows(rows, COLUMNS)


def export_devices(form: str, devices: QuerySet[Device] | None = None, table_format: TableFormat = DEFAULT) -> bytes:
    """Return the devices (of the current tenant, all by default) as CSV or XLSX that can be imported again."""
    chosen = (
        (Device.objects.all() if devices is None else devices).select_related("hardware_model", "place").order_by("pk")
    )
    if chosen.count() > MOST_EXPORTED:
        raise ValidationError(_("A table can contain at most %(most)d devices.") % {"most": MOST_EXPORTED})
    return write_table(COLUMNS, _exported(chosen), form, table_format)


def template(form: str) -> bytes:
    """Return a table with the columns and two example rows from the tenant's metadata."""
    model, kind = HardwareModel.objects.first(), ComponentType.objects.first()
    key = kind.key if kind else "dht22"
    named, place = str(model or ""), getattr(Place.objects.first(), "key", "")
    parts = join_parts({key: key, f"{key}-2": key})
    examples = [
        ["", _("Greenhouse 1"), "GH-1", named, place, "10000000a1b2c3d4", "", "yes", "rented;north", "", key],
        ["", _("Greenhouse 2"), "", named, "", "", "120", "yes", "", '{"crop": "tomato", "area_m2": 120}', parts],
    ]
    return write_table(COLUMNS, examples, form)


def credentials_archive(slug: str, given: Iterable[tuple[Device, IssuedCredentials]]) -> bytes:
    """Return a ZIP with a configuration file of `gwanje_device.py` for each device."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for device, issued in given:
            text = json.dumps(device_config(slug, device, issued), indent=2, ensure_ascii=False)
            archive.writestr(f"gwanje-{device.uuid}.json", text)
    return packed.getvalue()


def _exported(devices: QuerySet[Device]) -> Iterable[list[str]]:
    resource = DeviceResource()
    page = list(devices[:_CHUNK])
    while page:
        parts = parts_of([device.pk for device in page])
        for device in page:
            device.parts = parts.get(device.pk, {})  # type: ignore[attr-defined]
            yield resource.export_resource(device)
        page = list(devices.filter(pk__gt=page[-1].pk)[:_CHUNK])
