"""Times as devices write them, in the form that a component type states. Pure."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from devices.domain import entry_lists, text_values

from . import payload_faults
from .results import Refusal, quote_json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Microseconds of a unit. The numerator and denominator of each, since nanoseconds are less.
_UNITS = {
    entry_lists.SECONDS: (1_000_000, 1), entry_lists.MILLISECONDS: (1000, 1), entry_lists.MICROSECONDS: (1, 1),
    entry_lists.NANOSECONDS: (1, 1000),
}  # fmt: skip
# The number from which a Unix time is in the next smaller unit: seconds until the year 5138.
_SIZES = ((1e11, entry_lists.SECONDS), (1e14, entry_lists.MILLISECONDS), (1e17, entry_lists.MICROSECONDS))


def read_time(value: Any, time_format: str, zone: str) -> datetime:
    """Return a time in UTC; one without an offset is local time in the zone. Raises Refusal (`malformed`)."""
    number = value
    if isinstance(value, str):
        number = text_values.read_number(value, text_values.POINT)
    try:
        if time_format != entry_lists.ISO and isinstance(number, int | float) and not isinstance(number, bool):
            return _unix_time(number, time_format)
        if time_format in (entry_lists.ISO, entry_lists.AUTO) and isinstance(value, str):
            return _iso_time(value.strip(), zone)
    except (ValueError, OverflowError) as error:
        fault = payload_faults.timestamp_fault(value, error) or "it must be ISO 8601 such as 2026-11-30T09:00:00Z"
        raise Refusal("malformed", f"The time {quote_json(value)} cannot be read: {fault}.") from error
    expected = _EXPECTED.get(time_format, "a Unix time as a number")
    raise Refusal("malformed", f"The time must be {expected}, not {quote_json(value)}.")


_EXPECTED = {entry_lists.AUTO: "ISO 8601 or a Unix time", entry_lists.ISO: "ISO 8601"}


def _unix_time(number: float, time_format: str) -> datetime:
    unit = time_format
    if unit == entry_lists.AUTO:
        unit = next((unit for size, unit in _SIZES if abs(number) < size), entry_lists.NANOSECONDS)
    numerator, denominator = _UNITS[unit]
    if isinstance(number, int):
        return _EPOCH + timedelta(microseconds=number * numerator // denominator)
    return _EPOCH + timedelta(microseconds=round(number * numerator / denominator))


def _iso_time(text: str, zone: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        if not zone:
            fault = "it has no offset, and the component type no time zone"
            raise Refusal("malformed", f"The time {quote_json(text)} cannot be read: {fault}.")
        moment = moment.replace(tzinfo=_zone(zone))
    return moment.astimezone(UTC)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
