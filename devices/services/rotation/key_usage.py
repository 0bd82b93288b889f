"""Key usage: the keys that devices sign with, recorded by the listener when they differ from the specification.

It is the evidence for campaigns. For a device with a known key it costs one comparison.
"""

import logging
import time
from datetime import datetime

import django.db
from django.db import connection, transaction
from django_tenants.utils import schema_context

from devices.domain.specs import DeviceSpec

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 0.5
_BATCH = 1000
# A reloaded specification contains the recorded use; until then, and if it could not be saved, it is recorded
# once a minute at most.
_RESET_SECONDS = 60.0
_MAX_RECORDED = 10_000
_LOCK_TIMEOUT = "200ms"
_SAVE = """
UPDATE devices_devicecredential AS credential SET in_use_since = used.at
FROM unnest(%s::bigint[], %s::int[], %s::timestamptz[]) AS used (device_id, version, at)
WHERE credential.device_id = used.device_id AND credential.version = used.version
AND (credential.in_use_since IS NULL OR credential.in_use_since < used.at)
"""

KeyUse = tuple[int, int, datetime]  # (device's id, version, when)


class KeyUsageRecorder:
    """Recorded uses that are not saved yet. Not shared between threads."""

    def __init__(self) -> None:
        self._recorded: dict[tuple[int, int], float] = {}
        self._waiting: dict[str, list[KeyUse]] = {}
        self._flush_at = 0.0
        self._reset_at = 0.0

    def record(self, spec: DeviceSpec, version: int, at: datetime) -> None:
        """Record that the device has signed with this version, which is not `spec.key_in_use`."""
        name = (spec.number, version)
        if name in self._recorded:
            return
        if len(self._recorded) >= _MAX_RECORDED:
            self._recorded.clear()  # a use that is recorded again is saved again, and changes nothing
        self._recorded[name] = time.monotonic()
        self._waiting.setdefault(spec.tenant.schema, []).append((spec.device_id, version, at))

    def flush(self) -> None:
        """Save recorded uses, at most twice a second. A tenant with locked tables is retried later."""
        now = time.monotonic()
        if now >= self._reset_at:
            self._reset_at = now + _RESET_SECONDS
            self._recorded.clear()
        if not self._waiting or now < self._flush_at:
            return
        self._flush_at = now + _FLUSH_SECONDS
        for schema in list(self._waiting):
            waiting = self._waiting.pop(schema)
            try:
                _save(schema, waiting[:_BATCH])
            except django.db.Error as error:
                # No message depends on it, and the next messages of the device record it again.
                logger.warning("The key usage of devices of %s is saved later: %s", schema, str(error).strip())
            else:
                if rest := waiting[_BATCH:]:
                    self._waiting[schema] = rest


def _save(schema: str, uses: list[KeyUse]) -> None:
    # For each key the newest: an UPDATE takes any one of several.
    newest = {(device, version): at for device, version, at in sorted(uses, key=lambda use: use[2])}
    columns = list(zip(*((device, version, at) for (device, version), at in newest.items()), strict=True))
    with schema_context(schema), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        cursor.execute(_SAVE, [list(column) for column in columns])
