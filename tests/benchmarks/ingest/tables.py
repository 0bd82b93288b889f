"""The rows in the tenants' tables, compared with the sent messages."""

from collections.abc import Sequence
from datetime import UTC
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from .fleet import Fleet
from .load import Load, Sample


def stored(look: psycopg.Connection, schema: str) -> int:
    """How many messages the tenant's totals have received. They are committed with the rows."""
    return int(_one(look, "SELECT coalesce(sum(received), 0) FROM {}.telemetry_ingesttotals", schema)[0])


def verify(look: psycopg.Connection, fleets: Sequence[Fleet], load: Load) -> None:
    """Raise AssertionError unless each row is there, once, with its tenant, and samples hold what was sent."""
    for fleet in fleets:
        for schema, sent in fleet.sent.items():
            _verify_counts(look, schema, sent)
    _verify_nowhere_else(look, fleets)
    for sample in load.samples:
        _verify_sample(look, sample)


def _verify_nowhere_else(look: psycopg.Connection, fleets: Sequence[Fleet]) -> None:
    """No other tenant, and not staff's table of strays, has a message of the fleets' devices."""
    slugs = sorted({sender.slug for fleet in fleets for sender in fleet.senders})
    schemas = {schema for fleet in fleets for schema in fleet.schemas}
    rows = look.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'telemetry_ingesttotals'").fetchall()
    places = [(row[0], "telemetry_message") for row in rows if row[0] not in schemas]
    for place in [*places, ("public", "tenants_unroutedmessage")]:
        query = sql.SQL("SELECT count(*) FROM {} WHERE split_part(topic, '/', 2) = ANY(%s)")
        found = look.execute(query.format(sql.Identifier(*place)), [slugs]).fetchone()
        if found != (0,):
            raise AssertionError(f"{'.'.join(place)} holds messages of {slugs}: {found}")


def _verify_counts(look: psycopg.Connection, schema: str, sent: int) -> None:
    received, kept, twice, refused, limited = _one(
        look,
        "SELECT sum(received), sum(stored), sum(duplicates), sum(quarantined), sum(rate_limited)"
        " FROM {}.telemetry_ingesttotals",
        schema,
    )
    if received != kept + twice + refused + limited:
        raise AssertionError(f"{schema}: {received} received ≠ {kept} + {twice} + {refused} + {limited}")
    found = {
        "received": int(received),
        "stored": int(kept),
        "messages": _one(look, "SELECT count(*) FROM {}.telemetry_message", schema)[0],
        "of its own devices": _one(
            look,
            "SELECT count(*) FROM {0}.telemetry_message AS m JOIN {0}.devices_device AS d ON d.id = m.device_id"
            " WHERE m.topic LIKE '%%/' || d.uuid || '/%%'",
            schema,
        )[0],
        "a third of readings": _one(look, "SELECT count(*) / 3.0 FROM {}.telemetry_reading", schema)[0],
    }
    if wrong := {what: count for what, count in found.items() if count != sent}:
        raise AssertionError(f"{schema}: {sent} messages were sent, found are {wrong}; {_why(look, schema)}")


def _verify_sample(look: psycopg.Connection, sample: Sample) -> None:
    """Topic and payload byte for byte, and the three readings."""
    schema, key = sample.sender.schema, (sample.sender.device_id, sample.time)
    rows = _all(
        look,
        "SELECT topic, payload, signature FROM {}.telemetry_message WHERE device_id = %s AND time = %s",
        schema,
        *key,
    )
    if rows != [(sample.sender.topic, sample.payload, sample.sender.signature)]:
        raise AssertionError(f"message {sample.number} of {sample.sender.topic} is not stored as sent: {rows}")
    readings = _all(
        look,
        "SELECT s.metric, r.value, s.unit FROM {0}.telemetry_reading AS r JOIN {0}.telemetry_series AS s"
        " ON s.id = r.series_id WHERE s.device_id = %s AND r.time = %s AND r.text IS NULL",
        schema,
        *key,
    )
    if {metric: (value, unit) for metric, value, unit in readings} != sample.readings or len(readings) != 3:
        raise AssertionError(f"readings of message {sample.number} at {sample.time.astimezone(UTC)}: {readings}")


def _why(look: psycopg.Connection, schema: str) -> str:
    """Return the first rows of the quarantine, for the error's text."""
    rows = _all(look, "SELECT reason, detail, times FROM {}.telemetry_quarantined LIMIT 3", schema)
    return f"in quarantine are {rows}"


def _one(look: psycopg.Connection, query: LiteralString, schema: str, *arguments: Any) -> tuple[Any, ...]:
    return _all(look, query, schema, *arguments)[0]


def _all(look: psycopg.Connection, query: LiteralString, schema: str, *arguments: Any) -> list[tuple[Any, ...]]:
    values: Sequence[Any] | None = arguments or None
    text = query if values else query.replace("%%", "%")
    return look.execute(sql.SQL(text).format(sql.Identifier(schema)), values).fetchall()
