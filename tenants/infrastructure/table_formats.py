"""Forms of CSV for people: separator, decimal sign, time zone, and the byte order mark of the installation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from typing import Any

from django.conf import settings

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
DECIMALS = {"point": ".", "comma": ","}
_BYTE_ORDER_MARK = "\ufeff".encode()


@dataclass(frozen=True, slots=True)
class TableFormat:
    """How a CSV is written: the sign between cells, the sign in numbers, and the zone of times."""

    separator: str = ","
    decimal: str = "."
    zone: tzinfo = UTC

    def time(self, moment: datetime) -> str:
        """Return the time as ISO 8601 in the zone: with Z in UTC, with the offset in any other one."""
        text = moment.astimezone(self.zone).isoformat()
        return text[:-6] + "Z" if self.zone is UTC else text

    def number(self, value: float) -> str:
        """Return the number with the decimal sign."""
        text = repr(value)
        return text if self.decimal == "." else text.replace(".", self.decimal)


DEFAULT = TableFormat()


def from_parameters(parameters: Mapping[str, Any]) -> TableFormat:
    """Return the format that validated query parameters choose."""
    chosen = replace(
        DEFAULT,
        separator=SEPARATORS[parameters.get("separator", "comma")],
        decimal=DECIMALS[parameters.get("decimal", "point")],
    )
    zone = parameters.get("timezone")
    return chosen if zone is None or zone.key == "UTC" else replace(chosen, zone=zone)


def begin() -> bytes:
    """Return the bytes before the heading of a CSV: a byte order mark, without which Excel misreads °C."""
    return _BYTE_ORDER_MARK if settings.CSV_BYTE_ORDER_MARK else b""
