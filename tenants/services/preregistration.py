"""Boards made known by staff, one by one or by a table, and their codes, which are shown once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from tenants.infrastructure.spreadsheets import TableRow, read_table, write_table
from tenants.models import Board, User

from . import claim_codes

COLUMNS = ("serial", "hardware_model", "cpu_serial", "name", "components")
NEEDED = ("serial", "hardware_model")
_SERIAL = re.compile(r"^[A-Z0-9][A-Z0-9._:/-]{2,63}$")
_PART = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}(?::[A-Za-z0-9][A-Za-z0-9_.-]{0,62})?$")
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class IssuedCodes:
    """A board's codes: for the label, and for the card. Shown once."""

    board: Board
    claim_code: str
    fetch_token: str

    def __repr__(self) -> str:
        return f"<IssuedCodes of {self.board.serial}>"


@dataclass(frozen=True, slots=True)
class BoardRow:
    """What becomes of a row: new, unchanged, or error with what is wrong in which column."""

    row: int
    serial: str
    outcome: str
    errors: Mapping[str, str]
    board: Board | None = None


def clean_serial(text: str) -> str:
    """The serial number as it is kept: in capitals, without space around. Raises ValidationError."""
    serial = text.strip().upper()
    if not _SERIAL.match(serial):
        raise ValidationError(
            _("A serial number has 3 to 64 letters, digits and . _ : / - and begins with one of the first two.")
        )
    return serial


def split_hardware(text: str) -> tuple[str, str]:
    """Name and version of a hardware model. Raises ValidationError."""
    name, _space, version = text.strip().rpartition(" ")
    if not name.strip() or len(name) > 80 or len(version) > 40:
        raise ValidationError(_("Write the hardware model's name and version, for example GreenBox 1.2."))
    return name.strip(), version


def clean_components(text: str) -> str:
    """The components as tables name them. Raises ValidationError."""
    parts = [re.sub(r"\s*:\s*", ":", part.strip()) for part in text.split(";") if part.strip()]
    keys = [part.partition(":")[0] for part in parts]
    for part in parts:
        if not _PART.match(part):
            raise ValidationError(
                _("%(part)s is no component: write keys with ; between them, like dht22;dht22-2:dht22;pump.")
                % {"part": part}
            )
    if len(set(keys)) < len(keys):
        raise ValidationError(_("Two components have the same key."))
    return ";".join(parts)


def look_through(rows: Sequence[TableRow]) -> list[BoardRow]:
    """What would become of each row; nothing is changed."""
    serials = [row.cells.get("serial", "").strip().upper() for row in rows]
    there = {board.serial: board for board in Board.objects.filter(serial__in=serials)}
    seen: dict[str, int] = {}
    return [_look_at(row, there, seen) for row in rows]


def preregister(rows: Sequence[TableRow], *, acting_user: User | None = None) -> list[IssuedCodes]:
    """Make the rows' boards known, all or none; their codes, to be shown once. Those that are known stay as they are.

    Raises ValidationError where a row has an error.
    """
    with transaction.atomic():
        looked = look_through(rows)
        wrong = [row for row in looked if row.errors]
        if wrong:
            column, text = next(iter(wrong[0].errors.items()))
            raise ValidationError(
                _("Row %(row)d, %(column)s: %(text)s") % {"row": wrong[0].row, "column": column, "text": text}
            )
        boards = [row.board for row in looked if row.board is not None and row.outcome == "new"]
        label = acting_user.get_username() if acting_user else "gwanje"
        issued = [_draw(board) for board in boards]
        for board in boards:
            board.created_by_label = label
        _save(boards)
    return issued


def issue_codes(boards: Sequence[Board]) -> list[IssuedCodes]:
    """New codes for boards that nobody has claimed; the old ones are no good any more.

    Raises ValidationError where one is claimed.
    """
    with transaction.atomic():
        locked = list(Board.objects.select_for_update().filter(pk__in=[board.pk for board in boards]).order_by("pk"))
        if claimed := [board.serial for board in locked if board.tenant_id is not None]:
            raise ValidationError(_("%(serial)s is claimed: release it first.") % {"serial": ", ".join(claimed[:5])})
        issued = [_draw(board) for board in locked]
        Board.objects.bulk_update(locked, ["claim_digest", "fetch_digest", "codes_issued_at"], batch_size=_AT_ONCE)
    return issued


def free_board(device_uuid: UUID | None) -> bool:
    """Make the board of that device nobody's: claimed again, it is another device. False: it was no board."""
    nothing = {"tenant": None, "device_uuid": None, "claimed_at": None, "fetched_at": None, "asked_again_at": None}
    board = Board.objects.filter(device_uuid=device_uuid).exclude(device_uuid=None)
    return bool(board.update(next_uuid=uuid4(), attempt_digest="", asked_again=0, asked_again_from="", **nothing))


def read_boards(content: bytes) -> list[TableRow]:
    """The rows of an uploaded table. Raises ValidationError."""
    return read_table(content, COLUMNS, NEEDED)


def template(form: str) -> bytes:
    """The columns, with two rows as examples."""
    examples = [
        ["GB-000101", "GreenBox 1.2", "10000000a1b2c3d4", "", "dht22;pump"],
        ["GB-000102", "GreenBox 1.2", "", _("Greenhouse 2"), "dht22;dht22-2:dht22"],
    ]
    return write_table(COLUMNS, examples, form)


def codes_table(issued: Sequence[IssuedCodes]) -> bytes:
    """The codes as CSV: for the printer of labels, and for whoever writes the cards."""
    columns = ("serial", "hardware_model", "claim_code", "fetch_token")
    rows = [(one.board.serial, one.board.hardware, one.claim_code, one.fetch_token) for one in issued]
    return write_table(columns, rows, "csv")


def _save(boards: Sequence[Board]) -> None:
    try:
        with transaction.atomic():
            Board.objects.bulk_create(boards, batch_size=_AT_ONCE)
    except IntegrityError as error:
        raise ValidationError(
            _("Somebody else changed the same thing at the same time: look at it again and repeat.")
        ) from error


def _look_at(row: TableRow, there: Mapping[str, Board], seen: dict[str, int]) -> BoardRow:
    cells, errors = row.cells, {}
    serial = cells.get("serial", "")
    board = Board(cpu_serial=cells.get("cpu_serial", ""), name=cells.get("name", ""))
    try:
        board.serial = serial = clean_serial(serial)
    except ValidationError as error:
        errors["serial"] = " ".join(error.messages)
    try:
        board.hardware_name, board.hardware_version = split_hardware(cells.get("hardware_model", ""))
    except ValidationError as error:
        errors["hardware_model"] = " ".join(error.messages)
    try:
        board.components = clean_components(cells.get("components", ""))
        board.clean_fields(
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
        errors["serial"] = _("Row %(row)d has the same serial number: leave one out.") % {"row": first}
    elif (known := there.get(serial)) is not None and not errors:
        return _compare(row, known, board)
    return BoardRow(row.number, serial, "error" if errors else "new", errors, None if errors else board)


def _compare(row: TableRow, known: Board, wanted: Board) -> BoardRow:
    """A board that is known already: as it is, or with something else said of it."""
    names = ("hardware_name", "hardware_version", "cpu_serial", "name", "components")
    if all(getattr(known, name) == getattr(wanted, name) for name in names):
        return BoardRow(row.number, known.serial, "unchanged", {}, known)
    text = _("This board is preregistered already, with other values: change it on its page.")
    return BoardRow(row.number, known.serial, "error", {"serial": text})


def _draw(board: Board) -> IssuedCodes:
    issued = IssuedCodes(board, claim_codes.new_claim_code(), claim_codes.new_fetch_token())
    code = claim_codes.read_claim_code(issued.claim_code)
    board.claim_digest, board.fetch_digest = claim_codes.digest(code or ""), claim_codes.digest(issued.fetch_token)
    board.codes_issued_at = timezone.now()
    return issued
