"""Events of devices in the tenant's audit: at most one in an interval, not one for each message."""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from telemetry.services.pipeline.results import RefusedItem

_INSERT = (
    "INSERT INTO {audit} (at, user_id, user_label, action, object_type, object_id, object_label, detail)"
    " SELECT now(), NULL, 'gwanje', %s, 'devices.device', d.id::text, left(d.name, 200), n.detail"
    " FROM unnest(%s::bigint[], %s::text[]) AS n(device_id, detail) JOIN {device} AS d ON d.id = n.device_id"
    # Whatever the detail: a device that names another board in each message must not add more rows.
    " WHERE NOT EXISTS (SELECT 1 FROM {audit} AS a WHERE a.object_type = 'devices.device'"
    " AND a.object_id = d.id::text AND a.action = %s AND a.at > now() - make_interval(secs => %s))"
)


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """An action of `devices.models.access.ACTIONS`, and the interval (seconds) between two entries of a device."""

    action: str
    seconds: float


CPU_SERIAL_MISMATCH = DeviceEvent("cpu serial mismatch", 3600.0)
UNMAPPED_LIMIT = DeviceEvent("values left out", 24 * 3600.0)


def add_events(
    connection: psycopg.Connection, schema: str, event: DeviceEvent, found: Sequence[tuple[int, str]]
) -> None:
    """Add (device id, detail) unless the device has a recent entry. Sends one statement, also in a pipeline."""
    details = dict(reversed(found))  # the first of each device
    if details:
        statement = sql.SQL(_INSERT).format(
            audit=sql.Identifier(schema, "devices_auditentry"), device=sql.Identifier(schema, "devices_device")
        )
        connection.execute(
            statement, [event.action, list(details), list(details.values()), event.action, event.seconds]
        )


def add_board_mismatches(connection: psycopg.Connection, schema: str, refused: Sequence[RefusedItem]) -> None:
    """Add an event for messages that the device signed on another board: its card was moved or copied."""
    found = [
        (item.spec.device_id, item.result.detail.replace("\x00", "\\0"))
        for item in refused
        if item.result.reason == "cpu_serial_mismatch" and item.spec is not None
    ]
    add_events(connection, schema, CPU_SERIAL_MISMATCH, found)
