"""Readings that came after their hour was rolled up: the hour is marked, to be rolled up again."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import psycopg

from telemetry.services.pipeline.results import AcceptedItem
from telemetry.services.rollups.aggregation import mark_late

# The worker rolls an hour up long after this.
_SETTLED_AFTER = timedelta(seconds=60)


def mark(connection: psycopg.Connection, schema: str, stored: Iterable[AcceptedItem]) -> None:
    """To be called after the readings were inserted, in their transaction, also in a pipeline."""
    settled = datetime.now(UTC) - _SETTLED_AFTER
    late = {(item.spec.device_id, item.verdict.time) for item in stored if item.verdict.time < settled}
    if late:
        mark_late(connection, schema, late)
