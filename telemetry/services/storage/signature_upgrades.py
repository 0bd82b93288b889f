"""No way back to version 1 for devices that have sent version 2."""

from collections.abc import Iterable

import psycopg
from psycopg import sql

from telemetry.services.pipeline.results import AcceptedItem


def raise_floors(connection: psycopg.Connection, schema: str, stored: Iterable[AcceptedItem]) -> None:
    """Sends a statement only for devices that sent version 2 for the first time, also in a pipeline."""
    risen = {item.spec.device_id for item in stored if item.verdict.signature == 2 and item.spec.signature_floor < 2}
    if risen:
        connection.execute(
            sql.SQL("UPDATE {} SET signature_floor = 2 WHERE id = ANY(%s) AND signature_floor < 2").format(
                sql.Identifier(schema, "devices_device")
            ),
            [sorted(risen)],
        )
