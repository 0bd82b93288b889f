"""Which key a device signs with, noted by the listener when it is another than the specification says.

That is the evidence a campaign goes by. For a device whose key is known already it costs one comparison.
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
_MOST = 1000
# A specification that is read again shows what was noted; until then, and where it could not be kept, it is noted
# once a minute at most.
_FORGET_SECONDS = 60.0
_MOST_NOTED = 10_000
_LOCK_TIMEOUT = "200ms"
_KEEP = """
UPDATE devices_devicecredential AS credential SET in_use_since = used.at
FROM unnest(%s::bigint[], %s::int[], %s::timestamptz[]) AS used (device_id, version, at)
WHERE credential.device_id = used.device_id AND credential.version = used.version
AND (credential.in_use_since IS NULL OR credential.in_use_since < used.at)
"""

Use = tuple[int, int, datetime]  # (device's id, version, when)


class KeyUses:
    """What is noted and not kept yet. Not shared between threads."""

    def __init__(self) -> None:
        self._noted: dict[tuple[int, int], float] = {}
        self._waiting: dict[str, list[Use]] = {}
        self._flush_at = 0.0
        self._forget_at = 0.0

    def note(self, spec: DeviceSpec, version: int, at: datetime) -> None:
        """The device has signed with this version, which is not `spec.key_in_use`."""
        name = (spec.number, version)
        if name in self._noted:
            return
        if len(self._noted) >= _MOST_NOTED:
            self._noted.clear()  # what is noted again is kept again, and changes nothing
        self._noted[name] = time.monotonic()
        self._waiting.setdefault(spec.tenant.schema, []).append((spec.device_id, version, at))

    def flush(self) -> None:
        """Keep what was noted, twice a second at most. A tenant whose tables are locked is left for later."""
        now = time.monotonic()
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_SECONDS
            self._noted.clear()
        if not self._waiting or now < self._flush_at:
            return
        self._flush_at = now + _FLUSH_SECONDS
        for schema in list(self._waiting):
            waiting = self._waiting.pop(schema)
            try:
                _keep(schema, waiting[:_MOST])
            except django.db.Error as error:
                # Nothing of a message depends on it, and a device that goes on sending is noted again.
                logger.warning("Which keys devices of %s use is kept later: %s", schema, str(error).strip())
            else:
                if rest := waiting[_MOST:]:
                    self._waiting[schema] = rest


def _keep(schema: str, uses: list[Use]) -> None:
    # For each key the newest: an UPDATE takes any one of several.
    newest = {(device, version): at for device, version, at in sorted(uses, key=lambda use: use[2])}
    columns = list(zip(*((device, version, at) for (device, version), at in newest.items()), strict=True))
    with schema_context(schema), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        cursor.execute(_KEEP, [list(column) for column in columns])
