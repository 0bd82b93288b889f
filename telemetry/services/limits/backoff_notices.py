"""Back-off notices for devices that exceed a limit, from the listeners to the notifiers through Redis.

A notice is useless later: the list is short, old notices are dropped, and losing it has no effect.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from django_redis import get_redis_connection

_KEY = "gwanje:backoff"
_MAX_NOTICES = 10_000

# KEYS: the list. ARGV: how long a device gets no second notice (ms), then for each notice the key that marks the
# device, and the notice. The oldest are dropped where there are too many.
_ADD_NOTICES = f"""
for i = 2, #ARGV, 2 do
  if redis.call('SET', ARGV[i], 1, 'NX', 'PX', ARGV[1]) then redis.call('RPUSH', KEYS[1], ARGV[i + 1]) end
end
redis.call('LTRIM', KEYS[1], -{_MAX_NOTICES}, -1)
"""


@dataclass(frozen=True, slots=True)
class BackoffNotice:
    """A device exceeded a limit and may try again after `retry_after` seconds. `at` is a Unix time.

    It receives the notice in the manner in which it signed: `signature` is the version, `key_version` the key's.
    """

    schema: str
    device_id: int
    uuid: str
    limit: str
    value: float
    retry_after: float
    signature: int
    key_version: int
    at: float = 0.0


class BackoffNoticeQueue:
    """A listener's notices since the last flush: one for each device, and no second one for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._script = get_redis_connection("default").register_script(_ADD_NOTICES)
        self._pending: dict[tuple[str, int], BackoffNotice] = {}
        self._suppressed_until: dict[tuple[str, int], float] = {}

    def accepts(self, schema: str, device_id: int) -> bool:
        """Return whether the device may get a notice: it had none lately."""
        device = (schema, device_id)
        return (
            device not in self._suppressed_until and device not in self._pending and len(self._pending) < _MAX_NOTICES
        )

    def add(self, notice: BackoffNotice) -> None:
        """Add a notice for its device."""
        self._pending[notice.schema, notice.device_id] = notice

    def flush(self) -> None:
        """Send the pending notices to Redis. Raises RedisError."""
        now = time.monotonic()
        self._suppressed_until = {device: until for device, until in self._suppressed_until.items() if until > now}
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        arguments: list[object] = [int(1000 * self._seconds)]
        for notice in pending.values():
            arguments += [
                f"{_KEY}:{notice.schema}:{notice.device_id}",
                json.dumps(asdict(notice) | {"at": time.time()}),
            ]
        self._suppressed_until |= dict.fromkeys(pending, now + self._seconds)
        self._script(keys=[_KEY], args=arguments)


def take_notices(limit: int) -> list[BackoffNotice]:
    """Return up to `limit` notices for a notifier, each to one notifier, without expired ones."""
    taken: Sequence[bytes] = get_redis_connection("default").lpop(_KEY, limit) or []
    notices = [BackoffNotice(**json.loads(one)) for one in taken]
    return [notice for notice in notices if notice.at + notice.retry_after > time.time()]
