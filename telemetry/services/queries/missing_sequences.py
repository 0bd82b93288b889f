"""Missing sequence numbers of a device's messages: lost, refused, or not received yet.

A device numbers its version 2 messages from 1 in every boot; the stored numbers are ranges. Messages missing after
the newest number of a boot cannot be detected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from django.db import connection

from devices.models import Device

_MISSING = """
SELECT device_id, boot, lower(missing), upper(missing) - 1
FROM (
    SELECT device_id, boot, unnest(int8multirange(int8range(1, upper(seen))) - seen) AS missing
    FROM telemetry_devicesequence
    WHERE device_id = ANY(%(devices)s) AND upper(seen) > 1
) AS gaps
ORDER BY device_id, boot DESC, lower(missing) DESC
LIMIT %(limit)s
"""
_SUMMARY = """
SELECT count(*) FILTER (WHERE expected > seen), coalesce(sum(expected), 0), coalesce(sum(seen), 0)
FROM (
    SELECT upper(s.seen) - 1 AS expected,
        (SELECT sum(upper(r) - greatest(lower(r), 1)) FROM unnest(s.seen) AS r WHERE upper(r) > 1) AS seen
    FROM telemetry_devicesequence AS s
    WHERE device_id = %s AND upper(s.seen) > 1
) AS boots
"""


@dataclass(frozen=True, slots=True)
class MissingSequences:
    """A missing range of sequence numbers of a boot: from `first` to `last`, both included."""

    device_id: int
    boot: int
    first: int
    last: int

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class SequenceCompleteness:
    """The numbers of a device's expected and missing messages, and of boots with missing ones."""

    expected: int
    missing: int
    boots: int

    @classmethod
    def read(cls, device: Device) -> Self:
        """Return the numbers over all boots of the device; one query."""
        with connection.cursor() as cursor:
            cursor.execute(_SUMMARY, [device.pk])
            boots, expected, seen = cursor.fetchone()
        return cls(int(expected), int(expected) - int(seen), boots)


def find_missing_sequences(device_ids: Sequence[int], *, limit: int | None = None) -> list[MissingSequences]:
    """Return the devices' missing ranges, the newest of each device first; one query. `limit`: of all together."""
    with connection.cursor() as cursor:
        cursor.execute(_MISSING, {"devices": list(device_ids), "limit": limit})
        return [MissingSequences(*row) for row in cursor.fetchall()]
