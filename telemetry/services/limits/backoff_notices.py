"""What devices that are over a limit are to be told, handed from the listeners to the notifiers through Redis.

A hint is worth nothing later: the list is short, what is old is dropped, and losing it loses nothing.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from django_redis import get_redis_connection

_KEY = "gwanje:backoff"
_MOST = 10_000

# KEYS: the list. ARGV: how long a device is not told again (ms), then for each hint the key that says so, and the
# hint. The oldest go where there are too many.
_HAND_OVER = f"""
for i = 2, #ARGV, 2 do
  if redis.call('SET', ARGV[i], 1, 'NX', 'PX', ARGV[1]) then redis.call('RPUSH', KEYS[1], ARGV[i + 1]) end
end
redis.call('LTRIM', KEYS[1], -{_MOST}, -1)
"""


@dataclass(frozen=True, slots=True)
class Hint:
    """A device went beyond a limit and may try again after so many seconds. `at` is a Unix time.

    It is told in the manner in which it signed: `signature` is the version, `key_version` the key's.
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


class HintQueue:
    """A listener's end: the hints since the last flush, one for each device, and not again for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._script = get_redis_connection("default").register_script(_HAND_OVER)
        self._noted: dict[tuple[str, int], Hint] = {}
        self._quiet_until: dict[tuple[str, int], float] = {}

    def wants(self, schema: str, device_id: int) -> bool:
        """Whether the device is to be told: it was not, lately."""
        device = (schema, device_id)
        return device not in self._quiet_until and device not in self._noted and len(self._noted) < _MOST

    def note(self, hint: Hint) -> None:
        """Have the device told."""
        self._noted[hint.schema, hint.device_id] = hint

    def flush(self) -> None:
        """Hand over what was noted. Raises RedisError."""
        now = time.monotonic()
        self._quiet_until = {device: until for device, until in self._quiet_until.items() if until > now}
        if not self._noted:
            return
        noted, self._noted = self._noted, {}
        arguments: list[object] = [int(1000 * self._seconds)]
        for hint in noted.values():
            arguments += [f"{_KEY}:{hint.schema}:{hint.device_id}", json.dumps(asdict(hint) | {"at": time.time()})]
        self._quiet_until |= dict.fromkeys(noted, now + self._seconds)
        self._script(keys=[_KEY], args=arguments)


def take_hints(most: int) -> list[Hint]:
    """A notifier's end: hints that are not told yet, each to one notifier, without those that are over."""
    taken: Sequence[bytes] = get_redis_connection("default").lpop(_KEY, most) or []
    hints = [Hint(**json.loads(one)) for one in taken]
    return [hint for hint in hints if hint.at + hint.retry_after > time.time()]
