"""Enrollment: devices that staff preregister, one by one or with a table, and their codes, which are shown once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from tenants.infrastructure.spreadsheet_errors import check_identifier
from tenants.infrastructure.spreadsheets import TableFile, TableRow, read_file, write_table
from tenants.models import PreregisteredDevice, User

from . import claim_codes

COLUMNS = ("serial", "hardware_model", "cpu_serial", "name", "components")
NEEDED = ("serial", "hardware_model")
_SERIAL = re.compile(r"^[A-Z0-9][A-Z0-9._:/-]{2,63}$")
_PART = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}(?::[A-Za-z0-9][A-Za-z0-9_.-]{0,62})?$")
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class IssuedCodes:
    """The codes of a preregistered device: one for its label, one for its memory card. Shown once."""

    device: PreregisteredDevice
    claim_code: str
    fetch_token: str

    def __repr__(self) -> str:
        return f"<IssuedCodes of {self.device.serial}>"


@dataclass(frozen=True, slots=True)
class EnrollmentRow:
    """The result of a table's row: new, unchanged or error, and the errors by column."""

    row: int
    serial: str
    outcome: str
    errors: Mapping[str, str]
    device: PreregisteredDevice | None = None


def clean_serial(text: str) -> str:
    """Return the serial number in capitals, without spaces around it. Raises ValidationError."""
    serial = text.strip().upper()
    if not _SERIAL.match(serial):
        raise ValidationError(
            _(
                "A serial number must have 3 to 64 characters: letters, digits and . _ : / -. The first must be"
                " a letter or a digit."
            )
        )
    return serial


def split_hardware(text: str) -> tuple[str, str]:
    """Return name and version of a hardware model. Raises ValidationError."""
    name, _space, version = text.strip().rpartition(" ")
    if not name.strip() or len(name) > 80 or len(version) > 40:
        raise ValidationError(_("Enter name and version of the hardware model, for example GreenBox 1.2."))
    return name.strip(), version


def clean_components(text: str) -> str:
    """Return the components in the form of tables, `key:type;key`. Raises ValidationError."""
    parts = [re.sub(r"\s*:\s*", ":", part.strip()) for part in text.split(";") if part.strip()]
    keys = [part.partition(":")[0] for part in parts]
    for part in parts:
        if not _PART.match(part):
            raise ValidationError(
                _("%(part)s is not a valid component. Separate keys with ; as in dht22;dht22-2:dht22;pump.")
                % {"part": part}
            )
    if len(set(keys)) < len(keys):
        raise ValidationError(_("Two components have the same key."))
    return ";".join(parts)


def dry_run(rows: Sequence[TableRow]) -> list[EnrollmentRow]:
    """Return the result of each row; nothing is changed."""
    serials = [row.cells.get("serial", "").strip().upper() for row in rows]
    existing = {device.serial: device for device in PreregisteredDevice.objects.filter(serial__in=serials)}
    seen: dict[str, int] = {}
    return [_evaluate(row, existing, seen) for row in rows]


def preregister(rows: Sequence[TableRow], *, acting_user: User | None = None) -> list[IssuedCodes]:
    """Preregister the devices of the rows, all or none, and return their codes. Existing ones are not changed.

    Raises ValidationError where a row has an error.
    """
    with transaction.atomic():
        results = dry_run(rows)
        wrong = [result for result in results if result.errors]
        if wrong:
            column, text = next(iter(wrong[0].errors.items()))
            raise ValidationError(
                _("Row %(row)d, %(column)s: %(text)s") % {"row": wrong[0].row, "column": column, "text": text}
            )
        devices = [result.device for result in results if result.device is not None and result.outcome == "new"]
        label = acting_user.get_username() if acting_user else "gwanje"
        issued = [_issue(device) for device in devices]
        for device in devices:
            device.created_by_label = label
        _save(devices)
    return issued


def issue_codes(devices: Sequence[PreregisteredDevice]) -> list[IssuedCodes]:
    """Issue new codes for unclaimed devices; the old ones become invalid. Raises ValidationError for a claimed one."""
    keys = [device.pk for device in devices]
    with transaction.atomic():
        locked = list(PreregisteredDevice.objects.select_for_update().filter(pk__in=keys).order_by("pk"))
        if claimed := [device.serial for device in locked if device.tenant_id is not None]:
            raise ValidationError(_("%(serial)s is claimed. Release it first.") % {"serial": ", ".join(claimed[:5])})
        issued = [_issue(device) for device in locked]
        PreregisteredDevice.objects.bulk_update(
            locked, ["claim_digest", "fetch_digest", "codes_issued_at"], batch_size=_AT_ONCE
        )
    return issued


def make_claimable(device_uuid: UUID | None) -> bool:
    """Remove the tenant of the preregistered device with this UUID; its next claim makes another device of it.

    Returns False where there is none.
    """
    claimed = PreregisteredDevice.objects.filter(device_uuid=device_uuid).exclude(device_uuid=None)
    cleared = ("tenant", "device_uuid", "claimed_at", "fetched_at", "repeated_request_at")
    return bool(
        claimed.update(
            next_uuid=uuid4(),
            attempt_digest="",
            repeated_requests=0,
            repeated_request_from="",
            **dict.fromkeys(cleared),
        )
    )


def read_upload(content: bytes, encoding: str = "") -> TableFile:
    """Return the rows of an uploaded table, and the encoding that was used. Raises ValidationError."""
    return read_file(content, COLUMNS, NEEDED, encoding)


def template(form: str) -> bytes:
    """Return an empty table (`form`: csv or xlsx) with the columns and two example rows."""
    examples = [
        ["GB-000101", "GreenBox 1.2", "10000000a1b2c3d4", "", "dht22;pump"],
        ["GB-000102", "GreenBox 1.2", "", _("Greenhouse 2"), "dht22;dht22-2:dht22"],
    ]
    return write_table(COLUMNS, examples, form)


def codes_table(issued: Sequence[IssuedCodes]) -> bytes:
    """Return the codes as CSV, for the label printer and for writing the memory cards."""
    columns = ("serial", "hardware_model", "claim_code", "fetch_token")
    rows = [(one.device.serial, one.device.hardware, one.claim_code, one.fetch_token) for one in issued]
    return write_table(columns, rows, "csv")


def _save(devices: Sequence[PreregisteredDevice]) -> None:
    try:
        with transaction.atomic():
            PreregisteredDevice.objects.bulk_create(devices, batch_size=_AT_ONCE)
    except IntegrityError as error:
        raise ValidationError(
            _("Another request changed the same object at the same time. Read it again and repeat the request.")
        ) from error


def _evaluate(row: TableRow, existing: Mapping[str, PreregisteredDevice], seen: dict[str, int]) -> EnrollmentRow:
    cells, errors = row.cells, {}
    serial = cells.get("serial", "")
    device = PreregisteredDevice(cpu_serial=cells.get("cpu_serial", ""), name=cells.get("name", ""))
    try:
        device.serial = serial = clean_serial(check_identifier(serial))
    except ValidationError as error:
        errors["serial"] = " ".join(error.messages)
    except ValueError as error:
        errors["serial"] = str(error)
    for name in ("cpu_serial", "name"):
        try:
            check_identifier(cells.get(name, ""))
        except ValueError as error:
            errors[name] = str(error)
    try:
        device.hardware_name, device.hardware_version = split_hardware(cells.get("hardware_model", ""))
    except ValidationError as error:
        errors["hardware_model"] = " ".join(error.messages)
    try:
        device.components = clean_components(cells.get("components", ""))
        device.clean_fields(
            exclude=[
                "serial",
                "hardware_name",
                "hardware_version",
                "claim_digest",
                "fetch_digest",
                "codes_issued_at",
                "created_by_label",
            ]
        )
    except ValidationError as error:
        found = error.message_dict if hasattr(error, "error_dict") else {"components": error.messages}
        errors |= {name: " ".join(texts) for name, texts in found.items()}
    first = seen.setdefault(serial, row.number)
    if first != row.number:
        errors["serial"] = _("Row %(row)d has the same serial number. Remove one of the two rows.") % {"row": first}
    elif (known := existing.get(serial)) is not None and not errors:
        return _compare(row, known, device)
    return EnrollmentRow(row.number, serial, "error" if errors else "new", errors, None if errors else device)


def _compare(row: TableRow, known: PreregisteredDevice, wanted: PreregisteredDevice) -> EnrollmentRow:
    """Return the result of a row whose serial number is preregistered: unchanged, or an error."""
    names = ("hardware_name", "hardware_version", "cpu_serial", "name", "components")
    if all(getattr(known, name) == getattr(wanted, name) for name in names):
        return EnrollmentRow(row.number, known.serial, "unchanged", {}, known)
    text = _("A device with this serial number is already preregistered with other values. Change it on its page.")
    return EnrollmentRow(row.number, known.serial, "error", {"serial": text})


def _issue(device: PreregisteredDevice) -> IssuedCodes:
    issued = IssuedCodes(device, claim_codes.new_claim_code(), claim_codes.new_fetch_token())
    code = claim_codes.read_claim_code(issued.claim_code)
    device.claim_digest, device.fetch_digest = claim_codes.digest(code or ""), claim_codes.digest(issued.fetch_token)
    device.codes_issued_at = timezone.now()
    return issued
