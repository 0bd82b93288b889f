"""The secrets that devices in the field hold, apart from the dump: by their owner, or by the device."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from django.core.exceptions import ValidationError

from devices.services.provisioning.registration import check_secret

from .dump import CsvFile, Row, of_bytes, rows
from .report import Problem, TableReport
from .tables import SECRETS


@dataclass(frozen=True, slots=True)
class Given:
    """What a device signs with, and its password at the broker, where it has one that is known. Never printed."""

    secret: str = field(repr=False)
    mqtt_password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class GivenSecrets:
    """What was given. A device's own comes before its owner's."""

    of_owners: Mapping[str, Given]
    of_devices: Mapping[UUID, Given]

    def of(self, uuid: UUID, owner: str | None) -> Given | None:
        """What the device holds, if it is known."""
        return self.of_devices.get(uuid) or (self.of_owners.get(owner.lower()) if owner else None)


NONE = GivenSecrets({}, {})


def read(source: str, report: TableReport) -> GivenSecrets:
    """The secrets in a file, or, for `-`, on the standard input. Raises DumpError.

    No secret is in what it reports.
    """
    file = of_bytes(sys.stdin.buffer.read(), "secrets") if source == "-" else CsvFile(Path(source), Path(source).name)
    owners: dict[str, Given] = {}
    devices: dict[UUID, Given] = {}
    for row in rows(file, SECRETS):
        report.read += 1
        problem = _problem(row, file.name, file.line)
        if problem is not None:
            report.fail(problem)
            continue
        assert isinstance(row, Row)  # noqa: S101 (for the type checker: another is a problem)
        report.unchanged += 1  # nothing is made of the line itself
        given = Given(row["secret"], row["mqtt_password"])
        if row["device_uuid"] is not None:
            devices[row["device_uuid"]] = given
        else:
            owners[row["owner_email"].lower()] = given
    return GivenSecrets(owners, devices)


def _problem(row: Row | Problem, file: str, line: int) -> Problem | None:
    if isinstance(row, Problem):
        if row.column in ("secret", "mqtt_password"):
            return Problem(file, line, row.column, "It cannot be read as text.")
        return row
    if (row["owner_email"] is None) == (row["device_uuid"] is None):
        return Problem(file, line, "owner_email", "Give the owner's e-mail address, or the device's UUID.")
    for name in ("secret", "mqtt_password"):
        try:
            if name == "secret" or row[name] is not None:
                check_secret(row[name] or "")
        except ValidationError as error:
            return Problem(file, line, name, " ".join(error.messages))
    return None
