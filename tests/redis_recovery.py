"""Redis comes back, also for this process: its breaker is closed within a second or so, and not at once."""

import time

from django_redis import get_redis_connection
from redis.exceptions import RedisError


def wait_for_redis(timeout: float = 10.0) -> None:
    """Until this process asks Redis again. Raises RedisError where it does not in time."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            get_redis_connection("default").ping()
        except RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
