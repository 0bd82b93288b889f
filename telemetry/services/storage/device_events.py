"""What the tenant's people should hear of a device, in its history: at most once in a while, not for each message."""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from telemetry.services.pipeline.results import RefusedItem

_NOTE = (
    "INSERT INTO {audit} (at, user_id, user_label, action, object_type, object_id, object_label, detail)"
    " SELECT now(), NULL, 'gwanje', %s, 'devices.device', d.id::text, left(d.name, 200), n.detail"
    " FROM unnest(%s::bigint[], %s::text[]) AS n(device_id, detail) JOIN {device} AS d ON d.id = n.device_id"
    # Whatever the words: a device that names another board in each message makes no more rows.
    " WHERE NOT EXISTS (SELECT 1 FROM {audit} AS a WHERE a.object_type = 'devices.device'"
    " AND a.object_id = d.id::text AND a.action = %s AND a.at > now() - make_interval(secs => %s))"
)


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, as `devices.models.access.ACTIONS` names it, and how often a device's is written down."""

    action: str
    seconds: float


CPU_SERIAL_MISMATCH = Event("cpu serial mismatch", 3600.0)
UNMAPPED_LIMIT = Event("values left out", 24 * 3600.0)


def note(connection: psycopg.Connection, schema: str, event: Event, found: Sequence[tuple[int, str]]) -> None:
    """Write down (device id, in words), unless it was lately. Sends one statement, also in a pipeline."""
    words = dict(reversed(found))  # of each device the first
    if words:
        statement = sql.SQL(_NOTE).format(
            audit=sql.Identifier(schema, "devices_auditentry"), device=sql.Identifier(schema, "devices_device")
        )
        connection.execute(statement, [event.action, list(words), list(words.values()), event.action, event.seconds])


def note_moved_boards(connection: psycopg.Connection, schema: str, refused: Sequence[RefusedItem]) -> None:
    """A message that is signed by the device and comes from another board: somebody moved or copied its card."""
    found = [
        (item.spec.device_id, item.verdict.detail.replace("\x00", "\\0"))
        for item in refused
        if item.verdict.reason == "cpu_serial_mismatch" and item.spec is not None
    ]
    note(connection, schema, CPU_SERIAL_MISMATCH, found)
