"""When each component last reported: the newest of its readings, by their own time."""

from collections.abc import Collection
from datetime import datetime

from django.db import connection

# One index probe a series (and partition), newest partition first. The predicates on text are those of the
# partial indexes: without them they are not used.
_NEWEST = """
SELECT s.device_id, s.component, max(r.time)
FROM telemetry_series s
CROSS JOIN LATERAL (
    (SELECT time FROM telemetry_reading
     WHERE series_id = s.id AND text IS NULL AND s.value_type <> 'text' ORDER BY time DESC LIMIT 1)
    UNION ALL
    (SELECT time FROM telemetry_reading
     WHERE series_id = s.id AND text IS NOT NULL AND s.value_type = 'text' ORDER BY time DESC LIMIT 1)
) r
WHERE s.device_id = ANY(%s)
GROUP BY s.device_id, s.component
"""


def newest_readings(device_ids: Collection[int]) -> dict[tuple[int, str], datetime]:
    """By (device id, component's key) in the current tenant, without those that have no readings; one query."""
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST, [list(device_ids)])
        return {(device, component): time for device, component, time in cursor.fetchall()}
