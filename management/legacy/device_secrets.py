"""Secrets of devices in the field, by owner or by device; they are not part of the dump."""

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
class KnownSecret:
    """A device's secret and, when it is known, its broker password. Never printed."""

    secret: str = field(repr=False)
    mqtt_password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class KnownSecrets:
    """The known secrets. A device's own takes precedence over its owner's."""

    of_owners: Mapping[str, KnownSecret]
    of_devices: Mapping[UUID, KnownSecret]

    def secret_of(self, uuid: UUID, owner: str | None) -> KnownSecret | None:
        """Return the device's secret, or None when it is unknown."""
        return self.of_devices.get(uuid) or (self.of_owners.get(owner.lower()) if owner else None)


NONE = KnownSecrets({}, {})


def read(source: str, report: TableReport) -> KnownSecrets:
    """Read the secrets from a file, or from the standard input for `-`. Raises DumpError.

    Its reports contain no secret.
    """
    file = of_bytes(sys.stdin.buffer.read(), "secrets") if source == "-" else CsvFile(Path(source), Path(source).name)
    owners: dict[str, KnownSecret] = {}
    devices: dict[UUID, KnownSecret] = {}
    for row in rows(file, SECRETS):
        report.read += 1
        problem = _problem(row, file.name, file.line)
        if problem is not None:
            report.fail(problem)
            continue
        assert isinstance(row, Row)  # noqa: S101 (for the type checker: another is a problem)
        report.unchanged += 1  # the line itself creates nothing
        given = KnownSecret(row["secret"], row["mqtt_password"])
        if row["device_uuid"] is not None:
            devices[row["device_uuid"]] = given
        else:
            owners[row["owner_email"].lower()] = given
    return KnownSecrets(owners, devices)


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
