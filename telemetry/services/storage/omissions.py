"""Components of whose messages values were left out, beyond the bounds of unmapped values: written with the batch."""

from datetime import UTC, datetime

import orjson
import psycopg

from telemetry.services.pipeline.results import TenantResult

from .statements import per_schema, run

# In one order, so that two listeners do not wait for each other crosswise.
_UPSERT = per_schema(
    "INSERT INTO {omissions} AS o (device_id, components)"
    " SELECT device_id, components::jsonb FROM unnest($1::bigint[], $2::text[]) AS n(device_id, components)"
    " ORDER BY device_id"
    " ON CONFLICT (device_id) DO UPDATE SET components = o.components || EXCLUDED.components",
    omissions="devices_deviceomissions",
)


def record(connection: psycopg.Connection, result: TenantResult) -> None:
    """Record components of stored messages with omitted values. Sends one statement, or none; also in a pipeline."""
    found: dict[int, dict[str, dict[str, str]]] = {}
    now = datetime.now(UTC).isoformat()
    for item in result.stored:
        message = item.result
        if message.omitted:
            found.setdefault(item.spec.device_id, {})[message.component] = {"code": message.omitted, "at": now}
    if found:
        documents = [orjson.dumps(components).decode() for components in found.values()]
        run(connection, _UPSERT(result.schema), [list(found), documents])
